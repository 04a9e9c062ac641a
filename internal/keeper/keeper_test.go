package keeper_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/config"
	"github.com/flannel-ng/flannel-ng/internal/keeper"
	"github.com/flannel-ng/flannel-ng/internal/lease"
)

const (
	ttl    = 24 * time.Hour
	margin = time.Hour
	grace  = 10 * time.Minute
)

// store answers every call by script and remembers it.
type store struct {
	mu    sync.Mutex
	calls calls
	rev   int64
	// script answers a claim; nil grants it.
	script func(n int, c lease.Claim) error
	down   bool
	hang   bool
}

type calls struct {
	claims []lease.Claim
	times  []time.Time
	freed  []lease.Held
}

var errAway = errors.New("no endpoint answers")

// seen is what was called so far.
func (s *store) seen() calls {
	s.mu.Lock()
	defer s.mu.Unlock()
	return calls{slices.Clone(s.calls.claims), slices.Clone(s.calls.times), slices.Clone(s.calls.freed)}
}

// become changes how the store behaves from now on.
func (s *store) become(change func(*store)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(s)
}

func (s *store) Claim(ctx context.Context, c lease.Claim) (lease.Held, error) {
	h, hang, err := s.answer(c)
	if hang {
		<-ctx.Done()
		return lease.Held{}, ctx.Err()
	}
	return h, err
}

func (s *store) answer(c lease.Claim) (h lease.Held, hang bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls.claims, s.calls.times = append(s.calls.claims, c), append(s.calls.times, time.Now())
	if s.down {
		return h, s.hang, errAway
	}
	if s.script != nil {
		if err := s.script(len(s.calls.claims), c); err != nil {
			return h, s.hang, err
		}
	}
	s.rev += 10
	h = lease.Held{Token: lease.Token(s.rev), Expires: time.Now().Add(ttl)}
	h.Lease = lease.Lease{Subnets: c.Subnets, Public: c.Public, Offer: c.Offer, Owner: "me", Modified: s.rev, Created: s.rev}
	return h, s.hang, nil
}

func (s *store) Release(_ context.Context, h lease.Held) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls.freed = append(s.calls.freed, h)
	return nil
}

// journal is a log that may be read while it is written.
type journal struct {
	mu   sync.Mutex
	text strings.Builder
}

func (j *journal) Write(b []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.Write(b)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.String()
}

// lab is a keeper that runs in a bubble.
type lab struct {
	*keeper.Keeper
	t       *testing.T
	store   *store
	log     *journal
	changes atomic.Int32
	stop    func()
}

func start(t *testing.T, s *store, adjust func(*keeper.Options)) *lab {
	t.Helper()
	l := &lab{t: t, store: s, log: &journal{}}
	o := keeper.Options{
		HostID: "me", RenewMargin: margin, Grace: grace,
		Log:     slog.New(slog.NewTextHandler(l.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
		Changed: func() { l.changes.Add(1) },
	}
	if adjust != nil {
		adjust(&o)
	}
	l.Keeper = keeper.New(s, o)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- l.Run(ctx) }()
	l.stop = func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	}
	return l
}

func ask(t *testing.T) lease.Ask {
	t.Helper()
	n, err := config.Parse([]byte(`{"Network":"10.5.0.0/16"}`))
	if err != nil {
		t.Fatal(err)
	}
	return lease.Ask{Network: n, Public: addr.Pair(netip.MustParseAddr("192.0.2.1"), netip.Addr{}), Offer: lease.Offer{Backend: "vxlan"}}
}

func (l *lab) after(d time.Duration) lease.Holding {
	time.Sleep(d) //nolint:forbidigo // the bubble's clock
	synctest.Wait()
	return l.Holding()
}

func (l *lab) want(d time.Duration, st lease.State) lease.Holding {
	l.t.Helper()
	h := l.after(d)
	if h.State != st {
		l.t.Fatalf("state %s, want %s; log:\n%s", h.State, st, l.log)
	}
	return h
}

