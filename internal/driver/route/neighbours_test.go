package route_test

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/flannel-ng/flannel-ng/internal/driver/drivertest"
	"github.com/flannel-ng/flannel-ng/internal/driver/route"
	"github.com/flannel-ng/flannel-ng/internal/reconcile"
	"github.com/flannel-ng/flannel-ng/internal/state"
)

// These tests are about routes without a device of ours: peers are neighbours,
// as the host-gw backend has it.

// eachMode runs a test with nexthop objects and without, each on a host of its
// own.
func eachMode(t *testing.T, test func(t *testing.T, o route.Options)) {
	t.Helper()
	for _, classic := range []bool{false, true} {
		t.Run(mode(classic), func(t *testing.T) {
			drivertest.Namespace(t)
			test(t, route.Options{Networks: []netip.Prefix{
				netip.MustParsePrefix("10.5.0.0/16"), netip.MustParsePrefix("fc00:5::/48"),
			}, Classic: classic})
		})
	}
}

// via is a set of routes, written as destination, gateway, link.
func via(routes ...string) *state.Set {
	var s state.Set
	for _, r := range routes {
		f := strings.Fields(r)
		s.Routes = append(s.Routes, state.Route{Dst: netip.MustParsePrefix(f[0]), Via: netip.MustParseAddr(f[1]), Link: f[2]})
	}
	return &s
}

