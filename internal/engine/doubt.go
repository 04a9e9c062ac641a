package engine

import (
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/flannel-ng/flannel-ng/internal/state"
)

const (
	// suspectLimit is how many single objects are looked at; more of them are a
	// doubt about all.
	suspectLimit = 256
	// accusedLimit and accusedLength bound what is told about who did it.
	accusedLimit, accusedLength = 4, 120
)

// doubts are what bells said since they were last answered. They are safe for
// concurrent use.
type doubts struct {
	mu   sync.Mutex
	all  doubt
	rest doubt // about kinds without a scope
	of   map[state.Key]doubt
}

// doubt is who may have changed something, and since when that is known.
type doubt struct {
	since time.Time // zero: nobody told
	by    []string  // a few, for people
}

// and adds another word about the same.
func (d doubt) and(o doubt) doubt {
	if d.since.IsZero() || !o.since.IsZero() && o.since.Before(d.since) {
		d.since = o.since
	}
	for _, by := range o.by {
		if len(d.by) < accusedLimit && !slices.Contains(d.by, by) {
			d.by = append(slices.Clip(d.by), by)
		}
	}
	return d
}

// String names who it was; "" if nobody knows.
func (d doubt) String() string {
	switch len(d.by) {
	case 0:
		return ""
	case 1:
		return d.by[0]
	default:
		return "one of: " + strings.Join(d.by, ", ")
	}
}

func accuse(by string, at time.Time) doubt {
	d := doubt{since: at}
	if len(by) > accusedLength {
		by = strings.ToValidUTF8(by[:accusedLength], "") + "…"
	}
	if by != "" {
		d.by = []string{by}
	}
	return d
}

// ring notes a doubt about all.
func (d *doubts) ring(by string, at time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.all = d.all.and(accuse(by, at))
}

// tell notes a doubt about what drivers without a scope look after.
func (d *doubts) tell(by string, at time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.rest = d.rest.and(accuse(by, at))
}

// suspect notes a doubt about one object. False: there are too many of them, it
// is a doubt about all.
func (d *doubts) suspect(k state.Key, by string, at time.Time) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, known := d.of[k]; !known && len(d.of) >= suspectLimit {
		d.all = d.all.and(accuse(by, at))
		return false
	}
	if d.of == nil {
		d.of = map[state.Key]doubt{}
	}
	d.of[k] = d.of[k].and(accuse(by, at))
	return true
}

// take hands over the suspects, the doubt about all if that is to be answered,
// too, and that about the rest.
func (d *doubts) take(all, rest bool) told {
	d.mu.Lock()
	defer d.mu.Unlock()
	t := told{of: d.of}
	d.of = nil
	if all {
		t.all, d.all = d.all, doubt{}
	}
	if all || rest {
		t.rest, d.rest = d.rest, doubt{}
	}
	return t
}

// told is what a pass was told.
type told struct {
	all, rest doubt
	of        map[state.Key]doubt
}

// about is what was told about an object, of a kind with a scope or without.
func (t told) about(k state.Key, scoped bool) doubt {
	if d, ok := t.of[k]; ok {
		return d
	}
	if scoped {
		return t.all
	}
	return t.rest.and(t.all)
}
