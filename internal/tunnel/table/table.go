// Package table finds the peer of an inner address.
//
// A table never changes: who looks something up needs no lock, and a change is
// a new table. It is pure. Called by the forwarder.
package table

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/tunnel"
)

// Table holds peers. The zero value has none.
type Table struct {
	peers  []tunnel.Peer // sorted by subnet
	levels addr.ByFamily[[]level]
	outers map[netip.Addr]struct{}
}

// level holds the subnets of one length, by first address.
type level struct {
	bits int
	dst  map[netip.Addr]netip.Addr
}

// New makes a table. Of two peers with one subnet the later counts; one that
// lacks an address is left out. IPv4-mapped addresses count as IPv4.
func New(peers []tunnel.Peer) *Table {
	bySubnet := make(map[netip.Prefix]tunnel.Peer, len(peers))
	for _, p := range peers {
		p = tunnel.Peer{Subnet: plain(p.Subnet), Dst: p.Dst.Unmap()}
		if p.Subnet.IsValid() && p.Dst.IsValid() {
			bySubnet[p.Subnet] = p
		}
	}
	t := &Table{
		peers:  slices.SortedFunc(maps.Values(bySubnet), compare),
		outers: make(map[netip.Addr]struct{}, len(bySubnet)),
	}
	for _, p := range t.peers {
		t.outers[p.Dst] = struct{}{}
		t.insert(p)
	}
	for _, f := range addr.Families() {
		slices.SortFunc(t.levels.At(f), func(a, b level) int { return cmp.Compare(b.bits, a.bits) })
	}
	return t
}

func (t *Table) insert(p tunnel.Peer) {
	f := addr.Of(p.Subnet.Addr())
	levels := t.levels.At(f)
	i := slices.IndexFunc(levels, func(l level) bool { return l.bits == p.Subnet.Bits() })
	if i < 0 {
		i = len(levels)
		levels = append(levels, level{bits: p.Subnet.Bits(), dst: map[netip.Addr]netip.Addr{}})
		t.levels.Put(f, levels)
	}
	levels[i].dst[p.Subnet.Addr()] = p.Dst
}

// plain is p with its host bits cleared, and IPv4 if it is IPv4-mapped.
func plain(p netip.Prefix) netip.Prefix {
	if p.Addr().Is4In6() && p.Bits() >= 96 {
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	return p.Masked()
}

func compare(a, b tunnel.Peer) int {
	return cmp.Or(a.Subnet.Addr().Compare(b.Subnet.Addr()), cmp.Compare(a.Subnet.Bits(), b.Subnet.Bits()))
}

// Route is the outer address for an inner destination: that of the longest
// subnet it is in. An IPv4-mapped inner address is in no IPv4 subnet: on the
// wire it belongs to an IPv6 packet.
func (t *Table) Route(dst netip.Addr) (outer netip.Addr, ok bool) {
	for _, l := range t.levels.At(addr.Of(dst)) {
		p, err := dst.Prefix(l.bits)
		if err != nil {
			return netip.Addr{}, false
		}
		if outer, ok = l.dst[p.Addr()]; ok {
			return outer, true
		}
	}
	return netip.Addr{}, false
}

// Known says whether any peer has this outer address.
func (t *Table) Known(outer netip.Addr) bool {
	_, ok := t.outers[outer.Unmap()]
	return ok
}

// Owns says whether packets with this inner source may come from outer: the
// longest subnet that the source is in is one of that peer's.
func (t *Table) Owns(outer, innerSrc netip.Addr) bool {
	want, ok := t.Route(innerSrc)
	return ok && want == outer.Unmap()
}

// With is a table with peers put, which replace those of the same subnet, and
// then others removed.
func (t *Table) With(put []tunnel.Peer, remove []netip.Prefix) *Table {
	gone := make(map[netip.Prefix]bool, len(remove))
	for _, p := range remove {
		gone[plain(p)] = true
	}
	all := slices.DeleteFunc(slices.Concat(t.peers, put), func(p tunnel.Peer) bool { return gone[plain(p.Subnet)] })
	return New(all)
}

// Peers lists all peers, sorted by subnet. The caller may keep and change it.
func (t *Table) Peers() []tunnel.Peer { return slices.Clone(t.peers) }
