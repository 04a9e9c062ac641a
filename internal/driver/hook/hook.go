// Package hook runs commands of the operator that stand for objects: one makes
// the object, another undoes it.
//
// What a command did cannot be read back. So this driver alone keeps a journal:
// a hook is ours if it is in the journal, where it is written before its command
// runs, so that no crash forgets what has to be undone. In the life of one
// driver a command runs until it has succeeded once. A new driver, that is a new
// start of the daemon, runs every wanted command again, and undoes what is in
// the journal and not wanted any more. So commands must be idempotent.
//
// Commands never hold up a pass for long: those that take their time go on
// beside it, are reported as ErrRunning, and wake the engine when they end.
// Called by the engine through reconcile.
package hook

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/flannel-ng/flannel-ng/internal/reconcile"
	"github.com/flannel-ng/flannel-ng/internal/state"
)

var (
	// ErrRunning says that a command has not ended yet.
	ErrRunning = errors.New("still running")
	// ErrNotAllowed says that the command line does not allow commands.
	ErrNotAllowed = errors.New("commands are not allowed on this host (--allow-extension)")
)

// patience is how long Apply waits for the commands that it started.
const patience = 2 * time.Second

// Options are the settings of the driver.
type Options struct {
	// Journal is its file. It is only believed in the boot that wrote it.
	Journal string
	// Allowed: without it no command runs, not even one that the journal has.
	Allowed bool
	// Wake asks for a pass soon: a command ended that was reported as running.
	Wake func()
	Log  *slog.Logger
}

// Driver runs hooks.
type Driver struct {
	opts    Options
	lanes   lanes
	running sync.WaitGroup

	mu      sync.Mutex
	journal *journal         // nil: not read yet
	tasks   map[string]*task // the last of each name
}

// New makes a driver. Nothing is read or run yet.
func New(o Options) *Driver {
	return &Driver{opts: o, lanes: newLanes(), tasks: map[string]*task{}}
}

// Wait waits for the commands that run. They end soon after the context that
// Apply was called with.
func (d *Driver) Wait() { d.running.Wait() }

// Kind implements reconcile.Driver.
func (*Driver) Kind() state.Kind { return state.KindHook }

// Plan implements reconcile.Driver.
func (d *Driver) Plan(_ context.Context, want *state.Set) ([]reconcile.Change, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.open(); err != nil {
		return nil, err
	}
	var out []reconcile.Change
	wanted := make(map[string]bool, len(want.Hooks))
	for _, h := range want.Hooks {
		wanted[h.Name] = true
		if ch, needed := d.put(h); needed {
			out = append(out, ch)
		}
	}
	for name, e := range d.journal.entries {
		if !wanted[name] && d.opts.Allowed {
			out = append(out, reconcile.Change{Op: reconcile.Remove, Object: e.Hook})
		}
	}
	reconcile.Sort(out)
	return out, nil
}

// put says what has to happen for h.
func (d *Driver) put(h state.Hook) (ch reconcile.Change, needed bool) {
	e, known := d.journal.entries[h.Name]
	t := d.tasks[h.Name]
	switch {
	case t != nil && t.is(reconcile.Add, h):
		return t.change, !t.told
	case !known:
		return reconcile.Change{Op: reconcile.Add, Object: h}, true
	case !same(e.Hook, h):
		return reconcile.Change{Op: reconcile.Update, Object: h, Was: "run with another command, environment or input"}, true
	default:
		return reconcile.Change{Op: reconcile.Update, Object: h, Was: e.doubt}, true
	}
}

// open reads the journal, once.
func (d *Driver) open() error {
	if d.journal != nil {
		return nil
	}
	j, err := readJournal(d.opts.Journal)
	switch {
	case errors.Is(err, errBroken):
		d.opts.Log.Warn("the journal of commands is begun anew: what commands made before is not undone",
			"path", d.opts.Journal, "err", err)
	case err != nil:
		return err
	}
	if n := len(j.entries); n > 0 && !d.opts.Allowed {
		d.opts.Log.Warn("what commands made before is not undone: start once with --allow-extension, or undo it by hand and "+
			"remove the journal", "commands", n, "path", d.opts.Journal)
	}
	d.journal = j
	return nil
}