// show hands in a picture with the lease as the store granted it.
func (l *lab) show(rev int64, leases ...lease.Lease) {
	s := lease.Snapshot{Synced: true, Epoch: 1, Rev: rev}
	for _, l := range leases {
		s.Leases = append(s.Leases, &l)
	}
	l.Snapshot(s)
}

func foreign(of lease.Holding, rev int64) lease.Lease {
	return lease.Lease{
		Key: "theirs", Subnets: of.Lease.Subnets, Public: addr.Pair(netip.MustParseAddr("192.0.2.2"), netip.Addr{}),
		Modified: rev, Created: rev,
	}
}

func TestHoldsAndRenews(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &store{}
		l := start(t, s, nil)
		defer l.stop()
		l.want(time.Hour, lease.Pending)
		l.Ask(ask(t))
		l.want(time.Hour, lease.Pending)
		if len(s.seen().claims) != 0 {
			t.Fatal("claimed without a picture")
		}
		l.show(5)
		h := l.want(0, lease.Owned)
		l.show(10, h.Lease.Lease)
		l.Ask(ask(t))
		l.want(ttl-3*margin, lease.Owned)
		if len(s.seen().claims) != 1 {
			t.Fatalf("%d claims before a renewal is due", len(s.seen().claims))
		}
		again := l.want(3*margin-ttl/100, lease.Owned)
		if again.Lease.Subnets != h.Lease.Subnets || again.Lease.Token != 20 || s.seen().claims[1].Token != 10 {
			t.Errorf("renewal: %+v by %+v", again.Lease, s.seen().claims[1])
		}
		if !again.Since.Equal(h.Since) {
			t.Error("a renewal is no new holding")
		}
		if l.changes.Load() != 2 || strings.Count(l.log.String(), "level=INFO") != 1 {
			t.Errorf("%d changes, log:\n%s", l.changes.Load(), l.log)
		}
	})
}

// What the host can do beside its lease is claimed like all of the offer.
func TestChangedExtraIsClaimedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &store{}
		l := start(t, s, nil)
		defer l.stop()
		a := ask(t)
		l.Ask(a)
		l.show(5)
		h := l.want(0, lease.Owned)
		l.show(10, h.Lease.Lease)
		for _, extra := range []string{`{"udp":{"bpf":1}}`, `{"udp":{"bpf":1}}`, ``} {
			a.Offer.Extra = extra
			l.Ask(a)
			h = l.want(time.Second, lease.Owned)
			l.show(int64(h.Lease.Token), h.Lease.Lease)
		}
		claims := s.seen().claims
		if len(claims) != 3 || claims[1].Offer.Extra == "" || claims[1].Token != 10 || claims[2].Offer.Extra != "" || claims[2].Token != 20 {
			t.Errorf("claims %+v", claims)
		}
	})
}

// TestOutage: the store is away for three days. No busy loop, the state says
// what is true, the same subnet is claimed at the end.
func TestOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &store{}
		l := start(t, s, nil)
		defer l.stop()
		l.Ask(ask(t))
		l.show(5)
		h := l.want(0, lease.Owned)
		l.show(10, h.Lease.Lease)
		s.become(func(s *store) { s.down = true })
		l.want(ttl-ttl/100-time.Second, lease.Owned)
		e := l.want(2*time.Second, lease.Expired)
		if e.Reason == "" || e.Lease.Subnets != h.Lease.Subnets {
			t.Errorf("expired: %+v", e)
		}
		l.want(48*time.Hour, lease.Expired)
		// About an hour of retries at up to a minute each, then one try per
		// picture and minute: the old picture still shows our lease.
		if n := len(s.seen().claims); n > 49*60*2+20 {
			t.Errorf("%d calls in %s", n, ttl+48*time.Hour)
		}
		times := s.seen().times
		for i := range times[1:] {
			if gap := times[i+1].Sub(times[i]); i > 0 && gap < 500*time.Millisecond {
				t.Fatalf("calls %d and %d are %s apart", i, i+1, gap)
			}
		}
		if n := strings.Count(l.log.String(), "no endpoint answers"); n != 1 {
			t.Errorf("the outage is logged %d times", n)
		}
		s.become(func(s *store) { s.down = false })
		l.show(40)
		if again := l.want(2*time.Second, lease.Owned); again.Lease.Subnets != h.Lease.Subnets {
			t.Errorf("came back with %v, had %v", again.Lease.Subnets, h.Lease.Subnets)
		}
		if last := s.seen().claims[len(s.seen().claims)-1]; last.Token != 0 {
			t.Errorf("a lease that is gone was claimed with token %d", last.Token)
		}
	})
}

