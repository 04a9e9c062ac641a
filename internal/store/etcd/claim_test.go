package etcd_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/flannel-ng/flannel-ng/internal/lease"
	"github.com/flannel-ng/flannel-ng/internal/store/etcd/fake"
	"github.com/flannel-ng/flannel-ng/internal/store/etcd/kv"
	"github.com/flannel-ng/flannel-ng/internal/store/storetest"
)

// writes says whether c is a transaction that writes a lease.
func writes(c fake.Call) bool {
	return c.Method == fake.MethodTxn && slices.ContainsFunc(c.Txn.Then, func(op kv.Op) bool {
		return strings.HasPrefix(op.Key, prefix+"/subnets/")
	})
}

// disturb makes the first n lease writes go wrong.
func (w *world) disturb(n int64, e fake.Effect) {
	var seen atomic.Int64
	w.SetHook(func(c fake.Call) fake.Effect {
		if c.Client != "" && writes(c) && seen.Add(1) <= n {
			return e
		}
		return fake.Effect{}
	})
}

func TestUnansweredWrites(t *testing.T) {
	faults := map[string]fake.Effect{
		"request lost":      {Fault: fake.DropRequest},
		"answer lost":       {Fault: fake.DropResponse},
		"late by 10 ms":     {Fault: fake.Late, After: 10 * time.Millisecond},
		"late by a second":  {Fault: fake.Late, After: time.Second},
		"answer takes long": {After: 6 * time.Second},
		"request takes 4 s": {Before: 4 * time.Second},
	}
	for name, e := range faults {
		for _, times := range []int64{1, 3} {
			t.Run(name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { unanswered(t, e, times) })
			})
		}
	}
}

func unanswered(t *testing.T, e fake.Effect, times int64) {
	w := newWorld(t)
	s := w.store("h1")
	c := ask("192.0.2.1", "10.5.1.0/24")
	step := func(what string) {
		t.Helper()
		w.disturb(times, e)
		h := claim(t, s, c)
		wait(10 * time.Second) // whatever was late has landed
		entry, _ := w.get("subnets/10.5.1.0-24")
		if entry.Mod != int64(h.Token) {
			t.Errorf("%s: token %d, lease is of revision %d", what, h.Token, entry.Mod)
		}
		if reserved := entry.Lease == 0; reserved != h.Reserved {
			t.Errorf("%s: reserved %v, grant %d", what, h.Reserved, entry.Lease)
		}
		if claimed, _ := w.get("ng/claims/10.5.1.0-24"); claimed.Lease != entry.Lease || claimed.Mod != entry.Mod {
			t.Errorf("%s: claim %+v apart from lease %+v", what, claimed, entry)
		}
		c.Token = h.Token
	}
	step("create")
	step("renew")
	if n := w.Grants(); n != 2 {
		t.Errorf("%d grants, want the lease's and the session's", n)
	}
	e2, _ := w.get("subnets/10.5.1.0-24")
	w.put(t, "subnets/10.5.1.0-24", e2.Value, 0)
	e2, _ = w.get("subnets/10.5.1.0-24")
	c.Token = lease.Token(e2.Mod)
	step("renew a reservation")
	w.disturb(times, e)
	h := lease.Held{Lease: lease.Lease{Subnets: c.Subnets, Public: c.Public}, Token: c.Token}
	if err := s.Release(t.Context(), h); err != nil {
		t.Errorf("release: %v", err)
	}
	wait(10 * time.Second)
	if _, ok := w.get("subnets/10.5.1.0-24"); ok {
		t.Error("the lease is still there")
	}
}

