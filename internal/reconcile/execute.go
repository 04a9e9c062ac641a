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

// Execute makes want true: each driver in the order given plans and applies
// its additions and updates; then, if deletes is set, the removals run in
// reverse order of drivers. deletes must be false while the picture behind
// want may be incomplete.
func Execute(ctx context.Context, drivers []Driver, want *state.Set, deletes bool) Outcome {
	var reading time.Duration
	out := execute(ctx, drivers, deletes, func(d Driver) ([]Change, error) {
		if _, ok := d.(Scoped); ok {
			began := time.Now()
			defer func() { reading += time.Since(began) }()
		}
		return d.Plan(ctx, want)
	})
	out.Reading = reading
	return out
}

func execute(ctx context.Context, drivers []Driver, deletes bool, plan func(Driver) ([]Change, error)) Outcome {
	out := Outcome{Unread: map[state.Kind]error{}, More: map[Success]int{}}
	removals := make([][]Change, len(drivers))
	broken := map[string]bool{} // links that are not as wanted
	for i, d := range drivers {
		changes, err := plan(d)
		if err != nil {
			out.Unread[d.Kind()] = errors.Join(out.Unread[d.Kind()], fmt.Errorf("read %s state: %w", d.Kind(), err))
			continue
		}
		puts, removes := split(changes)
		removals[i] = removes
		puts, blocked := block(puts, broken)
		if len(puts)+len(blocked) == 0 {
			continue
		}
		results := d.Apply(ctx, puts)
		for _, r := range results {
			if r.Err != nil && r.Object.Key().Kind == state.KindLink {
				broken[r.Object.Key().Name] = true
			}
		}
		out.add(results)
		out.add(blocked)
	}
	if !deletes {
		return out
	}
	for i, d := range slices.Backward(drivers) {
		if len(removals[i]) > 0 {
			out.add(d.Apply(ctx, removals[i]))
		}
	}
	return out
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
