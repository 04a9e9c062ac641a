package keeper

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/flannel-ng/flannel-ng/internal/lease"
)

const (
	// callTimeout ends a call for good. A claim takes half a dozen requests,
	// and a store that needs seconds for each must still be usable.
	callTimeout = 30 * time.Second
	// Clocks drift by less than one in driftMargin.
	driftMargin = 100
	// refusedFor keeps a pick from trying a taken subnet again; longer than
	// the store needs to show who has it.
	refusedFor = time.Minute
	maxRefused = 64
)

// loop is the state of Run between two inputs.
type loop struct {
	holding  lease.Holding
	started  bool
	busy     bool // a call is under way
	results  chan result
	retry    retry
	attempt  int
	refused  []lease.Recent
	released released
}

// released remembers the picture on which something was released: only a
// newer one shows the store without it.
type released struct{ epoch, rev int64 }

// result is the end of a call of the store.
type result struct {
	action lease.Action
	held   lease.Held
	err    error
	began  time.Time
	epoch  int64
	rev    int64
}

// step decides on the inputs, starts a call if one is due, and returns how
// long to wait at most, negative for no limit.
func (k *Keeper) step(ctx context.Context) time.Duration {
	l := &k.loop
	k.mu.Lock()
	s := lease.Situation{HostID: k.opt.HostID, Ask: k.ask, Snapshot: k.snap, Grace: k.opt.Grace}
	if !l.started {
		l.holding, l.started = k.holding, true
	}
	k.mu.Unlock()
	s.Now = k.opt.Now()
	if s.Snapshot.Epoch == l.released.epoch && s.Snapshot.Rev <= l.released.rev {
		s.Snapshot.Synced = false
	}
	s.Attempt, s.Refused = l.attempt, l.refused
	d := l.decide(s)
	k.publish(l.holding)
	l.retry.seen(s)
	wake := d.Wake
	if d.Action.Act != lease.ActNone && !l.busy {
		at := l.retry.at()
		if !s.Now.Before(at) {
			k.start(ctx, d.Action, s)
		} else if wake.IsZero() || at.Before(wake) {
			wake = at
		}
	}
	if wake.IsZero() {
		return -1
	}
	return max(0, wake.Sub(s.Now))
}

// decide repeats until the state stands still: an end of grace, for example,
// is followed by the search for another subnet.
func (l *loop) decide(s lease.Situation) lease.Decision {
	for {
		s.Holding = l.holding
		d := lease.Decide(s)
		settled := d.Holding.State == l.holding.State || d.Action.Act != lease.ActNone
		l.holding = d.Holding
		if settled {
			return d
		}
	}
}

// start calls the store on a goroutine of its own, so that deadlines are kept
// while it does not answer. Run waits for it.
func (k *Keeper) start(ctx context.Context, a lease.Action, s lease.Situation) {
	k.loop.busy = true
	r := result{action: a, began: s.Now, epoch: s.Snapshot.Epoch, rev: s.Snapshot.Rev}
	go func() {
		ctx, cancel := context.WithTimeout(ctx, callTimeout)
		defer cancel()
		if a.Act == lease.ActClaim {
			r.held, r.err = k.store.Claim(ctx, a.Claim)
		} else {
			r.err = k.store.Release(ctx, a.Held)
		}
		k.loop.results <- r
	}()
}

// finish takes in the end of a call.
func (k *Keeper) finish(r result) {
	l := &k.loop
	l.busy = false
	switch {
	case r.action.Act == lease.ActRelease && (r.err == nil || errors.Is(r.err, lease.ErrTaken)):
		l.released = released{r.epoch, r.rev}
		l.retry.reset()
		k.opt.Log.Info("lease released", "subnets", r.action.Held.Prefixes(), "reason", r.action.Why)
	case r.err == nil:
		l.attempt, l.refused = 0, nil
		l.retry.reset()
		l.hold(r, k.opt)
	case errors.Is(r.err, lease.ErrTaken):
		if r.action.Claim.Token == 0 {
			l.refuse(r.action.Claim, k.opt.Now().Add(refusedFor))
		}
		l.retry.conflict(k.opt.Now(), r)
		k.opt.Log.Debug("lease is taken", "subnets", lease.Lease{Subnets: r.action.Claim.Subnets}.Prefixes(), "error", r.err)
	default:
		if news := l.retry.failed(k.opt.Now(), r); news {
			k.opt.Log.Warn("lease store refused", "action", r.action.Why, "error", r.err)
		}
		if l.holding.State == lease.Pending || l.holding.State == lease.Expired {
			l.holding.Reason = r.err.Error()
		}
	}
}

// hold enters the state Owned.
func (l *loop) hold(r result, o Options) {
	h := lease.Holding{
		State: lease.Owned, Lease: r.held, Asked: r.action.Claim, Epoch: r.epoch, Since: o.Now(),
	}
	if l.holding.State == lease.Owned && l.holding.Lease.Subnets == r.held.Subnets {
		h.Since = l.holding.Since
	}
	if !r.held.Expires.IsZero() {
		ttl := r.held.Expires.Sub(r.began)
		h.Deadline = r.held.Expires.Add(-ttl / driftMargin)
		h.Renew = renewal(r.began, h.Deadline, o.RenewMargin, l.retry.rng)
	}
	l.holding = h
}

// renewal is due a margin before the deadline, and up to a tenth of the margin
// earlier, so that hosts that started together do not renew together. A margin
// that leaves nothing means the middle.
func renewal(began, deadline time.Time, margin time.Duration, rng *rand.Rand) time.Time {
	ttl := deadline.Sub(began)
	if margin <= 0 || margin >= ttl {
		margin = ttl / 2
	}
	spread := min(margin/10, (ttl-margin)/2)
	return deadline.Add(-margin - time.Duration(rng.Int64N(int64(spread)+1)))
}

func (l *loop) refuse(c lease.Claim, until time.Time) {
	l.attempt++
	for _, p := range (lease.Lease{Subnets: c.Subnets}).Prefixes() {
		l.refused = append(l.refused, lease.Recent{Subnet: p, Until: until})
	}
	l.refused = l.refused[max(0, len(l.refused)-maxRefused):]
}
