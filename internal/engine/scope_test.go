package engine_test

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/engine"
	"github.com/flannel-ng/flannel-ng/internal/facts"
	"github.com/flannel-ng/flannel-ng/internal/lease"
	"github.com/flannel-ng/flannel-ng/internal/reconcile"
	"github.com/flannel-ng/flannel-ng/internal/reconcile/reconciletest"
	"github.com/flannel-ng/flannel-ng/internal/state"
)

// scoped makes the drivers of peers' kinds know scopes.
func (r *rig) scoped() map[state.Kind]*reconciletest.Scoped {
	out := map[state.Kind]*reconciletest.Scoped{}
	drivers := r.config.NewDrivers(nil)
	for i, d := range drivers {
		if k := d.Kind(); k == state.KindNeighbour || k == state.KindFDB || k == state.KindRoute {
			out[k] = &reconciletest.Scoped{Memory: r.mem[k]}
			drivers[i] = out[k]
		}
	}
	return out
}

func (r *rig) show(s *lease.Snapshot) {
	r.world.set(func() { r.world.snap = s })
	r.NewPicture()
	wait(100 * time.Millisecond)
}

// A new picture costs no reading of what it does not concern, and the kernel
// follows it.
func TestPictureIsAPart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, time.Hour)
		parts := r.scoped()
		r.world.snap = picture(2, 3)
		r.run(t, func() {
			r.settle()
			routes := parts[state.KindRoute]
			whole := routes.Whole.Load()
			r.show(picture(2, 4))
			have := r.mem[state.KindRoute].Have()
			if _, gone := have[route(3)]; gone || len(have) != 2 || routes.Whole.Load() != whole {
				t.Errorf("routes %v after %d more readings of all", have, routes.Whole.Load()-whole)
			}
			r.show(picture(2, 4))
			if got := r.Summary().PeerCount; got.Programmed != 2 || got.Failing != 0 || len(r.Status().Peers) != 2 {
				t.Errorf("peers %+v, %v", got, r.Status().Peers)
			}
			routes.Doubt.Store(true)
			r.show(picture(2, 4, 5))
			if have := r.mem[state.KindRoute].Have(); len(have) != 3 || routes.Whole.Load() != whole+1 {
				t.Errorf("in doubt: routes %v after %d readings of all", have, routes.Whole.Load()-whole)
			}
		})
	})
}

// What vanished without a word is back after a doubt at once, else after the
// next reading of all, which counts it.
func TestDoubtAndProof(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, resync)
		r.scoped()
		r.world.snap = picture(2, 3)
		r.run(t, func() {
			r.settle()
			routes := r.mem[state.KindRoute]
			routes.Steal(route(2))
			r.show(picture(2, 3))
			if len(routes.Have()) != 1 {
				t.Fatal("all was read for a picture without news")
			}
			r.Doubt()
			wait(time.Second)
			if n := r.Summary().Pass.Repairs["route"].Found; len(routes.Have()) != 2 || n != 1 {
				t.Errorf("after a doubt: routes %v, drift %d", routes.Have(), n)
			}
			routes.Steal(route(3))
			wait(resync + time.Second)
			if n := r.Summary().Pass.Repairs["route"].Found; len(routes.Have()) != 2 || n != 2 {
				t.Errorf("after a proof: routes %v, drift %d", routes.Have(), n)
			}
		})
	})
}

// subnet.env does not wait for peers.
func TestOwnObjectsFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, resync)
		var log []string
		for _, m := range r.mem {
			m.Log = func(s string) { log = append(log, s) }
		}
		r.world.snap = picture(2, 3)
		r.run(t, r.settle)
		file := slices.IndexFunc(log, func(s string) bool { return strings.HasPrefix(s, "add file") })
		address := slices.IndexFunc(log, func(s string) bool { return strings.HasPrefix(s, "add address") })
		peer := slices.IndexFunc(log, func(s string) bool { return strings.HasPrefix(s, "add neighbour") })
		if address < 0 || file < address || peer < file {
			t.Errorf("order: %q", log)
		}
	})
}

