package etcd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/flannel-ng/flannel-ng/internal/store/etcd/kv"
)

// ErrIdentity says that another live host has our host id, or another daemon
// of this host, or this host before its reboot. It passes when that session expires.
var ErrIdentity = errors.New("host id is in use")

// IdentityError tells who has our host id.
type IdentityError struct {
	Host   string
	Public []netip.Addr // where the other one is
	TTL    time.Duration
}

func (e *IdentityError) Error() string {
	return fmt.Sprintf("host id %s is in use by a live host at %s: after a reboot wait up to %s; "+
		"if a second flanneld uses this state directory stop one; on a cloned machine remove the directory", e.Host, clip(fmt.Sprint(e.Public)), e.TTL)
}

// Unwrap makes errors.Is(err, ErrIdentity) true.
func (e *IdentityError) Unwrap() error { return ErrIdentity }

var errClosed = errors.New("session is closed")

// session says in etcd that this host is alive. The key is written once per
// session and then only kept alive, so its mod revision fences every write of
// this host: who loses the key cannot write.
type session struct {
	client  *Client
	options Options
	log     *slog.Logger
	key     string
	run     string // tells this process's writes from its predecessor's

	busy chan struct{} // holds one token; taken with the context, unlike a mutex
	// The rest belongs to the owner of the token.
	grant  kv.LeaseID
	public []netip.Addr
	begun  bool // there was a session of this process
	wanted bool // a claim was made: the host is to be alive from then on
	closed bool

	mod  atomic.Int64  // revision of our key; zero: no session
	wake chan struct{} // something looks wrong, see now
	// doubt has the picture read anew: a grant that is gone can mean that the
	// whole store is another.
	doubt func()
}

func newSession(c *Client, o Options, doubt func()) *session {
	return &session{
		client: c, options: o, log: o.Log, key: sessionsDir + o.HostID,
		run:  strconv.FormatUint(o.Rand.Uint64(), 16),
		busy: make(chan struct{}, 1), wake: make(chan struct{}, 1), doubt: doubt,
	}
}

func (s *session) lock(ctx context.Context) error {
	select {
	case s.busy <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *session) unlock() { <-s.busy }

// ensure makes a session with these addresses if there is none, and returns
// the revision to fence writes on.
func (s *session) ensure(ctx context.Context, public []netip.Addr) (int64, error) {
	if err := s.lock(ctx); err != nil {
		return 0, err
	}
	defer s.unlock()
	if s.closed {
		return 0, errClosed
	}
	s.wanted = true
	if mod := s.mod.Load(); mod != 0 && slices.Equal(public, s.public) {
		return mod, nil
	}
	s.public = public
	return s.create(ctx)
}

// create puts our key in place of nothing or of our own predecessor.
func (s *session) create(ctx context.Context) (mod int64, err error) {
	const tries = 4
	var fresh kv.LeaseID
	for range tries {
		var old kv.Entry
		if old, err = s.client.get(ctx, s.key); err != nil {
			break
		}
		if fresh != 0 && old.Lease == fresh {
			return s.begin(fresh, old.Mod), nil
		}
		if err = s.mayReplace(old); err != nil {
			break
		}
		if fresh == 0 {
			if fresh, err = s.client.grant(ctx, s.options.SessionTTL); err != nil {
				break
			}
		}
		if mod, err = s.replace(ctx, old, fresh); err == nil {
			return s.begin(fresh, mod), nil
		}
		// Refused or unanswered: the next reading tells which.
	}
	s.client.revoke(ctx, fresh)
	return 0, fmt.Errorf("session: %w", err)
}

func (s *session) replace(ctx context.Context, old kv.Entry, grant kv.LeaseID) (int64, error) {
	r, err := s.client.txn(ctx, kv.Txn{
		If:   []kv.Cmp{kv.Unchanged(s.key, old.Mod)},
		Then: []kv.Op{put(s.key, encode(presence{Boot: s.options.BootID, Run: s.run, Public: s.public}), grant)},
	})
	switch {
	case err != nil:
		return 0, fmt.Errorf("write %s: %w", s.key, err)
	case !r.OK:
		return 0, errContest
	}
	s.client.revoke(ctx, old.Lease)
	return r.Rev, nil
}

func (s *session) begin(grant kv.LeaseID, mod int64) int64 {
	s.grant, s.begun = grant, true
	s.mod.Store(mod)
	return mod
}

// mayReplace says whether old is nothing, ours, or of our predecessor in this
// boot of this host. Who replaces a session of ours later is no predecessor
// but a second daemon on this state directory; it wins, and we must not write.
func (s *session) mayReplace(old kv.Entry) error {
	if old.Mod == 0 {
		return nil
	}
	p, err := decode[presence](old.Value)
	if err == nil && p.Run == s.run {
		return nil
	}
	if err == nil && !s.begun && p.Boot == s.options.BootID && shareAddress(p.Public, s.public) {
		return nil
	}
	return &IdentityError{Host: s.options.HostID, Public: p.Public, TTL: s.options.SessionTTL}
}

func shareAddress(a, b []netip.Addr) bool {
	return slices.ContainsFunc(a, func(x netip.Addr) bool { return slices.Contains(b, x) })
}

// suspect is told that our key is not at mod any more.
func (s *session) suspect(mod int64) {
	if mod != 0 && s.mod.CompareAndSwap(mod, 0) {
		select {
		case s.wake <- struct{}{}:
		default:
		}
	}
}

// observe is told that at revision rev our key was last written at seen, 0 for
// not there: it may have been deleted or replaced, which keeping the grant alive
// does not show.
func (s *session) observe(rev, seen int64) {
	mod := s.mod.Load()
	if mod != 0 && rev >= mod && seen != mod {
		s.suspect(mod)
	}
}

// keep keeps the session alive. One that was lost is made again at once, not
// at the next write: a host without a session looks dead, and its address and
// subnet may be taken over.
func (s *session) keep(ctx context.Context) error {
	every := s.options.SessionTTL / 3
	wait, healthy := every, true
	for {
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		case <-s.wake:
		case <-timer.C:
		}
		timer.Stop()
		err := s.beat(ctx)
		if err != nil && healthy && ctx.Err() == nil {
			s.log.Warn("session is not alive", "error", err)
		}
		if healthy = err == nil; healthy {
			wait = every
		} else {
			wait = every / 4
		}
	}
}

func (s *session) beat(ctx context.Context) error {
	if err := s.lock(ctx); err != nil {
		return err
	}
	defer s.unlock()
	if !s.wanted || s.closed {
		return nil
	}
	if s.mod.Load() != 0 {
		err := s.prolong(ctx)
		if !errors.Is(err, kv.ErrLeaseNotFound) {
			return err
		}
		s.mod.Store(0)
		s.doubt()
	}
	_, err := s.create(ctx)
	return err
}

func (s *session) prolong(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, min(requestTimeout, s.options.SessionTTL/4))
	defer cancel()
	if err := s.client.conn.KeepAliveOnce(ctx, s.grant); err != nil {
		return fmt.Errorf("keep session alive: %w", err)
	}
	return nil
}

func (s *session) close(ctx context.Context) error {
	if err := s.lock(ctx); err != nil {
		return err
	}
	defer s.unlock()
	s.closed = true
	if s.mod.Swap(0) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	if err := s.client.conn.Revoke(ctx, s.grant); err != nil && !errors.Is(err, kv.ErrLeaseNotFound) {
		return fmt.Errorf("revoke session: %w", err)
	}
	return nil
}
