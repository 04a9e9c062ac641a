package etcd_test

import (
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/flannel-ng/flannel-ng/internal/lease"
	"github.com/flannel-ng/flannel-ng/internal/store/etcd"
	"github.com/flannel-ng/flannel-ng/internal/store/etcd/fake"
	"github.com/flannel-ng/flannel-ng/internal/store/storetest"
)

func wait(d time.Duration) { <-time.After(d) }

func ask(public, subnet string) lease.Claim {
	return lease.Claim{Subnets: storetest.Subnets(subnet), Public: storetest.Public(public), Offer: lease.Offer{Backend: "host-gw"}}
}

func claim(t *testing.T, s lease.Store, c lease.Claim) lease.Held {
	t.Helper()
	h, err := s.Claim(t.Context(), c)
	if err != nil {
		t.Fatalf("claim: %v", err)
	}
	return h
}

func TestRestartNeedNotWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		h := claim(t, w.store("h1"), ask("192.0.2.1", "10.5.1.0/24"))
		old, _ := w.get("ng/alive/h1")
		c := ask("192.0.2.1", "10.5.1.0/24")
		c.Token = h.Token
		again := w.boot("h1", "boot-h1")
		claim(t, again, c)
		now, _ := w.get("ng/alive/h1")
		if now.Lease == old.Lease || now.Mod == old.Mod {
			t.Errorf("session was not replaced: %+v", now)
		}
		if n := w.Grants(); n != 2 {
			t.Errorf("%d grants, want the lease's and the session's", n)
		}
	})
}

func TestIdentityInUse(t *testing.T) {
	for _, tc := range []struct{ name, boot, public string }{
		{"clone", "boot-h1", "192.0.2.99"},
		{"clone with other boot", "boot-x", "192.0.2.99"},
		{"reboot", "boot-x", "192.0.2.1"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				claim(t, w.store("h1"), ask("192.0.2.1", "10.5.1.0/24"))
				again := w.boot("h1", tc.boot)
				_, err := again.Claim(t.Context(), ask(tc.public, "10.5.2.0/24"))
				if !errors.Is(err, etcd.ErrIdentity) || !strings.Contains(err.Error(), "192.0.2.1") {
					t.Errorf("while the other lives: %v", err)
				}
				if _, ok := w.get("subnets/10.5.2.0-24"); ok {
					t.Error("wrote a lease all the same")
				}
				wait(61 * time.Second)
				claim(t, again, ask(tc.public, "10.5.2.0/24"))
			})
		})
	}
}

func TestSessionIsKeptAlive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		s := w.store("h1")
		storetest.Watch(t, s)
		claim(t, s, ask("192.0.2.1", "10.5.1.0/24"))
		first, _ := w.get("ng/alive/h1")
		wait(time.Hour)
		if now, _ := w.get("ng/alive/h1"); now != first {
			t.Errorf("after an hour: %+v, was %+v", now, first)
		}
	})
}

// A host that was cut off for longer than its session must look alive again
// without having anything to write: otherwise its address may be taken over.
func TestSessionComesBackByItself(t *testing.T) {
	for name, disturb := range map[string]func(t *testing.T, w *world){
		"cut": func(_ *testing.T, w *world) {
			w.conn("h1").Cut()
			wait(5 * time.Minute)
			if _, ok := w.get("ng/alive/h1"); ok {
				t.Error("the session of a cut host did not expire")
			}
			w.conn("h1").Heal()
		},
		"grant revoked": func(_ *testing.T, w *world) {
			e, _ := w.get("ng/alive/h1")
			w.Expire(e.Lease)
		},
		"key deleted": func(t *testing.T, w *world) { w.delete(t, "ng/alive/h1") },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				s := w.store("h1")
				storetest.Watch(t, s)
				claim(t, s, ask("192.0.2.1", "10.5.1.0/24"))
				wait(time.Second)
				disturb(t, w)
				wait(30 * time.Second)
				if _, ok := w.get("ng/alive/h1"); !ok {
					t.Error("no session half a minute later")
				}
			})
		})
	}
}

func TestNoSessionBeforeTheFirstClaim(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		storetest.Watch(t, w.store("h1"))
		wait(10 * time.Minute)
		if es := w.Entries(); len(es) != 0 {
			t.Errorf("a watching store wrote %+v", es)
		}
	})
}

func TestCloseEndsTheSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		s := w.store("h1")
		if err := s.Close(t.Context()); err != nil {
			t.Errorf("close without a session: %v", err)
		}
		s = w.boot("h1", "b")
		claim(t, s, ask("192.0.2.1", "10.5.1.0/24"))
		if err := s.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, ok := w.get("ng/alive/h1"); ok {
			t.Error("the session is still there")
		}
		if _, ok := w.get("subnets/10.5.1.0-24"); !ok {
			t.Error("the lease is gone: an orderly stop keeps it")
		}
		if _, err := s.Claim(t.Context(), ask("192.0.2.1", "10.5.2.0/24")); err == nil {
			t.Error("a closed store claims")
		}
	})
}

// Two daemons on one state directory: the later one wins, the earlier one
// cannot write, and they do not fight over the key.
func TestSecondDaemonWins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		first := w.store("h1")
		storetest.Watch(t, first)
		h := claim(t, first, ask("192.0.2.1", "10.5.1.0/24"))
		second := w.boot("h1", "boot-h1")
		storetest.Watch(t, second)
		c := ask("192.0.2.1", "10.5.1.0/24")
		c.Token = h.Token
		h = claim(t, second, c)
		session, _ := w.get("ng/alive/h1")
		wait(10 * time.Minute)
		if now, _ := w.get("ng/alive/h1"); now != session {
			t.Errorf("they fought: session %+v, was %+v", now, session)
		}
		c.Token = h.Token
		if _, err := first.Claim(t.Context(), c); !errors.Is(err, etcd.ErrIdentity) {
			t.Errorf("the earlier daemon wrote: %v", err)
		}
		if err := first.Release(t.Context(), h); !errors.Is(err, etcd.ErrIdentity) {
			t.Errorf("the earlier daemon released: %v", err)
		}
	})
}

func TestUnansweredSession(t *testing.T) {
	for name, e := range map[string]fake.Effect{
		"request lost": {Fault: fake.DropRequest},
		"answer lost":  {Fault: fake.DropResponse},
		"late":         {Fault: fake.Late, After: time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				var once atomic.Bool
				w.SetHook(func(c fake.Call) fake.Effect {
					if c.Method == fake.MethodTxn && c.Txn.Then[0].Key == prefix+"/ng/alive/h1" && once.CompareAndSwap(false, true) {
						return e
					}
					return fake.Effect{Before: 600 * time.Microsecond}
				})
				claim(t, w.store("h1"), ask("192.0.2.1", "10.5.1.0/24"))
				if !once.Load() {
					t.Error("the case met no session")
				}
				if n := w.Grants(); n != 2 {
					t.Errorf("%d grants, want the lease's and the session's", n)
				}
			})
		})
	}
}
