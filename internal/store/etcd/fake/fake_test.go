package fake_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/flannel-ng/flannel-ng/internal/store/etcd/fake"
	"github.com/flannel-ng/flannel-ng/internal/store/etcd/kv"
	"github.com/flannel-ng/flannel-ng/internal/store/etcd/kvtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestConformance(t *testing.T) {
	server := fake.NewServer()
	t.Cleanup(server.Close)
	kvtest.Run(t, kvtest.Cluster{
		Conn:     func(*testing.T) kv.Conn { return server.Client("test") },
		Compact:  func(_ *testing.T, rev int64) { server.Compact(rev) },
		Patience: 10 * time.Second,
		ShortTTL: time.Second,
	})
}

func put(key, value string) kv.Txn {
	return kv.Txn{Then: []kv.Op{{Action: kv.Put, Span: kv.One(key), Value: value}}}
}

func TestFaults(t *testing.T) {
	for _, tc := range []struct {
		name           string
		effect         fake.Effect
		applied, later bool
		took           time.Duration
	}{
		{"drop request", fake.Effect{Before: time.Second, Fault: fake.DropRequest}, false, false, time.Second},
		{"drop response", fake.Effect{After: time.Second, Fault: fake.DropResponse}, true, true, time.Second},
		{"late", fake.Effect{After: time.Minute, Fault: fake.Late}, false, true, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				server := fake.NewServer()
				defer server.Close()
				server.SetHook(func(c fake.Call) fake.Effect {
					if c.Method == fake.MethodTxn && c.Client == "h1" {
						return tc.effect
					}
					return fake.Effect{}
				})
				start := time.Now()
				if _, err := server.Client("h1").Txn(t.Context(), put("a", "1")); !errors.Is(err, kv.ErrUnavailable) {
					t.Errorf("error %v", err)
				}
				if took := time.Since(start); took != tc.took {
					t.Errorf("took %v, want %v", took, tc.took)
				}
				if got := len(server.Entries()) == 1; got != tc.applied {
					t.Errorf("applied at return: %v, want %v", got, tc.applied)
				}
				<-time.After(2 * time.Minute)
				synctest.Wait()
				if got := len(server.Entries()) == 1; got != tc.later {
					t.Errorf("applied in the end: %v, want %v", got, tc.later)
				}
			})
		})
	}
}

func TestCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := fake.NewServer()
		defer server.Close()
		h1, h2 := server.Client("h1"), server.Client("h2")
		ctx, cancel := context.WithCancel(t.Context())
		defer synctest.Wait()
		defer cancel()
		ch := h1.Watch(ctx, kv.Prefix("/"), 2)
		synctest.Wait()
		h1.Cut()
		if _, err := h2.Txn(ctx, put("/a", "1")); err != nil {
			t.Fatal(err)
		}
		if _, err := h1.Txn(ctx, put("/b", "1")); !errors.Is(err, kv.ErrUnavailable) {
			t.Errorf("cut client: %v", err)
		}
		select {
		case b := <-ch:
			t.Errorf("a cut watch delivered %+v", b)
		default:
		}
		h1.Heal()
		if b := <-ch; len(b.Events) != 1 || b.Events[0].Entry.Key != "/a" {
			t.Errorf("after healing: %+v", b)
		}
	})
}

func TestWatchBatchKeepsRevisionsWhole(t *testing.T) {
	server := fake.NewServer()
	defer server.Close()
	c := server.Client("h1")
	for range 3 {
		x := put("/a", "1")
		x.Then = append(x.Then, put("/b", "1").Then...)
		if _, err := c.Txn(t.Context(), x); err != nil {
			t.Fatal(err)
		}
	}
	server.SetWatchBatch(1)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ch := c.Watch(ctx, kv.Prefix("/"), 2)
	for rev := int64(2); rev <= 4; rev++ {
		if b := <-ch; len(b.Events) != 2 || b.Rev != rev {
			t.Errorf("batch %+v, want two events of revision %d", b, rev)
		}
	}
}

func TestRestoreGoesBack(t *testing.T) {
	server := fake.NewServer()
	defer server.Close()
	c := server.Client("h1")
	if _, err := c.Txn(t.Context(), put("/a", "1")); err != nil {
		t.Fatal(err)
	}
	backup := server.Backup()
	if _, err := c.Txn(t.Context(), put("/a", "2")); err != nil {
		t.Fatal(err)
	}
	server.Restore(backup, 0)
	r, err := c.Range(t.Context(), kv.Query{Span: kv.One("/a")})
	if err != nil || r.Rev != 2 || r.Entries[0].Value != "1" {
		t.Errorf("after restore: %+v, %v", r, err)
	}
}
