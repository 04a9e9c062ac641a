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
//
// The uplink has its own with every backend: it brings the answers to
// masqueraded packets, and what comes without a tunnel, from peers (host-gw) or
// by a network that somebody else runs (alloc).
func forwarding(f addr.Family, in Inputs) []state.Sysctl {
	if f == addr.IPv4 {
		return forwardPerLink(in.Node, in.Tunnels)
	}
	return forwardEverywhere(in.Node, in.Tunnels)
}

// forwardPerLink: IPv4 asks the incoming device alone. A peer that is a
// neighbour on another link than the uplink sends by that one.
func forwardPerLink(n facts.Node, tunnels []string) []state.Sysctl {
	var out []state.Sysctl
	seen := map[string]bool{}
	add := func(link string, optional bool) {
		if seen[link] {
			return
		}
		seen[link] = true
		out = append(out, state.Sysctl{
			Path: "net/ipv4/conf/" + link + "/forwarding", Value: "1", Link: link, Optional: optional,
		})
	}
	add(n.Uplink.Name, false)
	for _, t := range tunnels {
		add(t, false)
	}
	// Only where the backend asked for adjacency are there routes. A link that
	// has just gone is no loss to this host.
	for _, r := range n.Routes {
		if r.Direct() && r.Dst.Addr().Is4() {
			add(r.Link, true)
		}
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