// A failure stays known while other things change, is tried again by itself,
// and delays nobody.
func TestFailureOfAPart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, time.Hour)
		parts := r.scoped()
		var broken atomic.Bool
		broken.Store(true)
		r.mem[state.KindRoute].Refuse = func(c reconcile.Change) error {
			if broken.Load() && c.Op != reconcile.Remove && c.Object.Key() == route(3) {
				return errors.New("no room")
			}
			return nil
		}
		r.world.snap = picture(2)
		r.run(t, func() {
			r.settle()
			whole := parts[state.KindRoute].Whole.Load()
			r.show(picture(2, 3))
			r.show(picture(2, 3, 4))
			s := r.Status()
			if s.PeerCount.Failing != 1 || s.Peers[1].State != "failing" || len(s.Pass.Failures) != 1 || !s.Ready {
				t.Errorf("ready %v, %+v, peers %+v", s.Ready, s.PeerCount, s.Peers)
			}
			if _, made := r.mem[state.KindRoute].Have()[route(4)]; !made {
				t.Error("the failure of one peer holds up another")
			}
			wait(40 * time.Second)
			broken.Store(false)
			wait(40 * time.Second)
			s = r.Status()
			if s.PeerCount.Failing != 0 || len(s.Pass.Failures) != 0 || len(r.mem[state.KindRoute].Have()) != 3 {
				t.Errorf("not tried again: %+v", s.Pass.Failures)
			}
			if parts[state.KindRoute].Whole.Load() != whole {
				t.Errorf("all was read %d times for one failure", parts[state.KindRoute].Whole.Load()-whole)
			}
			broken.Store(true)
			r.show(picture(2, 4))
			r.show(picture(2, 3, 4))
			r.show(picture(2, 4))
			if s := r.Status(); s.PeerCount.Failing != 0 || len(s.Pass.Failures) != 0 {
				t.Errorf("a peer that left still fails: %+v", s.Pass.Failures)
			}
		})
	})
}

// What left while the picture was not to be trusted goes when it is.
func TestTrustComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, time.Hour)
		r.scoped()
		r.world.snap = picture(2, 3)
		r.run(t, func() {
			r.settle()
			old := picture(2)
			old.Synced = false
			r.show(old)
			if len(r.mem[state.KindRoute].Have()) != 2 {
				t.Error("removed by a picture that is not synced")
			}
			r.show(picture(2))
			if len(r.mem[state.KindRoute].Have()) != 1 {
				t.Error("stays although the picture is synced again")
			}
		})
	})
}

// seldom is a world that looks at the host's facts as seldom as it may.
type seldom struct {
	*world
	last *facts.Node
}

func (s *seldom) Node(ctx context.Context, need engine.Need, depth engine.Depth) (facts.Node, error) {
	n, err := s.world.Node(ctx, need, depth)
	switch {
	case err != nil:
	case depth != engine.All && s.last != nil:
		return *s.last, nil
	default:
		s.last = &n
	}
	return n, err
}

// slow lets a reading of k take as long as one of thousands of peers: then it is
// not made at every resync.
func (r *rig) slow(k state.Kind) {
	r.mem[k].Unreadable = func() error {
		time.Sleep(50 * time.Millisecond) //nolint:forbidigo // the time of the bubble
		return nil
	}
}

// Somebody told of new facts, and they could not be read just then: that is not
// forgotten.
func TestFactsAreReadAgainAfterAnError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, resync)
		r.scoped()
		r.slow(state.KindRoute)
		r.world.snap = picture(2, 3)
		r.config.World = &seldom{world: r.world}
		r.rebuild(func(*addr.ByFamily[netip.Prefix]) {})
		r.run(t, func() {
			r.settle()
			wait(3 * time.Second) // all was read just now, and will not be soon
			r.world.set(func() {
				r.world.node.Source.Put(addr.IPv4, netip.MustParseAddr("198.51.100.99"))
				r.world.err = errors.New("interrupted")
			})
			r.Ring()
			wait(time.Second)
			r.world.set(func() { r.world.err = nil })
			wait(resync - time.Second/2)
			if got := r.Summary().Uplink.Sources; !slices.Equal(got, []string{"198.51.100.99"}) {
				t.Errorf("source %v", got)
			}
		})
	})
}

// How long it took to make things says nothing of what a reading costs.
func TestProofAfterSlowStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, resync)
		r.scoped()
		r.mem[state.KindLink].Refuse = func(reconcile.Change) error {
			time.Sleep(time.Second) //nolint:forbidigo // the time of the bubble
			return nil
		}
		r.slow(state.KindFilter) // is read at every resync anyway
		r.world.snap = picture(2, 3)
		r.run(t, func() {
			r.settle()
			r.mem[state.KindRoute].Steal(route(3))
			wait(resync + time.Second)
			if have := r.mem[state.KindRoute].Have(); len(have) != 2 {
				t.Errorf("not missed for a whole resync: %v", have)
			}
		})
	})
}
