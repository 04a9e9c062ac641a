package chaos

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/flannel-ng/flannel-ng/lab"
	"github.com/flannel-ng/flannel-ng/lab/bench"
)

// Mode is a part of the bench.
type Mode string

// The modes.
const (
	Told  Mode = "told"  // with the kernel's notifications
	Deaf  Mode = "deaf"  // without them
	Crowd Mode = "crowd" // with thousands of peers
	Soaks Mode = "soak"  // at random, for long
)

// Modes are all of them.
func Modes() []Mode { return []Mode{Told, Deaf, Crowd, Soaks} }

// Options say what to do.
type Options struct {
	Binaries lab.Binaries
	Carriers []string       // none is all
	Families []string       // none is all
	Plain    bool           // without the fabrics for iptables and checksums
	Faults   *regexp.Regexp // by name
	Modes    []Mode
	Runs     int // of each fault
	DeafRuns int // of each without notifications
	// CrowdRuns of each fault with Peers peers.
	CrowdRuns, Peers int
	Soak             time.Duration
	Seed             uint64 // of the soak
	Dumps            string // directory for the state of what was not repaired
	Progress         io.Writer
}

// Bench is a run.
type Bench struct {
	Options
	begin  time.Time
	result Result
	mu     sync.Mutex // of rows: deaf trials run together
}

// giveUp is after how many failures a fault is not tried again.
const giveUp = 2

var errNothing = errors.New("no such thing to run")

// Run does what is asked for and returns what it found, also if it was cut short
// by an error.
func Run(ctx context.Context, o Options) (*Result, error) {
	b := &Bench{Options: o, begin: time.Now()}
	b.result = Result{When: b.begin.UTC().Truncate(time.Second), Machine: bench.Describe()}
	var err error
	if b.result.Version, err = bench.VersionOf(ctx, o.Binaries.Flanneld); err != nil {
		return nil, err
	}
	if err := o.checked(); err != nil {
		return nil, err
	}
	plan := b.plan()
	if len(plan) == 0 && !slices.Contains(o.Modes, Soaks) {
		return nil, fmt.Errorf("carriers %v, families %v, faults %s: %w", o.Carriers, o.Families, o.Faults, errNothing)
	}
	for _, v := range plan {
		if err == nil {
			err = b.fabric(ctx, v)
		}
	}
	if err == nil && slices.Contains(o.Modes, Soaks) {
		err = b.soak(ctx)
	}
	b.result.Took = bench.Seconds(time.Since(b.begin).Seconds())
	return &b.result, err
}

// checked refuses words that name nothing.
func (o Options) checked() error {
	for _, w := range []struct{ given, known []string }{
		{o.Carriers, []string{vxlan, direct, hostGW, udp}}, {o.Families, []string{"4", "6", "dual"}},
	} {
		for _, word := range w.given {
			if !slices.Contains(w.known, word) {
				return fmt.Errorf("%w: %q, there are %s", errNothing, word, strings.Join(w.known, ", "))
			}
		}
	}
	return nil
}

// plan are the fabrics to build.
func (b *Bench) plan() []variant {
	var out []variant
	picked := func(list []string, word string) bool { return len(list) == 0 || slices.Contains(list, word) }
	for _, v := range variants() {
		if b.Plain && special(v) {
			continue
		}
		small := slices.Contains(b.Modes, Told) || slices.Contains(b.Modes, Deaf)
		if small && picked(b.Carriers, v.carrier) && picked(b.Families, v.family) && len(chosen(v, b.Faults)) > 0 {
			out = append(out, v)
		}
	}
	for _, carrier := range []string{vxlan, hostGW} {
		v := variant{carrier: carrier, family: "4", firewall: lab.NFTables, peers: b.Peers}
		if slices.Contains(b.Modes, Crowd) && picked(b.Carriers, carrier) && len(chosen(v, b.Faults)) > 0 {
			out = append(out, v)
		}
	}
	return out
}

func (b *Bench) progress(format string, args ...any) {
	_, _ = fmt.Fprintf(b.Progress, "%6.1f s  %s\n", time.Since(b.begin).Seconds(), fmt.Sprintf(format, args...))
}

// arena is one kind of fabric while it is tried. When a fabric does not come
// back, the next faults get a new one.
type arena struct {
	*Bench
	variant
	scene  *scene
	meter  *meter
	faults []fault
	rows   []*Row
	into   *Fabric
	last   [real3]time.Time // when something was last done to a host
}

// fabric tries all faults of one kind of fabric.
func (b *Bench) fabric(ctx context.Context, v variant) (err error) {
	begin := time.Now()
	a := &arena{Bench: b, variant: v, faults: chosen(v, b.Faults), meter: &meter{}}
	a.into = &Fabric{Name: v.name(), Carrier: v.carrier, Peers: v.peers}
	for _, f := range a.faults {
		row := &Row{Name: f.name, Slow: f.slow}
		a.rows = append(a.rows, row)
		a.into.Faults = append(a.into.Faults, row)
	}
	b.result.Fabrics = append(b.result.Fabrics, a.into)
	defer func() {
		err = errors.Join(err, a.leave(ctx))
		a.into.Took = bench.Seconds(time.Since(begin).Seconds())
		a.into.CPU, a.into.Lines = bench.Seconds(a.meter.used.Seconds()), a.meter.lines
	}()
	if err := a.enter(ctx); err != nil {
		return err
	}
	told, deaf := b.Runs, b.DeafRuns
	if v.peers > real3 {
		told, deaf = b.CrowdRuns, 0
	}
	if v.peers > real3 || slices.Contains(b.Modes, Told) {
		if err := a.told(ctx, told); err != nil {
			return err
		}
	}
	if slices.Contains(b.Modes, Deaf) && deaf > 0 {
		return a.deaf(ctx, deaf)
	}
	return nil
}

