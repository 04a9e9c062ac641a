package engine_test

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/reconcile"
	"github.com/flannel-ng/flannel-ng/internal/state"
)

func (r *rig) found(k state.Kind) int64 { return r.Summary().Pass.Repairs[string(k)].Found }

// told returns the events that have all of these parts.
func (r *rig) told(parts ...string) []string {
	var out []string
	for _, e := range r.events {
		if !slices.ContainsFunc(parts, func(p string) bool { return !strings.Contains(e, p) }) {
			out = append(out, e)
		}
	}
	return out
}

// rested lets the start come to rest: what is changed from then on is a repair.
func (r *rig) rested() {
	r.settle()
	wait(resync)
}

// A start, new peers, peers that leave and a new address of the host are asked
// for: none of it is a repair.
func TestWhatIsAskedForIsNoRepair(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, resync)
		r.scoped()
		r.mem[state.KindRoute].Put(state.Route{Dst: netip.MustParsePrefix("10.5.9.0/24")}) // left over
		r.world.snap = picture(2, 3)
		r.run(t, func() {
			r.rested()
			r.show(picture(3, 4))
			r.rested()
			old := picture(3) // not to be trusted yet: nothing goes by it
			old.Synced = false
			r.show(old)
			r.rested()
			r.show(picture(3))
			r.rested()
			r.world.set(func() {
				me := netip.MustParseAddr("198.51.100.77")
				r.world.node.Source.Put(addr.IPv4, me)
				r.world.node.Uplink.MTU = 1400
			})
			r.Ring()
			r.rested()
			if s := r.Summary(); len(s.Pass.Repairs) != 0 || len(r.told("restored")) != 0 {
				t.Errorf("repairs %v, events %q", s.Pass.Repairs, r.events)
			}
		})
	})
}

// Whatever finds it: what is not as it was left is counted and told, with who did
// it, and timed from the bell, or without one from when all was right.
func TestRepairsAreTold(t *testing.T) {
	for name, c := range map[string]struct {
		ring func(r *rig)
		wait time.Duration
		by   string
		took [2]time.Duration // at least and at most
	}{
		"doubt":   {func(r *rig) { r.DoubtBy("process ip (pid 7)") }, time.Second, "; done by process ip (pid 7)", [2]time.Duration{0, time.Second}},
		"nobody":  {func(*rig) {}, 10 * time.Second, "it was gone", [2]time.Duration{time.Second, 10 * time.Second}},
		"suspect": {func(r *rig) { r.DoubtOf(route(2), "zebra") }, time.Second, "; done by zebra", [2]time.Duration{0, time.Second}},
		"several": {func(r *rig) { r.DoubtBy("a"); r.DoubtBy("b"); r.Doubt() }, time.Second, "; done by one of: a, b", [2]time.Duration{0, time.Second}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, resync)
				r.scoped()
				r.world.snap = picture(2, 3)
				r.run(t, func() {
					r.rested()
					r.mem[state.KindRoute].Steal(route(2))
					c.ring(r)
					wait(c.wait)
					got := r.Summary().Pass.Repairs["route"]
					if got.Found != 1 || got.Done != 1 || got.Took < c.took[0] || got.Took > c.took[1] {
						t.Errorf("%+v", got)
					}
					if told := r.told("restored route 10.5.2.0/24", "it was gone", c.by); len(told) != 1 || len(r.told("add route 10.5.2.0/24")) != 1 {
						t.Errorf("%q", r.events)
					}
				})
			})
		})
	}
}

