package all_test

import (
	"log/slog"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/driver/all"
	"github.com/flannel-ng/flannel-ng/internal/driver/drivertest"
	"github.com/flannel-ng/flannel-ng/internal/facts"
	"github.com/flannel-ng/flannel-ng/internal/probe"
	"github.com/flannel-ng/flannel-ng/internal/reconcile"
	"github.com/flannel-ng/flannel-ng/internal/state"
	"github.com/flannel-ng/flannel-ng/internal/tunnel"
)

func drivers(f drivertest.Fabric, classic bool) []reconcile.Driver {
	return all.All(all.Options{
		Owner: f.Owner, Networks: f.Networks(), ClassicRoutes: classic,
		Forwarder: tunnel.Process{Socket: "/run/there-is-no-such-folder/forwarder.sock"},
		Wake:      func() {}, Log: slog.New(slog.DiscardHandler),
	})
}

func execute(tb testing.TB, d []reconcile.Driver, want *state.Set) {
	tb.Helper()
	out := reconcile.Execute(tb.Context(), d, want, true)
	for kind, err := range out.Unread {
		tb.Fatalf("read %s: %v", kind, err)
	}
	for _, r := range out.Failed() {
		tb.Fatalf("%s %s: %v", r.Op, r.Object, r.Err)
	}
}

func done(tb testing.TB, d []reconcile.Driver, want *state.Set) {
	tb.Helper()
	changes, err := reconcile.Plan(tb.Context(), d, want)
	if err != nil || len(changes) > 0 {
		tb.Fatalf("still to do: %v, %v", changes, err)
	}
}

func TestOrderOfKinds(t *testing.T) {
	want := []state.Kind{
		state.KindLink, state.KindSysctl, state.KindAddress, state.KindNeighbour, state.KindFDB,
		state.KindTunnel, state.KindFastPath, state.KindRoute,
	}
	for i, d := range drivers(drivertest.FabricOf(1), false) {
		if d.Kind() != want[i] {
			t.Errorf("driver %d is for %s, not %s", i, d.Kind(), want[i])
		}
	}
}

// A whole host comes up from nothing in one pass, is taken down to nothing in
// one, and two instances do it side by side.
func TestWholeHost(t *testing.T) {
	for name, classic := range map[string]bool{"nexthop objects": false, "classic": true} {
		t.Run(name, func(t *testing.T) {
			drivertest.Namespace(t)
			before := drivertest.Foreign(t)
			one, two := drivertest.FabricOf(1), drivertest.FabricOf(2)
			d1, d2 := drivers(one, classic), drivers(two, classic)
			execute(t, d1, one.With(9))
			execute(t, d2, two.With(9))
			done(t, d1, one.With(9))
			execute(t, d1, &state.Set{})
			done(t, d2, two.With(9))
			execute(t, d2, &state.Set{})
			after := drivertest.Foreign(t)
			if len(before) != len(after) {
				t.Errorf("%d objects became %d", len(before), len(after))
			}
			if out := drivertest.Output(t, "ip -br link show type vxlan"); len(out) == 0 {
				t.Error("the foreign device is gone")
			}
		})
	}
}

// The device is deleted under 2000 peers: one pass brings all of it back.
func TestDeviceDeleted(t *testing.T) {
	drivertest.Namespace(t)
	f := drivertest.FabricOf(1)
	d, want := drivers(f, false), f.With(2000)
	execute(t, d, want)
	for _, fault := range []string{
		"ip link del flannel.1", "ip link set flannel-v6.1 down", "ip link set flannel.1 address 02:00:00:00:00:01",
	} {
		drivertest.Run(t, fault)
		execute(t, d, want)
		done(t, d, want)
	}
}

