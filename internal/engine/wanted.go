package engine

import "github.com/flannel-ng/flannel-ng/internal/state"

// Wanted is the object that is wanted for a peer under a key; nil: none. It is
// safe for concurrent use.
func (e *Engine) Wanted(k state.Key) state.Object { return e.table.wanted(k) }

func (t *table) wanted(k state.Key) state.Object {
	t.mu.RLock()
	defer t.mu.RUnlock()
	e := t.index[t.hash(k)]
	if e == nil {
		return nil
	}
	for _, o := range e.objects { // of another key with the same hash, perhaps
		if o.Key() == k {
			return o
		}
	}
	return nil
}
