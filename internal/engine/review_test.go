package engine_test

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/lease"
	"github.com/flannel-ng/flannel-ng/internal/reconcile"
	"github.com/flannel-ng/flannel-ng/internal/state"
)

// A resync of an hour is no reason to look dead.
func TestIdleLoopShowsLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, time.Hour)
		r.world.snap = picture(2)
		r.run(t, func() {
			wait(10 * time.Minute)
			if quiet := time.Since(r.Beat()); quiet > time.Minute {
				t.Errorf("no life for %s", quiet)
			}
		})
	})
}

func TestConfigGoneKeepsTheRunningOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, resync)
		r.world.snap = picture(2)
		r.run(t, func() {
			r.settle()
			r.world.set(func() { r.world.snap = picture(); r.world.snap.Config = nil })
			r.settle()
			s := r.Status()
			if !s.Ready || !slices.ContainsFunc(s.Warnings, func(w string) bool { return strings.Contains(w, "is gone") }) {
				t.Errorf("ready %v, warnings %q", s.Ready, s.Warnings)
			}
			if got := len(r.mem[state.KindRoute].Have()); got != 1 {
				t.Errorf("%d routes: an emptied store removed peers", got)
			}
		})
	})
}

// Whatever else is wrong, another host's subnet is not handed out.
func TestWithdrawalDependsOnNothing(t *testing.T) {
	lost := func(w *world) { w.own.State, w.own.Reason = lease.Lost, "taken" }
	for name, spoil := range map[string]func(*rig){
		"uplink is gone": func(r *rig) { r.world.set(func() { r.world.err = errors.New("no uplink") }) },
		"own object fails": func(r *rig) {
			r.mem[state.KindLink].Refuse = func(reconcile.Change) error { return errors.New("no room") }
			r.world.set(func() { r.world.node.Uplink.MTU = 1400 })
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, resync)
				r.world.snap = picture(2)
				r.run(t, func() {
					r.settle()
					spoil(r)
					r.world.set(func() { lost(r.world) })
					r.settle()
					if f, _ := r.file(t); !f.Absent {
						t.Errorf("subnet.env stays: %v", f)
					}
				})
			})
		})
	}
}

func TestEndOfGraceEndsTheSubnet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, resync)
		r.world.snap = picture(2)
		r.run(t, func() {
			r.settle()
			r.world.set(func() { r.world.deny, r.world.own = true, lease.Holding{Reason: "pool is full"} })
			r.settle()
			if f, _ := r.file(t); !f.Absent {
				t.Errorf("subnet.env stays: %v", f)
			}
			for kind, m := range r.mem {
				if kind != state.KindFile && kind != state.KindSysctl && len(m.Have()) > 0 {
					t.Errorf("%s stays: %v", kind, m.Have())
				}
			}
		})
	})
}

// A file left by an earlier run is withdrawn when its subnet is another
// host's, and kept while it may be claimed again.
func TestPreviousSubnetOfAnother(t *testing.T) {
	for owner, absent := range map[string]bool{"h9": true, "": true, "h1": false} {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, resync)
			r.world.deny = true
			r.world.snap = picture(2)
			r.world.snap.Leases[0].Owner = owner
			r.previous(t, "10.5.2.0/24")
			r.run(t, func() {
				r.settle()
				if f, _ := r.file(t); f.Absent != absent {
					t.Errorf("owner %q: withdrawn %v, want %v", owner, f.Absent, absent)
				}
			})
		})
	}
}

// So it is, too, while the config cannot be used and the host's addresses are
// not known: its own containers run on.
func TestPreviousSubnetWithoutConfig(t *testing.T) {
	for owner, absent := range map[string]bool{"h9": true, "": false, "h1": false} {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, resync)
			r.world.snap = picture(2)
			r.world.snap.Config = []byte(`{"Network":"10.5.0.0/16","Backend":{"Type":"pigeon"}}`)
			r.world.snap.Leases[0].Owner = owner
			r.previous(t, "10.5.2.0/24")
			r.run(t, func() {
				r.settle()
				if f, _ := r.file(t); f.Absent != absent {
					t.Errorf("owner %q: withdrawn %v, want %v", owner, f.Absent, absent)
				}
			})
		})
	}
}

// A peer that announces our own VTEP address is refused, not programmed.
func TestPeerWithOurMAC(t *testing.T) {
	in := inputs(t, 2)
	in.Snapshot.Leases[0].Offer = in.Own.Lease.Offer
	d := desire(t, in)
	if len(d.Peers) != 1 || d.Peers[0].Err == nil || len(d.Set.FDB) != 0 {
		t.Errorf("peers %+v, FDB %v", d.Peers, d.Set.FDB)
	}
	for _, l := range d.Set.Links {
		if d.Own[state.FDBEntry{Link: l.Name, MAC: l.MAC}.Key()] {
			t.Error("readiness waits for an entry that must not exist")
		}
	}
}

func TestIgnoredEntriesAreToldOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, resync)
		r.world.snap = picture(2)
		r.world.snap.Bad = []lease.Rejected{{Key: "subnets/garbage", Reason: "no subnet key"}}
		r.world.snap.Leases[0].Offer.Data.Put(addr.IPv4, `{}`)
		r.run(t, func() {
			for range 5 {
				r.settle()
			}
			for _, key := range []string{"subnets/garbage", "10.5.2.0-24"} {
				told := 0
				for _, e := range r.events {
					if strings.Contains(e, "ignored "+key) {
						told++
					}
				}
				if told != 1 {
					t.Errorf("%s told %d times: %q", key, told, r.events)
				}
			}
		})
	})
}

// Bells that ring for nothing are answered ever more slowly, and the first
// that is for something at once.
func TestBellsForNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, time.Hour)
		r.world.snap = picture(2)
		r.run(t, func() {
			r.settle()
			before := r.Status().Pass.Passes
			for range 10_000 {
				r.Ring()
				wait(time.Millisecond)
			}
			if n := r.Status().Pass.Passes - before; n > 60 {
				t.Errorf("%d passes in 10 s for nothing", n)
			}
			wait(time.Second)
			r.world.set(func() { r.world.snap = picture(2, 3) })
			r.Ring()
			wait(20 * time.Millisecond)
			if got := len(r.mem[state.KindRoute].Have()); got != 2 {
				t.Errorf("%d routes 20 ms after the bell, want 2", got)
			}
		})
	})
}

func (r *rig) previous(t *testing.T, subnet string) {
	t.Helper()
	r.rebuild(func(p *addr.ByFamily[netip.Prefix]) { *p = subnets(subnet) })
}

// A host that lost its uplink says so, and goes on repairing.
func TestUplinkWarningIsShown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, resync)
		r.world.snap = picture(2)
		r.world.node.Warnings = []string{"uplink eth0 is not usable"}
		r.run(t, func() {
			r.settle()
			if s := r.Status(); !s.Ready || !slices.Contains(s.Warnings, "uplink eth0 is not usable") {
				t.Errorf("ready %v, warnings %q", s.Ready, s.Warnings)
			}
		})
	})
}

// Switches announce no change: what waits for one is done by a pass that the
// change itself asks for.
func TestChangedSwitchIsFollowed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, time.Hour)
		r.world.snap = picture(2)
		r.run(t, func() {
			r.Ring() // the first pass only asked for a lease
			wait(time.Second)
			if n := r.Status().Pass.Passes; n != 2 {
				t.Errorf("%d passes, want the one that set switches and one after it", n)
			}
		})
	})
}
