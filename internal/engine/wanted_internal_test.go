package engine

import (
	"math/rand/v2"
	"testing"

	"github.com/flannel-ng/flannel-ng/internal/state"
)

// Wanted knows every object of every peer, and none of those that are gone.
func TestWanted(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 7))
	in, e := hostOf(t, dualVXLAN), &Engine{table: newTable()}
	if o := e.Wanted(state.Neighbour{}.Key()); o != nil {
		t.Errorf("before anything is known: %v", o)
	}
	var before []state.Object
	seen, gone := 0, 0
	for range 40 {
		in.Snapshot.Leases = edited(r, in.Snapshot.Leases)
		h, err := desireHost(in)
		if err != nil {
			t.Fatal(err)
		}
		e.table.update(in, h)
		now := map[state.Key]bool{}
		last := before
		before = nil
		for _, entry := range e.table.entries {
			for _, o := range entry.objects {
				if got := e.Wanted(o.Key()); got != o {
					t.Errorf("%v is wanted, got %v", o, got)
				}
				now[o.Key()], before, seen = true, append(before, o), seen+1
			}
		}
		for _, o := range last {
			if got := e.Wanted(o.Key()); !now[o.Key()] && got != nil {
				t.Errorf("%v is gone, got %v", o, got)
			} else if got == nil {
				gone++
			}
		}
	}
	if seen == 0 || gone == 0 {
		t.Errorf("nothing was tried: %d seen, %d gone", seen, gone)
	}
}
