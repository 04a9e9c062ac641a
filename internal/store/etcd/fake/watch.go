package fake

import (
	"context"
	"slices"

	"github.com/flannel-ng/flannel-ng/internal/store/etcd/kv"
)

// watch is one running watch. Its fields are guarded by the server's lock.
type watch struct {
	client   *Client
	span     kv.Span
	next     int64 // first revision that was not delivered yet
	err      error // cancelled
	progress bool  // a sign of life was asked for
	woken    chan struct{}
}

func (w *watch) wake() {
	select {
	case w.woken <- struct{}{}:
	default:
	}
}

// Watch implements kv.Watcher. The goroutine behind it ends with ctx or with
// the watch.
func (c *Client) Watch(ctx context.Context, s kv.Span, from int64) <-chan kv.Batch {
	w := &watch{client: c, span: s, next: from, woken: make(chan struct{}, 1)}
	w.wake()
	out := make(chan kv.Batch)
	go func() {
		defer close(out)
		w.run(ctx, out)
	}()
	return out
}

// Progress implements kv.Watcher.
func (c *Client) Progress(ctx context.Context) error {
	return c.do(ctx, Call{Method: MethodProgress}, func() error {
		for w := range c.server.watches {
			if w.client == c {
				w.progress = true
				w.wake()
			}
		}
		return nil
	})
}

func (w *watch) run(ctx context.Context, out chan<- kv.Batch) {
	s := w.client.server
	err := w.client.do(ctx, Call{Method: MethodWatch, Span: w.span}, func() error {
		s.watches[w] = struct{}{}
		return nil
	})
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.watches, w)
	}()
	if err != nil {
		w.send(ctx, out, kv.Batch{Err: err})
		return
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.woken:
		}
		for {
			b, ok := w.take()
			if !ok {
				break
			}
			if !w.deliver(ctx, out, b) || b.Err != nil {
				return
			}
		}
	}
}

// deliver says whether the watch goes on.
func (w *watch) deliver(ctx context.Context, out chan<- kv.Batch, b kv.Batch) bool {
	effect := w.client.effect(Call{Method: MethodDeliver, Span: w.span})
	if sleep(ctx, effect.Before) != nil {
		return false
	}
	if effect.Fault != NoFault {
		w.send(ctx, out, kv.Batch{Err: kv.ErrUnavailable})
		return false
	}
	return w.send(ctx, out, b)
}

func (w *watch) send(ctx context.Context, out chan<- kv.Batch, b kv.Batch) bool {
	select {
	case <-ctx.Done():
		return false
	case out <- b:
		return true
	}
}

// take is the next message, if there is one and the client can be reached.
func (w *watch) take() (kv.Batch, bool) {
	s := w.client.server
	s.mu.Lock()
	defer s.mu.Unlock()
	if w.client.healed != nil {
		return kv.Batch{}, false
	}
	if w.err != nil {
		return kv.Batch{Header: s.header(), Err: w.err}, true
	}
	if w.next <= s.compacted {
		return kv.Batch{Header: s.header(), Err: kv.ErrCompacted}, true
	}
	if b, ok := w.backlog(); ok {
		return b, true
	}
	if w.progress {
		w.progress = false
		return kv.Batch{Header: s.header()}, true
	}
	return kv.Batch{}, false
}

// backlog collects whole revisions; a message carries the revision of its last
// one, so that a lagging watch does not look up to date.
func (w *watch) backlog() (kv.Batch, bool) {
	s := w.client.server
	start, _ := slices.BinarySearchFunc(s.log, w.next, func(r revision, rev int64) int {
		return int(r.rev - rev)
	})
	b := kv.Batch{Header: s.header()}
	revisions := 0
	for _, r := range s.log[start:] {
		w.next = r.rev + 1
		events := slices.DeleteFunc(slices.Clone(r.events), func(e kv.Event) bool {
			return !w.span.Contains(e.Entry.Key)
		})
		if len(events) == 0 {
			continue
		}
		b.Events = append(b.Events, events...)
		b.Rev = r.rev
		if revisions++; revisions == s.batch {
			break
		}
	}
	return b, len(b.Events) > 0
}