// BenchmarkPeers programs 20,000 peers and reads them back, in IPv4.
func BenchmarkPeers(b *testing.B) {
	const peers = 20_000
	for _, mode := range []struct {
		name    string
		classic bool
	}{{"nexthops", false}, {"classic", true}} {
		b.Run(mode.name, func(b *testing.B) {
			drivertest.Namespace(b)
			f := drivertest.FabricOf(1)
			d, want := drivers(f, mode.classic), f.Local()
			for i := 1; i <= peers; i++ {
				want.Append(f.Peer(addr.IPv4, i))
			}
			var program, again, clear time.Duration
			for b.Loop() {
				program += measure(func() { execute(b, d, want) })
				again += measure(func() { done(b, d, want) })
				clear += measure(func() { execute(b, d, &state.Set{Links: want.Links}) })
			}
			for what, t := range map[string]time.Duration{"program": program, "plan-unchanged": again, "remove": clear} {
				b.ReportMetric(t.Seconds()/float64(b.N), "s/"+what)
			}
			b.ReportMetric(0, "ns/op")
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			b.ReportMetric(float64(m.Sys)/(1<<20), "MiB")
		})
	}
}

// BenchmarkCarriers compares 5,000 peers without a tunnel with as many through
// one, in IPv4: the drivers' work, and for neighbours the lookups that tell that
// they are neighbours. It counts processor time, the kernel's included, so that
// the ratios hold on a busy machine.
func BenchmarkCarriers(b *testing.B) {
	const peers = 5000
	f := drivertest.FabricOf(1)
	tunnel, direct := f.Local(), &state.Set{}
	var targets []netip.Addr
	for i := 1; i <= peers; i++ {
		tunnel.Append(f.Peer(addr.IPv4, i))
		next := netip.AddrFrom4([4]byte{198, 18, uint8(i >> 8), uint8(i)}) // RFC 2544
		targets = append(targets, next)
		direct.Routes = append(direct.Routes, state.Route{Dst: f.Subnet(addr.IPv4, i), Via: next, Link: drivertest.Uplink})
	}
	for _, mode := range []struct {
		name    string
		classic bool
	}{{"nexthops", false}, {"classic", true}} {
		b.Run(mode.name, func(b *testing.B) {
			drivertest.Namespace(b)
			drivertest.Run(b, "ip addr add 198.18.255.254/16 dev eth0")
			d := drivers(f, mode.classic)
			spent := map[string]time.Duration{}
			for b.Loop() {
				for name, want := range map[string]*state.Set{"vxlan": tunnel, "host-gw": direct} {
					spent[name+"-program"] += processor(b, func() { execute(b, d, want) })
					spent[name+"-unchanged"] += processor(b, func() { done(b, d, want) })
					execute(b, d, &state.Set{})
				}
				spent["adjacency"] += processor(b, func() { adjacent(b, targets) })
			}
			for what, t := range spent {
				b.ReportMetric(t.Seconds()*1000/float64(b.N), "cpu-ms/"+what)
			}
			b.ReportMetric(0, "ns/op")
			unchanged := spent["host-gw-unchanged"] + spent["adjacency"]
			b.ReportMetric(unchanged.Seconds()/spent["vxlan-unchanged"].Seconds(), "unchanged-ratio")
			b.ReportMetric(spent["host-gw-program"].Seconds()/spent["vxlan-program"].Seconds(), "program-ratio")
		})
	}
}

// adjacent reads the facts about neighbours.
func adjacent(tb testing.TB, targets []netip.Addr) {
	tb.Helper()
	links, err := probe.Links(tb.Context())
	if err != nil {
		tb.Fatal(err)
	}
	routes, err := probe.RoutesTo(tb.Context(), probe.Lookup{
		Links: links, Skip: func(facts.Link) bool { return false }, Uplink: drivertest.Uplink, Targets: targets,
	})
	if err != nil {
		tb.Fatal(err)
	}
	n := facts.Node{Uplink: facts.Link{Name: drivertest.Uplink}, Routes: routes}
	for _, a := range targets {
		if link, _ := n.Adjacent(a); link != drivertest.Uplink {
			tb.Fatalf("%s is on %q", a, link)
		}
	}
}

// processor is the processor time that f takes.
func processor(tb testing.TB, f func()) time.Duration {
	tb.Helper()
	now := func() time.Duration {
		var u unix.Rusage
		if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
			tb.Fatal(err)
		}
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	start := now()
	f()
	return now() - start
}

func measure(f func()) time.Duration {
	start := time.Now()
	f()
	return time.Since(start)
}
