// Package backendtest holds what every backend must satisfy: Conform for the
// rules of the seam, and Golden for cases written as text.
//
// A backend's test calls both. It owns no backend.
package backendtest

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/backend"
	"github.com/flannel-ng/flannel-ng/internal/config"
	"github.com/flannel-ng/flannel-ng/internal/facts"
	"github.com/flannel-ng/flannel-ng/internal/lease"
	"github.com/flannel-ng/flannel-ng/internal/state"
)

// New makes the backend under test from a network config.
type New func(t *testing.T, n config.Network) backend.Backend

// Conform checks the rules of backend.Backend for each config.
func Conform(t *testing.T, newBackend New, configs ...string) {
	t.Helper()
	for _, text := range configs {
		t.Run(text, func(t *testing.T) {
			network, err := config.Parse([]byte(text))
			if err != nil {
				t.Fatal(err)
			}
			c := conformance{network: network, backend: newBackend(t, network)}
			t.Run("offer is stable", c.offerIsStable)
			t.Run("local needs no peers", c.localNeedsNoPeers)
			t.Run("peers are disjoint", c.peersAreDisjoint)
			t.Run("garbage harms only itself", c.garbage)
		})
	}
}

type conformance struct {
	network config.Network
	backend backend.Backend
}

// Node is a host with the given number in the documentation ranges.
func Node(families []addr.Family, number byte) facts.Node {
	uplink := facts.Link{Name: "eth0", Index: 2, MTU: 1500, MAC: addr.MAC{2, 0, 0, 0, 0, number}, Up: true}
	n := facts.Node{HostID: string(rune('a'+number%26)) + "-host", Uplink: uplink, Links: []facts.Link{uplink}}
	for _, f := range families {
		a := netip.AddrFrom4([4]byte{198, 51, 100, number})
		p := netip.PrefixFrom(a, 24)
		if f == addr.IPv6 {
			a = netip.MustParseAddr("2001:db8::").Next()
			for range number - 1 {
				a = a.Next()
			}
			p = netip.PrefixFrom(a, 64)
		}
		n.Source.Put(f, a)
		n.Public.Put(f, a)
		n.Routes = append(n.Routes, facts.Route{Dst: p.Masked(), Link: "eth0"})
	}
	return n
}

// lease is the lease of host number, with the offer of that host's backend.
func (c conformance) lease(t *testing.T, number byte) lease.Lease {
	t.Helper()
	n := Node(c.network.Families(), number)
	offer, err := c.backend.Offer(n, nil)
	if err != nil {
		t.Fatal(err)
	}
	l := lease.Lease{Key: string(rune('a' + number)), Public: n.Public, Offer: offer, Owner: n.HostID}
	for _, f := range c.network.Families() {
		pool := c.network.Pools.At(f)
		a := pool.Min.Addr()
		for range number {
			last := netip.PrefixFrom(a, pool.SubnetLen)
			a = lastAddr(last).Next()
		}
		l.Subnets.Put(f, netip.PrefixFrom(a, pool.SubnetLen))
	}
	return l
}

func lastAddr(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 1 << (7 - i%8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

func (c conformance) offerIsStable(t *testing.T) {
	n := Node(c.network.Families(), 1)
	first, err := c.backend.Offer(n, nil)
	if err != nil {
		t.Fatal(err)
	}
	l := c.lease(t, 1)
	again, err := c.backend.Offer(n, &l)
	if err != nil || first != again {
		t.Errorf("offer after a restart = %+v, %v; before %+v", again, err, first)
	}
	if other, err := c.backend.Offer(Node(c.network.Families(), 2), nil); err != nil ||
		other == first && first.Data != (addr.ByFamily[string]{}) {
		t.Errorf("two hosts offer the same: %+v, %v", other, err)
	}
}

func (c conformance) localNeedsNoPeers(t *testing.T) {
	s, err := c.backend.Local(c.lease(t, 1), Node(c.network.Families(), 1))
	if err != nil {
		t.Fatal(err)
	}
	if s.MTU <= 0 || s.MTU > 1500 {
		t.Errorf("MTU %d on an uplink of 1500", s.MTU)
	}
	// One route to everybody is no peer's.
	routes := slices.DeleteFunc(slices.Clone(s.Routes), func(r state.Route) bool {
		return r.Dst == c.network.Pools.At(addr.Of(r.Dst.Addr())).Network
	})
	if len(s.Neighbours)+len(s.FDB)+len(s.Ends)+len(routes) > 0 {
		t.Errorf("peer objects without a peer: %v %v %v %v", s.Neighbours, s.FDB, s.Ends, routes)
	}
}

func (c conformance) peer(t *testing.T, number byte) []state.Key {
	t.Helper()
	p := c.lease(t, number)
	s, err := c.backend.Peer(c.lease(t, 1), Node(c.network.Families(), 1), p, p.Offer)
	if err != nil {
		t.Fatal(err)
	}
	var keys []state.Key
	for o := range s.Objects() {
		keys = append(keys, o.Key())
	}
	return keys
}

func (c conformance) peersAreDisjoint(t *testing.T) {
	a, b := c.peer(t, 2), c.peer(t, 3)
	for _, k := range a {
		if slices.Contains(b, k) {
			t.Errorf("two peers want %+v: removing one would take it from the other", k)
		}
	}
	if again := c.peer(t, 2); !slices.Equal(a, again) {
		t.Errorf("the same peer gives %v and %v", a, again)
	}
}

// garbage may be refused or ignored, but whatever comes out is about that
// peer's subnets and nothing else.
func (c conformance) garbage(t *testing.T) {
	for _, data := range []string{"", "null", "{", `{"VNI":77}`, `{"VNI":"x"}`, `[]`, `{"VtepMAC":"ff:ff:ff:ff:ff:ff"}`} {
		p := c.lease(t, 2)
		for _, f := range c.network.Families() {
			p.Offer.Data.Put(f, data)
		}
		s, err := c.backend.Peer(c.lease(t, 1), Node(c.network.Families(), 1), p, p.Offer)
		for _, r := range s.Routes {
			if !slices.Contains(p.Prefixes(), r.Dst) {
				t.Errorf("data %q gave a route to %s, err %v", data, r.Dst, err)
			}
		}
	}
}