// When time runs out before the outcome is known, what was written is found in
// the picture as the host's own.
func TestOutcomeUnknown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		s := w.store("h1")
		v := storetest.Watch(t, w.store("h2"))
		w.SetHook(func(c fake.Call) fake.Effect {
			if c.Client == "h1" && writes(c) {
				time.AfterFunc(time.Millisecond, w.conn("h1").Cut)
				return fake.Effect{Fault: fake.Late}
			}
			return fake.Effect{}
		})
		ctx, cancel := context.WithTimeout(t.Context(), 8*time.Second)
		defer cancel()
		if h, err := s.Claim(ctx, ask("192.0.2.1", "10.5.1.0/24")); err == nil {
			t.Fatalf("held %+v without an answer", h)
		}
		w.SetHook(nil)
		w.conn("h1").Heal()
		p := v.Await(t, "the lease", func(s lease.Snapshot) bool { return len(s.Leases) == 1 })
		if p.Leases[0].Owner != "h1" {
			t.Errorf("lease %+v", p.Leases[0])
		}
		c := ask("192.0.2.1", "10.5.1.0/24")
		c.Token = lease.Token(p.Leases[0].Modified)
		claim(t, s, c)
	})
}

// A plain flannel takes the same IPv6 half under another key, between our
// reading and our write: no condition of the transaction can see that.
func TestForeignTwinCameFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		s := w.store("h1")
		twin := lease.Lease{Subnets: storetest.Subnets("10.5.7.0/24", "fc00:5:0:1::/64"), Public: storetest.Public("192.0.2.7")}
		var once atomic.Bool
		w.SetHook(func(c fake.Call) fake.Effect {
			if c.Client == "h1" && writes(c) && once.CompareAndSwap(false, true) {
				w.foreign(t, twin)
			}
			return fake.Effect{}
		})
		c := ask("192.0.2.1", "10.5.1.0/24")
		c.Subnets = storetest.Subnets("10.5.1.0/24", "fc00:5:0:1::/64")
		if h, err := s.Claim(t.Context(), c); !errors.Is(err, lease.ErrTaken) {
			t.Errorf("held %+v, %v", h, err)
		}
		for _, key := range []string{"subnets/10.5.1.0-24&fc00:5:0:1::-64", "ng/claims/10.5.1.0-24", "ng/addresses/192.0.2.1"} {
			if _, ok := w.get(key); ok {
				t.Errorf("%s was left behind", key)
			}
		}
		if n := w.Grants(); n != 2 {
			t.Errorf("%d grants, want the other's and the session's", n)
		}
		c.Subnets = storetest.Subnets("10.5.1.0/24", "fc00:5:0:2::/64")
		claim(t, s, c)
	})
}

// A create whose verification was cut short is verified at the first renewal.
func TestVerifiedLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		s := w.store("h1")
		twin := lease.Lease{Subnets: storetest.Subnets("10.5.7.0/24", "fc00:5:0:1::/64"), Public: storetest.Public("192.0.2.7")}
		var once atomic.Bool
		w.SetHook(func(c fake.Call) fake.Effect {
			if c.Client == "h1" && writes(c) && once.CompareAndSwap(false, true) {
				w.foreign(t, twin)
				time.AfterFunc(time.Millisecond, w.conn("h1").Cut)
				return fake.Effect{After: time.Millisecond / 2}
			}
			return fake.Effect{Before: time.Millisecond}
		})
		c := ask("192.0.2.1", "10.5.1.0/24")
		c.Subnets = storetest.Subnets("10.5.1.0/24", "fc00:5:0:1::/64")
		if h, err := s.Claim(t.Context(), c); err == nil {
			t.Fatalf("held %+v", h)
		}
		w.conn("h1").Heal()
		e, ok := w.get("subnets/10.5.1.0-24&fc00:5:0:1::-64")
		if !ok {
			t.Fatal("the case needs the unverified lease")
		}
		c.Token = lease.Token(e.Mod)
		if h, err := s.Claim(t.Context(), c); !errors.Is(err, lease.ErrTaken) {
			t.Errorf("held %+v, %v", h, err)
		}
		if _, ok := w.get("subnets/10.5.1.0-24&fc00:5:0:1::-64"); ok {
			t.Error("the unverified lease is still there")
		}
	})
}

