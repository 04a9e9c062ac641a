package explorer_test

import (
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/flannel-ng/flannel-ng/internal/explorer"
	"github.com/flannel-ng/flannel-ng/internal/store/etcd/kv"
)

// tampered is a connection that loses what an implementation could forget.
type tampered struct {
	kv.Conn
	keep func(kv.Cmp) bool // which conditions of writes to leases survive
	// hide shows leases of others too late for who has just created one.
	hide bool
}

func isClaim(s kv.Span) bool   { return strings.Contains(s.Key, "/ng/claims/") }
func isLease(s kv.Span) bool   { return strings.Contains(s.Key, "/subnets/") }
func isSession(s kv.Span) bool { return strings.Contains(s.Key, "/ng/alive/") }

// Txn implements kv.KV.
func (c *tampered) Txn(ctx context.Context, t kv.Txn) (kv.TxnResult, error) {
	writes := slices.ContainsFunc(t.Then, func(o kv.Op) bool { return o.Action == kv.Put && isLease(o.Span) })
	if writes && c.keep != nil {
		t.If = slices.DeleteFunc(slices.Clone(t.If), func(x kv.Cmp) bool { return !c.keep(x) })
	}
	return c.Conn.Txn(ctx, t) //nolint:wrapcheck // a decorator
}

// Watch implements kv.Watcher.
func (c *tampered) Watch(ctx context.Context, s kv.Span, from int64) <-chan kv.Batch {
	in := c.Conn.Watch(ctx, s, from)
	if !c.hide || s.End == "" {
		return in
	}
	out := make(chan kv.Batch)
	go c.delay(ctx, in, out)
	return out
}

// delay keeps leases without a claim back until the next that has one: that is
// the host's own, or hides as well what it is for.
func (c *tampered) delay(ctx context.Context, in <-chan kv.Batch, out chan<- kv.Batch) {
	defer close(out)
	var held []kv.Event
	for b := range in {
		foreign := len(b.Events) > 0 && !slices.ContainsFunc(b.Events, func(e kv.Event) bool { return isClaim(kv.One(e.Entry.Key)) })
		if foreign {
			held = append(held, b.Events...)
			continue
		}
		next := []kv.Batch{b}
		if len(b.Events) > 0 && len(held) > 0 {
			next = append(next, kv.Batch{Header: b.Header, Events: held})
			held = nil
		}
		for _, b := range next {
			select {
			case out <- b:
			case <-ctx.Done():
				for range in {
				}
				return
			}
		}
	}
}

// TestFindsPlantedBugs: an explorer that finds nothing proves nothing. Each bug
// must be found within so many schedules.
func TestFindsPlantedBugs(t *testing.T) {
	const within = 3000
	all := func(kv.Cmp) bool { return false }
	without := func(dropped func(kv.Cmp) bool) func(kv.Cmp) bool {
		return func(c kv.Cmp) bool { return !dropped(c) }
	}
	for _, bug := range []struct {
		name    string
		flannel bool
		keep    func(kv.Cmp) bool
		hide    bool
	}{
		{"every write of a lease is unconditional", false, all, false},
		{"a renewal does not compare the revision", true, without(func(c kv.Cmp) bool {
			return isLease(c.Span) && c.Target == kv.Mod
		}), false},
		{"a create does not compare the range", true, without(func(c kv.Cmp) bool {
			return isLease(c.Span) && c.Target == kv.Create
		}), false},
		{"claims are not compared", false, without(func(c kv.Cmp) bool { return isClaim(c.Span) }), false},
		{"writes are not fenced by the session", false, without(func(c kv.Cmp) bool {
			return isSession(c.Span) && c.Target == kv.Mod
		}), false},
		{"no look at others after a create", true, nil, true},
	} {
		t.Run(bug.name, func(t *testing.T) {
			for seed := range uint64(within) {
				r := run(t, explorer.Settings{Seed: seed + 1, Flannel: bug.flannel, Tamper: func(c kv.Conn) kv.Conn {
					return &tampered{Conn: c, keep: bug.keep, hide: bug.hide}
				}})
				if r.Violation != "" {
					// It must be the planted bug that was found.
					if honest := run(t, explorer.Settings{Seed: seed + 1, Flannel: bug.flannel}); honest.Violation != "" {
						t.Fatal(honest.Violation)
					}
					t.Logf("found after %d schedules: %s", seed+1, strings.SplitN(r.Violation, "\n", 2)[0])
					return
				}
			}
			t.Errorf("not found in %d schedules", within)
		})
	}
}
