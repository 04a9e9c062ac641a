package backend

import (
	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/state"
)

// looseSource is the rp_filter under which a packet need not come in where the
// way back leads; the kernel takes the larger of a device's and that of all
// (RFC 3704, ip-sysctl in the kernel's documentation).
const looseSource = "2"

// Switches are those of a tunnel device dev that carries these families.
func Switches(dev string, families ...addr.Family) []state.Sysctl {
	var out []state.Sysctl
	add := func(path, value string) {
		out = append(out, state.Sysctl{Path: "net/" + path, Value: value, Link: dev, Optional: true})
	}
	for _, f := range families {
		if f == addr.IPv4 {
			// While hosts change from one way to another, a peer still sends by
			// the old one.
			add("ipv4/conf/"+dev+"/rp_filter", looseSource)
			continue
		}
		// New devices have the switch of net.ipv6.conf.default, and what sets
		// that of all devices takes the addresses of ours away.
		add("ipv6/conf/"+dev+"/disable_ipv6", "0")
	}
	// A router advertisement from inside the fabric must never become this
	// host's default route.
	add("ipv6/conf/"+dev+"/accept_ra", "0")
	return out
}