func (a *arena) enter(ctx context.Context) error {
	a.progress("%s: %d faults", a.name(), len(a.faults))
	var err error
	if a.scene, err = build(ctx, a.variant, a.Binaries); err != nil {
		if a.scene != nil && a.scene.fabric != nil {
			a.progress("%s: does not stand: %s", a.name(), a.dump(ctx, "build"))
		}
		return err
	}
	a.meter.enter(a.scene)
	return nil
}

func (a *arena) leave(ctx context.Context) error {
	if a.scene == nil {
		return nil
	}
	a.meter.leave(a.scene)
	err := a.scene.close(ctx)
	a.scene = nil
	return err
}

// told goes round through the faults and the hosts.
func (a *arena) told(ctx context.Context, rounds int) error {
	for round := range rounds {
		for i := range a.faults {
			if len(a.rows[i].Fails) >= giveUp {
				continue
			}
			if err := a.one(ctx, i, round); err != nil {
				return err
			}
		}
		a.progress("%s: round %d of %d, %d not repaired so far", a.name(), round+1, rounds, a.failed())
	}
	return nil
}

func (a *arena) failed() (n int) {
	for _, row := range a.rows {
		n += len(row.Fails)
	}
	return n
}

// unusual is a time that is worth a line of its own.
const unusual = time.Second

// breath is the least time between two faults on one host. Whose objects are
// undone three times in two seconds has an opponent, and repairs more slowly.
const breath = 1500 * time.Millisecond

func (a *arena) one(ctx context.Context, i, round int) error {
	f := &a.faults[i]
	turn := round + i
	host := turn % real3
	if err := lab.Pause(ctx, time.Until(a.last[host].Add(breath))); err != nil {
		return err
	}
	t := a.scene.trial(f, host, turn)
	o, err := t.run(ctx)
	if err != nil {
		o.failure = err
	}
	a.last[host] = time.Now()
	if o.failure == nil && o.took > unusual {
		a.progress("%s: %s on %s took %.1f s, packets %.1f s", a.name(), f.name, t.host.Name, o.state.Seconds(), o.took.Seconds())
	}
	a.meter.read(a.scene)
	return a.judge(ctx, verdict{trial: t, outcome: o, row: a.rows[i]})
}

// verdict is a trial that has been run.
type verdict struct {
	*trial
	outcome
	row  *Row
	deaf bool
}

// judge notes how a trial went, takes it back, and demands that nothing is left.
func (a *arena) judge(ctx context.Context, v verdict) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	limit := budget
	if v.failure != nil {
		limit = mercy
		a.fail(ctx, v, v.failure)
	} else {
		v.row.Told.Millis = append(v.row.Told.Millis, float64(v.took.Microseconds())/1000)
		v.row.Told.Lost = append(v.row.Told.Lost, float64(v.lost))
	}
	wait, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	err := v.after(wait)
	if err == nil {
		err = a.scene.whole(wait)
	}
	if err == nil {
		err = a.scene.carries(wait, a.scene.marks())
	}
	if err == nil {
		return nil
	}
	if v.failure == nil {
		a.fail(ctx, v, fmt.Errorf("afterwards %w", err))
	}
	return a.renew(ctx)
}

// mercy is how long a fabric that has failed has to come back by itself.
const mercy = 3 * time.Second

// renew leaves a fabric that does not come back for a new one.
func (a *arena) renew(ctx context.Context) error {
	if err := a.leave(ctx); err != nil {
		return err
	}
	return a.enter(ctx)
}

// fail notes and dumps what was not repaired.
func (a *arena) fail(ctx context.Context, v verdict, why error) {
	file := a.dump(ctx, v.fault.name)
	a.mu.Lock()
	defer a.mu.Unlock()
	times := &v.row.Told
	if v.deaf {
		times = &v.row.Deaf
	}
	if v.failure != nil {
		times.Failed++ // else it was repaired, and something else was wrong then
	}
	v.row.Fails = append(v.row.Fails, Fail{Deaf: v.deaf, Host: v.host.Name, Why: why.Error(), Dump: file})
	a.progress("%s: %s on %s: %v\n          %s", a.name(), v.fault.name, v.host.Name, why, file)
}

// dump writes the state of all hosts into a file.
func (a *arena) dump(ctx context.Context, name string) string {
	if a.Dumps == "" {
		return ""
	}
	var b strings.Builder
	a.scene.fabric.Dump(ctx, &b)
	words := regexp.MustCompile(`[^a-zA-Z0-9]+`).ReplaceAllString(a.name()+" "+name, "-")
	file := filepath.Join(a.Dumps, fmt.Sprintf("%s-%d.txt", words, time.Since(a.begin).Milliseconds()))
	if err := errors.Join(os.MkdirAll(a.Dumps, 0o755), os.WriteFile(file, []byte(b.String()), 0o644)); err != nil {
		return err.Error()
	}
	return file
}
