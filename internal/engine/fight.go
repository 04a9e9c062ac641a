package engine

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/flannel-ng/flannel-ng/internal/reconcile"
	"github.com/flannel-ng/flannel-ng/internal/state"
)

const (
	// fightRepairs of one object within fightWindow are a fight: its next repair
	// waits, and each further one twice as long, up to fightLongest.
	fightRepairs = 6
	fightWindow  = 5 * time.Second
	fightLongest = 30 * time.Second
	// fightSlow repairs, none later than fightCalm after the one before, are told
	// as one, too, but not delayed: they cost little.
	fightSlow = 8
	// fightCalm is how long an object must stay right, beyond what its repair
	// last waited, for all that to be forgotten.
	fightCalm = 20 * time.Second
	// fightLimit bounds what is remembered. What is beyond it is one fight for
	// each kind of object.
	fightLimit = 4096
)

// fights remembers which objects are undone again and again, so that repairing
// them keeps neither the host busy nor others waiting. It knows no clock.
type fights map[state.Key]*fight

// fight is what is known of one object that was repaired lately.
type fight struct {
	object  state.Object
	many    bool   // not only that one
	by      string // who undid it last, if known
	times   int    // repairs since it was last left alone
	recent  [fightRepairs]time.Time
	since   time.Time     // it is wrong since then, and left so; zero: it is right
	missing bool          // that is, not there at all
	wait    time.Duration // of the last repair
}

func (f *fight) last() time.Time { return f.recent[0] }

// next is before when it is not repaired.
func (f *fight) next() time.Time { return f.last().Add(f.wait) }

// contested says whether people are to be told.
func (f *fight) contested() bool { return f.wait > 0 || f.times >= fightSlow }

// key is what an object is remembered by.
func (fs fights) key(k state.Key) state.Key {
	if fs[k] == nil && len(fs) >= fightLimit {
		return state.Key{Kind: k.Kind}
	}
	return k
}

// holds says whether the object has to wait for its repair.
func (fs fights) holds(k state.Key, now time.Time) bool {
	f := fs[fs.key(k)]
	return f != nil && now.Before(f.next())
}

// misses says whether the object was found missing, and has to wait.
func (fs fights) misses(k state.Key, now time.Time) bool {
	f := fs[k]
	return f != nil && f.missing && !f.since.IsZero() && now.Before(f.next())
}

// left takes in what a pass found wrong and left so. Of the other objects that
// it looked at, none is wrong.
func (fs fights) left(held []reconcile.Change, looked func(state.Key) bool, now time.Time) {
	wrong := map[state.Key]bool{}
	for _, c := range held {
		k := fs.key(c.Object.Key())
		wrong[k] = true
		if f := fs[k]; f != nil {
			f.missing = c.Op == reconcile.Add
			if f.since.IsZero() {
				f.since = now
			}
		}
	}
	for k, f := range fs {
		if !f.since.IsZero() && !wrong[k] && looked(k) {
			f.since = time.Time{}
		}
	}
}

// waiting are the objects that were found wrong and left so.
func (fs fights) waiting() map[state.Key]*fight {
	out := map[state.Key]*fight{}
	for k, f := range fs {
		if !f.since.IsZero() {
			out[k] = f
		}
	}
	return out
}

// repaired notes a repair. It returns since when the object was left wrong, zero
// if it was not, and whether its fight begins with this.
func (fs fights) repaired(o state.Object, by string, now time.Time) (since time.Time, begins bool) {
	k := fs.key(o.Key())
	f := fs[k]
	if f == nil {
		f = &fight{object: o, many: k != o.Key()}
		fs[k] = f
	}
	since, f.since = f.since, time.Time{}
	if now.Equal(f.last()) {
		return since, false // the same pass, another object of the many
	}
	before := f.contested()
	if !now.Before(f.next().Add(fightCalm)) {
		f.times, f.wait, f.recent = 0, 0, [fightRepairs]time.Time{}
	}
	copy(f.recent[1:], f.recent[:])
	f.recent[0], f.by = now, cmp.Or(by, f.by)
	f.times++
	switch oldest := f.recent[fightRepairs-1]; {
	case f.wait > 0:
		f.wait = min(2*f.wait, fightLongest)
	case !oldest.IsZero() && now.Sub(oldest) <= fightWindow:
		f.wait = time.Second
	}
	return since, f.contested() && !before
}

// forget lets go of what was left alone for long enough, and returns the fights
// that ended so.
func (fs fights) forget(now time.Time) []*fight {
	var ended []*fight
	for k, f := range fs {
		if !f.since.IsZero() || now.Before(f.next().Add(fightCalm)) {
			continue
		}
		delete(fs, k)
		if f.contested() {
			ended = append(ended, f)
		}
	}
	slices.SortFunc(ended, compareFights)
	return ended
}

// next is when an object that was left wrong may be repaired, or a fight be over;
// zero: there is none.
func (fs fights) next() time.Time {
	var out time.Time
	for _, f := range fs {
		at := f.next()
		switch {
		case !f.since.IsZero():
		case f.contested():
			at = at.Add(fightCalm)
		default:
			continue
		}
		if out.IsZero() || at.Before(out) {
			out = at
		}
	}
	return out
}

// contested lists the fights, the longest first.
func (fs fights) contested() []*fight {
	var out []*fight
	for _, f := range fs {
		if f.contested() {
			out = append(out, f)
		}
	}
	slices.SortFunc(out, compareFights)
	return out
}

func compareFights(a, b *fight) int {
	return cmp.Or(cmp.Compare(b.times, a.times), strings.Compare(a.name(), b.name()))
}

// shownFights bounds the warnings about fights.
const shownFights = 5

// warnings names them for people.
func (fs fights) warnings(now time.Time) []string {
	var out []string
	all := fs.contested()
	for i, f := range all {
		if i == shownFights {
			return append(out, fmt.Sprintf("%d more objects are undone again and again", len(all)-i))
		}
		s := f.String()
		if !f.since.IsZero() {
			s += fmt.Sprintf(": next attempt in %s", max(f.next().Sub(now), 0).Round(time.Second))
		}
		out = append(out, s+"; look for what else on this host manages such objects")
	}
	return out
}

func (f *fight) name() string {
	if f.many {
		return "one " + string(f.object.Key().Kind) + " or another, like " + f.object.String() + ","
	}
	return f.object.String()
}

func (f *fight) String() string {
	s := fmt.Sprintf("%s is undone again and again (%d times", f.name(), f.times)
	if f.by != "" {
		s += ", last by " + f.by
	}
	return s + ")"
}
