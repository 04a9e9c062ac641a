package engine

import (
	"context"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/flannel-ng/flannel-ng/internal/reconcile"
	"github.com/flannel-ng/flannel-ng/internal/state"
)

// mirror is what is known of the kernel without reading it: that it is as the
// last pass left it. Nothing else is remembered, so that nothing else can be
// wrong. Whoever sees or suspects a change from outside rings for doubt.
type mirror struct {
	// known: all of host and of the table's objects is in the kernel, but for
	// the engine's failing ones.
	known bool
	host  host
	// trusted: what is not wanted was removed.
	trusted bool
	proved  time.Time     // when all was read last
	cost    time.Duration // of that, without what was written meanwhile
}

const (
	// proofPrompt is how often all is read to prove the mirror: whatever no
	// notification told of is found by then. In a fabric of more than
	// promptObjects of peers that would cost too much.
	proofPrompt   = 8 * time.Second
	promptObjects = 16384
	// proofShare: there it takes one part in this many of the time.
	proofShare = 1000
	// proofLatest bounds the time between two proofs.
	proofLatest = 5 * time.Minute
	// scopeLimit is how many objects are looked at one by one; it costs less
	// to read all than more.
	scopeLimit = 4096
	// retryLimit is how many failures are retried one by one.
	retryLimit = 1000
)

// proofAt is when all is to be read although nothing is known to have changed,
// in a fabric of so many objects of peers.
func (m mirror) proofAt(resync time.Duration, objects int) time.Time {
	wait := proofShare * m.cost
	if objects <= promptObjects {
		wait = min(wait, proofPrompt)
	}
	return m.proved.Add(min(max(resync, wait), proofLatest))
}

// passed is a pass on its way.
type passed struct {
	why   wake
	start time.Time
	in    Inputs
	host  host
	delta delta
	// whole: all was read; proof: for no other reason than to prove the mirror.
	whole, proof bool
	scope        reconcile.Scope // unless whole
	out          reconcile.Outcome
	reasons      []string // why this host is not ready
	told         told
	before       before
	repaired     repaired
	fought       bool // nothing was found but what is undone again and again
}

// pass looks at what may have changed and makes it true. The error is fatal.
func (e *Engine) pass(ctx context.Context, why wake) error {
	p := passed{why: why, start: time.Now()}
	e.pace.early, e.pace.fought = time.Time{}, false
	p.proof = e.pace.tick && !p.start.Before(e.mirror.proofAt(e.cfg.Resync, len(e.table.index)))
	p.whole = p.proof || why&wakeDoubt != 0
	if reason, err := e.desire(ctx, &p); err != nil {
		return err
	} else if reason != "" {
		e.mirror.known = false
		e.withdraw(ctx, p.in)
		e.unready(reason)
		return nil
	}
	e.had = true
	if !e.staged {
		e.stage(ctx, p)
		e.staged = true
	}
	p.delta = e.table.update(p.in, p.host)
	e.lookBack(&p)
	e.execute(ctx, &p)
	if isDone(ctx) {
		return nil // what was cut short is no failure
	}
	e.note(ctx, &p)
	e.follow(&p)
	if changedSwitch(p.out) {
		e.Ring() // switches announce no change, and another may wait for this one
	}
	if p.start.Sub(e.lookedAt) > conditionsEvery {
		e.lookedAt, e.conditions = p.start, e.cfg.Conditions(ctx, &p.host.set)
	}
	e.publish(p)
	e.giveBack(p)
	e.pace.fought, e.pace.early, e.pace.large = p.fought, e.early(), len(e.table.index) > promptObjects
	return nil
}

// attempts are never closer together, however many objects wait for theirs.
const attempts = 250 * time.Millisecond

// early is when a pass is due before the next periodic one: all is to be read
// then, or what is undone again and again is to be tried once more.
func (e *Engine) early() time.Time {
	var at time.Time
	if e.mirror.known {
		at = e.mirror.proofAt(e.cfg.Resync, len(e.table.index))
	}
	next := e.fights.next()
	if next.IsZero() {
		return at
	}
	if soon := time.Now().Add(attempts); next.Before(soon) {
		next = soon
	}
	if at.IsZero() || next.Before(at) {
		return next
	}
	return at
}

// giveBack returns to the kernel what reading a large fabric took, when nothing
// else is to be done: it takes much more than what is kept.
func (e *Engine) giveBack(p passed) {
	switch {
	case p.whole:
		e.large = len(e.table.index) > scopeLimit
	case e.large && p.why&wakeTick != 0:
		debug.FreeOSMemory()
		e.large = false
	}
}

// desire finds what the host's own objects should be, or why that is not known.
func (e *Engine) desire(ctx context.Context, p *passed) (reason string, err error) {
	p.in, reason, err = e.look(ctx, e.depth(p))
	if err != nil || reason != "" {
		return reason, err
	}
	if p.host, err = desireHost(p.in); err != nil {
		return err.Error(), nil //nolint:nilerr // it is the reason
	}
	return "", nil
}

// depth says how much of the host's facts a pass is to read. After a pass that
// came to nothing that is all of them: it was perhaps told of new ones.
func (e *Engine) depth(p *passed) Depth {
	switch {
	case p.whole || p.why&wakeFacts != 0 || !e.mirror.known:
		return All
	case p.why&wakeTick != 0:
		return Host
	default:
		return Known
	}
}

