package etcd

import (
	"context"
	"net/netip"
	"sync"
	"time"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/lease"
	"github.com/flannel-ng/flannel-ng/internal/store/etcd/kv"
)

// shared is the view of the watch, for who claims.
type shared struct {
	mu    sync.Mutex
	view  *view         // of the watch's goroutine, but for looking under mu
	live  bool          // a watch keeps view up to date
	moved chan struct{} // closed at the next change of the two
}

func newShared(host string) *shared { return &shared{view: newView(host), moved: make(chan struct{})} }

// change runs f, which changes the view.
func (s *shared) change(live bool, f func(v *view)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f(s.view)
	s.live = live
	close(s.moved)
	s.moved = make(chan struct{})
}

func (s *shared) snapshot() (lease.Snapshot, delta) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.view.snapshot()
}

// size is the number of leases, about.
func (s *shared) size() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.view.list)
}

func (s *shared) rev() int64      { return s.header().Rev }
func (s *shared) cluster() uint64 { return s.header().Cluster }

func (s *shared) header() kv.Header {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.view.Header
}

// wentBack says whether now is of another history than the view.
func (s *shared) wentBack(now kv.Header) bool {
	was := s.header()
	return now.Cluster != was.Cluster || now.Rev < was.Rev
}

// related is what view.related says, if the view is live.
func (s *shared) related(host string, subnets addr.ByFamily[netip.Prefix]) ([]string, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.live {
		return nil, false
	}
	return s.view.related(host, subnets), true
}

// evidence is how a lease that we wrote stands.
type evidence struct {
	mod   int64 // of its last write; 0: it is gone
	owner string
	rival *lease.Lease // of somebody else, and there first; nil: nobody
}

// judge waits until the view shows revision h.Token and then looks at h there.
// It does not if no watch is running, or if that takes longer than patience.
func (s *shared) judge(ctx context.Context, h lease.Held, patience time.Duration) (evidence, bool) {
	timer := time.NewTimer(patience)
	defer timer.Stop()
	for {
		e, ok, moved := s.look(h)
		if ok || moved == nil {
			return e, ok
		}
		select {
		case <-ctx.Done():
			return evidence{}, false
		case <-timer.C:
			return evidence{}, false
		case <-moved:
		}
	}
}

// look judges h if the view is recent enough; moved is nil if it is not live.
func (s *shared) look(h lease.Held) (e evidence, ok bool, moved <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case !s.live:
		return evidence{}, false, nil
	case s.view.Rev < int64(h.Token):
		return evidence{}, false, s.moved
	}
	return s.view.judge(h), true, nil
}
