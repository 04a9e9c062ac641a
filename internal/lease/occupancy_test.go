package lease_test

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/flannel-ng/flannel-ng/internal/lease"
)

func anyPrefix(r *rand.Rand) netip.Prefix {
	a := netip.AddrFrom4([4]byte{10, 5, byte(r.IntN(4)), byte(r.IntN(256))})
	return netip.PrefixFrom(a, 20+r.IntN(12)).Masked()
}

// Whatever comes and goes, it says what comparing with each would say.
func TestOccupancy(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for range 200 {
		var o lease.Occupancy
		var there []netip.Prefix
		for range r.IntN(3) {
			there = append(there, anyPrefix(r))
		}
		o.Fill(slices.Clone(there))
		for range 100 {
			p := anyPrefix(r)
			if got, want := o.Overlaps(p), slices.ContainsFunc(there, p.Overlaps); got != want {
				t.Fatalf("%s overlaps %v: %v, want %v", p, there, got, want)
			}
			if len(there) > 0 && r.IntN(2) == 0 {
				i := r.IntN(len(there))
				o.Remove(there[i])
				there = slices.Delete(there, i, i+1)
			} else {
				o.Add(p)
				there = append(there, p)
			}
			o.Remove(netip.MustParsePrefix("192.0.2.0/24"))
		}
	}
}
