package lastgood_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/lease"
	"github.com/flannel-ng/flannel-ng/internal/store/lastgood"
	"github.com/flannel-ng/flannel-ng/internal/store/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// script is an inner store that gives what it is told.
type script struct {
	pictures chan lease.Snapshot
	claimed  lease.Claim
}

func newScript() *script { return &script{pictures: make(chan lease.Snapshot)} }

func (s *script) Watch(ctx context.Context, put func(lease.Snapshot)) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case p := <-s.pictures:
			put(p)
		}
	}
}

var errInner = errors.New("inner store")

func (s *script) Claim(_ context.Context, c lease.Claim) (lease.Held, error) {
	s.claimed = c
	return lease.Held{Token: 7}, errInner
}

func (s *script) Release(context.Context, lease.Held) error { return errInner }

func live(cluster string, rev int64) lease.Snapshot {
	return lease.Snapshot{
		Cluster: cluster, Epoch: 3, Rev: rev, Synced: true, Config: []byte(`{"Network":"10.5.0.0/16"}`),
		Leases: []*lease.Lease{{
			Key: "10.5.1.0-24&fc00:5:0:1::-64", Subnets: storetest.Subnets("10.5.1.0/24", "fc00:5:0:1::/64"),
			Public: storetest.Public("192.0.2.1"), Owner: "h1", Reserved: true, Created: 2, Modified: 3,
			Offer: lease.Offer{Backend: "vxlan", Data: addr.Pair(`{"VNI":1}`, ""), Extra: `{"udp":{"bpf":1}}`},
		}},
		Recent: []lease.Recent{{
			Subnet: storetest.Subnets("10.5.9.0/24").At(addr.IPv4),
			Until:  time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC),
		}},
	}
}

// run watches until stop is called; got receives every picture.
func run(t *testing.T, inner lease.Store, o lastgood.Options) (got func() []lease.Snapshot, stop func()) {
	t.Helper()
	var (
		mu       sync.Mutex
		pictures []lease.Snapshot
	)
	put := func(p lease.Snapshot) {
		mu.Lock()
		defer mu.Unlock()
		pictures = append(pictures, p)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	s := lastgood.New(inner, o)
	go func() { done <- s.Watch(ctx, put) }()
	return func() []lease.Snapshot {
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			return slices.Clone(pictures)
		}, func() {
			cancel()
			if err := <-done; !errors.Is(err, context.Canceled) {
				t.Errorf("watch ended with %v", err)
			}
		}
}

func remember(t *testing.T, o lastgood.Options, p lease.Snapshot) {
	t.Helper()
	inner := newScript()
	_, stop := run(t, inner, o)
	inner.pictures <- p
	synctest.Wait()
	stop()
}

func options(t *testing.T) (lastgood.Options, *bytes.Buffer) {
	t.Helper()
	var log bytes.Buffer
	return lastgood.Options{
		Path: filepath.Join(t.TempDir(), "state", "last-known-good.json"), Identity: "etcd1,etcd2/net",
		Log: slog.New(slog.NewTextHandler(&log, nil)),
	}, &log
}

func wait(d time.Duration) { <-time.After(d) }

func TestComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, log := options(t)
		remember(t, o, live("c1/net", 9))
		wait(time.Hour)
		inner := newScript()
		got, stop := run(t, inner, o)
		wait(2900 * time.Millisecond)
		if len(got()) != 0 {
			t.Errorf("did not wait for the store: %+v", got())
		}
		wait(200 * time.Millisecond)
		want := live("c1/net", 9)
		want.Epoch, want.Synced = 0, false
		want.Origin = lease.Origin{LastKnownGood: true, Age: time.Hour + 3*time.Second}
		if len(got()) != 1 || !reflect.DeepEqual(got()[0], want) {
			t.Fatalf("got  %+v\nwant %+v", got(), want)
		}
		wait(10 * time.Second)
		if n := len(got()); n != 2 || got()[1].Origin.Age != time.Hour+13*time.Second {
			t.Errorf("the age is not refreshed: %d pictures", n)
		}
		inner.pictures <- live("c1/net", 12)
		wait(time.Minute)
		if n := len(got()); n != 3 || !got()[2].Synced || got()[2].Origin.LastKnownGood {
			t.Errorf("live picture: %+v", got())
		}
		stop()
		if log.Len() != 0 {
			t.Errorf("log: %s", log)
		}
	})
}