// Apply implements reconcile.Driver. Hooks that stand on another one come after
// the others.
func (d *Driver) Apply(ctx context.Context, changes []reconcile.Change) []reconcile.Result {
	results := make([]reconcile.Result, len(changes))
	var first, second []*reconcile.Result
	for i, ch := range changes {
		r := &results[i]
		r.Change = ch
		h, ok := ch.Object.(state.Hook)
		switch {
		case !ok:
			r.Err = fmt.Errorf("hook driver got %T", ch.Object)
		case h.After != "" && ch.Op != reconcile.Remove:
			second = append(second, r)
		default:
			first = append(first, r)
		}
	}
	for _, round := range [][]*reconcile.Result{first, second} {
		if len(round) > 0 {
			d.wait(ctx, d.begin(ctx, round))
			d.collect(round)
		}
	}
	return results
}

// wait waits a while for tasks.
func (*Driver) wait(ctx context.Context, tasks []*task) {
	timer := time.NewTimer(patience)
	defer timer.Stop()
	for _, t := range tasks {
		select {
		case <-t.done:
		case <-timer.C:
			return
		case <-ctx.Done():
			return
		}
	}
}

// begin starts a task for each change that needs one. A result that has an
// error afterwards is final.
func (d *Driver) begin(ctx context.Context, results []*reconcile.Result) (fresh []*task) {
	d.mu.Lock()
	defer d.mu.Unlock()
	broken := d.open()
	if broken == nil {
		d.settle()
	}
	for _, r := range results {
		h, _ := r.Object.(state.Hook)
		switch {
		case broken != nil:
			r.Err = broken
		case !d.opts.Allowed:
			r.Err = ErrNotAllowed
		case !d.due(r.Op, h):
		case r.Op != reconcile.Remove && !d.stands(h.After):
			r.Err = fmt.Errorf("hook %s: %w", h.After, reconcile.ErrBlocked)
		default:
			fresh = append(fresh, d.newTask(r.Change, h))
		}
	}
	if len(fresh) == 0 {
		return nil
	}
	// First written, then run: a crash between forgets nothing.
	err := d.journal.save()
	for _, t := range fresh {
		if err != nil {
			t.finish(fmt.Errorf("journal: %w", err))
			continue
		}
		d.running.Go(func() { d.work(ctx, t) })
	}
	return fresh
}

// due says whether a task has to be started: none runs, and the last one is
// about something else or has failed long enough ago.
func (d *Driver) due(op reconcile.Op, h state.Hook) bool {
	t := d.tasks[h.Name]
	switch {
	case t == nil:
		return true
	case !t.ended:
		return false
	case !t.is(op, h):
		return true
	default:
		return t.err != nil && !time.Now().Before(t.retry)
	}
}

// stands says whether the hook of that name has been run with success.
func (d *Driver) stands(name string) bool {
	if name == "" {
		return true
	}
	t := d.tasks[name]
	return t != nil && t.change.Op != reconcile.Remove && t.ended && t.err == nil
}

// collect completes the results by what is known of each task now.
func (d *Driver) collect(results []*reconcile.Result) {
	d.mu.Lock()
	defer d.mu.Unlock()
	var unsaved error
	if d.journal != nil {
		d.settle()
		if err := d.journal.saveChanged(); err != nil {
			unsaved = fmt.Errorf("journal: %w", err)
		}
	}
	for _, r := range results {
		if r.Err != nil {
			continue
		}
		r.Err = d.report(r)
		if r.Op == reconcile.Remove && r.Err == nil {
			r.Err = unsaved // done, but the next start will do it again
		}
	}
}

// report is how the task for r went.
func (d *Driver) report(r *reconcile.Result) error {
	h, _ := r.Object.(state.Hook)
	t := d.tasks[h.Name]
	switch {
	case t == nil || t.ended && !t.is(r.Op, h):
		d.opts.Wake() // what ran was about something else; now this can start
		return ErrRunning
	case !t.ended:
		t.late = true
		if t.before != nil {
			return t.before // one text for a failure that is tried again
		}
		return ErrRunning
	case t.err != nil:
		return t.err
	}
	t.told = true
	if r.Op == reconcile.Remove {
		delete(d.tasks, h.Name)
	}
	return nil
}
