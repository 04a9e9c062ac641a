package lease

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/flannel-ng/flannel-ng/internal/addr"
)

// beats is the order in which overlapping leases win: the configured length
// first, because a longer or shorter one is somebody's mistake, then who was
// first. Two leases never tie: keys are unique.
func beats(a, b *Lease, f addr.Family, length int) bool {
	return rank(a, f, length)(b) < 0
}

// rank compares a with another lease; negative: a wins.
func rank(a *Lease, f addr.Family, length int) func(*Lease) int {
	odd := oddness(a, f, length)
	return func(b *Lease) int {
		return cmp.Or(cmp.Compare(odd, oddness(b, f, length)),
			cmp.Compare(a.Created, b.Created), cmp.Compare(a.Key, b.Key))
	}
}

func oddness(l *Lease, f addr.Family, length int) int {
	if l.Subnets.At(f).Bits() == length {
		return 0
	}
	return 1
}

// spot is one distinct prefix with its best lease. Prefixes nest or are
// disjoint, so the spots of a family form trees.
type spot struct {
	prefix netip.Prefix
	lease  int  // index of the best lease
	parent int  // index of the spot that contains this one, or -1
	below  int  // index of a spot inside this one that won, or -1
	nests  bool // overlaps another spot
	won    bool
}

// contest gives for each lease that loses its subnet of f the lease that has
// it. It takes O(n log n), and n times the number of lengths in use if leases
// nest, so that no set of bad leases makes it slow.
func contest(leases []*Lease, f addr.Family, length int) map[int]int {
	better := func(a, b int) int { return rank(leases[a], f, length)(leases[b]) }
	order := make([]int, 0, len(leases))
	for i, l := range leases {
		if l.Subnets.At(f).IsValid() {
			order = append(order, i)
		}
	}
	slices.SortFunc(order, func(a, b int) int {
		return cmp.Or(ComparePrefix(leases[a].Subnets.At(f), leases[b].Subnets.At(f)), better(a, b))
	})
	lost := make(map[int]int)
	spots := forest(order, func(i int) netip.Prefix { return leases[i].Subnets.At(f) }, lost)
	var byRank []int
	for i, s := range spots {
		if s.nests {
			byRank = append(byRank, i)
		}
	}
	slices.SortFunc(byRank, func(a, b int) int { return better(spots[a].lease, spots[b].lease) })
	for _, i := range byRank {
		if w := winnerOver(spots, i); w >= 0 {
			lost[spots[i].lease] = spots[w].lease
		}
	}
	for twin, best := range lost { // twins of a loser lose to the loser's winner
		if w, ok := lost[best]; ok {
			lost[twin] = w
		}
	}
	return lost
}

// forest builds the spots from leases in prefix order. A lease whose prefix an
// earlier one has too is entered in lost.
func forest(order []int, prefix func(int) netip.Prefix, lost map[int]int) []spot {
	spots := make([]spot, 0, len(order))
	last := -1 // the spot before, then up its parents
	for _, i := range order {
		p := prefix(i)
		if last >= 0 && spots[last].prefix == p {
			lost[i] = spots[last].lease
			continue
		}
		for last >= 0 && !spots[last].prefix.Overlaps(p) {
			last = spots[last].parent
		}
		if last >= 0 {
			spots[last].nests = true
		}
		spots = append(spots, spot{prefix: p, lease: i, parent: last, below: -1, nests: last >= 0})
		last = len(spots) - 1
	}
	return spots
}

// winnerOver returns the winner that spot i overlaps, or makes i a winner and
// returns -1. Spots come in order of rank.
func winnerOver(spots []spot, i int) int {
	if w := spots[i].below; w >= 0 {
		return w
	}
	for up := spots[i].parent; up >= 0; up = spots[up].parent {
		if spots[up].won {
			return up
		}
	}
	spots[i].won = true
	for up := spots[i].parent; up >= 0; up = spots[up].parent {
		spots[up].below = i
	}
	return -1
}

// ComparePrefix orders prefixes by address, the shorter one first.
func ComparePrefix(a, b netip.Prefix) int {
	return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
}