func TestLiveStoreNeedsNoFile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, _ := options(t)
		remember(t, o, live("c1/net", 9))
		inner := newScript()
		got, stop := run(t, inner, o)
		inner.pictures <- live("c1/net", 12)
		wait(time.Minute)
		if len(got()) != 1 || got()[0].Rev != 12 {
			t.Errorf("pictures %+v", got())
		}
		stop()
	})
}

func TestAnotherCluster(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, log := options(t)
		remember(t, o, live("c1/net", 9))
		inner := newScript()
		got, stop := run(t, inner, o)
		wait(4 * time.Second)
		inner.pictures <- live("c2/net", 4)
		if p := got(); len(p) != 2 || !p[1].Settling {
			t.Errorf("%d pictures, the last %+v", len(p), p[len(p)-1])
		}
		wait(21 * time.Second)
		if p := got(); len(p) != 3 || p[2].Settling {
			t.Errorf("%d pictures, the last %+v", len(p), p[len(p)-1])
		}
		stop()
		if !strings.Contains(log.String(), "another cluster") {
			t.Errorf("log: %s", log)
		}
		text, err := os.ReadFile(o.Path)
		if err != nil {
			t.Fatal(err)
		}
		if s, err := lastgood.Decode(text); err != nil || s.Cluster != "c2/net" {
			t.Errorf("file holds %+v, %v", s, err)
		}
	})
}

// While a store that went back settles, absence means nothing, and a restart
// in between knows what was before.
func TestSettles(t *testing.T) {
	for name, back := range map[string]func(*lease.Snapshot){
		"revision":  func(p *lease.Snapshot) { p.Rev = 3 },
		"epoch":     func(p *lease.Snapshot) { p.Epoch++ },
		"cluster":   func(p *lease.Snapshot) { p.Cluster = "c2/net" },
		"own lease": func(*lease.Snapshot) {},
	} {
		synctest.Test(t, func(t *testing.T) {
			o, _ := options(t)
			if name == "own lease" {
				o.HostID = "h1"
			}
			inner := newScript()
			got, stop := run(t, inner, o)
			inner.pictures <- live("c1/net", 9)
			before := live("c1/net", 10)
			for _, peer := range []string{"h2", "h3"} {
				l := *before.Leases[0]
				l.Key, l.Owner = peer, peer
				before.Leases = append(before.Leases, &l)
			}
			inner.pictures <- before
			gone := live("c1/net", 11)
			gone.Leases = nil
			back(&gone)
			inner.pictures <- gone
			wait(2 * time.Second)
			again := gone
			again.Rev++
			inner.pictures <- again // somebody claimed: it settles still
			if p := got(); len(p) != 4 || p[0].Settling || p[1].Settling || !p[2].Settling || !p[3].Settling || !p[3].Synced {
				t.Errorf("%s: pictures %+v", name, p)
			}
			stop()
			got, stop = run(t, inner, o)
			inner.pictures <- again
			if p := got(); name != "epoch" && name != "own lease" && (len(p) != 1 || !p[0].Settling) {
				t.Errorf("%s: after a restart: %+v", name, p)
			}
			wait(21 * time.Second)
			if p := got(); p[len(p)-1].Settling {
				t.Errorf("%s: it settles for ever", name)
			}
			stop()
		})
	}
}

// Without the own lease alone, absence means what it says.
func TestOwnLeaseGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, _ := options(t)
		o.HostID = "h1"
		inner := newScript()
		got, stop := run(t, inner, o)
		defer stop()
		p := live("c1/net", 9)
		for _, peer := range []string{"h2", "h3"} {
			l := *p.Leases[0]
			l.Key, l.Owner = peer, peer
			p.Leases = append(p.Leases, &l)
		}
		inner.pictures <- p
		gone := p
		gone.Rev, gone.Leases = 10, p.Leases[1:]
		inner.pictures <- gone
		wait(time.Second)
		if p := got(); len(p) != 2 || p[1].Settling {
			t.Errorf("pictures %+v", p)
		}
	})
}

func TestWritesAreSpaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, _ := options(t)
		inner := newScript()
		_, stop := run(t, inner, o)
		rev := func() int64 {
			synctest.Wait()
			text, err := os.ReadFile(o.Path)
			if err != nil {
				t.Fatal(err)
			}
			s, err := lastgood.Decode(text)
			if err != nil {
				t.Fatal(err)
			}
			return s.Rev
		}
		synctest.Wait()
		inner.pictures <- live("c1/net", 1)
		if got := rev(); got != 1 {
			t.Errorf("first picture: file has revision %d", got)
		}
		inner.pictures <- live("c1/net", 2)
		wait(900 * time.Millisecond)
		inner.pictures <- live("c1/net", 3)
		if got := rev(); got != 1 {
			t.Errorf("written again within a second: revision %d", got)
		}
		wait(200 * time.Millisecond)
		if got := rev(); got != 3 {
			t.Errorf("after a second: revision %d, want 3", got)
		}
		inner.pictures <- live("c1/net", 4)
		unsynced := live("c1/net", 5)
		unsynced.Synced = false
		inner.pictures <- unsynced
		synctest.Wait()
		stop()
		if got := rev(); got != 4 {
			t.Errorf("at the end: revision %d, want 4", got)
		}
	})
}

// However long a write takes: what says how hosts are reached is written within a
// second or so. Two seconds later the old way may lead nowhere.
func TestAnotherWayIsWrittenSoon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, _ := options(t)
		began, calls := time.Now(), 0
		o.Now = func() time.Time { // each write takes a while
			calls++
			return began.Add(time.Duration(calls) * 100 * time.Millisecond)
		}
		inner := newScript()
		_, stop := run(t, inner, o)
		defer stop()
		rev := int64(0)
		written := func(what string, want bool, change func(*lease.Snapshot)) {
			t.Helper()
			rev++
			p := live("c1/net", rev)
			change(&p)
			synctest.Wait()
			inner.pictures <- p
			wait(1100 * time.Millisecond)
			synctest.Wait()
			text, err := os.ReadFile(o.Path)
			if err != nil {
				t.Fatal(err)
			}
			s, err := lastgood.Decode(text)
			if err != nil {
				t.Fatal(err)
			}
			if got := s.Rev == rev; got != want {
				t.Errorf("%s: written %t, want %t", what, got, want)
			}
		}
		config := []byte(`{"Network":"10.5.0.0/16","Backend":{"Type":"udp"}}`)
		written("the first", true, func(*lease.Snapshot) {})
		written("a host has left", false, func(p *lease.Snapshot) { p.Leases = nil })
		written("another config", true, func(p *lease.Snapshot) { p.Config = config })
		written("another offer", true, func(p *lease.Snapshot) { p.Config, p.Leases[0].Offer.Extra = config, `{"carriers":[]}` })
		written("a host has left", false, func(p *lease.Snapshot) { p.Config, p.Leases = config, nil })
	})
}

// Renewals alone are written seldom: they change nothing for a host that boots.
func TestRenewalsAreWrittenSeldom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, _ := options(t)
		inner := newScript()
		_, stop := run(t, inner, o)
		rev := func() int64 {
			synctest.Wait()
			text, err := os.ReadFile(o.Path)
			if err != nil {
				t.Fatal(err)
			}
			cluster, rev, err := lastgood.Position(text)
			if err != nil || cluster != "c1/net" {
				t.Fatal(cluster, err)
			}
			return rev
		}
		renewal := func(rev int64) lease.Snapshot {
			p := live("c1/net", rev)
			p.Changed = []string{}
			return p
		}
		inner.pictures <- live("c1/net", 1)
		for i := range int64(60) {
			wait(9 * time.Second)
			inner.pictures <- renewal(2 + i)
		}
		if got := rev(); got != 1 {
			t.Errorf("written for renewals: revision %d", got)
		}
		wait(2 * time.Minute)
		if got := rev(); got != 61 {
			t.Errorf("after ten minutes: revision %d", got)
		}
		change := renewal(71)
		change.Changed = []string{"10.5.1.0-24"}
		inner.pictures <- change
		inner.pictures <- renewal(72)
		wait(2 * time.Second)
		if got := rev(); got != 71 {
			t.Errorf("after a change: revision %d", got)
		}
		inner.pictures <- renewal(73)
		synctest.Wait()
		stop()
		if got := rev(); got != 73 {
			t.Errorf("at the end: revision %d", got)
		}
	})
}

