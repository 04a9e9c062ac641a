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

func driver(f drivertest.Fabric, classic bool) reconcile.Driver {
	return route.New(route.Options{Owner: f.Owner, Networks: f.Networks(), Classic: classic})
}

func mode(classic bool) string {
	if classic {
		return "classic"
	}
	return "nexthop objects"
}

func TestConformance(t *testing.T) {
	for _, classic := range []bool{false, true} {
		t.Run(mode(classic), func(t *testing.T) {
			flush := "ip nexthop flush proto 70"
			if classic {
				flush = "ip -6 route flush proto 70"
			}
			drivertest.Conformance(t, drivertest.Subject{
				New:   func(f drivertest.Fabric) reconcile.Driver { return driver(f, classic) },
				Peers: 999,
				Steal: []string{
					"ip route del 10.16.0.16/28",
					"ip -6 route del fd00:1:0:1::/64",
					"ip route del 10.16.0.64/28",
					"ip route del blackhole 10.16.0.0/28 metric 4294967295",
					"ip route replace 10.16.0.16/28 via 198.51.100.5 dev eth0 proto 70",
					"ip route replace 10.16.0.16/28 via 10.16.0.32 dev flannel.1 onlink proto 70",
					"ip route replace 10.16.0.16/28 via 10.16.0.16 dev flannel.1 onlink",
					"ip route replace 10.16.0.16/28 via 10.16.0.16 dev flannel.1 onlink proto 70 mtu 1200",
					"ip -6 route replace fd00:1:0:1::/64 via fd00:1:0:2:: dev flannel-v6.1 onlink proto 70",
					"ip -6 route replace fd00:1:0:1::/64 via 2001:db8::5 dev eth0 proto 70",
					flush,
					"ip link set flannel.1 down",
				},
				Litter: []string{
					"ip route add 10.16.7.0/28 via 10.16.7.0 dev flannel.1 onlink",
					"ip route add 10.16.7.16/28 via 10.16.7.0 dev flannel.1 onlink proto 70",
					"ip -6 route add fd00:1:0:77::/64 via fd00:1:0:77:: dev flannel-v6.1 onlink",
					"ip route add 10.16.7.32/28 via 198.51.100.5 dev eth0 proto 70",
					"ip route add blackhole 10.16.7.48/28 proto 70 metric 4294967295",
					"ip route add 10.16.0.16/28 via 10.16.0.16 dev flannel.1 onlink metric 50 proto 70",
					"ip nexthop add id 1074790399 via 10.16.7.0 dev flannel.1 onlink proto 70",
				},
				Bad: func(f drivertest.Fabric, s *state.Set) {
					r := s.Routes[2]
					r.Dst, r.Link = f.Subnet(4, 3000), "missing0"
					s.Routes = append(s.Routes, r)
				},
			})
		})
	}
}

func TestForm(t *testing.T) {
	for _, classic := range []bool{false, true} {
		t.Run(mode(classic), func(t *testing.T) {
			drivertest.Namespace(t)
			f := drivertest.FabricOf(1)
			drivertest.Ground(t, f)
			drivertest.MustApply(t, driver(f, classic), f.With(1))
			out := drivertest.Output(t, "ip route show proto 70") + drivertest.Output(t, "ip -6 route show proto 70")
			wants := []string{
				"blackhole 10.16.0.0/28 metric 4294967295", "10.16.0.32/28 ", "via 198.51.100.200 dev eth0",
				"via 10.16.0.16 dev flannel.1 onlink", "via fd00:1:0:1:: dev flannel-v6.1", "metric 1024", "pref medium",
			}
			for _, want := range wants {
				if !strings.Contains(out, want) {
					t.Errorf("no %q in\n%s", want, out)
				}
			}
			if classic == strings.Contains(out, "nhid") {
				t.Errorf("classic is %v, and:\n%s", classic, out)
			}
		})
	}
}

// Nothing that plain flannel left is removed first: no packet finds a gap.
func TestTakesOverInPlace(t *testing.T) {
	for _, classic := range []bool{false, true} {
		t.Run(mode(classic), func(t *testing.T) {
			drivertest.Namespace(t)
			f := drivertest.FabricOf(1)
			drivertest.Ground(t, f)
			drivertest.Run(t, `
			ip route add 10.16.0.16/28 via 10.16.0.16 dev flannel.1 onlink
			ip -6 route add fd00:1:0:1::/64 via fd00:1:0:1:: dev flannel-v6.1 onlink
			ip route add 10.16.0.32/28 via 198.51.100.200 dev eth0
			ip route add blackhole 10.16.0.0/28 metric 4294967295
			ip -6 route add blackhole fd00:1::/64 metric 4294967295
		`)
			d := driver(f, classic)
			for _, c := range drivertest.MustPlan(t, d, f.With(1)) {
				if c.Op == reconcile.Remove {
					t.Errorf("would remove %s", c.Object)
				}
			}
			drivertest.MustApply(t, d, f.With(1))
			drivertest.MustBeDone(t, d, f.With(1))
			for _, family := range []string{"-4", "-6"} {
				out := drivertest.Output(t, "ip "+family+" route show proto boot")
				if strings.Contains(out, "10.16.") || strings.Contains(out, "fd00:1:") {
					t.Errorf("left over:\n%s", out)
				}
			}
		})
	}
}

