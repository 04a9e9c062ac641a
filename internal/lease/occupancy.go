package lease

import (
	"net/netip"
	"slices"
)

// Occupancy knows which prefixes of one family are taken, one several times
// perhaps, and tells quickly whether a further one overlaps any. Prefixes are
// masked.
type Occupancy struct {
	sorted []netip.Prefix // by ComparePrefix
	bits   [129]int       // how many there are of each length
}

// Fill makes o hold ps, and nothing else. It takes ps over.
func (o *Occupancy) Fill(ps []netip.Prefix) {
	slices.SortFunc(ps, ComparePrefix)
	*o = Occupancy{sorted: ps}
	for _, p := range ps {
		o.bits[p.Bits()]++
	}
}

// Add takes p in.
func (o *Occupancy) Add(p netip.Prefix) {
	i, _ := slices.BinarySearchFunc(o.sorted, p, ComparePrefix)
	o.sorted = slices.Insert(o.sorted, i, p)
	o.bits[p.Bits()]++
}

// Remove takes p out, once. It does nothing if p is not there.
func (o *Occupancy) Remove(p netip.Prefix) {
	if i, ok := slices.BinarySearchFunc(o.sorted, p, ComparePrefix); ok {
		o.sorted = slices.Delete(o.sorted, i, i+1)
		o.bits[p.Bits()]--
	}
}

// Overlaps says whether p shares an address with a prefix that is there.
func (o *Occupancy) Overlaps(p netip.Prefix) bool {
	// Whatever lies inside p follows p's place in the order, and the first of
	// it at once.
	i, _ := slices.BinarySearchFunc(o.sorted, p, ComparePrefix)
	if i < len(o.sorted) && o.sorted[i].Overlaps(p) {
		return true
	}
	for length := range p.Bits() {
		if o.bits[length] == 0 {
			continue
		}
		outer := netip.PrefixFrom(p.Addr(), length).Masked()
		if _, ok := slices.BinarySearchFunc(o.sorted, outer, ComparePrefix); ok {
			return true
		}
	}
	return false
}
