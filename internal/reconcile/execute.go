package reconcile

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/flannel-ng/flannel-ng/internal/state"
)

// Outcome is what one execution did.
type Outcome struct {
	// Results has the changes that were tried or blocked, in order of
	// application: all that failed, and of many that succeeded the first.
	Results []Result
	// More counts the successes that Results has not.
	More map[Success]int
	// Held are the differences that were left as they are for now.
	Held []Change
	// Reading is how long the scoped drivers took to read all of their kinds.
	// The others read all in each execution, so that it says what a scope
	// spares.
	Reading time.Duration
	// Unread are kinds that could not be read: nothing of them was changed,
	// and nothing is known of them.
	Unread map[state.Kind]error
}

// Success is a sort of change that was made.
type Success struct {
	Op   Op
	Kind state.Kind
}

// kept is how many successes of a sort and step are kept: a large fabric that
// appears at once would take tens of megabytes until the end of the pass.
const kept = 100

func (o *Outcome) add(results []Result) {
	seen := map[Success]int{}
	for _, r := range results {
		if r.Err == nil {
			s := Success{r.Op, r.Object.Key().Kind}
			if seen[s]++; seen[s] > kept {
				o.More[s]++
				continue
			}
		}
		o.Results = append(o.Results, r)
	}
}

// Size is how many changes were tried or blocked.
func (o Outcome) Size() int {
	n := len(o.Results)
	for _, more := range o.More {
		n += more
	}
	return n
}

// Failed returns the results with an error.
func (o Outcome) Failed() []Result {
	var out []Result
	for _, r := range o.Results {
		if r.Err != nil {
			out = append(out, r)
		}
	}
	return out
}

// Run is how an execution goes.
type Run struct {
	Drivers []Driver
	// Deletes: removals are made, too. It must be false while the picture behind
	// what is wanted may be incomplete.
	Deletes bool
	// Hold, unless nil, leaves a difference as it is: it is not tried, and no
	// failure. What stands on a link that is missing is held with it.
	Hold func(Change) bool
	// Each, unless nil, is told of every change that was tried or blocked, of
	// those too that the outcome only counts.
	Each func(Result)
}

// Execute makes want true: each driver in the order given plans and applies
// its additions and updates; then, if deletes is set, the removals run in
// reverse order of drivers. deletes must be false while the picture behind
// want may be incomplete.
func Execute(ctx context.Context, drivers []Driver, want *state.Set, deletes bool) Outcome {
	return Run{Drivers: drivers, Deletes: deletes}.All(ctx, want)
}

// All is Execute.
func (r Run) All(ctx context.Context, want *state.Set) Outcome {
	var reading time.Duration
	out := r.execute(ctx, func(d Driver) ([]Change, error) {
		if _, ok := d.(Scoped); ok {
			began := time.Now()
			defer func() { reading += time.Since(began) }()
		}
		return d.Plan(ctx, want)
	})
	out.Reading = reading
	return out
}

// under is an execution on its way.
type under struct {
	Run
	out    Outcome
	broken map[string]bool // links that are not as wanted
	held   map[string]bool // links that are missing, and left so
}

func (r Run) execute(ctx context.Context, plan func(Driver) ([]Change, error)) Outcome {
	u := under{
		Run: r, out: Outcome{Unread: map[state.Kind]error{}, More: map[Success]int{}},
		broken: map[string]bool{}, held: map[string]bool{},
	}
	removals := make([][]Change, len(r.Drivers))
	for i, d := range r.Drivers {
		changes, err := plan(d)
		if err != nil {
			u.out.Unread[d.Kind()] = errors.Join(u.out.Unread[d.Kind()], fmt.Errorf("read %s state: %w", d.Kind(), err))
			continue
		}
		puts, removes := split(changes)
		removals[i] = removes
		u.put(ctx, d, puts)
	}
	if !r.Deletes {
		return u.out
	}
	for i, d := range slices.Backward(r.Drivers) {
		if removes := u.hold(removals[i]); len(removes) > 0 {
			u.add(d.Apply(ctx, removes))
		}
	}
	return u.out
}

// put makes additions and updates.
func (u *under) put(ctx context.Context, d Driver, puts []Change) {
	puts, blocked := block(u.hold(puts), u.broken)
	if len(puts)+len(blocked) == 0 {
		return
	}
	results := d.Apply(ctx, puts)
	for _, r := range results {
		if r.Err != nil && r.Object.Key().Kind == state.KindLink {
			u.broken[r.Object.Key().Name] = true
		}
	}
	u.add(results)
	u.add(blocked)
}

func (u *under) add(results []Result) {
	u.out.add(results)
	if u.Each == nil {
		return
	}
	for _, r := range results {
		u.Each(r)
	}
}

// hold takes away what is to be left as it is.
func (u *under) hold(changes []Change) []Change {
	if u.Hold == nil {
		return changes
	}
	return slices.DeleteFunc(changes, func(c Change) bool {
		if !u.held[state.On(c.Object)] && !u.Hold(c) {
			return false
		}
		if k := c.Object.Key(); k.Kind == state.KindLink && c.Op == Add {
			u.held[k.Name] = true
		}
		u.out.Held = append(u.out.Held, c)
		return true
	})
}

// Plan reads what would be changed, and changes nothing.
func Plan(ctx context.Context, drivers []Driver, want *state.Set) ([]Change, error) {
	var all []Change
	var errs []error
	for _, d := range drivers {
		changes, err := d.Plan(ctx, want)
		if err != nil {
			errs = append(errs, fmt.Errorf("read %s state: %w", d.Kind(), err))
		}
		all = append(all, changes...)
	}
	return all, errors.Join(errs...)
}

func split(changes []Change) (puts, removes []Change) {
	if !slices.ContainsFunc(changes, func(c Change) bool { return c.Op == Remove }) {
		return changes, nil // as at a start, with all of a large fabric
	}
	for _, c := range changes {
		if c.Op == Remove {
			removes = append(removes, c)
		} else {
			puts = append(puts, c)
		}
	}
	return puts, removes
}

// block keeps back changes on links that are broken: trying 60,000 objects on
// a missing device would only bury the one error that matters.
func block(changes []Change, broken map[string]bool) (free []Change, blocked []Result) {
	if len(broken) == 0 {
		return changes, nil
	}
	for _, c := range changes {
		if link := state.On(c.Object); link != "" && broken[link] {
			blocked = append(blocked, Result{Change: c, Err: fmt.Errorf("link %s: %w", link, ErrBlocked)})
			continue
		}
		free = append(free, c)
	}
	return free, blocked
}
