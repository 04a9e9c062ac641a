package explorer_test

import (
	"context"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/flannel-ng/flannel-ng/internal/explorer"
	"github.com/flannel-ng/flannel-ng/internal/store/etcd/kv"
)

// tampered is a connection that loses what an implementation could forget.
type tampered struct {
	kv.Conn
	keep func(kv.Cmp) bool // which conditions of writes to leases survive
	// hide keeps leases of others out of the first reading after a create.
	hide    bool
	created atomic.Bool
}

func isClaim(s kv.Span) bool   { return strings.Contains(s.Key, "/ng/claims/") }
func isLease(s kv.Span) bool   { return strings.Contains(s.Key, "/subnets/") }
func isSession(s kv.Span) bool { return strings.Contains(s.Key, "/ng/sessions/") }

// Txn implements kv.KV.
func (c *tampered) Txn(ctx context.Context, t kv.Txn) (kv.TxnResult, error) {
	writes := slices.ContainsFunc(t.Then, func(o kv.Op) bool { return o.Action == kv.Put && isLease(o.Span) })
	creates := writes && slices.ContainsFunc(t.If, func(c kv.Cmp) bool { return isLease(c.Span) && c.Target == kv.Create })
	if writes && c.keep != nil {
		t.If = slices.DeleteFunc(slices.Clone(t.If), func(x kv.Cmp) bool { return !c.keep(x) })
	}
	r, err := c.Conn.Txn(ctx, t)
	c.created.Store(c.hide && creates && err == nil && r.OK)
	return r, err
}

// Range implements kv.KV.
func (c *tampered) Range(ctx context.Context, s kv.Span) (kv.RangeResult, error) {
	r, err := c.Conn.Range(ctx, s)
	if s.End != "" && c.created.CompareAndSwap(true, false) {
		newest := int64(0)
		for _, e := range r.Entries {
			newest = max(newest, e.Create)
		}
		r.Entries = slices.DeleteFunc(r.Entries, func(e kv.Entry) bool { return isLease(kv.One(e.Key)) && e.Create < newest })
	}
	return r, err
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
		{"no list after a create", true, nil, true},
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