func TestForeignRouteIsNamed(t *testing.T) {
	for _, classic := range []bool{false, true} {
		t.Run(mode(classic), func(t *testing.T) {
			drivertest.Namespace(t)
			f := drivertest.FabricOf(1)
			drivertest.Ground(t, f)
			drivertest.Run(t, `
			ip route add 10.16.0.16/28 via 192.0.2.9 dev foreign0
			ip -6 route add fd00:1:0:1::/64 via 2001:db8:7::9 dev foreign0 metric 1024
			ip route add 10.16.0.32/28 via 198.51.100.201 dev eth0
		`)
			before := drivertest.Output(t, "ip route show proto boot") + drivertest.Output(t, "ip -6 route show proto boot")
			failed := drivertest.Apply(t, driver(f, classic), f.With(1))
			if len(failed) != 3 {
				t.Errorf("want three refusals, got %v", failed)
			}
			for _, r := range failed {
				named := strings.Contains(r.Err.Error(), "dev foreign0") || strings.Contains(r.Err.Error(), "via 198.51.100.201")
				if !errors.Is(r.Err, unix.EEXIST) || !named {
					t.Errorf("%s: %v", r.Object, r.Err)
				}
			}
			after := drivertest.Output(t, "ip route show proto boot") + drivertest.Output(t, "ip -6 route show proto boot")
			if before != after {
				t.Errorf("touched:\n%s\n%s", before, after)
			}
		})
	}
}

// A route over the uplink was deleted, its nexthop object was not: the object
// serves again, and is not swept from under the new route.
func TestObjectServesAgain(t *testing.T) {
	drivertest.Namespace(t)
	f := drivertest.FabricOf(1)
	drivertest.Ground(t, f)
	d, want := driver(f, false), f.Local()
	want.Routes = append(want.Routes, state.Route{Dst: f.Subnet(4, 1), Via: drivertest.DirectVia(), Link: drivertest.Uplink})
	drivertest.MustApply(t, d, want)
	drivertest.Run(t, "ip route del 10.200.0.0/24\nip route del 10.16.0.16/28")
	if changes := drivertest.MustPlan(t, d, want); len(changes) != 1 {
		t.Errorf("want the route alone, got %v", changes)
	}
	drivertest.MustApply(t, d, want)
	drivertest.MustBeDone(t, d, want)
}

// From the uplink to the tunnel and back there is always a route, and a
// foreign host route to the gateway is left alone.
func TestMovesBetweenUplinkAndTunnel(t *testing.T) {
	for _, classic := range []bool{false, true} {
		t.Run(mode(classic), func(t *testing.T) {
			drivertest.Namespace(t)
			f := drivertest.FabricOf(1)
			drivertest.Ground(t, f)
			d, tunnel, direct := driver(f, classic), f.With(3), f.With(3)
			for i := range direct.Routes {
				if r := &direct.Routes[i]; r.Link == f.Link(6) {
					r.Via, r.Link, r.Onlink = drivertest.Public(6, 9), drivertest.Uplink, false
				}
			}
			drivertest.Run(t, "ip -6 route add fd00:1:0:2::/128 dev foreign0")
			for _, want := range []*state.Set{direct, tunnel, direct} {
				for _, r := range drivertest.Apply(t, d, want) {
					if want == direct || r.Op != reconcile.Update && !errors.Is(r.Err, reconcile.ErrBlocked) {
						t.Errorf("%s %s: %v", r.Op, r.Object, r.Err)
					}
				}
				out := drivertest.Output(t, "ip -6 route show root fd00:1::/32")
				if strings.Contains(out, "\nfd00:1:0:1:: dev") || !strings.Contains(out, "\nfd00:1:0:2:: dev foreign0") {
					t.Errorf("guide left over, or foreign route gone:\n%s", out)
				}
				// The one that cannot move stays where it works.
				for _, subnet := range []string{"1", "2", "3"} {
					if !strings.Contains(out, "\nfd00:1:0:"+subnet+"::/64") {
						t.Errorf("no route to peer %s:\n%s", subnet, out)
					}
				}
			}
			drivertest.MustBeDone(t, d, direct)
		})
	}
}

