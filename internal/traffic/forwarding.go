package traffic

import (
	"slices"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/facts"
	"github.com/flannel-ng/flannel-ng/internal/state"
)

// acceptUntilForwarding is the accept_ra value under which a link loses its
// learnt default routes when the host starts to forward.
const acceptUntilForwarding = 1

// forwarding returns the switches without which packets die on this host. The
// device that attaches containers belongs to whoever made it.
func forwarding(f addr.Family, in Inputs) []state.Sysctl {
	if f == addr.IPv4 {
		return forwardPerLink(in.Node.Uplink.Name, in.Tunnels)
	}
	return forwardEverywhere(in.Node, in.Tunnels)
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
// on devices whose accept_ra is 1. So that is raised first on the uplink and
// where there is such a route, and the switch is wanted only from the next pass
// on, once none of them reads 1. Other links keep theirs: a container must not
// be obeyed as a router by a host that forwards. On a host that forwards
// already, 1 is the administrator's choice.
func forwardEverywhere(n facts.Node, tunnels []string) []state.Sysctl {
	var raise []state.Sysctl
	for _, l := range n.Links {
		// Tunnels learn nothing and are set to 0 by their backend.
		learns := l.Name == n.Uplink.Name || l.DefaultByRA
		if n.Forwards || !learns || l.AcceptRA != acceptUntilForwarding || slices.Contains(tunnels, l.Name) {
			continue
		}
		raise = append(raise, state.Sysctl{
			Path: "net/ipv6/conf/" + l.Name + "/accept_ra", Value: "2", Link: l.Name, Optional: l.Name != n.Uplink.Name,
		})
	}
	if len(raise) > 0 {
		return raise
	}
	return []state.Sysctl{{Path: "net/ipv6/conf/all/forwarding", Value: "1"}}
}
