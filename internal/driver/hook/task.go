package hook

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/flannel-ng/flannel-ng/internal/command"
	"github.com/flannel-ng/flannel-ng/internal/reconcile"
	"github.com/flannel-ng/flannel-ng/internal/state"
)

// A failed command is not tried again before a time that doubles with each
// failure. It stays below the engine's own backoff, which so decides; but passes
// also come for other reasons, and a command may be one of them.
const (
	firstRetry = 500 * time.Millisecond
	lastRetry  = 15 * time.Second
)

// grace is how long a command may go on after the daemon was told to stop.
const grace = 5 * time.Second

// task is one attempt to run or to undo a hook. Driver.mu guards it.
type task struct {
	change reconcile.Change
	hook   state.Hook
	undo   []state.Command // what earlier commands of this name made, first
	run    state.Command
	done   chan struct{} // closed at the end

	ended   bool
	settled bool // the end is in the journal
	told    bool // the success was reported
	late    bool // it was reported as running
	doubted bool // something that ran meanwhile may have undone it
	err     error
	before  error // how the attempt before this one failed
	fails   int   // in a row, this one included
	retry   time.Time
}

// is says whether t is about op on h. Add and Update are the same work.
func (t *task) is(op reconcile.Op, h state.Hook) bool {
	return (t.change.Op == reconcile.Remove) == (op == reconcile.Remove) && same(t.hook, h)
}

// finish ends t.
func (t *task) finish(err error) {
	t.err, t.ended = err, true
	if err != nil {
		t.retry = time.Now().Add(min(firstRetry<<min(t.fails, 10), lastRetry))
		t.fails++
	}
	close(t.done)
}

// newTask makes the task for a change and notes it in the journal.
func (d *Driver) newTask(ch reconcile.Change, h state.Hook) *task {
	t := &task{change: ch, hook: h, run: h.Run, done: make(chan struct{})}
	if last := d.tasks[h.Name]; last != nil && last.is(ch.Op, h) {
		t.before, t.fails = last.err, last.fails
	}
	d.tasks[h.Name] = t
	e, known := d.journal.entries[h.Name]
	t.undo = e.Before
	if ch.Op == reconcile.Remove {
		t.run = h.Undo
		return t
	}
	if known && len(e.Hook.Undo.Words) > 0 && !sameCommand(e.Hook.Undo, h.Undo) {
		t.undo = append(slices.Clone(t.undo), e.Hook.Undo)
	}
	d.journal.entries[h.Name] = entry{Hook: h, Before: t.undo}
	return t
}

// work runs a task to its end.
func (d *Driver) work(ctx context.Context, t *task) {
	leave, err := d.lanes.enter(ctx)
	if err == nil {
		err = d.steps(ctx, t)
		leave()
	}
	d.mu.Lock()
	t.finish(err)
	late := t.late
	d.mu.Unlock()
	if late {
		d.opts.Wake()
	}
}

// steps undoes what another command of this name made, then runs. The undoing
// is tried once: what is wanted now must not wait for a program that may be gone.
func (d *Driver) steps(ctx context.Context, t *task) error {
	ctx, cancel := command.Linger(ctx, grace)
	defer cancel()
	for _, c := range t.undo {
		if _, err := command.Run(ctx, c); err != nil {
			d.opts.Log.Warn("what a command made before could not be undone", "hook", t.hook.Name, "err", err)
		}
	}
	if len(t.undo) > 0 {
		d.mu.Lock()
		e := d.journal.entries[t.hook.Name]
		e.Before = nil
		d.journal.entries[t.hook.Name] = e
		d.mu.Unlock()
	}
	_, err := command.Run(ctx, t.run)
	return err
}

// settle takes the ends of tasks into the journal.
func (d *Driver) settle() {
	undone, based := map[string]bool{}, map[string]bool{}
	for name, t := range d.tasks {
		if !t.ended || t.settled {
			continue
		}
		t.settled = true
		d.journal.changed = d.journal.changed || len(t.undo) > 0
		switch {
		case t.change.Op == reconcile.Remove:
			for _, v := range t.run.Env {
				undone[v] = len(t.run.Words) > 0
			}
			if t.err == nil {
				delete(d.journal.entries, name)
				d.journal.changed = true
			}
		case t.err == nil:
			based[name] = true
		}
	}
	d.doubt(undone, based)
}

// doubt has hooks run again that may not stand any more. One that shares a
// variable's value with a command that was undone: a peer with another subnet
// now, for example, whose old one was removed after the new one was added. And
// those that stand on a hook that was just run.
func (d *Driver) doubt(undone, based map[string]bool) {
	if len(undone)+len(based) == 0 {
		return
	}
	for name, t := range d.tasks {
		if t.change.Op == reconcile.Remove {
			continue
		}
		touched := slices.ContainsFunc(t.run.Env, func(v string) bool { return undone[v] && !strings.HasSuffix(v, "=") })
		if touched || based[t.hook.After] {
			t.doubted = true
		}
		if !t.doubted || !t.ended || t.err != nil {
			continue
		}
		delete(d.tasks, name)
		if e, ok := d.journal.entries[name]; ok {
			e.doubt = "run before something that may have undone it"
			d.journal.entries[name] = e
		}
		d.opts.Wake()
	}
}

// same says whether two hooks mean the same. The time limit does not count.
func same(a, b state.Hook) bool {
	return a.Name == b.Name && a.After == b.After && sameCommand(a.Run, b.Run) && sameCommand(a.Undo, b.Undo)
}

func sameCommand(a, b state.Command) bool {
	return slices.Equal(a.Words, b.Words) && slices.Equal(a.Env, b.Env) && a.Stdin == b.Stdin
}

// How many commands run at once: of those that began not long ago, and of all.
const (
	freshLanes = 8
	allLanes   = 64
)

// lanes bound the commands that run at once. A command that takes its time
// leaves its lane to the next: peers whose commands hang do not delay the others.
type lanes struct{ fresh, all chan struct{} }

func newLanes() lanes {
	return lanes{fresh: make(chan struct{}, freshLanes), all: make(chan struct{}, allLanes)}
}

// enter waits for a lane. leave must be called at the end.
func (l lanes) enter(ctx context.Context) (leave func(), err error) {
	for i, lane := range []chan struct{}{l.all, l.fresh} {
		select {
		case lane <- struct{}{}:
		case <-ctx.Done():
			if i == 1 {
				<-l.all
			}
			return nil, ctx.Err()
		}
	}
	free := sync.OnceFunc(func() { <-l.fresh })
	slow := time.AfterFunc(patience, free)
	return func() {
		slow.Stop()
		free()
		<-l.all
	}, nil
}