func TestLostRaces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &store{script: func(n int, _ lease.Claim) error {
			if n <= 8 {
				return fmt.Errorf("race %d: %w", n, lease.ErrTaken)
			}
			return nil
		}}
		l := start(t, s, nil)
		defer l.stop()
		l.Ask(ask(t))
		l.show(5)
		l.after(0)
		if n := len(s.seen().claims); n != 4 {
			t.Errorf("%d tries at once, want 4", n)
		}
		l.want(10*time.Second, lease.Owned)
		seen := map[netip.Prefix]bool{}
		for _, c := range s.seen().claims {
			seen[c.Subnets.At(addr.IPv4)] = true
		}
		if len(s.seen().claims) != 9 || len(seen) != 9 {
			t.Errorf("%d tries with %d subnets, want 9 of 9", len(s.seen().claims), len(seen))
		}
	})
}

// TestStaleToken: the picture is behind and every renewal is refused. The
// store is not hammered.
func TestStaleToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &store{script: func(n int, _ lease.Claim) error {
			if n > 1 {
				return lease.ErrTaken
			}
			return nil
		}}
		l := start(t, s, nil)
		defer l.stop()
		l.Ask(ask(t))
		l.show(5)
		l.want(ttl-margin, lease.Owned)
		if n := len(s.seen().claims); n > 1+60 {
			t.Errorf("%d calls", n)
		}
	})
}

func TestDuplicateIsAReasonAndRetriedSlowly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		refusal := &lease.DuplicateError{Address: netip.MustParseAddr("192.0.2.1"), Host: "twin"}
		s := &store{script: func(int, lease.Claim) error { return refusal }}
		l := start(t, s, nil)
		defer l.stop()
		l.Ask(ask(t))
		l.show(5)
		h := l.want(time.Hour, lease.Pending)
		if h.Reason != refusal.Error() {
			t.Errorf("reason %q", h.Reason)
		}
		if n := len(s.seen().claims); n > 130 {
			t.Errorf("%d calls in an hour", n)
		}
		for rev := range 3600 { // others come and go
			l.show(int64(6 + rev))
			l.after(100 * time.Millisecond)
		}
		if n := len(s.seen().claims); n > 130+370 {
			t.Errorf("%d calls after 6 minutes of changes", n)
		}
		moved := ask(t)
		moved.Public.Put(addr.IPv4, netip.MustParseAddr("192.0.2.7"))
		s.become(func(s *store) { s.script = nil })
		l.Ask(moved)
		l.want(0, lease.Owned) // at once: the reason may be gone
	})
}

func TestLostThenGraceThenAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := start(t, &store{}, nil)
		defer l.stop()
		l.Ask(ask(t))
		l.show(5)
		h := l.want(0, lease.Owned)
		l.show(9, foreign(h, 9)) // older than our write
		l.want(0, lease.Owned)
		l.show(11, foreign(h, 11))
		lost := l.want(0, lease.Lost)
		if !strings.Contains(lost.Reason, "192.0.2.2") || lost.Lease.Subnets != h.Lease.Subnets {
			t.Errorf("lost: %+v", lost)
		}
		if !strings.Contains(l.log.String(), "level=ERROR") {
			t.Errorf("log:\n%s", l.log)
		}
		l.want(grace-time.Second, lease.Lost)
		if other := l.want(time.Second, lease.Owned); other.Lease.Subnets == h.Lease.Subnets {
			t.Error("claimed the lost subnet")
		}
	})
}

func TestTakerGoesAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := start(t, &store{}, nil)
		defer l.stop()
		l.Ask(ask(t))
		l.show(5)
		h := l.want(0, lease.Owned)
		l.show(11, foreign(h, 11))
		l.want(time.Minute, lease.Lost)
		l.show(12)
		if again := l.want(0, lease.Owned); again.Lease.Subnets != h.Lease.Subnets {
			t.Error("another subnet, though the lost one is free")
		}
	})
}

// TestYieldReleasesOnce: after a release only a newer picture counts.
func TestYieldReleasesOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &store{}
		l := start(t, s, nil)
		defer l.stop()
		l.Ask(ask(t))
		l.show(5)
		h := l.want(0, lease.Owned)
		own, older := h.Lease.Lease, foreign(h, 4)
		own.Key = "ours"
		l.show(11, own, older)
		l.want(time.Minute, lease.Lost)
		l.show(11, own, older)
		l.want(time.Minute, lease.Lost)
		if len(s.seen().freed) != 1 || s.seen().freed[0].Token != 10 {
			t.Errorf("released %+v", s.seen().freed)
		}
	})
}

func TestHangingStoreDelaysNeitherExpiryNorStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &store{}
		l := start(t, s, nil)
		l.Ask(ask(t))
		l.show(5)
		h := l.want(0, lease.Owned)
		l.show(10, h.Lease.Lease)
		l.want(time.Until(h.Renew)-time.Second, lease.Owned)
		s.become(func(s *store) { s.hang = true })
		changes := l.changes.Load()
		l.want(time.Until(h.Deadline), lease.Expired)
		if l.changes.Load() == changes {
			t.Error("nobody was told")
		}
		before := time.Now()
		l.stop()
		if time.Since(before) != 0 || len(s.seen().freed) != 0 {
			t.Errorf("stopped after %s, released %v", time.Since(before), s.seen().freed)
		}
	})
}

// TestRenewsOverASilentWatch: writes work, pictures do not come.
func TestRenewsOverASilentWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &store{}
		l := start(t, s, nil)
		defer l.stop()
		l.Ask(ask(t))
		l.show(5)
		l.want(0, lease.Owned)
		l.want(5*ttl, lease.Owned)
		if n := len(s.seen().claims); n != 6 {
			t.Errorf("%d claims in five days, want 6", n)
		}
	})
}

// TestSlowClock: a clock that loses just under one percent still ends the
// holding before the store does.
func TestSlowClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		slow := func() time.Time { return began.Add(time.Since(began) * 991 / 1000) }
		failing := &store{script: func(n int, _ lease.Claim) error {
			if n > 1 {
				return errors.New("away")
			}
			return nil
		}}
		l := start(t, failing, func(o *keeper.Options) { o.Now = slow })
		defer l.stop()
		l.Ask(ask(t))
		l.show(5)
		l.want(ttl-ttl/100, lease.Owned)
		l.want(ttl/100, lease.Expired)
	})
}

func TestMarginOfAWholeLeaseDoesNotSpin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &store{}
		l := start(t, s, func(o *keeper.Options) { o.RenewMargin = ttl })
		defer l.stop()
		l.Ask(ask(t))
		l.show(5)
		l.want(ttl, lease.Owned)
		if n := len(s.seen().claims); n > 3 {
			t.Errorf("%d claims in a day", n)
		}
	})
}

// TestHostsSpreadTheirRenewals: the same start, other seeds, other times.
func TestHostsSpreadTheirRenewals(t *testing.T) {
	var due []time.Time
	for seed := range uint64(5) {
		synctest.Test(t, func(t *testing.T) {
			l := start(t, &store{}, func(o *keeper.Options) { o.Seed = seed })
			defer l.stop()
			l.Ask(ask(t))
			l.show(5)
			due = append(due, l.want(0, lease.Owned).Renew)
		})
	}
	if slices.SortFunc(due, time.Time.Compare); due[4].Sub(due[0]) < margin/100 || due[4].Sub(due[0]) > margin/10 {
		t.Errorf("renewals at %v", due)
	}
}
