package reconcile_test

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/flannel-ng/flannel-ng/internal/reconcile"
	"github.com/flannel-ng/flannel-ng/internal/reconcile/reconciletest"
	"github.com/flannel-ng/flannel-ng/internal/state"
)

var errRefused = errors.New("refused")

func host(t *testing.T, log *[]string) (link, neigh, route *reconciletest.Memory, all []reconcile.Driver) {
	t.Helper()
	add := func(s string) { *log = append(*log, s) }
	link = &reconciletest.Memory{Of: state.KindLink, Log: add}
	neigh = &reconciletest.Memory{Of: state.KindNeighbour, Log: add}
	route = &reconciletest.Memory{Of: state.KindRoute, Log: add}
	return link, neigh, route, []reconcile.Driver{link, neigh, route}
}

func peer(i byte) state.Set {
	base := netip.AddrFrom4([4]byte{10, 5, i, 0})
	return state.Set{
		Neighbours: []state.Neighbour{{Link: "flannel.1", IP: base}},
		Routes:     []state.Route{{Dst: netip.PrefixFrom(base, 24), Via: base, Link: "flannel.1", Onlink: true}},
	}
}

func want(peers ...byte) *state.Set {
	s := &state.Set{Links: []state.Link{{Name: "flannel.1"}}}
	for _, i := range peers {
		s.Append(peer(i))
	}
	return s
}

func TestAddsInOrderRemovesInReverse(t *testing.T) {
	var log []string
	_, _, _, drivers := host(t, &log)
	reconcile.Execute(t.Context(), drivers, want(1), true)
	if !slices.IsSortedFunc(log, byKind) || len(log) != 3 {
		t.Errorf("additions: %q", log)
	}
	log = nil
	reconcile.Execute(t.Context(), drivers, want(1), true)
	if len(log) != 0 {
		t.Errorf("second pass changed %q", log)
	}
	reconcile.Execute(t.Context(), drivers, &state.Set{}, true)
	slices.Reverse(log)
	if !slices.IsSortedFunc(log, byKind) || len(log) != 3 {
		t.Errorf("removals, reversed: %q", log)
	}
}

func byKind(a, b string) int {
	order := []string{"link", "neighbour", "route"}
	return slices.Index(order, strings.Fields(a)[1]) - slices.Index(order, strings.Fields(b)[1])
}

func TestNewBeforeOldGoes(t *testing.T) {
	var log []string
	_, _, _, drivers := host(t, &log)
	reconcile.Execute(t.Context(), drivers, want(1), true)
	log = nil
	reconcile.Execute(t.Context(), drivers, want(2), true)
	adds := slices.IndexFunc(log, func(s string) bool { return strings.HasPrefix(s, "remove") })
	if adds != 2 || len(log) != 4 {
		t.Errorf("want two additions, then two removals: %q", log)
	}
}

func TestNoDeleteBeforeSynced(t *testing.T) {
	var log []string
	_, _, route, drivers := host(t, &log)
	reconcile.Execute(t.Context(), drivers, want(1, 2), true)
	reconcile.Execute(t.Context(), drivers, want(1), false)
	if len(route.Have()) != 2 {
		t.Errorf("a picture that is not synced removed a route: %v", route.Have())
	}
}

func TestOneFailureStopsNothingElse(t *testing.T) {
	var log []string
	_, neigh, route, drivers := host(t, &log)
	bad := peer(7).Neighbours[0].Key()
	neigh.Refuse = func(c reconcile.Change) error {
		if c.Object.Key() == bad {
			return errRefused
		}
		return nil
	}
	out := reconcile.Execute(t.Context(), drivers, want(6, 7, 8), true)
	if f := out.Failed(); len(f) != 1 || f[0].Object.Key() != bad || !errors.Is(f[0].Err, errRefused) {
		t.Errorf("failed: %v", f)
	}
	if len(neigh.Have()) != 2 || len(route.Have()) != 3 {
		t.Errorf("neighbours %v, routes %v", neigh.Have(), route.Have())
	}
}

func TestBrokenLinkBlocksWhatStandsOnIt(t *testing.T) {
	var log []string
	link, neigh, _, drivers := host(t, &log)
	link.Refuse = func(reconcile.Change) error { return errRefused }
	neigh.Refuse = func(reconcile.Change) error { t.Error("tried a neighbour on a missing link"); return nil }
	out := reconcile.Execute(t.Context(), drivers, want(1), true)
	blocked := 0
	for _, r := range out.Failed() {
		if errors.Is(r.Err, reconcile.ErrBlocked) {
			blocked++
		}
	}
	if blocked != 2 || len(out.Failed()) != 3 {
		t.Errorf("want one failure and two blocked: %v", out.Failed())
	}
}

func TestUnreadableKindIsLeftAlone(t *testing.T) {
	var log []string
	_, neigh, route, drivers := host(t, &log)
	reconcile.Execute(t.Context(), drivers, want(1), true)
	neigh.Unreadable = func() error { return errRefused }
	out := reconcile.Execute(t.Context(), drivers, want(2), true)
	if !errors.Is(out.Unread[state.KindNeighbour], errRefused) {
		t.Errorf("unread: %v", out.Unread)
	}
	if _, kept := neigh.Have()[peer(1).Neighbours[0].Key()]; !kept || len(route.Have()) != 1 {
		t.Errorf("neighbours %v, routes %v", neigh.Have(), route.Have())
	}
}

func TestPlanChangesNothing(t *testing.T) {
	var log []string
	_, _, _, drivers := host(t, &log)
	changes, err := reconcile.Plan(t.Context(), drivers, want(1))
	if err != nil || len(changes) != 3 || len(log) != 0 {
		t.Errorf("plan %v, %v; changed %q", changes, err, log)
	}
}

// closer is a driver that keeps something open.
type closer struct {
	*reconciletest.Memory
	err    error
	closed int
}

func (c *closer) Close() error {
	c.closed++
	return c.err
}

func TestCloseReachesEveryDriver(t *testing.T) {
	var log []string
	link, neigh, _, _ := host(t, &log)
	one, two := &closer{Memory: link, err: errRefused}, &closer{Memory: link}
	err := reconcile.Close([]reconcile.Driver{one, neigh, two})
	if !errors.Is(err, errRefused) || one.closed != 1 || two.closed != 1 {
		t.Errorf("closed %d and %d times, %v", one.closed, two.closed, err)
	}
}
