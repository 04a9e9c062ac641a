// Package reconcile compares what is wanted with what is there, kind by kind,
// and applies the difference in an order in which nothing ever points at
// something missing.
//
// It is pure but for the drivers it calls. It never remembers what it wrote:
// each pass starts from what the drivers read.
package reconcile

import (
	"cmp"
	"context"
	"errors"
	"io"
	"slices"

	"github.com/flannel-ng/flannel-ng/internal/state"
)

// Op is what has to happen to an object.
type Op string

// The operations.
const (
	Add    Op = "add"
	Update Op = "update"
	Remove Op = "remove"
)

// Change is one difference between wanted and found.
type Change struct {
	Op     Op
	Object state.Object // wanted; for Remove, what was found
	Was    string       // for Update, what was found, for people
	Found  state.Object // for Update by Diff, what was found, for the driver
}

// Result is a change and how it went; nil is success.
type Result struct {
	Change
	Err error
}

// Driver makes one kind of object true. Each driver's package says how it
// tells its own objects from foreign ones; it touches no others.
type Driver interface {
	Kind() state.Kind
	// Plan reads everything of its kind and changes nothing. An incomplete
	// reading is an error, never a short answer: absence would mean removal.
	Plan(ctx context.Context, want *state.Set) ([]Change, error)
	// Apply makes the changes, batched where the kernel allows, and returns
	// one result for each, in the order given. One failure never stops the
	// others.
	Apply(ctx context.Context, changes []Change) []Result
}

// Close lets go of what drivers keep open between passes, for those that do
// (io.Closer). What they made stays.
func Close(drivers []Driver) error {
	var errs []error
	for _, d := range drivers {
		if c, ok := d.(io.Closer); ok {
			errs = append(errs, c.Close())
		}
	}
	return errors.Join(errs...)
}

// Each applies changes one by one, for drivers that have no batches.
func Each(ctx context.Context, changes []Change, apply func(Change) error) []Result {
	results := make([]Result, len(changes))
	for i, ch := range changes {
		results[i].Change = ch
		if results[i].Err = ctx.Err(); results[i].Err == nil {
			results[i].Err = apply(ch)
		}
	}
	return results
}

// ErrBlocked is the error of a change that was not tried, because something
// it stands on is not there.
var ErrBlocked = errors.New("blocked")

// Diff compares two maps and returns adds, updates and removes sorted by key
// text. same decides whether found is as wanted.
func Diff[K comparable, W, H state.Object](want map[K]W, have map[K]H, same func(W, H) bool) []Change {
	var out []Change
	for k, w := range want {
		h, ok := have[k]
		switch {
		case !ok:
			out = append(out, Change{Op: Add, Object: w})
		case !same(w, h):
			out = append(out, Change{Op: Update, Object: w, Was: h.String(), Found: h})
		}
	}
	for k, h := range have {
		if _, ok := want[k]; !ok {
			out = append(out, Change{Op: Remove, Object: h})
		}
	}
	Sort(out)
	return out
}

// Sort orders changes for stable plans and batches.
func Sort(cs []Change) {
	slices.SortFunc(cs, func(a, b Change) int { return CompareKeys(a.Object.Key(), b.Object.Key()) })
}

// CompareKeys orders keys without building text.
func CompareKeys(a, b state.Key) int {
	return cmp.Or(
		cmp.Compare(a.Kind, b.Kind),
		cmp.Compare(a.Name, b.Name),
		a.Prefix.Addr().Compare(b.Prefix.Addr()),
		cmp.Compare(a.Prefix.Bits(), b.Prefix.Bits()),
		slices.Compare(a.MAC[:], b.MAC[:]),
	)
}
