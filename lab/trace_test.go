package lab_test

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/lab"
)

// recorded reads one recording of plain flannel.
func recorded(t *testing.T, name string) map[string]string {
	t.Helper()
	archive, err := txtar.ParseFile("testdata/flannel/" + name + ".txtar")
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for _, f := range archive.Files {
		files[f.Name] = string(f.Data)
	}
	return files
}

// noMAC is for backends without tunnel devices.
const noMAC = "00:00:00:00:00:00"

// backendOf is the type of a recording's backend: its name without the variant.
func backendOf(name string) string {
	for _, variant := range []string{"-nftables", "-dual-stack", "-direct-routing"} {
		name = strings.TrimSuffix(name, variant)
	}
	return name
}

func side(network, subnet, public, mac string) lab.Side {
	m, err := addr.ParseMAC(mac)
	if err != nil {
		panic(err)
	}
	return lab.Side{
		Network: netip.MustParsePrefix(network), Subnet: netip.MustParsePrefix(subnet),
		Public: netip.MustParseAddr(public), MAC: m,
	}
}

func TestReplayMatchesRecordings(t *testing.T) {
	for name, sides := range map[string]map[addr.Family]lab.Side{
		"vxlan": {
			addr.IPv4: side("10.5.0.0/16", "10.5.5.0/24", "198.51.100.1", "0e:0a:79:98:7f:30"),
		},
		"vxlan-nftables": {
			addr.IPv4: side("10.5.0.0/16", "10.5.67.0/24", "198.51.100.1", "52:49:68:13:7a:09"),
		},
		"vxlan-dual-stack": {
			addr.IPv4: side("10.5.0.0/16", "10.5.14.0/24", "198.51.100.1", "0e:ba:5b:2f:68:8d"),
			addr.IPv6: side("fc00:5::/48", "fc00:5:0:44::/64", "2001:db8::1", "32:e0:2f:be:b2:bf"),
		},
		"vxlan-direct-routing": {
			addr.IPv4: side("10.5.0.0/16", "10.5.13.0/24", "198.51.100.1", "d6:93:df:07:41:fa"),
		},
		"host-gw": {
			addr.IPv4: side("10.5.0.0/16", "10.5.25.0/24", "198.51.100.1", noMAC),
		},
		"host-gw-dual-stack": {
			addr.IPv4: side("10.5.0.0/16", "10.5.77.0/24", "198.51.100.1", noMAC),
			addr.IPv6: side("fc00:5::/48", "fc00:5:0:3::/64", "2001:db8::1", noMAC),
		},
		"udp": {
			addr.IPv4: side("10.5.0.0/16", "10.5.37.0/24", "198.51.100.1", noMAC),
		},
		"alloc": {
			addr.IPv4: side("10.5.0.0/16", "10.5.32.0/24", "198.51.100.1", noMAC),
		},
	} {
		t.Run(name, func(t *testing.T) {
			want, got := recorded(t, name), lab.TraceOf(backendOf(name), sides)
			if lease := got.Lease.Key + "\n" + got.Lease.Value + "\n"; !strings.Contains(want["etcd"], lease) {
				t.Errorf("lease\n%sis not in the recording\n%s", lease, want["etcd"])
			}
			if got.SubnetEnv != want["subnet.env"] {
				t.Errorf("subnet.env\n%s\nwant\n%s", got.SubnetEnv, want["subnet.env"])
			}
			sameRules(t, got.IPTables.At(addr.IPv4), want["iptables"])
			sameRules(t, got.IPTables.At(addr.IPv6), want["ip6tables"])
			if rules, ok := want["nft"]; ok && got.Nft != rules {
				t.Errorf("nft\n%s\nwant\n%s", got.Nft, rules)
			}
		})
	}
}

// sameRules compares the rules; policies of built-in chains are the kernel's.
func sameRules(t *testing.T, got, want string) {
	t.Helper()
	if want == "" {
		return
	}
	rules := func(text string) []string {
		return slices.DeleteFunc(strings.Split(text, "\n"), func(line string) bool { return !strings.HasPrefix(line, "-A") })
	}
	if !slices.Equal(rules(got), rules(want)) {
		t.Errorf("rules\n%s\nwant\n%s", got, want)
	}
}

func TestReplayReadsWhatItWrites(t *testing.T) {
	for _, name := range []string{"vxlan", "vxlan-dual-stack", "host-gw", "host-gw-dual-stack", "udp", "alloc"} {
		lines := strings.Split(recorded(t, name)["etcd"], "\n")
		for i := 2; i+1 < len(lines); i += 2 {
			want := lab.Pair{Key: lines[i], Value: lines[i+1]}
			got, err := lab.ParsePeer(want)
			if err != nil || got != want {
				t.Errorf("read and written: %v, %v; want %v", got, err, want)
			}
		}
	}
}

func TestReplayRefusesWhatFlannelCannotRead(t *testing.T) {
	value := `{"PublicIP":"198.51.100.1","PublicIPv6":null,"BackendType":"vxlan"}`
	for _, p := range []lab.Pair{
		{Key: lab.Prefix + "/subnets-ng/10.5.1.0-24", Value: value},
		{Key: lab.Prefix + "/subnets/10.5.1.0-24/owner", Value: value},
		{Key: lab.Prefix + "/subnets/10.5.1.0-24", Value: "{"},
	} {
		if _, err := lab.ParsePeer(p); err == nil {
			t.Errorf("%s %s was read", p.Key, p.Value)
		}
	}
}
