package lab_test

import (
	"net/netip"
	"testing"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/lab"
)

func TestPlaces(t *testing.T) {
	for _, c := range []struct {
		underlay     lab.Underlay
		hosts, index int
		family       addr.Family
		prefix, gw   string
	}{
		{lab.L2, 3, 1, addr.IPv4, "198.51.100.1/24", "198.51.100.254"},
		{lab.L2, 3, -1, addr.IPv4, "198.51.100.253/24", "198.51.100.254"},
		{lab.L2, 3, 3, addr.IPv6, "2001:db8::3/64", "2001:db8::fe"},
		{lab.L2, 1000, 300, addr.IPv4, "198.18.1.44/15", "198.19.0.3"},
		{lab.Routed, 3, 2, addr.IPv4, "198.51.100.10/30", "198.51.100.9"},
		{lab.Routed, 3, 2, addr.IPv6, "2001:db8:0:2::2/64", "2001:db8:0:2::1"},
	} {
		prefix, gw := lab.Place(c.underlay, c.hosts, c.index, c.family)
		if prefix.String() != c.prefix || gw.String() != c.gw {
			t.Errorf("%v: %s via %s", c, prefix, gw)
		}
	}
}

// Every place has an address of its own, inside its segment.
func TestPlacesDiffer(t *testing.T) {
	for _, c := range []struct {
		underlay lab.Underlay
		hosts    int
	}{{lab.L2, 250}, {lab.L2, 2000}, {lab.Routed, 60}} {
		for _, f := range addr.Families() {
			seen := map[netip.Addr]int{}
			for i := -2; i <= c.hosts; i++ {
				if i == 0 {
					continue
				}
				prefix, gw := lab.Place(c.underlay, c.hosts, i, f)
				if other, ok := seen[prefix.Addr()]; ok {
					t.Fatalf("%v: places %d and %d share %s", c, other, i, prefix)
				}
				seen[prefix.Addr()] = i
				if !prefix.Masked().Contains(gw) {
					t.Fatalf("%v: gateway %s of place %d is not in %s", c, gw, i, prefix)
				}
			}
		}
	}
}

func TestTooManyHosts(t *testing.T) {
	for underlay, hosts := range map[lab.Underlay]int{lab.L2: 1<<16 + 1, lab.Routed: 61} {
		if lab.CheckPlan(underlay, hosts) == nil || lab.CheckPlan(underlay, hosts-1) != nil {
			t.Errorf("%s: limit is not %d", underlay, hosts-1)
		}
	}
}
