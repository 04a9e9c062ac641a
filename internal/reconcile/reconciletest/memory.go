// Package reconciletest has a driver without a kernel, for tests of what
// stands above drivers. Drivers themselves are tested against Linux.
package reconciletest

import (
	"context"
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/flannel-ng/flannel-ng/internal/reconcile"
	"github.com/flannel-ng/flannel-ng/internal/state"
)

// Memory is a driver for one kind that keeps objects in a map. The hooks may
// be set before it is used.
type Memory struct {
	Of state.Kind
	// Refuse fails a change.
	Refuse func(reconcile.Change) error
	// Unreadable fails Plan.
	Unreadable func() error
	// Log gets one line per change that was made, in order.
	Log func(string)

	mu   sync.Mutex
	have map[state.Key]state.Object
}

// Kind implements reconcile.Driver.
func (m *Memory) Kind() state.Kind { return m.Of }

// Have lists the objects that are there.
func (m *Memory) Have() map[state.Key]state.Object {
	m.mu.Lock()
	defer m.mu.Unlock()
	return maps.Clone(m.have)
}

// Put places an object, as a stranger or a predecessor would.
func (m *Memory) Put(o state.Object) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.put(o)
}

func (m *Memory) put(o state.Object) {
	if m.have == nil {
		m.have = map[state.Key]state.Object{}
	}
	m.have[o.Key()] = o
}

// Scoped is a Memory that knows scopes.
type Scoped struct {
	*Memory
	// Whole counts the plans of all.
	Whole atomic.Int64
	// Doubt makes PlanScope fail with reconcile.ErrDoubt.
	Doubt atomic.Bool
}

// Plan implements reconcile.Driver.
func (s *Scoped) Plan(ctx context.Context, want *state.Set) ([]reconcile.Change, error) {
	s.Whole.Add(1)
	return s.Memory.Plan(ctx, want)
}

// PlanScope implements reconcile.Scoped.
func (s *Scoped) PlanScope(ctx context.Context, scope reconcile.Scope) ([]reconcile.Change, error) {
	if s.Doubt.Load() {
		return nil, reconcile.Doubt("told so")
	}
	inside := map[state.Key]bool{}
	for o := range scope.Want.Objects() {
		inside[o.Key()] = true
	}
	for _, o := range scope.Gone {
		inside[o.Key()] = true
	}
	changes, err := s.Memory.Plan(ctx, scope.Want)
	return slices.DeleteFunc(changes, func(c reconcile.Change) bool { return !inside[c.Object.Key()] }), err
}

// Steal removes an object, as a stranger would.
func (m *Memory) Steal(k state.Key) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.have, k)
}

// Plan implements reconcile.Driver.
func (m *Memory) Plan(_ context.Context, want *state.Set) ([]reconcile.Change, error) {
	if m.Unreadable != nil {
		if err := m.Unreadable(); err != nil {
			return nil, err
		}
	}
	wanted := map[state.Key]state.Object{}
	for o := range want.Objects() {
		if o.Key().Kind == m.Of {
			wanted[o.Key()] = o
		}
	}
	return reconcile.Diff(wanted, m.Have(), func(w, h state.Object) bool { return w.String() == h.String() }), nil
}

// Apply implements reconcile.Driver.
func (m *Memory) Apply(_ context.Context, changes []reconcile.Change) []reconcile.Result {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []reconcile.Result
	for _, c := range changes {
		r := reconcile.Result{Change: c}
		if m.Refuse != nil {
			r.Err = m.Refuse(c)
		}
		if r.Err == nil {
			m.make(c)
		}
		out = append(out, r)
	}
	return out
}

func (m *Memory) make(c reconcile.Change) {
	if c.Op == reconcile.Remove {
		delete(m.have, c.Object.Key())
	} else {
		m.put(c.Object)
	}
	if m.Log != nil {
		m.Log(string(c.Op) + " " + c.Object.String())
	}
}
