package lease

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/config"
)

// Self is what Admit and Decide must know of this host.
type Self struct {
	HostID string
	Public addr.ByFamily[netip.Addr]
	// Subnets are the host's own; zero while it has no lease.
	Subnets addr.ByFamily[netip.Prefix]
}

// Admit says which leases this host may believe. Each family is judged for
// itself: a peer whose IPv6 subnet is refused stays reachable over IPv4. The
// answer does not depend on the order of leases; peers are sorted by Compare.
//
// The own lease is left out without a word. A reservation that nobody uses yet
// is a lease like any other: it has no backend data, so the backend's own
// check of types and data leaves it out.
func Admit(leases []*Lease, network config.Network, self Self) ([]*Lease, []Rejected) {
	a := admission{network: network, peers: make([]*Lease, 0, len(leases))}
	for _, l := range leases {
		kept, bad, ok := Screen(l, network, self)
		a.bad = append(a.bad, bad...)
		if ok {
			a.peers = append(a.peers, kept)
		}
	}
	slices.SortFunc(a.peers, Compare)
	for _, f := range network.Families() {
		a.settle(f)
	}
	peers := slices.DeleteFunc(a.peers, func(l *Lease) bool { return l.Subnets == addr.ByFamily[netip.Prefix]{} })
	return peers, SortRejected(a.bad)
}

var errNoAddress = errors.New("has no public address")

type admission struct {
	network config.Network
	peers   []*Lease
	bad     []Rejected
}

// Screen judges one lease without looking at others: what of it this host may
// believe if no other lease overlaps it, and why not the rest. ok is false if
// that is nothing, or it is the host's own.
func Screen(l *Lease, network config.Network, self Self) (kept *Lease, bad []Rejected, ok bool) {
	if self.owns(l) {
		return nil, nil, false
	}
	public, err := unicast(l.Public)
	if err != nil {
		return nil, []Rejected{{Key: l.Key, Reason: err.Error()}}, false
	}
	if ours, ok := shared(public, self.Public); ok {
		return nil, []Rejected{{Key: l.Key, Reason: fmt.Sprintf(
			"public address %s is this host's own: give each host its own address", ours)}}, false
	}
	var subnets addr.ByFamily[netip.Prefix]
	for _, f := range addr.Families() {
		p := l.Subnets.At(f)
		if !p.IsValid() || !network.Pools.At(f).Network.IsValid() {
			continue
		}
		if err := place(p, network.Pools.At(f).Network, self.Subnets.At(f)); err != nil {
			bad = append(bad, Rejected{Key: l.Key, Reason: err.Error()})
			continue
		}
		subnets.Put(f, p)
	}
	if l.Public != public || l.Subnets != subnets {
		part := *l
		part.Public, part.Subnets = public, subnets
		l = &part
	}
	return l, bad, true
}

// place says whether a peer may have p, in a network where this host has own.
func place(p, network, own netip.Prefix) error {
	if err := inside(p, network); err != nil {
		return err
	}
	if own.IsValid() && own.Overlaps(p) {
		return fmt.Errorf("subnet %s overlaps this host's own %s", p, own)
	}
	return nil
}

// settle lets the best of overlapping subnets of f win and drops the others.
func (a *admission) settle(f addr.Family) {
	for loser, winner := range contest(a.peers, f, a.network.Pools.At(f).SubnetLen) {
		l, w := a.peers[loser], a.peers[winner]
		a.bad = append(a.bad, Rejected{Key: l.Key, Reason: fmt.Sprintf(
			"subnet %s overlaps %s of %s, which comes first", l.Subnets.At(f), w.Subnets.At(f), w.Node())})
		part := *l // others have l too
		part.Subnets.Put(f, netip.Prefix{})
		a.peers[loser] = &part
	}
}

// owns says whether l is this host's own lease. One without an owner is ours
// if subnets and address agree: an operator rewrote it, for example to make it
// a reservation.
func (s Self) owns(l *Lease) bool {
	if l.Owner != "" {
		return l.Owner == s.HostID
	}
	_, same := shared(l.Public, s.Public)
	return same && l.Subnets == s.Subnets
}

// inside refuses subnets that would let one lease speak for other hosts.
func inside(p, network netip.Prefix) error {
	switch {
	case p.Bits() <= network.Bits() && p.Overlaps(network):
		return fmt.Errorf("subnet %s covers the whole network %s", p, network)
	case !network.Overlaps(p):
		return fmt.Errorf("subnet %s is outside the network %s", p, network)
	}
	return nil
}

// unicast keeps the addresses that a packet can be sent to. 0.0.0.0 and ::
// stand for none, as flannel writes them.
func unicast(public addr.ByFamily[netip.Addr]) (addr.ByFamily[netip.Addr], error) {
	var kept addr.ByFamily[netip.Addr]
	found := false
	for _, f := range addr.Families() {
		a := public.At(f)
		if !a.IsValid() || a.IsUnspecified() {
			continue
		}
		if a.IsMulticast() || a.IsLoopback() || a == netip.AddrFrom4([4]byte{255, 255, 255, 255}) {
			return kept, fmt.Errorf("public address %s is not a unicast address", a)
		}
		kept.Put(f, a)
		found = true
	}
	if !found {
		return kept, errNoAddress
	}
	return kept, nil
}

// shared finds an address that both sides have.
func shared(a, b addr.ByFamily[netip.Addr]) (netip.Addr, bool) {
	for _, f := range addr.Families() {
		x := a.At(f)
		if x.IsValid() && !x.IsUnspecified() && x == b.At(f) {
			return x, true
		}
	}
	return netip.Addr{}, false
}
