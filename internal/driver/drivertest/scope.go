package drivertest

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/flannel-ng/flannel-ng/internal/reconcile"
	"github.com/flannel-ng/flannel-ng/internal/state"
)

// scoped: what a driver says of some objects alone is what it says of them when
// it reads all. Doubt is no answer, and never wrong; but of a host that nobody
// meddles with there is none.
func scoped(t *testing.T, s Subject) {
	t.Helper()
	f := s.fabric(1)
	d, ok := s.New(f).(reconcile.Scoped)
	if !ok {
		return // it reads all, always
	}
	r := rand.New(rand.NewPCG(5, 6))
	Ground(t, f)
	for _, step := range []struct{ peers, before int }{{9, 0}, {9, 9}, {4, 9}, {7, 9}} {
		for range 8 {
			if err := samePart(t, d, part(r, d.Kind(), f, [2]int{step.before, step.peers})); err != nil {
				t.Errorf("%d peers after %d: %v", step.peers, step.before, err)
			}
		}
		MustApply(t, d, f.With(max(step.peers, step.before)))
	}
	for _, command := range s.Steal {
		Ground(t, f)
		MustApply(t, d, f.With(7))
		Run(t, command)
		for range 4 {
			if err := samePart(t, d, part(r, d.Kind(), f, [2]int{7, 3})); err != nil && !errors.Is(err, reconcile.ErrDoubt) {
				t.Errorf("%s: %v", command, err)
			}
		}
	}
	Ground(t, f)
	MustApply(t, d, f.With(5))
	halves(t, d, f)
}

// halves: from five peers to another five by parts alone.
func halves(t *testing.T, d reconcile.Scoped, f Fabric) {
	t.Helper()
	want := f.With(9)
	for o := range f.With(9).Objects() {
		if o.Key().Kind != d.Kind() {
			continue
		}
		s := reconcile.Scope{Want: &state.Set{Links: want.Links}, All: func() *state.Set { return f.With(9) }}
		s.Want.Add(o)
		out := reconcile.ExecuteScope(t.Context(), []reconcile.Driver{d}, s, true)
		if len(out.Failed())+len(out.Unread) > 0 {
			t.Fatalf("%s: %v, %v", o, out.Failed(), out.Unread)
		}
	}
	var left []reconcile.Change
	for _, c := range MustPlan(t, d, want) {
		if wanted(want)[c.Object.Key()] {
			left = append(left, c)
		}
	}
	if len(left) > 0 {
		t.Errorf("parts leave to do: %v", left)
	}
}

func wanted(s *state.Set) map[state.Key]bool {
	out := map[state.Key]bool{}
	for o := range s.Objects() {
		out[o.Key()] = true
	}
	return out
}

// part is a kind's objects of some peers: of those that there are, and of those
// that there were before. peers counts both, those before first.
func part(r *rand.Rand, kind state.Kind, f Fabric, peers [2]int) reconcile.Scope {
	want := f.With(peers[1])
	s := reconcile.Scope{Want: &state.Set{Links: want.Links}, All: func() *state.Set { return want }}
	keys, local := wanted(want), wanted(f.Local())
	for o := range want.Objects() {
		if o.Key().Kind == kind && !local[o.Key()] && r.IntN(3) == 0 {
			s.Want.Add(o)
		}
	}
	for o := range f.With(peers[0]).Objects() {
		if o.Key().Kind == kind && !keys[o.Key()] && r.IntN(3) > 0 {
			s.Gone = append(s.Gone, o)
		}
	}
	return s
}

// samePart compares the plan of s with that part of the plan of all.
func samePart(t *testing.T, d reconcile.Scoped, s reconcile.Scope) error {
	t.Helper()
	got, err := d.PlanScope(t.Context(), s)
	if err != nil {
		return err
	}
	inside := wanted(s.Want)
	for _, o := range s.Gone {
		inside[o.Key()] = true
	}
	want := slices.DeleteFunc(MustPlan(t, d, s.All()), func(c reconcile.Change) bool { return !inside[c.Object.Key()] })
	if texts(got) != texts(want) {
		return fmt.Errorf("the part says\n%s\nand the whole\n%s", texts(got), texts(want)) //nolint:err113 // for people
	}
	return nil
}

func texts(cs []reconcile.Change) string {
	var out strings.Builder
	for _, c := range cs {
		fmt.Fprintf(&out, "%s %s (was %s)\n", c.Op, c.Object, c.Was)
	}
	return out.String()
}
