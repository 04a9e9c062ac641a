// Package hostgw carries packets without a tunnel: the route to a peer's
// subnet leads to the peer itself, over the link that both are on.
//
// A packet leaves with the container's address as source, so the next hop must
// be a neighbour: nothing between the hosts knows the cluster network. A peer
// that is no neighbour is reported and gets no route; a route towards it would
// send its packets to whoever is the router.
//
// It produces wanted state only; called by the engine.
package hostgw

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/backend"
	"github.com/flannel-ng/flannel-ng/internal/config"
	"github.com/flannel-ng/flannel-ng/internal/facts"
	"github.com/flannel-ng/flannel-ng/internal/lease"
	"github.com/flannel-ng/flannel-ng/internal/state"
)

// Type is the Backend.Type of this backend.
const Type = "host-gw"

// ErrPublic says that peers were told an address that is not the uplink's.
var ErrPublic = errors.New("public address is not that of the uplink")

// ErrNotAdjacent says that a peer is not on a link of this host.
var ErrNotAdjacent = errors.New("not on a link of this host")

// Options are the keys of the Backend object: none but Type.
type Options struct{}

type hostgw struct{ families []addr.Family }

// New makes the backend.
func New(s backend.Setup) (backend.Backend, []string, error) {
	warnings, err := s.Options.Decode(&Options{})
	return &hostgw{families: s.Families}, warnings, err
}

// Adjacency is backend.Entry.Adjacency: every peer is a next hop.
func Adjacency(config.Backend) bool { return true }

// Wire is backend.Entry.Wire: packets travel as they are.
func Wire(config.Backend) (backend.Wire, error) {
	return backend.Wire{Name: Type, Type: Type}, nil
}

// Offer is the public address alone: peers route to it over the link, so it
// must be the uplink's own.
func (h *hostgw) Offer(n facts.Node, _ *lease.Lease) (lease.Offer, error) {
	for _, f := range h.families {
		public, own := n.Public.At(f), n.Source.At(f)
		if public != own || !own.IsValid() {
			return lease.Offer{}, fmt.Errorf("host-gw: %w: %s %s, uplink %s has %s: peers reach this host over their link "+
				"and not through NAT. Leave --public-ip and --public-ipv6 away (--iface names the address to use), or use vxlan",
				ErrPublic, f, public, n.Uplink.Name, own)
		}
	}
	return lease.Offer{Backend: Type}, nil
}

// Local is the MTU alone: packets travel as they are.
func (h *hostgw) Local(_ lease.Lease, n facts.Node) (state.Set, error) {
	return state.Set{MTU: n.Uplink.MTU}, nil
}

// Peer routes the subnets of p to its public addresses, each family for itself.
func (h *hostgw) Peer(self lease.Lease, n facts.Node, p lease.Lease, _ lease.Offer) (state.Set, error) {
	var s state.Set
	var errs []error
	for _, f := range h.families {
		subnet, via := p.Subnets.At(f), p.Public.At(f)
		if !subnet.IsValid() {
			continue
		}
		link, err := nextHop(self, n, p, via)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", f, err))
			continue
		}
		s.Routes = append(s.Routes, state.Route{Dst: subnet, Via: via, Link: link})
	}
	return s, errors.Join(errs...)
}

// nextHop finds the link on which via is a neighbour. The error names the cure.
func nextHop(self lease.Lease, n facts.Node, p lease.Lease, via netip.Addr) (string, error) {
	if !via.IsValid() {
		return "", errors.New("no public address")
	}
	// A container's address is on a bridge of ours, or beyond a route of ours;
	// as the next hop of its own subnet it would be reached through itself.
	for _, l := range []lease.Lease{self, p} {
		for _, subnet := range l.Prefixes() {
			if subnet.Contains(via) {
				return "", fmt.Errorf("public address %s is inside the leased subnet %s: "+
					"start the peer with --iface naming its link to the other hosts", via, subnet)
			}
		}
	}
	link, ok := n.Adjacent(via)
	if !ok {
		return "", fmt.Errorf("peer %s is %w: %s. Use vxlan, or put it on the network segment of this host",
			via, ErrNotAdjacent, instead(n, via))
	}
	return link, nil
}

// instead says where packets to via go.
func instead(n facts.Node, via netip.Addr) string {
	r, ok := facts.Lookup(n.Routes, via)
	switch {
	case !ok:
		return "there is no route to it"
	case r.Link == "":
		return "no route leads to it but those of flannel-ng itself"
	case r.Multiple:
		return fmt.Sprintf("its route %s has several next hops", r.Dst)
	default:
		return fmt.Sprintf("it is reached through router %s on %s", r.Via, r.Link)
	}
}