func TestOverwrittenByFlannel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		s := w.store("h1")
		v := storetest.Watch(t, s)
		h := claim(t, s, ask("192.0.2.1", "10.5.1.0/24"))
		w.foreign(t, lease.Lease{Subnets: storetest.Subnets("10.5.1.0/24"), Public: storetest.Public("192.0.2.7")})
		p := v.Await(t, "the overwriting", func(s lease.Snapshot) bool {
			return len(s.Leases) == 1 && s.Leases[0].Modified > int64(h.Token)
		})
		if l := p.Leases[0]; l.Owner != "" || l.Node() != "192.0.2.7" {
			t.Errorf("the overwritten lease still looks ours: %+v", l)
		}
		c := ask("192.0.2.1", "10.5.1.0/24")
		for _, token := range []lease.Token{h.Token, lease.Token(p.Leases[0].Modified)} {
			c.Token = token
			if _, err := s.Claim(t.Context(), c); !errors.Is(err, lease.ErrTaken) {
				t.Errorf("overwrote it back with token %d: %v", token, err)
			}
		}
	})
}

// Garbage in the place of an own lease is replaced, if it is sure to be ours.
func TestGarbageInOwnLease(t *testing.T) {
	for name, c := range map[string]struct {
		host  string
		apart bool // from the claims: the grant is not ours
		want  error
	}{
		"ours":                  {"h1", false, nil},
		"another host's":        {"h2", false, lease.ErrTaken},
		"apart from its claims": {"h1", true, lease.ErrTaken},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				claim(t, w.store("h1"), ask("192.0.2.1", "10.5.1.0/24"))
				e, _ := w.get("subnets/10.5.1.0-24")
				grant := e.Lease
				if c.apart {
					grant = 0
				}
				w.put(t, "subnets/10.5.1.0-24", `{"PublicIP":`, grant)
				s := w.store(c.host)
				if c.host == "h1" {
					wait(2 * time.Minute) // the session of the first one ends
				}
				_, err := s.Claim(t.Context(), ask("192.0.2.1", "10.5.1.0/24"))
				if !errors.Is(err, c.want) {
					t.Fatalf("claim: %v, want %v", err, c.want)
				}
				if e, _ := w.get("subnets/10.5.1.0-24"); (e.Value == `{"PublicIP":`) != (c.want != nil) {
					t.Errorf("value %s", e.Value)
				}
			})
		})
	}
}

func TestReservationPutBackByHand(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		s := w.store("h1")
		v := storetest.Watch(t, s)
		claim(t, s, ask("192.0.2.1", "10.5.1.0/24"))
		e, _ := w.get("subnets/10.5.1.0-24")
		w.put(t, "subnets/10.5.1.0-24", e.Value, 0) // etcdctl put, as documented
		p := v.Await(t, "the reservation", func(s lease.Snapshot) bool {
			return len(s.Leases) == 1 && s.Leases[0].Reserved
		})
		if p.Leases[0].Owner != "h1" {
			t.Errorf("the host lost its own lease: %+v", p.Leases[0])
		}
		c := ask("192.0.2.1", "10.5.1.0/24")
		c.Token = lease.Token(p.Leases[0].Modified)
		for range 2 {
			c.Offer = lease.Offer{Backend: "vxlan"}
			h := claim(t, s, c)
			if !h.Reserved || !h.Expires.IsZero() {
				t.Errorf("renewed to %+v", h)
			}
			c.Token = h.Token
		}
		wait(50 * time.Hour)
		if _, ok := w.get("subnets/10.5.1.0-24"); !ok {
			t.Error("the reservation expired")
		}
		v.Await(t, "the reservation after two days", func(s lease.Snapshot) bool {
			return len(s.Leases) == 1 && s.Leases[0].Owner == "h1"
		})
	})
}
