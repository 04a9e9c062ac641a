package etcd

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/flannel-ng/flannel-ng/internal/lease"
	"github.com/flannel-ng/flannel-ng/internal/store/etcd/kv"
)

const (
	relistFirst = 100 * time.Millisecond
	relistLast  = 5 * time.Second

	// A watch that gave no sign of life for probeEvery is asked for one, and is
	// broken after silentAfter times that: one sign may fail to come, so that a
	// store that is gone shows within ten seconds, whatever became of the
	// connection. In a fabric of more than probesPerSecond * probeEvery hosts
	// everybody asks less often, up to probeLongest: it is the store that answers
	// them all.
	probeEvery      = 3 * time.Second
	probeLongest    = 30 * time.Second
	probesPerSecond = 500

	// copying is what a picture of one more lease costs: pictures come at least
	// that time the number of leases apart, so that a burst of changes becomes a
	// few pictures.
	copying    = 100 * time.Nanosecond
	copyingMax = 50 * time.Millisecond

	// doubtEvery bounds re-lists because of doubt.
	doubtEvery = time.Second
)

var (
	errNotListed = errors.New("the store was not read yet")
	errSilent    = errors.New("watch was silent")
	errWentBack  = errors.New("the store's revision went back: it was restored or wiped")
	errCluster   = errors.New("another cluster answers")
	errEnded     = errors.New("watch ended")
	errDoubt     = errors.New("the store contradicts the picture")
)

// follower holds what the watch remembers over re-lists.
type follower struct {
	store  *Store
	put    func(lease.Snapshot)
	begun  bool // a list was complete
	epoch  int64
	top    int64     // highest revision that the watch of the leases named
	heard  time.Time // when the watch last gave a sign of life
	listed time.Time

	published time.Time   // when the last picture was handed out
	due       time.Time   // when the next is; zero: nothing to show
	timer     *time.Timer // rings at due
}

// follow lists and watches, again and again, until ctx ends. Whatever goes
// wrong with a watch, the next list is compared as a whole; nothing is
// inferred from an error.
func (s *Store) follow(ctx context.Context, put func(lease.Snapshot)) error {
	f := &follower{store: s, put: put, epoch: 1, timer: time.NewTimer(0)}
	defer f.timer.Stop()
	retry := backoff{first: relistFirst, last: relistLast, dice: s.dice}
	for {
		err := f.list(ctx)
		if err == nil {
			retry.attempts = 0
			err = f.watch(ctx)
		}
		s.shared.change(false, func(*view) {})
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if errors.Is(err, errDoubt) {
			continue
		}
		switch before := s.Health().Err; {
		case before == nil:
			s.log.Warn("lost the lease store", "error", err)
			s.tell("lost: " + err.Error())
		case errors.Is(before, errNotListed):
			s.log.Warn("the lease store does not answer yet", "endpoints", s.client.servers, "error", err)
		}
		s.setHealth(err)
		if err := retry.wait(ctx); err != nil {
			return err
		}
	}
}

func (s *Store) tell(text string) {
	if s.options.Event != nil {
		s.options.Event(text)
	}
}

// list makes the view that of the store now, page by page.
func (f *follower) list(ctx context.Context) error {
	s := f.store
	first, err := s.client.first(ctx, s.session.key)
	if err != nil {
		return err
	}
	restored := f.begun && s.shared.wentBack(first.Header)
	s.shared.change(false, func(v *view) { v.begin() })
	take := func(_ kv.Header, es []kv.Entry) {
		s.shared.change(false, func(v *view) {
			for _, e := range es {
				v.listed(s.client.relative(e.Key), e, restored)
			}
		})
	}
	take(first.Header, first.leases)
	if err := s.client.rest(ctx, first, take); err != nil {
		return err
	}
	s.shared.change(true, func(v *view) {
		v.finish(first.Header)
		v.config = first.config
	})
	if restored {
		f.epoch++
	}
	f.inStep(first, restored)
	return nil
}

func (f *follower) inStep(l listing, restored bool) {
	s := f.store
	f.heard = time.Now()
	f.listed, f.top = f.heard, l.Rev
	if was := s.Health(); was.Err != nil {
		s.log.Info("lease store is in step", "revision", l.Rev, "leases", s.shared.size())
		if f.begun {
			s.tell("in step again after " + time.Since(was.Since).Round(time.Second/10).String())
		}
	}
	s.setHealth(nil)
	s.session.observe(l.Rev, l.session)
	f.publish(restored || !f.begun)
	f.begun = true
}

// publish hands out the picture; all says that the hint of what changed says
// nothing.
func (f *follower) publish(all bool) {
	f.due = time.Time{}
	s, d := f.store.shared.snapshot()
	s.Epoch = f.epoch
	s.Cluster = f.store.client.identity(d.cluster)
	if all {
		s.Changed = nil
	}
	f.store.recent.observe(s, d)
	f.put(s)
	f.published = time.Now()
}

