// Package filter holds what the nftables and the iptables driver share: how
// to tell whether a chain that others own lets our rules do their work, how
// findings become changes, and what happens to connections that were set up
// while our rules were missing.
//
// It owns no rule itself and never chooses a mode. Called by the two drivers
// below it.
package filter

import (
	"fmt"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/reconcile"
	"github.com/flannel-ng/flannel-ng/internal/state"
)

// The comments of our rules. Documentation, scripts and people search for
// them, so they are flannel's.
const (
	MasqueradeComment = "flanneld masq"
	ForwardComment    = "flanneld forward"
)

// Wanted returns the filters of one mode by family. A filter without rules
// counts as none.
func Wanted(want *state.Set, mode state.FilterMode) addr.ByFamily[state.Filter] {
	var out addr.ByFamily[state.Filter]
	for _, f := range want.Filters {
		if f.Mode == mode && !Empty(f) {
			out.Put(f.Family, f)
		}
	}
	return out
}

// Empty says that f asks for nothing.
func Empty(f state.Filter) bool { return len(f.Postrouting)+len(f.Forward) == 0 }

// Finding is what a driver found of one family.
type Finding struct {
	Mode   state.FilterMode
	Family addr.Family
	Found  int      // objects of ours: tables, chains, rules, jumps
	Drift  []string // every difference from the wanted, in words; none: as wanted
}

// Change returns what has to happen, if anything.
func (f Finding) Change(want state.Filter) (reconcile.Change, bool) {
	switch {
	case len(f.Drift) == 0:
		return reconcile.Change{}, false
	case Empty(want):
		return reconcile.Change{Op: reconcile.Remove, Object: Remains{f}}, true
	case f.Found == 0:
		return reconcile.Change{Op: reconcile.Add, Object: want}, true
	default:
		return reconcile.Change{Op: reconcile.Update, Object: want, Was: f.String()}, true
	}
}

func (f Finding) String() string {
	s := f.Drift[0]
	if more := len(f.Drift) - 1; more > 0 {
		s += fmt.Sprintf(" and %d more", more)
	}
	return s
}

// Remains is what is left of a filter that is no longer wanted.
type Remains struct{ finding Finding }

// Key implements state.Object.
func (r Remains) Key() state.Key {
	return state.Filter{Mode: r.finding.Mode, Family: r.finding.Family}.Key()
}

// Family is the family that has to be cleaned.
func (r Remains) Family() addr.Family { return r.finding.Family }

func (r Remains) String() string {
	return fmt.Sprintf("filter %s %s: %s", r.finding.Mode, r.finding.Family, r.finding)
}

// Target returns the family of a change and the filter to make true; an empty
// filter means removal.
func Target(c reconcile.Change) (addr.Family, state.Filter, error) {
	switch o := c.Object.(type) {
	case state.Filter:
		return o.Family, o, nil
	case Remains:
		return o.Family(), state.Filter{}, nil
	default:
		return 0, state.Filter{}, fmt.Errorf("%s %s: not a filter", c.Op, c.Object)
	}
}