// Classic routes are for programs that cannot read nexthop objects, so those of
// an earlier start are exchanged. The other way round there is no reason to
// touch what works.
func TestModeChanges(t *testing.T) {
	drivertest.Namespace(t)
	f := drivertest.FabricOf(1)
	drivertest.Ground(t, f)
	drivertest.MustApply(t, driver(f, false), f.With(2))
	drivertest.MustApply(t, driver(f, true), f.With(2))
	drivertest.MustBeDone(t, driver(f, true), f.With(2))
	for _, list := range []string{"ip route show proto 70", "ip -6 route show proto 70"} {
		if out := drivertest.Output(t, list); strings.Contains(out, "nhid") || !strings.Contains(out, "via") {
			t.Errorf("%s:\n%s", list, out)
		}
	}
	if out := drivertest.Output(t, "ip nexthop show proto 70"); out != "" {
		t.Errorf("left over:\n%s", out)
	}
	drivertest.MustBeDone(t, driver(f, false), f.With(2))
}

// Foreign routes may use any id; taken ones are skipped.
func TestTakenIDsAreSkipped(t *testing.T) {
	drivertest.Namespace(t)
	f := drivertest.FabricOf(1)
	drivertest.Ground(t, f)
	drivertest.Run(t, "ip nexthop add id 1073741825 via 192.0.2.9 dev foreign0")
	before := drivertest.Foreign(t)
	d := driver(f, false)
	drivertest.MustApply(t, d, f.With(3))
	drivertest.MustBeDone(t, d, f.With(3))
	if after := drivertest.Foreign(t); len(after) != len(before) {
		t.Errorf("foreign objects were %d, are %d", len(before), len(after))
	}
}

func TestLinkScope(t *testing.T) {
	for _, classic := range []bool{false, true} {
		t.Run(mode(classic), func(t *testing.T) {
			drivertest.Namespace(t)
			f := drivertest.FabricOf(1)
			drivertest.Ground(t, f)
			want := f.Local()
			want.Routes = []state.Route{
				{Dst: f.Networks()[0], Link: f.Link(4)},
				{Dst: f.Networks()[1], Link: f.Link(6)},
				{Dst: netip.MustParsePrefix("10.16.3.0/28"), Link: f.Link(4), Metric: 7},
			}
			d := driver(f, classic)
			drivertest.MustApply(t, d, want)
			drivertest.MustBeDone(t, d, want)
			out := drivertest.Output(t, "ip route show dev flannel.1")
			if !strings.Contains(out, "10.16.0.0/12 proto 70 scope link") {
				t.Errorf("got\n%s", out)
			}
		})
	}
}

// Networks that lie in one another do not mix up whose blackhole is whose.
func TestNestedNetworksKeepTheirBlackholes(t *testing.T) {
	drivertest.Namespace(t)
	outer := route.Options{Networks: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}
	inner := route.Options{
		Owner:    state.OwnerOf("/run/flannel/inner.env"),
		Networks: []netip.Prefix{netip.MustParsePrefix("10.5.0.0/16")},
	}
	mine := func(o route.Options, dst string) *state.Set {
		return &state.Set{Routes: []state.Route{{
			Dst: netip.MustParsePrefix(dst), Blackhole: true, Metric: o.Owner.BlackholeMetric(),
		}}}
	}
	ofOuter, ofInner := mine(outer, "10.5.1.0/24"), mine(inner, "10.5.2.0/24")
	drivertest.MustApply(t, route.New(outer), ofOuter)
	drivertest.MustApply(t, route.New(inner), ofInner)
	drivertest.MustBeDone(t, route.New(outer), ofOuter)
	drivertest.MustBeDone(t, route.New(inner), ofInner)
	drivertest.MustApply(t, route.New(inner), &state.Set{})
	drivertest.MustBeDone(t, route.New(outer), ofOuter)
}

