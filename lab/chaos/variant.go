package chaos

import (
	"fmt"
	"slices"
	"strings"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/lab"
)

// The carriers.
const (
	vxlan  = "vxlan"
	direct = "vxlan-direct"
	hostGW = "host-gw"
	udp    = "udp"
)

// variant is one kind of fabric.
type variant struct {
	carrier  string
	family   string // 4, 6 or dual
	firewall lab.Firewall
	// offload is the option ChecksumOffload: "", true or false.
	offload string
	peers   int // in all; those above three are only leases
}

// three hosts are real.
const real3 = 3

func (v variant) name() string {
	parts := []string{v.carrier, v.family}
	if v.firewall == lab.IPTables {
		parts = append(parts, string(v.firewall))
	}
	if v.offload != "" {
		parts = append(parts, "offload-"+v.offload)
	}
	if v.peers > real3 {
		parts = append(parts, fmt.Sprintf("%d-peers", v.peers))
	}
	return strings.Join(parts, " ")
}

func (v variant) backend() string {
	switch {
	case v.carrier == direct:
		return `{"Type":"vxlan","DirectRouting":true}`
	case v.offload != "":
		return fmt.Sprintf(`{"Type":"vxlan","ChecksumOffload":%s}`, v.offload)
	default:
		return v.carrier
	}
}

func (v variant) families() []addr.Family {
	all, err := lab.ParseFamilies(v.family)
	if err != nil {
		return nil // choose has checked it
	}
	return all
}

func (v variant) has(f addr.Family) bool { return slices.Contains(v.families(), f) }

// vx says whether there are VXLAN devices.
func (v variant) vx() bool { return v.carrier == vxlan || v.carrier == direct }

// tunnels says whether peers are reached by a tunnel device.
func (v variant) tunnels() bool { return v.carrier != hostGW }

// all are the variants of the whole bench: iptables with one carrier, since
// nothing in the firewall depends on it, and the offload options with vxlan.
func variants() []variant {
	var out []variant
	for _, carrier := range []string{vxlan, direct, hostGW, udp} {
		for _, family := range []string{"4", "6", "dual"} {
			out = append(out, variant{carrier: carrier, family: family, firewall: lab.NFTables, peers: real3})
		}
	}
	return append(out,
		variant{carrier: vxlan, family: "dual", firewall: lab.IPTables, peers: real3},
		variant{carrier: vxlan, family: "dual", firewall: lab.NFTables, offload: "false", peers: real3},
		variant{carrier: vxlan, family: "dual", firewall: lab.NFTables, offload: "true", peers: real3})
}
