// Package explorer drives the production lease code of many simulated hosts,
// keeper and etcd store, through seeded adversarial schedules and checks the
// invariants of docs/lease-protocol.md at every step.
//
// It owns the simulated hosts, plain flannel peers, faults and checks; it holds
// no protocol logic of its own, and is never part of a program. Called by its
// own test, under testing/synctest.
package explorer

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/flannel-ng/flannel-ng/internal/config"
	"github.com/flannel-ng/flannel-ng/internal/store/etcd/fake"
	"github.com/flannel-ng/flannel-ng/internal/store/etcd/kv"
)

// The times of a schedule. They keep the proportions of the protocol's own
// and are short, because a simulated host has to be run through every one.
const (
	leaseTTL    = 4 * time.Minute
	sessionTTL  = 30 * time.Second
	renewMargin = time.Minute
	busyMargin  = leaseTTL - 15*time.Second // renews all the time
	grace       = 20 * time.Second
	// patience is how long after the last fault everybody must be settled: a
	// dead lease must run out first if space is short, then the longest
	// backoff of a minute, the grace and a silent watch.
	patience = leaseTTL + sessionTTL + 4*time.Minute

	prefix = "/coreos.com/network"
)

// Settings choose a schedule.
type Settings struct {
	Seed uint64
	// Flannel adds plain flannel hosts, which write without asking.
	Flannel bool
	// Tamper wraps the connection of each host of ours; nil leaves it alone.
	// Tests plant bugs with it.
	Tamper func(kv.Conn) kv.Conn
	// Log takes the hosts' own log; nil drops it.
	Log slog.Handler
}

// Result is what became of a schedule.
type Result struct {
	Steps     int    // writes applied and changes of holdings, all checked
	Violation string // "" for none, else what, when, and the last steps
	Trace     uint64 // a hash of all steps: equal for equal seeds
}

// world is one schedule on its way.
type world struct {
	Settings
	plan     plan
	began    time.Time
	network  config.Network
	server   *fake.Server
	machines []*machine
	flannels []*flannel
	running  sync.WaitGroup // every goroutine of every incarnation
	rng      *rand.Rand     // of the schedule's own goroutine

	mu       sync.Mutex // guards what follows; taken under the server's lock
	model    model
	daemons  map[string]*daemon // all that ever ran, by name
	trace    trace
	failed   string
	steps    int
	vanished int                   // lease keys that were deleted
	loss     float64               // share of requests that go wrong
	streams  map[string]*rand.Rand // of each client's requests by method
}

// Run plays one schedule. It must be called in a synctest bubble.
func Run(ctx context.Context, s Settings) Result {
	if s.Log == nil {
		s.Log = slog.DiscardHandler
	}
	w := &world{
		Settings: s, began: time.Now(), server: fake.NewServer(),
		rng: rand.New(rand.NewPCG(s.Seed, 1)), model: newModel(), streams: map[string]*rand.Rand{}, daemons: map[string]*daemon{},
	}
	w.server.SetObserver(w.committed)
	w.server.SetHook(w.interfere)
	w.build()
	ctx, cancel := context.WithCancel(ctx)
	w.storm(ctx)
	w.settle(ctx)
	cancel()
	w.running.Wait()
	w.server.SetObserver(nil)
	w.server.Close()
	return Result{Steps: w.steps, Violation: w.failed, Trace: w.trace.sum}
}

// fail records the first violation. The caller holds mu.
func (w *world) fail(format string, args ...any) {
	if w.failed == "" {
		w.failed = fmt.Sprintf("seed %d, flannel %v, after %s: %s\nplan: %+v\n%s",
			w.Seed, w.Flannel, time.Since(w.began), fmt.Sprintf(format, args...), w.plan, w.trace.String())
	}
}

// note adds a step to the trace. The caller holds mu.
func (w *world) note(who, format string, args ...any) {
	w.steps++
	w.trace.add(step{at: time.Since(w.began), who: who, format: format, args: args})
}

func (w *world) say(who, format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.note(who, format, args...)
}

func (w *world) violated() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.failed != ""
}

// sleep passes virtual time.
func sleep(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}
