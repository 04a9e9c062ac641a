// Package keeper keeps the lease of this host: it runs lease.Decide against a
// lease.Store, with retries, and tells what is held.
//
// It owns the holding and the calls of Claim and Release; it never reads the
// store (snapshots are handed in), touches no kernel and judges no peer. Called
// by the daemon's wiring; its answers are read by the engine.
package keeper

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"reflect"
	"sync"
	"time"

	"github.com/flannel-ng/flannel-ng/internal/lease"
)

// Store is the writing half of lease.Store.
type Store interface {
	Claim(ctx context.Context, c lease.Claim) (lease.Held, error)
	Release(ctx context.Context, h lease.Held) error
}

// Options are the settings of a Keeper.
type Options struct {
	HostID      string
	RenewMargin time.Duration // before expiry; 0: half the lease
	Grace       time.Duration // how long a lost subnet keeps working
	Seed        uint64        // spreads retries of hosts that fail together
	Log         *slog.Logger  // required
	// Now is the host's clock; nil means time.Now. It must be the clock that
	// Store counts Held.Expires on, and must not follow steps of wall time.
	Now func() time.Time
	// Changed is called after every change of Holding, from the goroutine of
	// Run. It must not block. May be nil.
	Changed func()
}

// Keeper is one host's hold on its lease. Make it with New.
type Keeper struct {
	store Store
	opt   Options
	wake  chan struct{} // capacity 1: inputs changed

	mu      sync.Mutex // guards the inputs and the published holding
	snap    lease.Snapshot
	ask     lease.Ask
	holding lease.Holding

	loop loop // owned by the goroutine of Run
}

// New makes a keeper that has nothing yet.
func New(store Store, o Options) *Keeper {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Changed == nil {
		o.Changed = func() {}
	}
	k := &Keeper{store: store, opt: o, wake: make(chan struct{}, 1)}
	k.holding = lease.Holding{Reason: "none was asked for so far", Since: o.Now()}
	k.loop = loop{results: make(chan result, 1), retry: retry{rng: rand.New(rand.NewPCG(o.Seed, 0))}} //nolint:gosec // spreads load, hides nothing
	return k
}

// Snapshot hands in the newest picture of the store.
func (k *Keeper) Snapshot(s lease.Snapshot) {
	k.mu.Lock()
	k.snap = s
	k.mu.Unlock()
	k.poke()
}

// Ask says what the lease shall carry. Asking the same again does nothing.
func (k *Keeper) Ask(a lease.Ask) {
	k.mu.Lock()
	same := reflect.DeepEqual(k.ask, a)
	k.ask = a
	k.mu.Unlock()
	if !same {
		k.poke()
	}
}

// Holding is what this host has now. It never says Owned past the deadline,
// even if the goroutine of Run has not come to it.
func (k *Keeper) Holding() lease.Holding {
	k.mu.Lock()
	h := k.holding
	k.mu.Unlock()
	return lease.Decide(lease.Situation{Holding: h, Now: k.opt.Now()}).Holding
}

func (k *Keeper) poke() {
	select {
	case k.wake <- struct{}{}:
	default:
	}
}

// Run keeps the lease until ctx ends and then leaves it in the store, so that
// a restart disturbs nothing. It returns nil.
func (k *Keeper) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer func() {
		cancel()
		if k.loop.busy {
			<-k.loop.results
		}
	}()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		if wait := k.step(ctx); wait >= 0 {
			timer.Reset(wait)
		} else {
			timer.Stop()
		}
		select {
		case <-ctx.Done():
			return nil
		case <-k.wake:
		case r := <-k.loop.results:
			k.finish(r)
		case <-timer.C:
		}
	}
}

// publish shows the holding to readers and says whether it changed.
func (k *Keeper) publish(h lease.Holding) {
	k.mu.Lock()
	before := k.holding
	k.holding = h
	k.mu.Unlock()
	if before == h {
		return
	}
	k.report(before, h)
	k.opt.Changed()
}

// report logs one line per real change.
func (k *Keeper) report(before, h lease.Holding) {
	log := k.opt.Log.With("subnets", h.Lease.Prefixes())
	switch {
	case h.State == lease.Owned && before.State == lease.Owned && h.Lease.Subnets == before.Lease.Subnets:
		log.Debug("lease renewed", "revision", h.Lease.Token, "until", h.Deadline)
	case h.State == lease.Owned:
		log.Info("lease held", "node", h.Lease.Node(), "reserved", h.Lease.Reserved)
	case h.State == before.State && h.Reason == k.loop.retry.text: // was logged as the refusal that it is
	case h.State == before.State && h.Reason == before.Reason:
	case h.State == lease.Lost:
		log.Error("lease lost", "reason", h.Reason, "grace", h.Deadline.Sub(h.Since))
	case h.State == lease.Expired:
		log.Warn("lease expired", "reason", h.Reason)
	case h.Reason != "":
		log.Warn("no lease", "reason", h.Reason)
	}
}
