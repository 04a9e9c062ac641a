package lease

import (
	"cmp"
	"encoding/binary"
	"math/bits"
	"net/netip"
	"slices"

	"github.com/flannel-ng/flannel-ng/internal/addr"
)

// point is an address as a number: one arithmetic for both families.
type point struct{ hi, lo uint64 }

func pointOf(a netip.Addr) point {
	if a.Is4() {
		b := a.As4()
		return point{0, uint64(binary.BigEndian.Uint32(b[:]))}
	}
	b := a.As16()
	return point{binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])}
}

func (p point) addr(f addr.Family) netip.Addr {
	var b [16]byte
	binary.BigEndian.PutUint64(b[:8], p.hi)
	binary.BigEndian.PutUint64(b[8:], p.lo)
	if f == addr.IPv4 {
		return netip.AddrFrom4([4]byte(b[12:]))
	}
	return netip.AddrFrom16(b)
}

func (p point) compare(q point) int { return cmp.Or(cmp.Compare(p.hi, q.hi), cmp.Compare(p.lo, q.lo)) }
func (p point) and(q point) point   { return point{p.hi & q.hi, p.lo & q.lo} }
func (p point) or(q point) point    { return point{p.hi | q.hi, p.lo | q.lo} }

func (p point) plus(q point) point {
	lo, carry := bits.Add64(p.lo, q.lo, 0)
	hi, _ := bits.Add64(p.hi, q.hi, carry)
	return point{hi, lo}
}

func (p point) minus(q point) point {
	lo, borrow := bits.Sub64(p.lo, q.lo, 0)
	hi, _ := bits.Sub64(p.hi, q.hi, borrow)
	return point{hi, lo}
}

// Shifts by 64 and more give zero in Go, and 64-n wraps to such a shift, so one
// line serves all n.
func (p point) shiftLeft(n uint) point {
	return point{p.hi<<n | p.lo<<(n-64) | p.lo>>(64-n), p.lo << n}
}

func (p point) shiftRight(n uint) point {
	return point{p.hi >> n, p.lo>>n | p.hi<<(64-n) | p.hi>>(n-64)}
}

// bits is the length of p as a binary number.
func (p point) bits() int {
	if p.hi != 0 {
		return 64 + bits.Len64(p.hi)
	}
	return bits.Len64(p.lo)
}

// below is the greatest number of n bits.
func below(n int) point {
	if n > 64 {
		return point{1<<(n-64) - 1, ^uint64(0)}
	}
	return point{0, 1<<n - 1}
}

// span is a range of addresses, both ends included.
type span struct{ first, last point }

func spanOf(p netip.Prefix) span {
	first := pointOf(p.Masked().Addr())
	return span{first, first.or(below(p.Addr().BitLen() - p.Bits()))}
}

func (s span) compare(t span) int { return cmp.Or(s.first.compare(t.first), s.last.compare(t.last)) }

// merge joins sorted spans and the subnets of recent into sorted spans that do
// not overlap.
func merge(spans []span, recent []Recent) []span {
	all := slices.Clone(spans)
	for _, r := range recent {
		all = append(all, spanOf(r.Subnet))
	}
	if len(recent) > 0 {
		slices.SortFunc(all, span.compare)
	}
	merged := all[:0]
	for _, s := range all {
		if n := len(merged); n > 0 && s.first.compare(merged[n-1].last) <= 0 {
			if s.last.compare(merged[n-1].last) > 0 {
				merged[n-1].last = s.last
			}
			continue
		}
		merged = append(merged, s)
	}
	return merged
}