// So it is of kinds that no notification tells of, of what was altered, and of
// what does not belong there.
func TestRepairsOfAllSorts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, resync)
		r.scoped()
		r.world.snap = picture(2, 3)
		r.run(t, func() {
			r.rested()
			for k := range r.mem[state.KindFilter].Have() {
				r.mem[state.KindFilter].Steal(k)
				break
			}
			for k := range r.mem[state.KindSysctl].Have() {
				r.mem[state.KindSysctl].Put(state.Sysctl{Path: k.Name, Value: "77"})
				break
			}
			for k := range r.mem[state.KindFile].Have() {
				r.mem[state.KindFile].Steal(k)
			}
			r.RingBy("nft (process 9)")
			wait(resync)
			r.mem[state.KindNeighbour].Put(state.Neighbour{Link: "flannel.1", IP: netip.MustParseAddr("10.5.99.0")})
			r.DoubtBy("nobody else")
			wait(time.Second)
			for kind, text := range map[state.Kind]string{
				state.KindFilter: "it was gone; done by nft (process 9)", state.KindSysctl: "= 77", state.KindFile: "bytes): it was gone",
				state.KindNeighbour: "removed neighbour 10.5.99.0 lladdr 00:00:00:00:00:00 dev flannel.1: it does not belong there; done by nobody else",
			} {
				if c := r.Summary().Pass.Repairs["filter"]; c.Took > time.Second {
					t.Errorf("timed from before the bell: %s", c.Took)
				}
				if r.found(kind) != 1 || len(r.told(text)) == 0 {
					t.Errorf("%s: %d found, events %q", kind, r.found(kind), r.told(text))
				}
			}
		})
	})
}

// A suspicion costs no reading of all.
func TestSuspectIsAPart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, time.Hour)
		parts := r.scoped()
		r.world.snap = picture(2, 3)
		r.run(t, func() {
			r.Ring()
			wait(time.Minute)
			whole := parts[state.KindRoute].Whole.Load()
			r.mem[state.KindRoute].Steal(route(2))
			r.DoubtOf(route(2), "")
			wait(time.Second)
			if have := r.mem[state.KindRoute].Have(); len(have) != 2 || parts[state.KindRoute].Whole.Load() != whole {
				t.Errorf("routes %v, all was read %d times", have, parts[state.KindRoute].Whole.Load()-whole)
			}
			r.mem[state.KindRoute].Put(state.Route{Dst: netip.MustParsePrefix("10.5.9.0/24")})
			r.DoubtOf(route(9), "")
			wait(time.Second)
			if have := r.mem[state.KindRoute].Have(); len(have) != 2 {
				t.Errorf("what nobody wants stays: %v", have)
			}
		})
	})
}

// Many repairs are told by their number.
func TestManyRepairs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, resync)
		r.scoped()
		r.world.snap = picture(2, 3, 4, 5, 6, 7, 8, 9)
		r.run(t, func() {
			r.rested()
			before := len(r.events)
			for _, k := range []state.Kind{state.KindRoute, state.KindNeighbour} {
				for key := range r.mem[k].Have() {
					r.mem[k].Steal(key)
				}
			}
			r.Doubt()
			wait(time.Second)
			if told := r.events[before:]; len(told) != 9 || len(r.told("besides: 8 × route")) != 1 || r.found(state.KindRoute) != 8 {
				t.Errorf("%q", told)
			}
		})
	})
}

// A repair that fails at first is one that took longer.
func TestRepairThatFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, resync)
		r.scoped()
		r.world.snap = picture(2, 3)
		var broken atomic.Bool
		r.mem[state.KindRoute].Refuse = func(reconcile.Change) error {
			if broken.Load() {
				return errors.New("refused")
			}
			return nil
		}
		r.run(t, func() {
			r.rested()
			broken.Store(true)
			r.mem[state.KindRoute].Steal(route(2))
			r.Doubt()
			wait(2500 * time.Millisecond)
			broken.Store(false)
			wait(10 * time.Second)
			got := r.Summary().Pass.Repairs["route"]
			if got.Found != 1 || got.Done != 1 || got.Took < 2500*time.Millisecond || got.Took > 12*time.Second {
				t.Errorf("%+v", got)
			}
		})
	})
}

// fight lets a stranger undo something every 10 ms, with a bell each time.
func (r *rig) fight(long time.Duration, undo func()) {
	for range long / (10 * time.Millisecond) {
		undo()
		wait(10 * time.Millisecond)
	}
}

