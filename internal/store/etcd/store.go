// Package etcd keeps leases in etcd v3, beside plain flannel hosts, by the
// protocol of docs/lease-protocol.md.
//
// It owns the keys of this host below the prefix: its lease, claims, address
// records and session. It never writes another host's keys except by the
// take-over rules, and never deletes what it cannot read. Called by the daemon
// (Store) and by flannelctl (Admin).
package etcd

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/flannel-ng/flannel-ng/internal/lease"
)

// The times of the protocol.
const (
	defaultLeaseTTL   = 24 * time.Hour
	defaultSessionTTL = time.Minute
	recentTTL         = 48 * time.Hour
)

// Options are what a Store needs besides its client.
type Options struct {
	HostID string // required; random, from the state directory
	BootID string // changes with every boot of this host
	// LeaseTTL is how long a lease lasts without renewal; zero is 24 h, which
	// is what plain flannel uses.
	LeaseTTL time.Duration
	// SessionTTL is how long a dead host looks alive; zero is one minute.
	SessionTTL time.Duration
	Rand       *rand.Rand   // spreads waits; nil is seeded randomly
	Log        *slog.Logger // nil is silent
	// Event is told when the store is lost and found again; nil: nobody is.
	Event func(text string)
}

// Store is one host's view of the leases in etcd. It implements lease.Store.
type Store struct {
	client  *Client
	options Options
	session *session
	recent  *recorder
	shared  *shared
	dice    *dice
	log     *slog.Logger
	doubt   chan struct{} // a request saw what the picture cannot show

	mu     sync.Mutex
	health Health
}

// Health says how the watch stands.
type Health struct {
	// Err is why the picture is not live; nil while it is.
	Err   error
	Since time.Time // when it became live, or ceased to be
}

// New makes a Store. Apart from a warning it does nothing until Watch, Claim or Release is called,
// and leaves no goroutine behind when they have returned.
func New(c *Client, o Options) *Store {
	if o.LeaseTTL == 0 {
		o.LeaseTTL = defaultLeaseTTL
	}
	if o.SessionTTL == 0 {
		o.SessionTTL = defaultSessionTTL
	}
	if o.Rand == nil {
		o.Rand = rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64()))
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	d := &dice{rand: o.Rand}
	s := &Store{
		client: c, options: o, dice: d, log: o.Log, doubt: make(chan struct{}, 1),
		recent: newRecorder(c, d, o), shared: newShared(o.HostID),
		health: Health{Err: errNotListed, Since: time.Now()},
	}
	s.session = newSession(c, o, s.reread)
	if c.warning != "" {
		s.log.Warn("lease store is not protected", "reason", c.warning)
	}
	return s
}

// reread has the watch list again, soon and once.
func (s *Store) reread() {
	select {
	case s.doubt <- struct{}{}:
	default:
	}
}

// Watch implements lease.Store. While it runs it also keeps the session alive
// and records subnets that expire.
func (s *Store) Watch(ctx context.Context, put func(lease.Snapshot)) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return s.follow(ctx, put) })
	g.Go(func() error { return s.session.keep(ctx) })
	g.Go(func() error { return s.recent.run(ctx) })
	return g.Wait()
}

// Close revokes the session, so that a successor on this host need not wait
// for it to expire. Leases stay. Call it when Watch has returned.
func (s *Store) Close(ctx context.Context) error { return s.session.close(ctx) }

// Health says whether the pictures that Watch gives are live. Before the
// first complete list it has an error.
func (s *Store) Health() Health {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.health
}

func (s *Store) setHealth(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if (err == nil) != (s.health.Err == nil) {
		s.health.Since = time.Now()
	}
	s.health.Err = err
}

// dice is a random source for several goroutines.
type dice struct {
	mu   sync.Mutex
	rand *rand.Rand
}

// upTo is a random time below limit.
func (d *dice) upTo(limit time.Duration) time.Duration {
	if limit <= 0 {
		return 0
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return time.Duration(d.rand.Int64N(int64(limit)))
}

// backoff grows from first to last; the zero attempt count starts over.
type backoff struct {
	first, last time.Duration
	dice        *dice
	attempts    int
}

// wait sleeps, spread between half and the whole of the step, so that hosts
// that lost etcd together do not come back together.
func (b *backoff) wait(ctx context.Context) error {
	step := b.last
	if b.attempts < 16 {
		step = min(b.last, b.first<<b.attempts)
	}
	b.attempts++
	return pause(ctx, step/2+b.dice.upTo(step/2))
}

func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}
