package etcd

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/flannel-ng/flannel-ng/internal/lease"
	"github.com/flannel-ng/flannel-ng/internal/store/etcd/kv"
)

const (
	relistFirst = 100 * time.Millisecond
	relistLast  = 5 * time.Second

	// probeEvery is how often the watch is asked for a sign of life, and
	// silentAfter when it counts as broken: two signs may fail to come, so that
	// a store that is gone shows within ten seconds, whatever became of the
	// connection.
	probeEvery  = 3 * time.Second
	silentAfter = 8 * time.Second

	// doubtEvery bounds re-lists because of doubt.
	doubtEvery = time.Second
)

var (
	errNotListed = errors.New("the store was not read yet")
	errSilent    = fmt.Errorf("watch was silent for %s", silentAfter)
	errWentBack  = errors.New("the store's revision went back: it was restored or wiped")
	errCluster   = errors.New("another cluster answers")
	errEnded     = errors.New("watch ended")
	errDoubt     = errors.New("the store contradicts the picture")
)

// follower holds what the watch remembers over re-lists.
type follower struct {
	store   *Store
	put     func(lease.Snapshot)
	picture *picture // nil before the first list
	epoch   int64
	heard   time.Time // when the watch last gave a sign of life
	listed  time.Time
}

// follow lists and watches, again and again, until ctx ends. Whatever goes
// wrong with a watch, the next list is compared as a whole; nothing is
// inferred from an error.
func (s *Store) follow(ctx context.Context, put func(lease.Snapshot)) error {
	f := &follower{store: s, put: put, epoch: 1}
	retry := backoff{first: relistFirst, last: relistLast, dice: s.dice}
	for {
		err := f.list(ctx)
		if err == nil {
			retry.attempts = 0
			err = f.watch(ctx)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if errors.Is(err, errDoubt) {
			continue
		}
		switch before := s.Health().Err; {
		case before == nil:
			s.log.Warn("lost the lease store", "error", err)
		case errors.Is(before, errNotListed):
			s.log.Warn("the lease store does not answer yet", "endpoints", s.client.servers, "error", err)
		}
		s.setHealth(err)
		if err := retry.wait(ctx); err != nil {
			return err
		}
	}
}

func (f *follower) list(ctx context.Context) error {
	t, err := f.store.client.load(ctx)
	if err != nil {
		return err
	}
	before := f.picture
	if before == nil {
		f.picture = newPicture(t)
	} else {
		if t.Cluster != before.Cluster || t.Rev < before.Rev {
			f.epoch++
		}
		f.picture.replace(t)
	}
	f.heard = time.Now()
	f.listed = f.heard
	if f.store.Health().Err != nil {
		f.store.log.Info("lease store is in step", "revision", t.Rev, "leases", len(f.picture.items))
	}
	f.store.setHealth(nil)
	f.store.session.observe(f.picture)
	f.publish()
	return nil
}

func (f *follower) publish() {
	s := f.picture.snapshot()
	s.Cluster, s.Epoch = f.store.client.identity(f.picture.Cluster), f.epoch
	f.store.recent.observe(s, f.picture.members)
	f.put(s)
}

// watch applies batches until the watch breaks.
func (f *follower) watch(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	c := f.store.client
	batches := c.conn.Watch(ctx, c.span(), f.picture.Rev+1)
	defer drain(batches) // so that nobody is left behind with a batch in hand
	defer cancel()
	probe := time.NewTicker(probeEvery)
	defer probe.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case b, ok := <-batches:
			if !ok {
				return errEnded
			}
			if err := f.apply(b); err != nil {
				return err
			}
		case <-f.store.doubt:
			if time.Since(f.listed) > doubtEvery {
				return errDoubt
			}
		case <-probe.C:
			if time.Since(f.heard) > silentAfter {
				return errSilent
			}
			f.probe(ctx)
		}
	}
}

func drain(batches <-chan kv.Batch) {
	for range batches {
	}
}

// probe asks for a sign of life. Its failure shows as silence. It ends before
// the next is due, or the silence would be noticed late.
func (f *follower) probe(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, probeEvery/2)
	defer cancel()
	_ = f.store.client.conn.Progress(ctx)
}

func (f *follower) apply(b kv.Batch) error {
	switch {
	case b.Err != nil:
		return fmt.Errorf("watch %s: %w", f.store.client.full(""), b.Err)
	case b.Cluster != f.picture.Cluster:
		return errCluster
	case b.Rev < f.picture.Rev:
		return errWentBack
	}
	f.heard = time.Now()
	changed := false
	for _, ev := range b.Events {
		changed = f.picture.apply(f.store.client.relative(ev.Entry.Key), ev) || changed
	}
	if len(b.Events) == 0 {
		return nil
	}
	f.picture.Rev = b.Rev
	f.store.session.observe(f.picture)
	if changed {
		f.publish()
	}
	return nil
}