// note takes in what came of a pass, and writes subnet.env if that may be.
func (e *Engine) note(ctx context.Context, p *passed) {
	e.fights.left(p.out.Held, p.looked(e), p.start)
	e.noteFailures(p)
	p.reasons = append(e.ownFailures(*p), e.contestedOwn(p.host)...)
	if len(p.reasons) == 0 || p.host.file.Absent {
		e.finish(ctx, p)
	}
	e.noteChanges(p.out, p.before.drift)
	e.noteRepairs(p)
	if p.delta.news {
		e.noteRefused()
	}
}

// finish writes subnet.env.
func (e *Engine) finish(ctx context.Context, p *passed) {
	files := e.write(ctx, p.host.file)
	p.reasons = append(p.reasons, describe(files.Failed())...)
	p.out.Results = append(p.out.Results, files.Results...)
	for _, r := range files.Results {
		if r.Err == nil && p.before.drift(r.Change) {
			e.repaired(p, r)
		}
	}
}

// stage makes the host's own objects and subnet.env before any peer's, once:
// runtimes wait for it. Failures are left to the pass that follows.
func (e *Engine) stage(ctx context.Context, p passed) {
	kinds := map[state.Kind]bool{}
	for k := range p.host.keys {
		kinds[k.Kind] = true
	}
	own := slices.DeleteFunc(slices.Clone(e.drivers), func(d reconcile.Driver) bool { return !kinds[d.Kind()] })
	p.before.all = true // all of it is asked for
	p.out = reconcile.Execute(ctx, own, &p.host.set, false)
	if len(p.out.Unread) == 0 && len(p.out.Failed()) == 0 && !isDone(ctx) {
		e.finish(ctx, &p)
		e.publish(p)
	}
	e.noteChanges(p.out, func(reconcile.Change) bool { return false })
}

// execute makes true what differs, or may differ.
func (e *Engine) execute(ctx context.Context, p *passed) {
	m, trust := &e.mirror, trusted(p.in.Snapshot)
	if !m.known || trust && !m.trusted || !p.host.equal(m.host) {
		p.whole, p.proof = true, false
	}
	p.told = e.doubts.take(p.whole, p.why&(wakeFacts|wakeTick) != 0)
	if !e.scope(p) {
		p.whole, p.proof = true, false
	}
	all := sync.OnceValue(func() *state.Set { return e.table.all(p.host) })
	run := reconcile.Run{Drivers: e.drivers, Deletes: trust, Hold: e.hold(p), Each: e.each(p)}
	if !p.whole {
		p.scope.All = all
		p.scope.Local = func(k state.Kind) *state.Set {
			if e.table.kinds[k] {
				return nil
			}
			return &p.host.set // most drivers without a scope are not about peers
		}
		p.out = run.Scope(ctx, p.scope)
		m.known, m.trusted = len(p.out.Unread) == 0, m.trusted && trust
	} else {
		began := time.Now()
		want := all()
		m.cost = time.Since(began)
		p.out = run.All(ctx, want)
		m.known, m.trusted = len(p.out.Unread) == 0, trust
		m.proved, m.cost = time.Now(), m.cost+p.out.Reading
	}
	m.host = p.host
	m.known = m.known && !isDone(ctx)
}

// scope finds what a pass has to look at when the mirror holds; false: all.
func (e *Engine) scope(p *passed) bool {
	p.scope = reconcile.Scope{Want: &state.Set{}, Gone: p.delta.gone, Rest: p.why&(wakeFacts|wakeTick) != 0}
	if p.delta.more || p.delta.size() > scopeLimit {
		return false
	}
	p.scope.Want.Append(state.Set{Links: p.host.set.Links})
	for _, o := range p.delta.put {
		p.scope.Want.Add(o)
	}
	return e.suspects(p) && (!p.scope.Rest || e.retry(p))
}

// suspects adds what there is doubt about to the scope. It returns false if that
// takes reading all.
func (e *Engine) suspects(p *passed) bool {
	if len(p.told.of) == 0 {
		return true
	}
	inside := p.keys()
	for k := range p.told.of {
		o, wanted := e.wanted(p.host, k)
		switch {
		case inside[k]:
		case !wanted:
			return false
		default:
			p.scope.Want.Add(o)
		}
	}
	return true
}

// wanted is what is wanted under that key, for this host or for a peer.
func (e *Engine) wanted(h host, k state.Key) (state.Object, bool) {
	if !h.keys[k] {
		return e.table.object(k)
	}
	for o := range h.set.Objects() {
		if o.Key() == k {
			return o, true
		}
	}
	return nil, false
}

// retry adds what failed before to the scope. It returns false if that takes
// reading all.
func (e *Engine) retry(p *passed) bool {
	if len(e.failing) > retryLimit {
		return false
	}
	inside := p.keys()
	again := func(k state.Key, removal bool) bool {
		o, wanted := e.wanted(p.host, k)
		switch {
		case inside[k]:
		case removal || !wanted:
			return false
		default:
			p.scope.Want.Add(o)
		}
		return true
	}
	for k, r := range e.failing {
		if !again(k, r.Op == reconcile.Remove) {
			return false
		}
	}
	for k, f := range e.fights.waiting() {
		if p.start.Before(f.next()) {
			continue
		}
		if k.Kind == state.KindLink || !again(k, false) {
			return false // what stood on a missing link was left with it
		}
	}
	return true
}

// keys are those of the scope.
func (p *passed) keys() map[state.Key]bool {
	out := map[state.Key]bool{}
	for o := range p.scope.Want.Objects() {
		out[o.Key()] = true
	}
	for _, o := range p.scope.Gone {
		out[o.Key()] = true
	}
	return out
}
