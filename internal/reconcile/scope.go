package reconcile

import (
	"context"
	"errors"
	"fmt"

	"github.com/flannel-ng/flannel-ng/internal/state"
)

// Scope is what a pass looks at when all else is known to be as it was left.
type Scope struct {
	// Want are the wanted objects in the scope, and every wanted link, because
	// those tell what is ours.
	Want *state.Set
	// Gone were wanted and are not any more. None has a key of a wanted object.
	Gone []state.Object
	// All makes the whole wanted state, for drivers that know no scope and
	// those in doubt.
	All func() *state.Set
	// Local, unless nil, is what stands for All with kinds that no peer has
	// objects of, and costs nothing; nil for other kinds.
	Local func(state.Kind) *state.Set
	// Rest: drivers that know no scope look, too, whatever the scope has.
	Rest bool
}

// Scoped is a Driver that can look at some objects without reading all.
type Scoped interface {
	Driver
	// PlanScope is what Plan would find about the objects of s, and no other.
	// What cannot be told without reading all is ErrDoubt: then there is no
	// answer.
	PlanScope(ctx context.Context, s Scope) ([]Change, error)
}

// ErrDoubt says that a part does not show what is there.
var ErrDoubt = errors.New("all of it must be read")

// kinds are those that s has objects of.
func (s Scope) kinds() map[state.Kind]bool {
	out := map[state.Kind]bool{}
	for o := range s.Want.Objects() {
		out[o.Key().Kind] = true
	}
	delete(out, state.KindLink) // all of them are there, always
	for _, o := range s.Gone {
		out[o.Key().Kind] = true
	}
	return out
}

// all is the wanted state for a driver of that kind.
func (s Scope) all(k state.Kind) *state.Set {
	if s.Local != nil {
		if local := s.Local(k); local != nil {
			return local
		}
	}
	return s.All()
}

// ExecuteScope is Execute for the objects of s alone.
func ExecuteScope(ctx context.Context, drivers []Driver, s Scope, deletes bool) Outcome {
	return Run{Drivers: drivers, Deletes: deletes}.Scope(ctx, s)
}

// Scope is ExecuteScope.
func (r Run) Scope(ctx context.Context, s Scope) Outcome {
	kinds := s.kinds()
	return r.execute(ctx, func(d Driver) ([]Change, error) {
		scoped, ok := d.(Scoped)
		switch {
		case !kinds[d.Kind()] && (ok || !s.Rest):
			return nil, nil
		case !ok:
			return d.Plan(ctx, s.all(d.Kind()))
		}
		changes, err := scoped.PlanScope(ctx, s)
		if errors.Is(err, ErrDoubt) {
			return d.Plan(ctx, s.All())
		}
		return changes, err
	})
}

// Doubt wraps ErrDoubt with its reason.
func Doubt(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrDoubt, fmt.Sprintf(format, args...))
}
