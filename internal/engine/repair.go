package engine

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/flannel-ng/flannel-ng/internal/reconcile"
	"github.com/flannel-ng/flannel-ng/internal/report"
	"github.com/flannel-ng/flannel-ng/internal/state"
)

// settleLatest is how long, at most, a start or a new shape of the host takes to
// come to rest: until then nothing that is changed is a repair.
const settleLatest = 10 * time.Second

// repair is what tells a repair from what was asked for.
type repair struct {
	// settled: all was as it should be once, since stirred.
	settled bool
	stirred time.Time
	// all is when everything was read last, rest when the kinds without a scope
	// were.
	all, rest time.Time
	// owed are repairs that failed, and since when they are due.
	owed map[state.Key]time.Time
}

// stir says that what follows is asked for.
func (r *repair) stir(now time.Time) { r.settled, r.stirred = false, now }

// before is what a pass finds as the last one left it.
type before struct {
	host    host
	trusted bool
	failing map[state.Key]reconcile.Result
	repair  repair
	// asked are the objects whose wanted state is another now; all: too many, or
	// nothing is settled yet.
	asked map[state.Key]bool
	all   bool
}

// lookBack finds what the pass is asked for.
func (e *Engine) lookBack(p *passed) {
	b := before{host: e.mirror.host, trusted: e.mirror.trusted, failing: e.failing, asked: map[state.Key]bool{}}
	for _, list := range [][]state.Object{p.delta.put, p.delta.gone} {
		for _, o := range list {
			b.asked[o.Key()] = true
		}
	}
	if !p.host.equal(b.host) {
		if b.host.keys == nil || !slices.Equal(p.host.set.Links, b.host.set.Links) {
			e.repair.stir(p.start) // what stands on them follows
		}
		b.differ(p.host)
	}
	if p.delta.more {
		e.repair.stir(p.start)
	}
	if p.host.file != b.host.file {
		b.asked[p.host.file.Key()] = true
	}
	if e.mirror.known && p.start.Sub(e.repair.stirred) > settleLatest {
		e.repair.settled = true
	}
	b.repair, b.all = e.repair, !e.repair.settled
	p.before = b
}

// differ notes which of the host's own objects are wanted otherwise than before.
func (b *before) differ(now host) {
	was := map[state.Key]state.Object{}
	for o := range b.host.set.Objects() {
		was[o.Key()] = o
	}
	for o := range now.set.Objects() {
		k := o.Key()
		if w, ok := was[k]; !ok || !same(w, o) {
			b.asked[k] = true
		}
		delete(was, k)
	}
	for k := range was {
		b.asked[k] = true
	}
}

// drift says whether nobody asked for the change: the object was as it should be,
// and is not any more. What hooks run is their own affair.
func (b *before) drift(c reconcile.Change) bool {
	k := c.Object.Key()
	if b.all || k.Kind == state.KindHook || b.asked[k] || c.Op == reconcile.Remove && !b.trusted {
		return false
	}
	if _, failed := b.failing[k]; failed {
		_, owed := b.repair.owed[k]
		return owed
	}
	return true
}

// repaired is what a pass repaired.
type repaired struct {
	lines []string // the first few
	more  map[state.Kind]int
	count int // of those that are not fought for
	// fought counts repairs of what is undone again and again.
	fought int
	begun  []*fight
}

// hold says whether a change has to wait.
func (e *Engine) hold(p *passed) func(reconcile.Change) bool {
	return func(c reconcile.Change) bool {
		if link := state.On(c.Object); link != "" && e.fights.misses(state.Link{Name: link}.Key(), p.start) {
			return true // whoever asked for it
		}
		return p.before.drift(c) && e.fights.holds(c.Object.Key(), p.start)
	}
}

// each takes in one change that was tried.
func (e *Engine) each(p *passed) func(reconcile.Result) {
	return func(r reconcile.Result) {
		if p.before.drift(r.Change) {
			e.repaired(p, r)
		}
	}
}

func (e *Engine) repaired(p *passed, r reconcile.Result) {
	k := r.Object.Key()
	told := p.told.about(k, e.scoped[k.Kind])
	if k.Kind == state.KindFile || k.Kind == state.KindSysctl {
		told = doubt{} // no bell rings for them
	}
	since, owed := e.repair.owed[k]
	if !owed {
		since = told.since
	}
	if since.IsZero() {
		if since = p.before.repair.rest; e.scoped[k.Kind] {
			since = p.before.repair.all
		}
	}
	if r.Err != nil {
		if !owed {
			e.repair.owed[k] = since
			e.count(k.Kind, func(c *report.Repairs) { c.Found++ })
		}
		return
	}
	delete(e.repair.owed, k)
	waited, begins := e.fights.repaired(r.Object, told.String(), p.start)
	if !waited.IsZero() {
		since = waited
	}
	e.count(k.Kind, func(c *report.Repairs) {
		if !owed {
			c.Found++
		}
		done(c, time.Since(since))
	})
	f := e.fights[e.fights.key(k)]
	if begins {
		p.repaired.begun = append(p.repaired.begun, f)
	}
	if f.wait > 0 {
		p.repaired.fought++
		return
	}
	p.repaired.add(r, told.String())
}

