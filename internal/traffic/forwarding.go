package traffic

import (
	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/state"
)

// acceptAlways is the accept_ra value that survives forwarding.
const acceptAlways = 2

// forwarding returns the switches without which packets die on this host. The
// device that attaches containers belongs to whoever made it.
func forwarding(f addr.Family, in Inputs) []state.Sysctl {
	if f == addr.IPv4 {
		return forwardPerLink(in.Node.Uplink.Name, in.Tunnels)
	}
	return forwardEverywhere(in.Node.Uplink.Name, in.Node.AcceptRA)
}

// forwardPerLink: IPv4 asks the incoming device alone. The uplink brings the
// answers to masqueraded packets and, with direct routing, peers' packets.
func forwardPerLink(uplink string, tunnels []string) []state.Sysctl {
	out := []state.Sysctl{{Path: "net/ipv4/conf/" + uplink + "/forwarding", Value: "1", Link: uplink}}
	for _, t := range tunnels {
		out = append(out, state.Sysctl{Path: "net/ipv4/conf/" + t + "/forwarding", Value: "1", Link: t})
	}
	return out
}

// forwardEverywhere: IPv6 forwards only by the switch of all devices, and
// turning it on purges the default routes learnt from router advertisements
// on devices whose accept_ra is 1. So that is raised first, and the switch is
// wanted only from the next pass on, once the raise has been read back.
func forwardEverywhere(uplink string, acceptRA int) []state.Sysctl {
	raise := state.Sysctl{Path: "net/ipv6/conf/" + uplink + "/accept_ra", Value: "2", Link: uplink}
	all := state.Sysctl{Path: "net/ipv6/conf/all/forwarding", Value: "1"}
	switch acceptRA {
	case 0:
		return []state.Sysctl{all}
	case acceptAlways:
		return []state.Sysctl{raise, all}
	default:
		return []state.Sysctl{raise}
	}
}