func TestRefusals(t *testing.T) {
	good := func(t *testing.T) []byte {
		t.Helper()
		o, _ := options(t)
		var text []byte
		synctest.Test(t, func(t *testing.T) {
			remember(t, o, live("c1/net", 9))
			var err error
			if text, err = os.ReadFile(o.Path); err != nil {
				t.Fatal(err)
			}
		})
		return text
	}(t)
	for _, tc := range []struct {
		name, identity, why string
		text                []byte
	}{
		{"another fabric", "etcd9/net", "another fabric", good},
		{"empty", "etcd1,etcd2/net", "not a last-known-good file", nil},
		{"truncated", "etcd1,etcd2/net", "checksum", good[:len(good)-9]},
		{"no body", "etcd1,etcd2/net", "checksum", good[:bytes.IndexByte(good, '\n')]},
		{"one bit", "etcd1,etcd2/net", "checksum", bytes.Replace(good, []byte("10.5.1.0/24"), []byte("10.5.3.0/24"), 1)},
		{"newer", "etcd1,etcd2/net", "newer version", bytes.Replace(good, []byte(" 1 "), []byte(" 2 "), 1)},
		{"older", "etcd1,etcd2/net", "not a last-known-good file", bytes.Replace(good, []byte(" 1 "), []byte(" 0 "), 1)},
		{"garbage version", "etcd1,etcd2/net", "not a last-known-good file", bytes.Replace(good, []byte(" 1 "), []byte(" x "), 1)},
		{"wrong shape", "etcd1,etcd2/net", "not a last-known-good file", lastgood.Seal(`{"leases":3}`)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o, log := options(t)
				o.Identity = tc.identity
				if err := os.MkdirAll(filepath.Dir(o.Path), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(o.Path, tc.text, 0o600); err != nil {
					t.Fatal(err)
				}
				got, stop := run(t, newScript(), o)
				wait(time.Minute)
				if len(got()) != 0 {
					t.Errorf("believed: %+v", got())
				}
				stop()
				if !strings.Contains(log.String(), tc.why) {
					t.Errorf("log %q does not say %q", log, tc.why)
				}
			})
		})
	}
}

func TestUnwritableIsToldOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, log := options(t)
		if err := os.WriteFile(filepath.Dir(o.Path), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		inner := newScript()
		got, stop := run(t, inner, o)
		for rev := range int64(3) {
			inner.pictures <- live("c1/net", rev)
			wait(2 * time.Second)
		}
		if len(got()) != 3 {
			t.Errorf("%d pictures came through", len(got()))
		}
		stop()
		if n := strings.Count(log.String(), "not remembered"); n != 1 {
			t.Errorf("told %d times: %s", n, log)
		}
	})
}

func TestPassesThrough(t *testing.T) {
	inner := newScript()
	s := lastgood.New(inner, lastgood.Options{Path: filepath.Join(t.TempDir(), "f")})
	h, err := s.Claim(t.Context(), lease.Claim{Token: 5})
	if h.Token != 7 || !errors.Is(err, errInner) || inner.claimed.Token != 5 {
		t.Errorf("claim: %+v, %v", h, err)
	}
	if err := s.Release(t.Context(), h); !errors.Is(err, errInner) {
		t.Errorf("release: %v", err)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte("flannel-ng-last-known-good 1 00\n{}"), false)
	f.Add([]byte(`{"leases":[{"subnets":["10.5.1.0/24",""],"public":["192.0.2.1",""]}],"config":"x"}`), true)
	f.Add([]byte("flannel-ng-last-known-good 99999999999999999999 x"), false)
	f.Fuzz(func(t *testing.T, text []byte, seal bool) {
		if seal {
			text = lastgood.Seal(string(text))
		}
		s, err := lastgood.Decode(text)
		_, _, _ = lastgood.Position(text)
		if err == nil && (s.Synced || s.Epoch != 0) {
			t.Errorf("a file must not make a live picture: %+v", s)
		}
	})
}
