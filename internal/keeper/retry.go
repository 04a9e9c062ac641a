package keeper

import (
	"math/rand/v2"
	"reflect"
	"time"

	"github.com/flannel-ng/flannel-ng/internal/lease"
)

const (
	// freeConflicts lost races are tried again at once, with another subnet.
	freeConflicts  = 3
	conflictFirst  = 50 * time.Millisecond
	conflictLonger = 2 * time.Second
	failureFirst   = time.Second
	failureLonger  = time.Minute
)

// retry says when the store may be called again. Its zero value, with an rng,
// says now.
type retry struct {
	rng       *rand.Rand
	conflicts int // in a row
	failures  int // in a row
	notBefore time.Time
	tried     time.Time // end of the last call that went wrong
	epoch     int64     // of the picture that it was based on
	rev       int64
	ask       lease.Ask
	known     bool   // ask is set
	text      string // of the last failure
}

func (r *retry) reset() { *r = retry{rng: r.rng, ask: r.ask, known: r.known} }

func (r *retry) at() time.Time { return r.notBefore }

// conflict plans the next call after a lost race.
func (r *retry) conflict(now time.Time, res result) {
	r.failures, r.text = 0, ""
	r.conflicts++
	r.after(now, res)
	switch {
	case res.action.Claim.Token != 0: // our picture is behind: wait for it
		r.notBefore = now.Add(r.backoff(conflictFirst, failureLonger, r.conflicts))
	case r.conflicts > freeConflicts:
		r.notBefore = now.Add(r.backoff(conflictFirst, conflictLonger, r.conflicts))
	}
}

// failed plans the next call after an error and says whether it is news.
func (r *retry) failed(now time.Time, res result) bool {
	r.failures++
	r.after(now, res)
	r.notBefore = now.Add(r.backoff(failureFirst, failureLonger, r.failures))
	news := res.err.Error() != r.text
	r.text = res.err.Error()
	return news
}

func (r *retry) after(now time.Time, res result) {
	r.tried, r.notBefore, r.epoch, r.rev = now, now, res.epoch, res.rev
}

// backoff doubles from first to longest, less up to a half at random.
func (r *retry) backoff(first, longest time.Duration, n int) time.Duration {
	d := min(longest, first<<min(n-1, 16))
	return d - time.Duration(r.rng.Int64N(int64(d)/2+1))
}

// seen ends the waiting early when the reason for it may be gone: the host's
// facts changed, or a newer picture came. Pictures come as fast as others
// write, so they shorten a wait but never do away with it.
func (r *retry) seen(s lease.Situation) {
	if r.known && !reflect.DeepEqual(r.ask, s.Ask) {
		r.reset()
	}
	r.ask, r.known = s.Ask, true
	newer := s.Snapshot.Synced && !s.Snapshot.Origin.LastKnownGood &&
		(s.Snapshot.Epoch != r.epoch || s.Snapshot.Rev > r.rev)
	switch {
	case !newer:
	case r.failures == 0 && r.conflicts <= freeConflicts:
		r.sooner(r.tried)
	default:
		r.sooner(r.tried.Add(failureFirst))
	}
}

func (r *retry) sooner(t time.Time) {
	if t.Before(r.notBefore) {
		r.notBefore = t
	}
}