// schedule has what changed shown in wait, or later if pictures come fast.
func (f *follower) schedule(wait time.Duration) {
	if wait == never {
		return
	}
	now := time.Now()
	spacing := min(copyingMax, time.Duration(f.store.shared.size())*copying)
	at := now.Add(wait)
	if soonest := f.published.Add(spacing); at.Before(soonest) {
		at = soonest
	}
	if !at.After(now) {
		f.publish(false)
		return
	}
	if f.due.IsZero() || at.Before(f.due) {
		f.due = at
		f.timer.Reset(at.Sub(now))
	}
}

// source is one of the watches, and what to do with its messages.
type source struct {
	batches <-chan kv.Batch
	apply   func(kv.Batch) error
}

// sources are the leases, the config and the own session, in this order.
type sources [3]source

func (f *follower) sources(ctx context.Context) sources {
	c, from := f.store.client, f.store.shared.rev()+1
	watch := func(s kv.Span) <-chan kv.Batch { return c.conn.Watch(ctx, s, from) }
	return sources{
		{watch(c.watched()), f.applyLeases},
		{watch(kv.One(c.full(configKey))), f.applyConfig},
		{watch(kv.One(c.full(f.store.session.key))), f.applySession},
	}
}

// drain ends when all watches have: nobody is left behind with a batch in hand.
func (s sources) drain() {
	for _, w := range s {
		for range w.batches {
		}
	}
}

// watch applies batches until a watch breaks.
func (f *follower) watch(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	watches := f.sources(ctx)
	defer watches.drain()
	defer cancel()
	every := f.every()
	probe := time.NewTicker(every)
	defer probe.Stop()
	for {
		if err := f.step(ctx, watches, probe.C, every); err != nil {
			return err
		}
	}
}

// step waits for what comes next and deals with it.
func (f *follower) step(ctx context.Context, watches sources, probe <-chan time.Time, every time.Duration) error {
	// What is ready together is taken in one order, so that the same events
	// always have the same outcome.
	for _, w := range watches {
		select {
		case b, ok := <-w.batches:
			return f.take(b, ok, w.apply)
		default:
		}
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case b, ok := <-watches[0].batches:
		return f.take(b, ok, watches[0].apply)
	case b, ok := <-watches[1].batches:
		return f.take(b, ok, watches[1].apply)
	case b, ok := <-watches[2].batches:
		return f.take(b, ok, watches[2].apply)
	case <-f.timer.C:
		if !f.due.IsZero() && !time.Now().Before(f.due) {
			f.publish(false)
		}
	case <-f.store.doubt:
		if time.Since(f.listed) > doubtEvery {
			return errDoubt
		}
	case <-probe:
		return f.probe(ctx, every)
	}
	return nil
}

// every is how often the watch is asked for a sign of life.
func (f *follower) every() time.Duration {
	fair := time.Duration(f.store.shared.size()) * time.Second / probesPerSecond
	return min(probeLongest, max(probeEvery, fair))
}

// probe asks for a sign of life, if there was none for long. Its failure shows
// as silence. It ends before the next is due, or the silence would be noticed
// late.
func (f *follower) probe(ctx context.Context, every time.Duration) error {
	quiet := time.Since(f.heard)
	switch {
	case quiet > every*8/3:
		return fmt.Errorf("%w for %s", errSilent, quiet.Round(time.Second))
	case quiet < every/2:
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, every/2)
	defer cancel()
	_ = f.store.client.conn.Progress(ctx)
	return nil
}

// take judges a message of one of the watches before it is applied.
func (f *follower) take(b kv.Batch, ok bool, apply func(kv.Batch) error) error {
	switch {
	case !ok:
		return errEnded
	case b.Err != nil:
		return fmt.Errorf("watch %s: %w", f.store.client.full(""), b.Err)
	case b.Cluster != f.store.shared.cluster():
		return errCluster
	}
	f.heard = time.Now()
	return apply(b)
}

func (f *follower) applyLeases(b kv.Batch) error {
	if b.Rev < f.top {
		return errWentBack
	}
	f.top = b.Rev
	if len(b.Events) == 0 {
		return nil
	}
	var (
		wait  time.Duration
		noted []netip.Prefix
	)
	f.store.shared.change(true, func(v *view) {
		wait = v.apply(b, f.store.client.relative)
		noted, v.delta.noted = v.delta.noted, nil
	})
	f.store.recent.noted(noted) // now, or others write them too
	f.schedule(wait)
	return nil
}

func (f *follower) applyConfig(b kv.Batch) error {
	for _, ev := range b.Events {
		var config []byte
		if !ev.Deleted {
			config = []byte(ev.Entry.Value)
		}
		f.store.shared.change(true, func(v *view) { v.config = config })
		f.schedule(atOnce)
	}
	return nil
}

func (f *follower) applySession(b kv.Batch) error {
	for _, ev := range b.Events {
		mod := ev.Entry.Mod
		if ev.Deleted {
			mod = 0
		}
		f.store.session.observe(b.Rev, mod)
	}
	return nil
}
