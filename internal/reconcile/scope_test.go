package reconcile_test

import (
	"slices"
	"testing"

	"github.com/flannel-ng/flannel-ng/internal/reconcile"
	"github.com/flannel-ng/flannel-ng/internal/reconcile/reconciletest"
	"github.com/flannel-ng/flannel-ng/internal/state"
)

func scopeOf(all *state.Set, peers ...byte) reconcile.Scope {
	s := reconcile.Scope{Want: &state.Set{Links: all.Links}, All: func() *state.Set { return all }}
	for _, i := range peers {
		s.Want.Append(peer(i))
	}
	return s
}

// A driver that knows scopes looks at the part; one that does not looks at all,
// and only if the part concerns it or it is told to.
func TestScope(t *testing.T) {
	var log []string
	link, neigh, route, _ := host(t, &log)
	part := &reconciletest.Scoped{Memory: route}
	drivers := []reconcile.Driver{link, neigh, part}
	reconcile.Execute(t.Context(), drivers, want(1, 2), true)
	for _, c := range []struct {
		name    string
		scope   reconcile.Scope
		gone    byte
		rest    bool
		doubt   bool
		changes int
		whole   int64
	}{
		{name: "one more", scope: scopeOf(want(1, 2, 3), 3), changes: 2},
		{name: "one less", scope: scopeOf(want(1, 2)), gone: 3, changes: 2},
		{name: "nothing", scope: scopeOf(want(1, 2))},
		{name: "doubt", scope: scopeOf(want(1, 2, 4), 4), doubt: true, changes: 2, whole: 1},
		{name: "the rest is looked at", scope: scopeOf(&state.Set{}), rest: true, changes: 4},
	} {
		log = nil
		part.Whole.Store(0)
		part.Doubt.Store(c.doubt)
		c.scope.Rest = c.rest
		if c.gone != 0 {
			gone := peer(c.gone)
			c.scope.Gone = slices.Collect(gone.Objects())
		}
		out := reconcile.ExecuteScope(t.Context(), drivers, c.scope, true)
		if out.Size() != c.changes || len(log) != c.changes || part.Whole.Load() != c.whole {
			t.Errorf("%s: %q, %d whole plans of routes; want %d changes, %d plans", c.name, log, part.Whole.Load(), c.changes, c.whole)
		}
	}
	if len(route.Have()) != 3 {
		t.Errorf("routes that no scope had are touched: %v", route.Have())
	}
}

func TestManyResultsAreCounted(t *testing.T) {
	mem := &reconciletest.Memory{Of: state.KindNeighbour, Refuse: func(c reconcile.Change) error {
		if c.Object.Key() == peer(7).Neighbours[0].Key() {
			return errRefused
		}
		return nil
	}}
	var all state.Set
	for i := range 250 {
		all.Append(state.Set{Neighbours: peer(byte(i)).Neighbours})
	}
	out := reconcile.Execute(t.Context(), []reconcile.Driver{mem}, &all, true)
	if out.Size() != 250 || len(out.Results) >= 250 || len(out.Failed()) != 1 {
		t.Errorf("%d results, %d of them kept, failed %v", out.Size(), len(out.Results), out.Failed())
	}
}

// A driver without a scope is spared the whole state where peers have no part in
// its kind.
func TestLocalStandsForAll(t *testing.T) {
	var log []string
	link, neigh, _, _ := host(t, &log)
	s := scopeOf(&state.Set{})
	s.Rest = true
	s.Local = func(k state.Kind) *state.Set {
		if k == state.KindLink {
			return &state.Set{Links: []state.Link{{Name: "flannel.1"}}}
		}
		return nil
	}
	all := 0
	s.All = func() *state.Set { all++; return want(1) }
	reconcile.ExecuteScope(t.Context(), []reconcile.Driver{link}, s, true)
	if all != 0 || len(link.Have()) != 1 {
		t.Errorf("all was made %d times; links %v", all, link.Have())
	}
	reconcile.ExecuteScope(t.Context(), []reconcile.Driver{link, neigh}, s, true)
	if all != 1 || len(neigh.Have()) != 1 {
		t.Errorf("all was made %d times; neighbours %v", all, neigh.Have())
	}
}
