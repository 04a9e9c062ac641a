package drivertest

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/flannel-ng/flannel-ng/internal/driver/link"
	"github.com/flannel-ng/flannel-ng/internal/reconcile"
	"github.com/flannel-ng/flannel-ng/internal/state"
)

// Subject is a driver under test.
type Subject struct {
	New func(f Fabric) reconcile.Driver
	// TUN shows the driver fabrics on a TUN device.
	TUN bool
	// Peers is how many the suite uses where it needs many.
	Peers int
	// Steal is commands that take away or alter objects of FabricOf(1), each
	// to be noticed and mended by itself.
	Steal []string
	// Prepare is commands that come before Litter, on the bare host.
	Prepare string
	// Litter is commands that leave behind objects that FabricOf(1) does not
	// want but owns.
	Litter []string
	// Bad adds one object that cannot be made.
	Bad func(f Fabric, s *state.Set)
}

// fabric is FabricOf of the kind that the subject is shown.
func (s Subject) fabric(id uint8) Fabric {
	f := FabricOf(id)
	f.TUN = s.TUN
	return f
}

// Conformance runs the suite.
func Conformance(t *testing.T, s Subject) {
	t.Helper()
	for name, test := range map[string]func(*testing.T, Subject){
		"apply twice is apply once":                 twice,
		"what is stolen comes back":                 stolen,
		"leftovers go":                              leftovers,
		"foreign objects stay":                      foreign,
		"owners leave each other alone":             twoOwners,
		"one bad object fails alone":                oneBad,
		"a reading that fails is no empty host":     failedReading,
		"without a host to work on nothing is left": closing,
		"a part is planned as in the whole":         scoped,
	} {
		t.Run(name, func(t *testing.T) {
			Namespace(t)
			test(t, s)
		})
	}
}

// Apply plans and applies, additions first, and returns what failed.
func Apply(tb testing.TB, d reconcile.Driver, want *state.Set) []reconcile.Result {
	tb.Helper()
	mustBeAway(tb)
	out := reconcile.Execute(tb.Context(), []reconcile.Driver{d}, want, true)
	for kind, err := range out.Unread {
		tb.Fatalf("read %s: %v", kind, err)
	}
	return out.Failed()
}

// MustApply is Apply where nothing may fail.
func MustApply(tb testing.TB, d reconcile.Driver, want *state.Set) {
	tb.Helper()
	for _, r := range Apply(tb, d, want) {
		tb.Errorf("%s %s: %v", r.Op, r.Object, r.Err)
	}
	if tb.Failed() {
		tb.FailNow()
	}
}

// MustBeDone fails if the driver would change anything.
func MustBeDone(tb testing.TB, d reconcile.Driver, want *state.Set) {
	tb.Helper()
	for _, c := range MustPlan(tb, d, want) {
		tb.Errorf("still to do: %s %s (was: %s)", c.Op, c.Object, c.Was)
	}
}

// MustPlan is a plan that must be readable.
func MustPlan(tb testing.TB, d reconcile.Driver, want *state.Set) []reconcile.Change {
	tb.Helper()
	changes, err := d.Plan(tb.Context(), want)
	if err != nil {
		tb.Fatal(err)
	}
	return changes
}

// Ground makes the links of a fabric, for drivers of what stands on them.
func Ground(tb testing.TB, f Fabric) {
	tb.Helper()
	MustApply(tb, link.New(f.Owner), f.Local())
}

func twice(t *testing.T, s Subject) {
	t.Helper()
	f := s.fabric(1)
	d, want := s.New(f), f.With(s.Peers)
	Ground(t, f)
	MustApply(t, d, want)
	MustBeDone(t, d, want)
}

func stolen(t *testing.T, s Subject) {
	t.Helper()
	f := s.fabric(1)
	d, want := s.New(f), f.With(3)
	for _, command := range s.Steal {
		Ground(t, f)
		MustApply(t, d, want)
		Run(t, command)
		if len(MustPlan(t, d, want)) == 0 {
			t.Errorf("not noticed: %s", command)
		}
		Ground(t, f)
		MustApply(t, d, want)
		MustBeDone(t, d, want)
	}
}