// Whoever undoes us again and again keeps us neither busy nor from repairing
// others; it is named, and over when it is over.
func TestFight(t *testing.T) {
	for name, ring := range map[string]func(*rig){
		"doubt":   func(r *rig) { r.Ring(); r.DoubtBy("zebra") },
		"suspect": func(r *rig) { r.DoubtOf(route(2), "zebra") },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, time.Hour)
				parts := r.scoped()
				r.world.snap = picture(2, 3)
				r.run(t, func() {
					r.rested()
					routes := r.mem[state.KindRoute]
					whole := parts[state.KindRoute].Whole.Load()
					undo := func() { routes.Steal(route(2)); ring(r) }
					r.fight(20*time.Second, undo)
					if n := parts[state.KindRoute].Whole.Load() - whole; n > 60 {
						t.Errorf("all was read %d times in 20 s", n)
					}
					s := r.Summary()
					if s.Pass.Contested != 1 || !s.Ready || s.PeerCount.Failing != 1 || r.found(state.KindRoute) > 10 {
						t.Errorf("contested %d, ready %v, peers %+v, %d repairs", s.Pass.Contested, s.Ready, s.PeerCount, r.found(state.KindRoute))
					}
					if w := strings.Join(s.Warnings, "\n"); !strings.Contains(w, "route 10.5.2.0/24") || !strings.Contains(w, "last by zebra): next attempt in") {
						t.Errorf("warnings %q", w)
					}
					routes.Steal(route(3))
					r.DoubtBy("another")
					r.fight(time.Second, undo)
					if _, back := routes.Have()[route(3)]; !back {
						t.Error("another object waited, too")
					}
					wait(20 * time.Second) // the last attempt was 15 s after the first
					if len(routes.Have()) != 2 {
						t.Error("not back after the fight")
					}
					wait(time.Minute)
					if s := r.Summary(); s.Pass.Contested != 0 || s.PeerCount.Failing != 0 ||
						len(r.told("again and again")) != 1 || len(r.told("left alone again")) != 1 {
						t.Errorf("contested %d, %q", s.Pass.Contested, r.events)
					}
				})
			})
		})
	}
}

// A host without its own link is not ready, and what stood on the link comes back
// with it.
func TestFightOverTheLink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, resync)
		r.scoped()
		r.world.snap = picture(2, 3)
		r.run(t, func() {
			r.rested()
			link := state.Link{Name: "flannel.1"}.Key()
			r.fight(5*time.Second, func() {
				for _, k := range []state.Kind{state.KindLink, state.KindRoute, state.KindNeighbour} {
					for key := range r.mem[k].Have() {
						r.mem[k].Steal(key)
					}
				}
				r.Doubt()
			})
			r.show(picture(2, 3, 4)) // waits with the link
			s := r.Summary()
			wantReason(t, r.Status(), "link flannel.1")
			if len(s.Pass.Failures) != 0 {
				t.Errorf("what waits has not failed: %v", s.Pass.Failures)
			}
			for began := time.Now(); time.Since(began) < 30*time.Second; wait(10 * time.Millisecond) {
				if _, back := r.mem[state.KindLink].Have()[link]; back {
					break
				}
			}
			if s := r.Summary(); !s.Ready || len(r.mem[state.KindRoute].Have()) != 3 || len(r.mem[state.KindNeighbour].Have()) != 3 {
				t.Errorf("the link is back: ready %v, %v; routes %v", s.Ready, s.NotReady, r.mem[state.KindRoute].Have())
			}
		})
	})
}

// What is fought for goes at once when it is not wanted any more, and comes at
// once in another shape.
func TestFightDoesNotDelayWhatIsAskedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, resync)
		r.scoped()
		r.world.snap = picture(2, 3)
		r.run(t, func() {
			r.rested()
			fdb := r.mem[state.KindFDB]
			mac := state.FDBEntry{Link: "flannel.1", MAC: addr.MAC{2, 0, 0, 0, 0, 2}}.Key()
			r.fight(10*time.Second, func() { fdb.Steal(mac); r.Doubt() })
			if _, there := fdb.Have()[mac]; there || r.Summary().Pass.Contested != 1 {
				t.Fatalf("no fight: %v, %q", fdb.Have(), r.Summary().Warnings)
			}
			moved := picture(2, 3)
			moved.Leases[0].Public.Put(addr.IPv4, netip.MustParseAddr("198.51.100.22"))
			r.show(moved)
			if e, ok := fdb.Have()[mac].(state.FDBEntry); !ok || e.Dst != netip.MustParseAddr("198.51.100.22") {
				t.Errorf("not there in its new shape: %v", fdb.Have())
			}
			r.show(picture(3))
			if s := r.Summary(); len(fdb.Have()) != 1 || s.PeerCount.Failing != 0 {
				t.Errorf("%v, %+v", fdb.Have(), s.PeerCount)
			}
		})
	})
}