// has fails unless the host has every route given, as iproute2 prints it.
func has(t *testing.T, wants ...string) {
	t.Helper()
	out := drivertest.Output(t, "ip route show") + drivertest.Output(t, "ip -6 route show")
	for _, want := range wants {
		if !slices.ContainsFunc(strings.Split(out, "\n"), func(line string) bool { return contains(line, want) }) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
}

func hasNot(t *testing.T, text string) {
	t.Helper()
	out := drivertest.Output(t, "ip route show") + drivertest.Output(t, "ip -6 route show")
	if strings.Contains(out, text) {
		t.Errorf("%q is in\n%s", text, out)
	}
}

// contains says whether line has the words of want in their order; nhid and
// other words of the line may be between.
func contains(line, want string) bool {
	words := strings.Fields(want)
	for w := range strings.FieldsSeq(line) {
		if len(words) > 0 && w == words[0] {
			words = words[1:]
		}
	}
	return len(words) == 0
}

// refusals applies and returns the errors of what failed, which must be as many
// as given and contain the texts in order.
func refusals(t *testing.T, d reconcile.Driver, want *state.Set, texts ...string) {
	t.Helper()
	failed := drivertest.Apply(t, d, want)
	if len(failed) != len(texts) {
		t.Fatalf("want %d refusals, got %v", len(texts), failed)
	}
	for i, r := range failed {
		if !errors.Is(r.Err, unix.EEXIST) || !strings.Contains(r.Err.Error(), texts[i]) {
			t.Errorf("%s: %v, want %q", r.Object, r.Err, texts[i])
		}
	}
}

// A foreign route of the same destination and metric in front of ours (IPv4) or
// beside it (IPv6) is not what gets replaced when ours moves.
func TestForeignRouteInFrontStays(t *testing.T) {
	eachMode(t, func(t *testing.T, o route.Options) {
		d := route.New(o)
		before := via("10.5.1.0/24 198.51.100.2 eth0", "fc00:5:0:1::/64 2001:db8::2 eth0",
			"10.5.2.0/24 198.51.100.2 eth0", "fc00:5:0:2::/64 2001:db8::2 eth0")
		after := via("10.5.1.0/24 198.51.100.3 eth0", "fc00:5:0:1::/64 2001:db8::3 eth0",
			"10.5.2.0/24 198.51.100.3 eth0", "fc00:5:0:2::/64 2001:db8::3 eth0")
		drivertest.MustApply(t, d, before)
		// Without a gateway, IPv6 makes no multipath route of it.
		drivertest.Run(t, `
			ip route prepend 10.5.1.0/24 via 192.0.2.9 dev foreign0
			ip -6 route prepend fc00:5:0:1::/64 dev foreign0 metric 1024
			ip route append 10.5.2.0/24 via 192.0.2.9 dev foreign0
		`)
		for _, want := range []*state.Set{after, before, after} {
			inVain(t, d, want, "10.5.1.0/24")
		}
		has(t, "10.5.1.0/24 via 192.0.2.9 dev foreign0", "10.5.1.0/24 via 198.51.100.3 dev eth0 proto 70",
			"fc00:5:0:1::/64 dev foreign0", "fc00:5:0:1::/64 via 2001:db8::3 dev eth0 proto 70",
			"10.5.2.0/24 via 192.0.2.9 dev foreign0")
		hasNot(t, "via 198.51.100.2 ")
		hasNot(t, "via 2001:db8::2 ")
		// Ours that is in front stays in front.
		if out := drivertest.Output(t, "ip route get fibmatch 10.5.2.2"); !strings.Contains(out, "198.51.100.3") {
			t.Errorf("the foreign route has come to the front: %s", out)
		}
		drivertest.MustApply(t, d, &state.Set{})
		has(t, "10.5.1.0/24 via 192.0.2.9 dev foreign0", "fc00:5:0:1::/64 dev foreign0", "10.5.2.0/24 via 192.0.2.9 dev foreign0")
		hasNot(t, "proto 70 metric 1024")
	})
}

// inVain makes want true, and demands that no more is to be done than to tell of
// these routes, which foreign ones stand in front of.
func inVain(t *testing.T, d reconcile.Driver, want *state.Set, dst ...string) {
	t.Helper()
	drivertest.Apply(t, d, want)
	failed := drivertest.Apply(t, d, want)
	for i, r := range failed {
		if i >= len(dst) || r.Object.Key().Prefix.String() != dst[i] || !strings.Contains(r.Err.Error(), "stands in front") {
			t.Errorf("%s %s: %v", r.Op, r.Object, r.Err)
		}
	}
	if len(failed) != len(dst) {
		t.Errorf("failed: %v, want those of %v", failed, dst)
	}
}

// An altered route of ours behind a foreign one is mended without it.
func TestAlteredRouteBehindForeign(t *testing.T) {
	eachMode(t, func(t *testing.T, o route.Options) {
		d, want := route.New(o), via("10.5.1.0/24 198.51.100.2 eth0", "fc00:5:0:1::/64 2001:db8::2 eth0")
		drivertest.Run(t, `
			ip -6 route add fc00:5:0:1::/64 dev foreign0 metric 1024
			ip -6 route append fc00:5:0:1::/64 via 2001:db8::2 dev eth0 metric 1024 proto 70 mtu 1300
			ip route add 10.5.1.0/24 via 192.0.2.9 dev foreign0
			ip route append 10.5.1.0/24 via 198.51.100.2 dev eth0 proto 70 mtu 1300
		`)
		inVain(t, d, want, "10.5.1.0/24", "fc00:5:0:1::/64")
		has(t, "10.5.1.0/24 via 192.0.2.9 dev foreign0", "fc00:5:0:1::/64 dev foreign0",
			"10.5.1.0/24 via 198.51.100.2 dev eth0 proto 70", "fc00:5:0:1::/64 via 2001:db8::2 dev eth0 proto 70")
		hasNot(t, "mtu 1300")
	})
}

// Of IPv6 routes with gateways the kernel makes one multipath route. Without
// nexthop objects ours is caught in it: that is reported, and the other's part
// stays until take-over.
func TestMultipathWithForeign(t *testing.T) {
	eachMode(t, func(t *testing.T, o route.Options) {
		d, want := route.New(o), via("fc00:5:0:1::/64 2001:db8::2 eth0")
		drivertest.MustApply(t, d, want)
		drivertest.Run(t, "ip -6 route append fc00:5:0:1::/64 via 2001:db8:7::9 dev foreign0 metric 1024")
		if o.Classic {
			refusals(t, d, want, "multipath")
		} else {
			drivertest.MustBeDone(t, d, want)
		}
		out := drivertest.Output(t, "ip -6 route show fc00:5:0:1::/64")
		if !strings.Contains(out, "2001:db8::2 dev eth0") || !strings.Contains(out, "2001:db8:7::9 dev foreign0") {
			t.Errorf("one is missing:\n%s", out)
		}
		o.TakeOver = true
		d = route.New(o)
		drivertest.MustApply(t, d, want)
		drivertest.MustBeDone(t, d, want)
		drivertest.MustApply(t, d, &state.Set{})
		hasNot(t, "fc00:5:0:1::/64 proto 70")
	})
}

// The host of a plain flannel: what equals the wanted is adopted in place, what
// differs stays and is named with the cure, and goes with --take-over. What
// follows from an address, and what is outside the cluster network, stays.
func TestTakeOver(t *testing.T) {
	eachMode(t, func(t *testing.T, o route.Options) {
		drivertest.Run(t, `
			ip route add 10.5.1.0/24 via 198.51.100.2 dev eth0
			ip -6 route add fc00:5:0:1::/64 via 2001:db8::2 dev eth0
			ip route add 10.5.2.0/24 via 198.51.100.99 dev eth0
			ip -6 route add fc00:5:0:2::/64 via 2001:db8::99 dev eth0
			ip route add 10.5.3.0/24 via 192.0.2.9 dev foreign0 proto static
			ip addr add 10.5.4.1/24 dev foreign0
			ip route add 10.9.1.0/24 via 198.51.100.99 dev eth0
			ip route add 10.5.77.0/24 via 198.51.100.98 dev eth0
		`)
		want := via("10.5.1.0/24 198.51.100.2 eth0", "fc00:5:0:1::/64 2001:db8::2 eth0",
			"10.5.2.0/24 198.51.100.3 eth0", "10.5.3.0/24 198.51.100.4 eth0", "10.5.4.0/24 198.51.100.5 eth0",
			"10.9.1.0/24 198.51.100.2 eth0", "fc00:5:0:2::/64 2001:db8::3 eth0")
		const (
			cure    = "via 198.51.100.99 dev eth0 proto 3: remove it, or let flanneld replace it with --take-over"
			address = "follows from an address of this host"
		)
		refusals(t, route.New(o), want, cure, "dev foreign0 proto 4: remove it, or", address, "proto 3: remove it",
			"via 2001:db8::99 dev eth0 metric 1024 proto 3: remove it, or")
		has(t, "10.5.1.0/24 via 198.51.100.2 dev eth0 proto 70", "fc00:5:0:1::/64 via 2001:db8::2 dev eth0 proto 70",
			"10.5.2.0/24 via 198.51.100.99 dev eth0", "fc00:5:0:2::/64 via 2001:db8::99 dev eth0")
		o.TakeOver = true
		refusals(t, route.New(o), want, address, "proto 3: remove it")
		has(t, "10.5.2.0/24 via 198.51.100.3 dev eth0 proto 70", "10.5.3.0/24 via 198.51.100.4 dev eth0 proto 70",
			"fc00:5:0:2::/64 via 2001:db8::3 dev eth0 proto 70",
			"10.5.4.0/24 dev foreign0 proto kernel", "10.9.1.0/24 via 198.51.100.99 dev eth0",
			"10.5.77.0/24 via 198.51.100.98 dev eth0")
		hasNot(t, "10.5.2.0/24 via 198.51.100.99")
		hasNot(t, "2001:db8::99")
		if changes := drivertest.MustPlan(t, route.New(o), want); len(changes) != 2 {
			t.Errorf("want the two refused to be missing, got %v", changes)
		}
	})
}

// The uplink is renamed, gets another address, and its part is taken by another
// link: routes stay or move, and there is one at any time.
func TestFollowsTheUplink(t *testing.T) {
	eachMode(t, func(t *testing.T, o route.Options) {
		d := route.New(o)
		over := func(link string) *state.Set {
			return via("10.5.1.0/24 198.51.100.2 "+link, "10.5.2.0/24 198.51.100.3 "+link, "fc00:5:0:1::/64 2001:db8::2 "+link)
		}
		drivertest.MustApply(t, d, over("eth0"))
		drivertest.Run(t, `
			ip link set eth0 down
			ip link set eth0 name up0
			ip link set up0 up
			ip -6 addr replace 2001:db8::1/64 dev up0 nodad
		`)
		drivertest.MustApply(t, d, over("up0"))
		drivertest.MustBeDone(t, d, over("up0"))
		drivertest.Run(t, `
			ip addr add 198.51.100.77/24 dev up0
			ip addr del 198.51.100.1/24 dev up0
			ip addr add 198.51.100.77/24 dev up0
		`)
		drivertest.MustApply(t, d, over("up0"))
		drivertest.MustBeDone(t, d, over("up0"))
		drivertest.Run(t, "ip addr add 198.51.100.78/24 dev foreign0\nip addr add 2001:db8::78/64 dev foreign0 nodad")
		for _, c := range drivertest.MustPlan(t, d, over("foreign0")) {
			if _, isRoute := c.Object.(state.Route); c.Op != reconcile.Update && isRoute {
				t.Errorf("%s %s leaves a gap", c.Op, c.Object)
			}
		}
		drivertest.MustApply(t, d, over("foreign0"))
		drivertest.MustBeDone(t, d, over("foreign0"))
		hasNot(t, "via 198.51.100.2 dev up0")
		has(t, "10.5.2.0/24 via 198.51.100.3 dev foreign0 proto 70", "fc00:5:0:1::/64 via 2001:db8::2 dev foreign0 proto 70")
	})
}

// After a change of backend nothing of host-gw is left on the uplink, and what
// others have there is.
func TestNothingIsLeftOnTheUplink(t *testing.T) {
	eachMode(t, func(t *testing.T, o route.Options) {
		d := route.New(o)
		before := drivertest.Foreign(t)
		drivertest.MustApply(t, d, via("10.5.1.0/24 198.51.100.2 eth0", "fc00:5:0:1::/64 2001:db8::2 eth0"))
		drivertest.MustApply(t, d, &state.Set{})
		drivertest.MustBeDone(t, d, &state.Set{})
		if after := drivertest.Foreign(t); !slices.Equal(before, after) {
			t.Errorf("before\n%q\nafter\n%q", before, after)
		}
		hasNot(t, "10.5.1.0/24")
		hasNot(t, "fc00:5:0:1::")
	})
}

// Two instances with a network each share an uplink and next hops, and never
// touch each other's routes, not even when told to take over.
func TestTwoNetworksOnOneUplink(t *testing.T) {
	eachMode(t, func(t *testing.T, o route.Options) {
		other := route.Options{
			Owner:    state.OwnerOf("/run/flannel/second.env"),
			Networks: []netip.Prefix{netip.MustParsePrefix("10.6.0.0/16"), netip.MustParsePrefix("fc00:6::/48")},
			Classic:  o.Classic,
		}
		o.TakeOver, other.TakeOver = true, true
		one, two := route.New(o), route.New(other)
		ofOne := via("10.5.1.0/24 198.51.100.2 eth0", "fc00:5:0:1::/64 2001:db8::2 eth0")
		ofTwo := via("10.6.1.0/24 198.51.100.2 eth0", "fc00:6:0:1::/64 2001:db8::2 eth0")
		for range 2 {
			drivertest.MustApply(t, one, ofOne)
			drivertest.MustApply(t, two, ofTwo)
			drivertest.MustBeDone(t, one, ofOne)
			drivertest.MustApply(t, one, &state.Set{})
			drivertest.MustBeDone(t, two, ofTwo)
			drivertest.MustApply(t, one, ofOne)
			drivertest.MustApply(t, two, &state.Set{})
			drivertest.MustBeDone(t, one, ofOne)
		}
		drivertest.MustApply(t, two, ofTwo)
		refusals(t, one, via("10.5.1.0/24 198.51.100.2 eth0", "fc00:5:0:1::/64 2001:db8::2 eth0", "10.6.1.0/24 198.51.100.9 eth0"),
			"another flannel-ng on this host wants it")
		drivertest.MustBeDone(t, two, ofTwo)
	})
}
