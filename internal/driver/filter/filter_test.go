package filter_test

import (
	"errors"
	"testing"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/driver/filter"
	"github.com/flannel-ng/flannel-ng/internal/reconcile"
	"github.com/flannel-ng/flannel-ng/internal/state"
)

// TestPlace writes chains as text: o ours, s a foreign rule that stops every
// packet, f another foreign one.
func TestPlace(t *testing.T) {
	for _, c := range []struct {
		chain   string
		place   int
		reached bool
	}{
		{"", 0, true},
		{"ff", 2, true},
		{"fs", 1, true},
		{"sf", 0, true},
		{"fo", 1, true},
		{"of", 1, true},
		{"foo", 1, true},
		{"fofs", 2, true},
		{"so", 0, false},
		{"fsoo", 1, false},
		{"oso", 0, false},
		{"fss", 1, true},
	} {
		var lines []filter.Line
		for _, r := range c.chain {
			lines = append(lines, filter.Line{Ours: r == 'o', Stops: r == 's'})
		}
		if got := filter.Place(lines); got != c.place {
			t.Errorf("%s: place %d, want %d", c.chain, got, c.place)
		}
		if got := filter.Reached(lines); got != c.reached {
			t.Errorf("%s: reached %v, want %v", c.chain, got, c.reached)
		}
	}
}

func TestChange(t *testing.T) {
	want := state.Filter{Mode: state.ModeIPTables, Family: addr.IPv4, Forward: []state.Rule{{Verdict: state.Accept}}}
	drift := []string{"a is missing", "b is another"}
	for _, c := range []struct {
		name  string
		found int
		drift []string
		want  state.Filter
		op    reconcile.Op
		was   string
	}{
		{"as wanted", 3, nil, want, "", ""},
		{"new", 0, drift, want, reconcile.Add, ""},
		{"damaged", 2, drift, want, reconcile.Update, "a is missing and 1 more"},
		{"unwanted", 2, drift[:1], state.Filter{}, reconcile.Remove, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := filter.Finding{Mode: state.ModeIPTables, Family: addr.IPv4, Found: c.found, Drift: c.drift}
			got, needed := f.Change(c.want)
			if needed != (c.op != "") || got.Op != c.op || got.Was != c.was {
				t.Fatalf("%v %+v", needed, got)
			}
			if !needed {
				return
			}
			if got.Object.Key() != want.Key() {
				t.Errorf("key %v, want %v", got.Object.Key(), want.Key())
			}
			family, target, err := filter.Target(got)
			if err != nil || family != addr.IPv4 || filter.Empty(target) != (c.op == reconcile.Remove) {
				t.Errorf("target %v %v %v", family, target, err)
			}
		})
	}
}

func TestTargetRefusesOtherObjects(t *testing.T) {
	_, _, err := filter.Target(reconcile.Change{Op: reconcile.Add, Object: state.File{Path: "/x"}})
	if err == nil || errors.Is(err, reconcile.ErrBlocked) {
		t.Errorf("error %v", err)
	}
}

func TestWantedIgnoresOtherModesAndEmptyFilters(t *testing.T) {
	rules := []state.Rule{{Verdict: state.Accept}}
	set := &state.Set{Filters: []state.Filter{
		{Mode: state.ModeNFTables, Family: addr.IPv4, Forward: rules},
		{Mode: state.ModeIPTables, Family: addr.IPv6},
	}}
	for _, f := range addr.Families() {
		if got := filter.Wanted(set, state.ModeIPTables).At(f); !filter.Empty(got) {
			t.Errorf("%s: %s", f, got)
		}
	}
	if got := filter.Wanted(set, state.ModeNFTables).At(addr.IPv4); len(got.Forward) != 1 {
		t.Errorf("got %s", got)
	}
}
