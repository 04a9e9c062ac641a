package lab

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/flannel-ng/flannel-ng/internal/addr"
)

// Firewall is the tool that traffic rules are installed with.
type Firewall string

// The firewalls.
const (
	IPTables Firewall = "iptables"
	NFTables Firewall = "nft"
)

// Options say what fabric to build.
type Options struct {
	Hosts    int
	Families []addr.Family
	Firewall Firewall
	Underlay Underlay
	// Replayed hosts, the last ones, are plain flannel hosts: not a program
	// but its recorded traces in etcd and the kernel.
	Replayed int
	// Embedded hosts, the first ones, run the members of the store in their
	// flanneld; then there is no other etcd.
	Embedded int
	Binaries Binaries
	Backend  string // type of the backend, or its whole JSON object; "" is vxlan
	// TLS has etcd ask for certificates, and show one.
	TLS bool
	// Relay puts a link before etcd that can be made slow.
	Relay bool
	// NetConf replaces the network config, if not empty.
	NetConf string
	// UplinkMTU is that of the underlay, in bytes; 0 is the usual 1500.
	UplinkMTU int
	// Wide puts also few hosts on 198.18.0.0/15, where the addresses of
	// thousands of peers are on the same segment.
	Wide bool
}

// Binaries are the built programs, as absolute paths.
type Binaries struct {
	Lab, Flanneld, Flannelctl string
	// Upgraded is a flanneld of another version, for tests of upgrades only.
	Upgraded string
}

// BinariesIn finds the programs in a directory.
func BinariesIn(dir string) (Binaries, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return Binaries{}, fmt.Errorf("directory of the binaries: %w", err)
	}
	return Binaries{
		Lab:        filepath.Join(abs, "lab"),
		Flanneld:   filepath.Join(abs, "flanneld"),
		Flannelctl: filepath.Join(abs, "flannelctl"),
	}, nil
}

// Prefix is the etcd prefix of the fabric: flannel's default.
const Prefix = "/coreos.com/network"

// attempt bounds one probe of something that is tried again.
const attempt = 2 * time.Second

// clusterNetwork is the address space of the containers.
func clusterNetwork(f addr.Family) netip.Prefix {
	if f == addr.IPv4 {
		return netip.MustParsePrefix("10.5.0.0/16")
	}
	return netip.MustParsePrefix("fc00:5::/48")
}

// netConf is the network config in etcd, written as a user would.
func (o Options) netConf() (string, error) {
	if o.NetConf != "" {
		return o.NetConf, nil
	}
	conf := map[string]any{"Backend": o.backend()}
	if !o.has(addr.IPv4) {
		conf["EnableIPv4"] = false
	} else {
		conf["Network"] = clusterNetwork(addr.IPv4)
	}
	if o.has(addr.IPv6) {
		conf["EnableIPv6"] = true
		conf["IPv6Network"] = clusterNetwork(addr.IPv6)
	}
	if o.Firewall == NFTables {
		conf["EnableNFTables"] = true
	}
	text, err := json.Marshal(conf)
	if err != nil {
		return "", fmt.Errorf("network config: %w", err)
	}
	return string(text), nil
}

// backend is the Backend object of the network config.
func (o Options) backend() json.RawMessage {
	if strings.HasPrefix(o.Backend, "{") {
		return json.RawMessage(o.Backend)
	}
	return fmt.Appendf(nil, `{"Type":%q}`, cmp.Or(o.Backend, "vxlan"))
}

// carrier reads the backend back from the network config. Plain flannel routes
// directly only to neighbours; without a type it takes udp.
func (o Options) carrier() (traceCarrier, error) {
	text, err := o.netConf()
	if err != nil {
		return traceCarrier{}, err
	}
	var conf struct {
		Backend struct {
			Type          string
			DirectRouting bool
		}
	}
	conf.Backend.Type = kindUDP
	if err := json.Unmarshal([]byte(text), &conf); err != nil {
		return traceCarrier{}, fmt.Errorf("network config: %w", err)
	}
	return traceCarrier{kind: conf.Backend.Type, direct: conf.Backend.DirectRouting && o.Underlay != Routed}, nil
}

// ParseFamilies reads "4", "6" or "dual".
func ParseFamilies(s string) ([]addr.Family, error) {
	switch s {
	case "4":
		return []addr.Family{addr.IPv4}, nil
	case "6":
		return []addr.Family{addr.IPv6}, nil
	case "dual":
		both := addr.Families()
		return both[:], nil
	default:
		return nil, fmt.Errorf("family %q: want 4, 6 or dual", s)
	}
}

func (o Options) has(f addr.Family) bool {
	return slices.Contains(o.Families, f)
}
