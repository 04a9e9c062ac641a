// Package events remembers the last things that a daemon did or met, so that
// a person who arrives later can see them without a log collector.
//
// It owns a bounded list in memory. It never logs and never writes to disk.
// The engine and the keeper add; the control socket lists.
package events

import (
	"slices"
	"sync"
	"time"

	"github.com/flannel-ng/flannel-ng/internal/report"
)

// DefaultLimit is enough for the start of a fabric of several hundred hosts
// and costs about 100 KB.
const DefaultLimit = 1000

// Ring holds the newest events. It is safe for concurrent use.
type Ring struct {
	now   func() time.Time
	limit int

	mu     sync.Mutex
	events []report.Event // oldest at start, wrapping around once full
	start  int
}

// New makes a ring of at most limit events (DefaultLimit if limit is not
// positive) that takes the time from now.
func New(limit int, now func() time.Time) *Ring {
	if limit <= 0 {
		limit = DefaultLimit
	}
	return &Ring{now: now, limit: limit}
}

// Add records an event. An event equal to the newest one is counted there
// instead, so that a failure retried every second cannot push out what led to
// it; its time becomes that of the last occurrence.
func (r *Ring) Add(kind, text string) {
	at := r.now()
	r.mu.Lock()
	defer r.mu.Unlock()
	if last := r.newest(); last != nil && last.Kind == kind && last.Text == text {
		last.Repeat++
		last.At = at
		return
	}
	e := report.Event{At: at, Kind: kind, Text: text}
	if len(r.events) < r.limit {
		r.events = append(r.events, e)
		return
	}
	r.events[r.start] = e
	r.start = (r.start + 1) % r.limit
}

// newest needs r.mu.
func (r *Ring) newest() *report.Event {
	n := len(r.events)
	if n == 0 {
		return nil
	}
	return &r.events[(r.start+n-1)%n]
}

// List returns the events that last happened at or after since, oldest first;
// the zero time returns all.
func (r *Ring) List(since time.Time) []report.Event {
	r.mu.Lock()
	all := slices.Concat(r.events[r.start:], r.events[:r.start])
	r.mu.Unlock()
	return slices.DeleteFunc(all, func(e report.Event) bool { return e.At.Before(since) })
}