func leftovers(t *testing.T, s Subject) {
	t.Helper()
	f := s.fabric(1)
	d := s.New(f)
	Run(t, s.Prepare)
	Ground(t, f)
	MustApply(t, d, f.With(3))
	before := len(Foreign(t))
	for _, command := range s.Litter {
		Run(t, command)
	}
	changes := MustPlan(t, d, f.With(3))
	removals := slices.DeleteFunc(slices.Clone(changes), func(c reconcile.Change) bool { return c.Op != reconcile.Remove })
	if len(removals) != len(s.Litter) || len(changes) != len(s.Litter) {
		t.Errorf("want %d removals and nothing else, got %v", len(s.Litter), changes)
	}
	MustApply(t, d, f.With(3))
	MustBeDone(t, d, f.With(3))
	MustApply(t, d, f.With(1))
	MustBeDone(t, d, f.With(1))
	if after := len(Foreign(t)); after != before {
		t.Errorf("%d foreign objects became %d", before, after)
	}
}

func foreign(t *testing.T, s Subject) {
	t.Helper()
	f := s.fabric(1)
	d := s.New(f)
	Ground(t, f)
	before := Foreign(t)
	for _, want := range []*state.Set{f.With(5), f.With(2), f.Local(), {Links: f.Local().Links}} {
		MustApply(t, d, want)
		if after := Foreign(t); !slices.Equal(before, after) {
			t.Fatalf("foreign objects changed:\n%q\n%q", before, after)
		}
	}
}

func twoOwners(t *testing.T, s Subject) {
	t.Helper()
	one, two := s.fabric(1), s.fabric(2)
	d1, d2 := s.New(one), s.New(two)
	Ground(t, one)
	Ground(t, two)
	MustApply(t, d1, one.With(3))
	MustApply(t, d2, two.With(3))
	MustBeDone(t, d1, one.With(3))
	MustApply(t, d1, &state.Set{Links: one.Local().Links})
	MustBeDone(t, d2, two.With(3))
	MustApply(t, d1, one.With(3))
	MustApply(t, d2, &state.Set{Links: two.Local().Links})
	MustBeDone(t, d1, one.With(3))
	// Told the other's device by mistake, it takes nothing away.
	mixed := &state.Set{Links: two.Local().Links}
	for _, r := range Apply(t, d1, mixed) {
		if r.Op != reconcile.Remove && r.Err == nil {
			t.Errorf("touched what is another's: %s %s", r.Op, r.Object)
		}
	}
	Ground(t, two)
	MustApply(t, d2, two.With(3))
	Apply(t, d1, mixed)
	MustBeDone(t, d2, two.With(3))
}

func oneBad(t *testing.T, s Subject) {
	t.Helper()
	f := s.fabric(1)
	d, want := s.New(f), f.With(s.Peers)
	Ground(t, f)
	s.Bad(f, want)
	if failed := Apply(t, d, want); len(failed) != 1 {
		t.Errorf("want one failure, got %v", failed)
	}
	if left := MustPlan(t, d, want); len(left) != 1 {
		t.Errorf("want one object missing, got %v", left)
	}
}

func failedReading(t *testing.T, s Subject) {
	t.Helper()
	f := s.fabric(1)
	d, want := s.New(f), f.With(3)
	Ground(t, f)
	MustApply(t, d, want)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	changes, err := d.Plan(ctx, want)
	if !errors.Is(err, context.Canceled) || len(changes) > 0 {
		t.Errorf("want no plan and an error, got %v, %v", changes, err)
	}
}

// closing leaves links in place and everything else to the driver: with
// nothing wanted, nothing of ours remains.
func closing(t *testing.T, s Subject) {
	t.Helper()
	f := s.fabric(1)
	d := s.New(f)
	Ground(t, f)
	MustApply(t, d, f.With(3))
	MustApply(t, d, &state.Set{Links: f.Local().Links})
	MustBeDone(t, d, &state.Set{Links: f.Local().Links})
}
