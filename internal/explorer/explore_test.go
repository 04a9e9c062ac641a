package explorer_test

import (
	"flag"
	"runtime"
	"testing"
	"testing/synctest"

	"github.com/flannel-ng/flannel-ng/internal/explorer"
)

// TestMain defines the flags before they are parsed:
//
//	go test ./internal/explorer -run TestExplore -seeds 10000 -seed 1
//
// It leaves one processor: on two, what is ready at one instant of the
// simulated clock takes turns in an order that no seed decides, and a schedule
// may not come back.
func TestMain(m *testing.M) {
	runtime.GOMAXPROCS(1)
	flag.Int("seeds", 0, "schedules per regime; 0: as many as a routine test affords")
	flag.Uint64("seed", 1, "first seed")
	m.Run()
}

func setting[T any](name string) T {
	return flag.Lookup(name).Value.(flag.Getter).Get().(T)
}

// routine is what a routine test affords: half a minute on one core.
const routine = 750

func TestExplore(t *testing.T) {
	first, seeds := setting[uint64]("seed"), setting[int]("seeds")
	if seeds == 0 {
		seeds = routine
	}
	for _, regime := range []struct {
		name    string
		flannel bool
	}{{"ours", false}, {"with flannel", true}} {
		t.Run(regime.name, func(t *testing.T) {
			steps := 0
			for seed := first; seed < first+uint64(seeds); seed++ {
				r := run(t, explorer.Settings{Seed: seed, Flannel: regime.flannel})
				steps += r.Steps
				if r.Violation != "" {
					t.Fatal(r.Violation)
				}
			}
			t.Logf("%s: %d schedules, %d steps checked, 0 violations", regime.name, seeds, steps)
		})
	}
}

func run(t *testing.T, s explorer.Settings) explorer.Result {
	t.Helper()
	var r explorer.Result
	synctest.Test(t, func(t *testing.T) { r = explorer.Run(t.Context(), s) })
	return r
}

// TestSeedsRepeat: a violation is worth nothing if its seed does not bring it
// back.
func TestSeedsRepeat(t *testing.T) {
	const seeds = 40
	for _, flannel := range []bool{false, true} {
		differ := 0
		for seed := uint64(1); seed <= seeds; seed++ {
			s := explorer.Settings{Seed: seed, Flannel: flannel}
			first, second := run(t, s), run(t, s)
			if first.Trace != second.Trace {
				differ++
				t.Logf("seed %d", seed)
			}
		}
		if differ > 0 {
			t.Errorf("flannel %v: %d of %d seeds went another way the second time", flannel, differ, seeds)
		}
	}
}
