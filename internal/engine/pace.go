package engine

import (
	"sync/atomic"
	"time"
)

// spacing merges what arrives together. For reasons other than a new picture it
// grows while passes fail, which may wake themselves by what they try, and
// while bells ring for nothing, as they do on a host whose other routes keep
// changing.
const (
	spacing    = 5 * time.Millisecond
	maxBackoff = 30 * time.Second
	// burst bounds the spacing of passes that take long.
	burst = 50 * time.Millisecond
	// fightPace is the least time between passes that find nothing but what is
	// undone again and again.
	fightPace = 500 * time.Millisecond
	// paidBack is how many times the length of a pass for nothing, or for a fight,
	// lies before the next in a large fabric, up to paidLatest.
	paidBack   = 10
	paidLatest = 5 * time.Second
	// patience is how many bells in a row may be for nothing before that.
	patience = 4
)

// pace decides when a pass may be, and when one must.
type pace struct {
	due    time.Time // of the periodic pass, or of a retry; zero: now
	hold   time.Time // before it, a new picture alone is reason enough
	held   bool      // something else waits for hold
	streak int       // passes in a row with failures
	idle   int       // passes in a row that a bell rang for nothing
	tick   bool      // the pass under way is the periodic one
	fought bool      // it found only what is undone again and again
	large  bool      // the fabric is so large that reading all takes its time
	early  time.Time // it asks for a pass then, before due; zero: it does not
}

// take gives the reasons for a pass now, and leaves those that have to wait.
func (p *pace) take(rung *atomic.Uint32, now time.Time) wake {
	why := wake(rung.Swap(0))
	p.tick = !now.Before(p.due)
	switch {
	case p.tick:
		p.idle = 0
		why |= wakeTick
	case why&^wakePicture == 0:
	case now.Before(p.hold):
		p.held = true
		rung.Or(uint32(why &^ wakePicture))
		return why & wakePicture
	default:
		p.idle++
	}
	if why&^wakePicture != 0 {
		p.held = false
	}
	return why
}

// passed takes in that a pass was made, and says how long to rest at least.
func (p *pace) passed(why wake, start, end time.Time, resync time.Duration) time.Duration {
	switch again := end.Add(p.wait(resync)); {
	case p.tick, why&wakeDoubt != 0, p.streak > 0 && again.Before(p.due):
		p.due = again
	}
	if p.early.After(end) && p.early.Before(p.due) {
		p.due = p.early
	}
	if why&^wakePicture != 0 {
		p.hold = end.Add(p.space(end.Sub(start)))
	}
	return max(spacing, min(2*end.Sub(start), burst))
}

// space is how long bells have to wait after a pass that took so long.
func (p *pace) space(took time.Duration) time.Duration {
	d := min(spacing<<min(max(p.streak, p.idle-1), 6), time.Second)
	if p.large && (p.fought || p.idle > patience) {
		d = max(d, min(paidBack*took, paidLatest))
	}
	if p.fought {
		d = max(d, fightPace)
	}
	return d
}

func (p *pace) wait(resync time.Duration) time.Duration {
	if p.streak == 0 {
		return resync
	}
	return min(time.Second<<min(p.streak-1, 5), maxBackoff, max(resync, time.Second))
}

// next is when the loop has to look again by itself.
func (p *pace) next() time.Time {
	if p.held && p.hold.Before(p.due) {
		return p.hold
	}
	return p.due
}