func (e *Engine) count(k state.Kind, change func(*report.Repairs)) {
	c := e.base.Pass.Repairs[string(k)]
	c.Within = slices.Clone(c.Within) // the last report has it
	change(&c)
	e.base.Pass.Repairs[string(k)] = c
}

func done(c *report.Repairs, took time.Duration) {
	bounds := report.RepairBounds()
	if c.Within == nil {
		c.Within = make([]int64, len(bounds))
	}
	for i, bound := range bounds {
		if took <= bound {
			c.Within[i]++
		}
	}
	c.Done++
	c.Took += took
}

func (p *repaired) add(r reconcile.Result, by string) {
	p.count++
	if len(p.lines) < fewLines {
		p.lines = append(p.lines, describeRepair(r, by))
		return
	}
	if p.more == nil {
		p.more = map[state.Kind]int{}
	}
	p.more[r.Object.Key().Kind]++
}

func describeRepair(r reconcile.Result, by string) string {
	var s string
	switch r.Op {
	case reconcile.Remove:
		s = "removed " + r.Object.String() + ": it does not belong there"
	case reconcile.Update:
		s = "restored " + r.Object.String() + ": it was " + r.Was
	default:
		s = "restored " + r.Object.String() + ": it was gone"
	}
	if by != "" {
		s += "; done by " + by
	}
	return s
}

// noteRepairs tells of what a pass repaired, and keeps for the next what it has
// to know.
func (e *Engine) noteRepairs(p *passed) {
	e.tellRepairs(p.repaired)
	e.noteFights(p)
	for k := range e.repair.owed {
		if _, failing := e.failing[k]; !failing {
			delete(e.repair.owed, k)
		}
	}
	rest := p.whole || p.scope.Rest
	if p.whole {
		e.repair.all = p.start
	}
	if rest {
		e.repair.rest = p.start
	}
	if rest && e.mirror.known && p.out.Size() == 0 {
		e.repair.settled = true
	}
	p.fought = len(p.out.Held)+p.repaired.fought > 0 && p.out.Size() == p.repaired.fought
}

func (e *Engine) tellRepairs(r repaired) {
	if r.count == 0 {
		return
	}
	e.cfg.Log.Warn("repaired what was not as it was left", "count", r.count, "first", r.lines[0])
	for _, line := range r.lines {
		e.cfg.Event("repair", line)
	}
	if len(r.more) > 0 {
		var parts []string
		for k, n := range r.more {
			parts = append(parts, fmt.Sprintf("%d × %s", n, k))
		}
		slices.Sort(parts)
		e.cfg.Event("repair", "restored or removed besides: "+strings.Join(parts, ", "))
	}
}

// noteFights tells of fights that begin and end, of a few by name.
func (e *Engine) noteFights(p *passed) {
	begun, ended := p.repaired.begun, e.fights.forget(p.start)
	for _, f := range begun[:min(len(begun), fewLines)] {
		e.cfg.Log.Warn("undone again and again, repaired less and less often", "object", f.name(), "times", f.times, "by", f.by)
		e.cfg.Event("fight", f.String()+": repaired less and less often from now on")
	}
	if more := len(begun) - fewLines; more > 0 {
		e.cfg.Log.Warn("more objects are undone again and again", "count", more)
		e.cfg.Event("fight", fmt.Sprintf("%d more objects are undone again and again", more))
	}
	for _, f := range ended[:min(len(ended), fewLines)] {
		e.cfg.Log.Info("left alone again", "object", f.name(), "repairs", f.times)
		e.cfg.Event("fight", fmt.Sprintf("%s is left alone again, after %d repairs", f.name(), f.times))
	}
	if more := len(ended) - fewLines; more > 0 {
		e.cfg.Log.Info("more objects are left alone again", "count", more)
		e.cfg.Event("fight", fmt.Sprintf("%d more objects are left alone again", more))
	}
}

// looked says which objects a pass looked at.
func (p *passed) looked(e *Engine) func(state.Key) bool {
	var inside map[state.Key]bool
	return func(k state.Key) bool {
		switch _, unread := p.out.Unread[k.Kind]; {
		case unread:
			return false
		case p.whole:
			return true
		case !e.scoped[k.Kind] && p.scope.Rest:
			return true
		}
		if inside == nil {
			inside = p.keys()
		}
		return inside[k]
	}
}

// contestedOwn says which of the host's own objects are missing, because somebody
// removes them again and again.
func (e *Engine) contestedOwn(h host) []string {
	var out []string
	for k, f := range e.fights.waiting() {
		if f.missing && h.keys[k] && !state.Dispensable(f.object) {
			out = append(out, f.name()+" is missing: it is removed again and again")
		}
	}
	slices.Sort(out)
	return out
}