// What "ip route replace" did to a route of ours is undone. A route that
// somebody put his name on stays, and so does one that was there before ours.
func TestAlteredByHand(t *testing.T) {
	for _, classic := range []bool{false, true} {
		for _, c := range []struct {
			spoil   string
			foreign bool
		}{
			{spoil: "ip route replace 10.16.0.16/28 via 198.51.100.5 dev eth0"},
			{spoil: "ip route replace blackhole 10.16.0.16/28"},
			{spoil: "ip route replace unreachable 10.16.0.16/28"},
			{spoil: "ip route replace blackhole 10.16.0.16/28 proto 70"},
			{spoil: "ip route replace 10.16.0.16/28 nexthop via 192.0.2.9 dev foreign0 nexthop via 198.51.100.5 dev eth0"},
			{spoil: "ip -6 route replace fd00:1:0:1::/64 via 2001:db8::5 dev eth0"},
			{spoil: "ip -6 route replace unreachable fd00:1:0:1::/64 metric 1024"},
			{spoil: "ip route replace 10.16.0.32/28 via 198.51.100.5 dev eth0"},
			{spoil: "ip route replace 10.16.0.16/28 via 198.51.100.5 dev eth0 proto static", foreign: true},
		} {
			t.Run(mode(classic)+"/"+c.spoil, func(t *testing.T) {
				drivertest.Namespace(t)
				f := drivertest.FabricOf(1)
				drivertest.Ground(t, f)
				d, want := driver(f, classic), f.With(3)
				drivertest.MustApply(t, d, want)
				before := drivertest.Foreign(t)
				drivertest.Run(t, c.spoil)
				failed := drivertest.Apply(t, d, want)
				if (len(failed) > 0) != c.foreign {
					t.Errorf("failed: %v", failed)
				}
				if c.foreign {
					return
				}
				drivertest.MustBeDone(t, d, want)
				if after := drivertest.Foreign(t); !slices.Equal(before, after) {
					t.Errorf("foreign objects were\n%s\nand are\n%s", strings.Join(before, "\n"), strings.Join(after, "\n"))
				}
			})
		}
	}
}

// A route in front of ours is foreign: it stays, and is named.
func TestRouteInFrontIsNamed(t *testing.T) {
	for _, c := range []struct{ add, del, named string }{
		{"ip route prepend 10.16.0.16/28 via 198.51.100.5 dev eth0", "ip route del 10.16.0.16/28 via 198.51.100.5", "via 198.51.100.5 dev eth0"},
		{"ip -6 route add fd00:1:0:1::/64 via 2001:db8::5 dev eth0 metric 3", "ip -6 route del fd00:1:0:1::/64 metric 3", "via 2001:db8::5"},
		{"ip -6 route add unreachable fd00:1:0:1::/64 metric 3", "ip -6 route del unreachable fd00:1:0:1::/64 metric 3", "refuses"},
		{add: "ip route append 10.16.0.16/28 via 198.51.100.5 dev eth0"},
		{add: "ip -6 route add fd00:1:0:1::/64 via 2001:db8::5 dev eth0 metric 3000"},
	} {
		t.Run(c.add, func(t *testing.T) {
			drivertest.Namespace(t)
			f := drivertest.FabricOf(1)
			drivertest.Ground(t, f)
			d, want := driver(f, false), f.With(3)
			drivertest.MustApply(t, d, want)
			drivertest.Run(t, c.add)
			before := drivertest.Foreign(t)
			failed := drivertest.Apply(t, d, want)
			if c.named == "" {
				drivertest.MustBeDone(t, d, want)
				return
			}
			if len(failed) != 1 || !strings.Contains(failed[0].Err.Error(), c.named) || !errors.Is(failed[0].Err, unix.EEXIST) {
				t.Errorf("failed: %v", failed)
			}
			if after := drivertest.Foreign(t); !slices.Equal(before, after) {
				t.Errorf("foreign objects were %s\nand are %s", before, after)
			}
			drivertest.Run(t, c.del)
			drivertest.MustBeDone(t, d, want)
		})
	}
}

// An object of ours that was altered goes when its routes have another.
func TestAlteredObjectGoes(t *testing.T) {
	for _, to := range []string{"via 198.51.100.5 dev eth0", "blackhole", "via 10.16.0.32 dev flannel.1 onlink protocol 70", "group 5"} {
		t.Run(to, func(t *testing.T) {
			drivertest.Namespace(t)
			f := drivertest.FabricOf(1)
			drivertest.Ground(t, f)
			d, want := driver(f, false), f.With(2)
			drivertest.MustApply(t, d, want)
			out := drivertest.Output(t, "ip route show 10.16.0.16/28")
			_, id, ok := strings.Cut(out, "nhid ")
			if !ok {
				t.Fatalf("no object in %s", out)
			}
			id, _, _ = strings.Cut(id, " ")
			before := len(strings.Split(drivertest.Output(t, "ip nexthop"), "\n"))
			if strings.HasPrefix(to, "group") {
				drivertest.Run(t, "ip nexthop add id 77 "+strings.Replace(to, "5", id, 1)+"\nip route replace 10.16.0.16/28 nhid 77 proto 70")
				before++
			} else {
				drivertest.Run(t, "ip nexthop replace id "+id+" "+to)
			}
			drivertest.MustApply(t, d, want)
			drivertest.MustBeDone(t, d, want)
			if out := drivertest.Output(t, "ip route show root 10.16.0.0/16"); strings.Count(out, "\n") != 4 || strings.Count(out, "10.16.0.16/28") != 1 {
				t.Errorf("routes:\n%s", out)
			}
			if out := drivertest.Output(t, "ip nexthop"); len(strings.Split(out, "\n")) != before {
				t.Errorf("%d objects before, now\n%s", before, out)
			}
		})
	}
}
