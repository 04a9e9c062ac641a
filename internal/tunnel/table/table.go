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
	levels addr.ByFamily[[]level] // the longest subnets first
	outers map[netip.Addr]int     // subnets of each outer address
}

// level holds the subnets of one length, by first address. It has some.
type level struct {
	bits int
	dst  map[netip.Addr]Target
}

// Target is a peer without its subnet.
type Target struct {
	Outer netip.Addr
	ECN   bool // as in tunnel.Peer
}

// New makes a table. Of two peers with one subnet the later counts; one that
// lacks an address is left out. IPv4-mapped addresses count as IPv4.
func New(peers []tunnel.Peer) *Table { return new(Table).With(peers, nil) }

// With is a table with peers put as New does, which replace those of the same
// subnet, and then others removed.
func (t *Table) With(put []tunnel.Peer, remove []netip.Prefix) *Table {
	next := t.clone()
	for _, p := range put {
		subnet, dst := plain(p.Subnet), p.Dst.Unmap()
		if subnet.IsValid() && dst.IsValid() {
			next.remove(subnet)
			next.insert(subnet, Target{dst, p.ECN})
		}
	}
	for _, p := range remove {
		next.remove(plain(p))
	}
	return next
}

// clone copies everything: a map is copied far faster than it is filled.
func (t *Table) clone() *Table {
	c := &Table{outers: maps.Clone(t.outers)}
	if c.outers == nil {
		c.outers = map[netip.Addr]int{}
	}
	for _, f := range addr.Families() {
		levels := slices.Clone(t.levels.At(f))
		for i, l := range levels {
			levels[i].dst = maps.Clone(l.dst)
		}
		c.levels.Put(f, levels)
	}
	return c
}

func (t *Table) insert(subnet netip.Prefix, to Target) {
	f := addr.Of(subnet.Addr())
	levels := t.levels.At(f)
	i, found := find(levels, subnet.Bits())
	if !found {
		levels = slices.Insert(levels, i, level{bits: subnet.Bits(), dst: map[netip.Addr]Target{}})
		t.levels.Put(f, levels)
	}
	levels[i].dst[subnet.Addr()] = to
	t.outers[to.Outer]++
}

func (t *Table) remove(subnet netip.Prefix) {
	f := addr.Of(subnet.Addr())
	levels := t.levels.At(f)
	i, found := find(levels, subnet.Bits())
	if !found {
		return
	}
	gone, found := levels[i].dst[subnet.Addr()]
	if !found {
		return
	}
	if delete(levels[i].dst, subnet.Addr()); len(levels[i].dst) == 0 {
		t.levels.Put(f, slices.Delete(levels, i, i+1))
	}
	if t.outers[gone.Outer]--; t.outers[gone.Outer] == 0 {
		delete(t.outers, gone.Outer)
	}
}

// find is where the level of a length is, or belongs.
func find(levels []level, bits int) (int, bool) {
	return slices.BinarySearchFunc(levels, bits, func(l level, bits int) int { return cmp.Compare(bits, l.bits) })
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
	to, ok := t.Find(dst)
	return to.Outer, ok
}

// Find is the peer of an inner destination, as Route says.
func (t *Table) Find(dst netip.Addr) (to Target, ok bool) {
	for _, l := range t.levels.At(addr.Of(dst)) {
		p, err := dst.Prefix(l.bits)
		if err != nil {
			return Target{}, false
		}
		if to, ok = l.dst[p.Addr()]; ok {
			return to, true
		}
	}
	return Target{}, false
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

// Peers lists all peers, sorted by subnet.
func (t *Table) Peers() []tunnel.Peer {
	var all []tunnel.Peer
	for _, f := range addr.Families() {
		for _, l := range t.levels.At(f) {
			for a, to := range l.dst {
				all = append(all, tunnel.Peer{Subnet: netip.PrefixFrom(a, l.bits), Dst: to.Outer, ECN: to.ECN})
			}
		}
	}
	slices.SortFunc(all, compare)
	return all
}
