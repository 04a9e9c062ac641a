package hook_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/flannel-ng/flannel-ng/internal/driver/hook"
	"github.com/flannel-ng/flannel-ng/internal/reconcile"
	"github.com/flannel-ng/flannel-ng/internal/state"
)

// rig is a driver whose commands write down that they ran.
type rig struct {
	*hook.Driver
	dir     string
	options hook.Options
	woken   atomic.Int64
	log     buffer
}

// buffer is a log that two goroutines may use.
type buffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{dir: t.TempDir()}
	r.options = hook.Options{
		Journal: filepath.Join(r.dir, "run", "hooks.json"), Allowed: true,
		Wake: func() { r.woken.Add(1) }, Log: slog.New(slog.NewTextHandler(&r.log, nil)),
	}
	r.restart()
	t.Cleanup(func() { r.Wait() })
	return r
}

// restart is a new start of the daemon. What ran before may still run.
func (r *rig) restart() { r.Driver = hook.New(r.options) }

func (r *rig) path(name string) string { return filepath.Join(r.dir, name) }

// shell is a command with the text of a script; it knows $RAN, where to write
// down what ran.
func (r *rig) shell(script string, env ...string) state.Command {
	path := r.path(fmt.Sprintf("script-%x", script))
	if len(path) > 200 {
		path = path[:200]
	}
	_ = os.WriteFile(path, []byte(script+"\n"), 0o600)
	return state.Command{
		Words: []string{"sh", "-eu", path}, Env: append(env, "RAN="+r.path("ran"), "DIR="+r.dir), Timeout: 20 * time.Second,
	}
}

// peer is a hook as of a peer's subnet.
func (r *rig) peer(n int, more ...string) state.Hook {
	env := append([]string{fmt.Sprintf("SUBNET=10.5.%d.0/24", n), fmt.Sprintf("PUBLIC_IP=198.51.100.%d", n)}, more...)
	return state.Hook{
		Name: fmt.Sprintf("10.5.%d.0/24", n),
		Run:  r.shell(`echo add $SUBNET ${NOTE-} >>$RAN`, env...),
		Undo: r.shell(`echo del $SUBNET ${NOTE-} >>$RAN`, env...),
	}
}

// ran takes the lines that commands wrote since the last call.
func (r *rig) ran(t *testing.T) []string {
	t.Helper()
	b, err := os.ReadFile(r.path("ran"))
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	_ = os.Remove(r.path("ran"))
	return strings.FieldsFunc(strings.ReplaceAll(string(b), " \n", "\n"), func(r rune) bool { return r == '\n' })
}

func (r *rig) wantRan(t *testing.T, want ...string) {
	t.Helper()
	got := r.ran(t)
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("ran %q, want %q", got, want)
	}
}

// pass makes a pass and returns what came of each change: "op name" or
// "op name: error".
func (r *rig) pass(t *testing.T, deletes bool, hooks ...state.Hook) []string {
	t.Helper()
	out := reconcile.Execute(t.Context(), []reconcile.Driver{r.Driver}, &state.Set{Hooks: hooks}, deletes)
	for _, err := range out.Unread {
		t.Fatal(err)
	}
	var texts []string
	for _, res := range out.Results {
		text := fmt.Sprintf("%s %s", res.Op, res.Object.Key().Name)
		if res.Err != nil {
			text += ": " + res.Err.Error()
		}
		texts = append(texts, text)
	}
	return texts
}

func wantPass(t *testing.T, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("pass did\n\t%s\nwant\n\t%s", strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
	}
}

func (r *rig) journal(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile(r.options.Journal)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return string(b)
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatal("not in time: " + what)
		}
		<-time.After(5 * time.Millisecond)
	}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func TestLife(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	wantPass(t, r.pass(t, true, r.peer(1), r.peer(2)), "add 10.5.1.0/24", "add 10.5.2.0/24")
	r.wantRan(t, "add 10.5.1.0/24", "add 10.5.2.0/24")
	wantPass(t, r.pass(t, true, r.peer(1), r.peer(2)))
	r.wantRan(t)
	if info, err := os.Stat(r.options.Journal); err != nil || info.Mode() != 0o600 {
		t.Errorf("journal: %v, %v", info, err)
	}

	// A change undoes the old and runs the new, in this order.
	wantPass(t, r.pass(t, true, r.peer(1, "NOTE=x"), r.peer(2)), "update 10.5.1.0/24")
	if got, want := r.ran(t), []string{"del 10.5.1.0/24", "add 10.5.1.0/24 x"}; !slices.Equal(got, want) {
		t.Errorf("ran %q, want %q", got, want)
	}

	// Nothing is undone before absence means absence.
	wantPass(t, r.pass(t, false, r.peer(2)))
	r.wantRan(t)
	wantPass(t, r.pass(t, true, r.peer(2)), "remove 10.5.1.0/24")
	r.wantRan(t, "del 10.5.1.0/24 x")
	if j := r.journal(t); strings.Contains(j, "10.5.1.0") || !strings.Contains(j, "10.5.2.0") {
		t.Errorf("journal %s", j)
	}
	wantPass(t, r.pass(t, true), "remove 10.5.2.0/24")
	if exists(r.options.Journal) {
		t.Errorf("an empty journal stays: %s", r.journal(t))
	}
}

// A new start runs what is wanted again and undoes what left meanwhile.
func TestRestart(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.pass(t, true, r.peer(1), r.peer(2))
	r.wantRan(t, "add 10.5.1.0/24", "add 10.5.2.0/24")
	r.restart()
	wantPass(t, r.pass(t, false, r.peer(2)), "update 10.5.2.0/24")
	r.wantRan(t, "add 10.5.2.0/24")
	wantPass(t, r.pass(t, true, r.peer(2)), "remove 10.5.1.0/24")
	r.wantRan(t, "del 10.5.1.0/24")

	// What changed while the daemon was down is undone as it was made.
	r.restart()
	wantPass(t, r.pass(t, true, r.peer(2, "NOTE=x")), "update 10.5.2.0/24")
	if got, want := r.ran(t), []string{"del 10.5.2.0/24", "add 10.5.2.0/24 x"}; !slices.Equal(got, want) {
		t.Errorf("ran %q, want %q", got, want)
	}
}

// The journal is written before the command runs.
func TestCrashWhileRunning(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	h := r.peer(1)
	h.Run = r.shell(`echo begun >>$RAN; until [ -e $DIR/go ]; do sleep 0.02; done; echo add >>$RAN`)
	done := make(chan []string)
	go func() { done <- r.pass(t, true, h) }()
	eventually(t, "the command runs", func() bool { return exists(r.path("ran")) })
	crashed := r.journal(t)
	if err := os.WriteFile(r.path("go"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	wantPass(t, <-done, "add 10.5.1.0/24")
	r.ran(t)
	if err := os.WriteFile(r.options.Journal, []byte(crashed), 0o600); err != nil {
		t.Fatal(err)
	}
	r.restart()
	wantPass(t, r.pass(t, true), "remove 10.5.1.0/24")
	r.wantRan(t, "del 10.5.1.0/24")
}

// A crash before the old was undone does not forget it.
func TestCrashBeforeTheOldIsUndone(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.pass(t, true, r.peer(1, "NOTE=old"))
	r.ran(t)
	h := r.peer(1, "NOTE=new")
	before := r.journal(t)
	r.pass(t, true, h)
	r.ran(t)
	// What the journal held at the moment of the start of the change.
	var f map[string]any
	if err := json.Unmarshal([]byte(r.journal(t)), &f); err != nil {
		t.Fatal(err)
	}
	var old map[string]any
	if err := json.Unmarshal([]byte(before), &old); err != nil {
		t.Fatal(err)
	}
	entry := func(f map[string]any) map[string]any { return f["entries"].([]any)[0].(map[string]any) }
	entry(f)["before"] = []any{entry(old)["hook"].(map[string]any)["Undo"]}
	raw, err := json.Marshal(f)
	if err == nil {
		err = os.WriteFile(r.options.Journal, raw, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	r.restart()
	wantPass(t, r.pass(t, true), "remove 10.5.1.0/24")
	if got, want := r.ran(t), []string{"del 10.5.1.0/24 old", "del 10.5.1.0/24 new"}; !slices.Equal(got, want) {
		t.Errorf("ran %q, want %q", got, want)
	}
}

// A slow command holds up no pass, is not started twice, and wakes the engine.
func TestSlowCommand(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	slow := r.peer(1)
	slow.Run = r.shell(`echo slow >>$RAN; until [ -e $DIR/go ]; do sleep 0.02; done`)
	start := time.Now()
	wantPass(t, r.pass(t, true, slow, r.peer(2)), "add 10.5.1.0/24: still running", "add 10.5.2.0/24")
	if d := time.Since(start); d > 6*time.Second {
		t.Errorf("the pass took %s", d)
	}
	start = time.Now()
	wantPass(t, r.pass(t, true, slow, r.peer(2)), "add 10.5.1.0/24: still running")
	if d := time.Since(start); d > time.Second {
		t.Errorf("the second pass took %s", d)
	}
	r.wantRan(t, "slow", "add 10.5.2.0/24")
	if r.woken.Load() != 0 {
		t.Error("woken before the end")
	}
	if err := os.WriteFile(r.path("go"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the engine is woken", func() bool { return r.woken.Load() > 0 })
	wantPass(t, r.pass(t, true, slow, r.peer(2)), "add 10.5.1.0/24")
	wantPass(t, r.pass(t, true, slow, r.peer(2)))
	r.wantRan(t)
}

// It left while its command ran: the undoing waits for the end, and comes.
func TestGoneWhileRunning(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	h := r.peer(1)
	h.Run = r.shell(`until [ -e $DIR/go ]; do sleep 0.02; done; echo add >>$RAN`)
	wantPass(t, r.pass(t, true, h), "add 10.5.1.0/24: still running")
	wantPass(t, r.pass(t, true), "remove 10.5.1.0/24: still running")
	if err := os.WriteFile(r.path("go"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the engine is woken", func() bool { return r.woken.Load() > 0 })
	wantPass(t, r.pass(t, true), "remove 10.5.1.0/24")
	if got, want := r.ran(t), []string{"add", "del 10.5.1.0/24"}; !slices.Equal(got, want) {
		t.Errorf("ran %q, want %q", got, want)
	}
}

// Peers whose commands hang do not delay another for long.
func TestManyHang(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	var hooks []state.Hook
	for n := range 10 {
		h := r.peer(n)
		h.Run = r.shell(`until [ -e $DIR/go ]; do sleep 0.05; done`)
		hooks = append(hooks, h)
	}
	good := r.peer(99)
	hooks = append(hooks, good)
	start := time.Now()
	r.pass(t, true, hooks...)
	eventually(t, "the good one runs", func() bool { return exists(r.path("ran")) })
	if d := time.Since(start); d > 10*time.Second {
		t.Errorf("it waited %s", d)
	}
	if err := os.WriteFile(r.path("go"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	r.Wait()
	for _, text := range r.pass(t, true, hooks...) {
		if strings.Contains(text, ": ") {
			t.Error(text)
		}
	}
}

// A failure stays in the report with the same words, is tried again no sooner
// than its time, and harms no other.
func TestFailure(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	bad := r.peer(1)
	bad.Run = r.shell(`echo try >>$RAN; if [ ! -e $DIR/go ]; then echo no room; exit 3; fi`)
	const failed = "add 10.5.1.0/24: command sh: exit status 3: no room"
	wantPass(t, r.pass(t, true, bad, r.peer(2)), failed, "add 10.5.2.0/24")
	r.wantRan(t, "try", "add 10.5.2.0/24")
	for range 20 {
		wantPass(t, r.pass(t, true, bad, r.peer(2)), failed)
	}
	if tries := r.ran(t); len(tries) > 1 {
		t.Errorf("tried %d more times at once", len(tries))
	}
	if err := os.WriteFile(r.path("go"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it succeeds", func() bool { return len(r.pass(t, true, bad, r.peer(2))) == 0 })
}

// While a failed command is tried again, the report still says how it failed.
func TestFailureThenSlow(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	bad := r.peer(1)
	bad.Run = r.shell(`if [ -e $DIR/again ]; then until [ -e $DIR/go ]; do sleep 0.02; done; fi; touch $DIR/again; exit 1`)
	const failed = "add 10.5.1.0/24: command sh: exit status 1"
	wantPass(t, r.pass(t, true, bad), failed)
	start := time.Now()
	eventually(t, "it is tried again", func() bool {
		wantPass(t, r.pass(t, true, bad), failed)
		return time.Since(start) > 2*time.Second
	})
	if err := os.WriteFile(r.path("go"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestFailedUndoIsKept(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	h := r.peer(1)
	h.Undo = r.shell(`[ -e $DIR/go ]; echo undone >>$RAN`)
	r.pass(t, true, h)
	wantPass(t, r.pass(t, true), "remove 10.5.1.0/24: command sh: exit status 1")
	if !strings.Contains(r.journal(t), "10.5.1.0/24") {
		t.Error("forgotten")
	}
	r.restart()
	if err := os.WriteFile(r.path("go"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	r.ran(t)
	wantPass(t, r.pass(t, true), "remove 10.5.1.0/24")
	r.wantRan(t, "undone")
}

// What cannot be undone does not stop what is wanted now.
func TestOldUndoFails(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	h := r.peer(1)
	h.Undo = state.Command{Words: []string{"/nowhere/gone"}}
	r.pass(t, true, h)
	r.ran(t)
	wantPass(t, r.pass(t, true, r.peer(1)), "update 10.5.1.0/24")
	r.wantRan(t, "add 10.5.1.0/24")
	if !strings.Contains(r.log.String(), "could not be undone") {
		t.Errorf("log %q", r.log.String())
	}
	wantPass(t, r.pass(t, true, r.peer(1)))
}

// Hooks without a Run or an Undo are as good.
func TestHalves(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	noUndo, noRun := r.peer(1), r.peer(2)
	noUndo.Undo, noRun.Run = state.Command{}, state.Command{}
	wantPass(t, r.pass(t, true, noUndo, noRun), "add 10.5.1.0/24", "add 10.5.2.0/24")
	r.wantRan(t, "add 10.5.1.0/24")
	wantPass(t, r.pass(t, true), "remove 10.5.1.0/24", "remove 10.5.2.0/24")
	r.wantRan(t, "del 10.5.2.0/24")
}

// What stands on another hook waits for it, and is run again after it.
func TestAfter(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	base := state.Hook{Name: "startup", Run: r.shell(`[ -e $DIR/go ]; echo base ${NOTE-} >>$RAN`)}
	h := r.peer(1)
	h.After = "startup"
	blocked := "add 10.5.1.0/24: hook startup: " + reconcile.ErrBlocked.Error()
	wantPass(t, r.pass(t, true, h, base), blocked, "add startup: command sh: exit status 1")
	r.wantRan(t)
	if err := os.WriteFile(r.path("go"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	eventually(t, "both stand", func() bool { return len(r.pass(t, true, h, base)) == 0 })
	if got, want := r.ran(t), []string{"base", "add 10.5.1.0/24"}; !slices.Equal(got, want) {
		t.Errorf("ran %q, want %q", got, want)
	}
	base.Run.Env = append(base.Run.Env, "NOTE=moved")
	r.woken.Store(0)
	wantPass(t, r.pass(t, true, h, base), "update startup")
	if r.woken.Load() == 0 {
		t.Error("nobody asks for the pass that is needed now")
	}
	wantPass(t, r.pass(t, true, h, base), "update 10.5.1.0/24")
	r.wantRan(t, "base moved", "add 10.5.1.0/24")
	wantPass(t, r.pass(t, true, h, base))

	// Both at once on a new start, in order.
	r.restart()
	wantPass(t, r.pass(t, true, h, base), "update 10.5.1.0/24", "update startup")
	if got, want := r.ran(t), []string{"base moved", "add 10.5.1.0/24"}; !slices.Equal(got, want) {
		t.Errorf("ran %q, want %q", got, want)
	}
}

// A peer has another subnet now. The old one is removed after the new one was
// added, and may take things of the same peer along.
func TestUndoTakesAlong(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	old, other := r.peer(1), r.peer(2)
	moved := r.peer(3)
	moved.Run.Env[1], moved.Undo.Env[1] = old.Run.Env[1], old.Run.Env[1] // the same PUBLIC_IP
	r.pass(t, true, old, other)
	r.ran(t)
	r.woken.Store(0)
	// RAN and DIR are shared by all commands of this test: take them out.
	for _, h := range []*state.Hook{&old, &other, &moved} {
		h.Run.Env, h.Undo.Env = h.Run.Env[:2], h.Undo.Env[:2]
		h.Run.Words = []string{"sh", "-c", "echo add $SUBNET >>" + r.path("ran")}
		h.Undo.Words = []string{"sh", "-c", "echo del $SUBNET >>" + r.path("ran")}
	}
	r.restart()
	r.pass(t, true, old, other)
	r.restart()
	r.ran(t)
	wantPass(t, r.pass(t, true, moved, other), "update 10.5.2.0/24", "add 10.5.3.0/24", "remove 10.5.1.0/24")
	r.wantRan(t, "add 10.5.2.0/24", "add 10.5.3.0/24", "del 10.5.1.0/24")
	if r.woken.Load() == 0 {
		t.Error("nobody asks for the pass that is needed now")
	}
	wantPass(t, r.pass(t, true, moved, other), "update 10.5.3.0/24")
	r.wantRan(t, "add 10.5.3.0/24")
	wantPass(t, r.pass(t, true, moved, other))
}

func TestBrokenJournal(t *testing.T) {
	t.Parallel()
	good := newRig(t)
	good.pass(t, true, good.peer(1))
	text := good.journal(t)
	write := func(content string, mode os.FileMode) func(*rig) error {
		return func(r *rig) error {
			if err := os.WriteFile(r.options.Journal, []byte(content), mode); err != nil {
				return err
			}
			return os.Chmod(r.options.Journal, mode)
		}
	}
	for name, tt := range map[string]struct {
		spoil  func(*rig) error
		silent bool
	}{
		"empty":         {spoil: write("", 0o600)},
		"half":          {spoil: write(text[:len(text)/2], 0o600)},
		"other version": {spoil: write(strings.Replace(text, `"version":1`, `"version":2`, 1), 0o600)},
		"others read":   {spoil: write(text, 0o644)},
		"no file":       {spoil: func(r *rig) error { return os.Mkdir(r.options.Journal, 0o700) }},
		"symbolic link": {spoil: func(r *rig) error { return os.Symlink(good.options.Journal, r.options.Journal) }},
		"another boot":  {spoil: write(strings.Replace(text, `"boot":"`, `"boot":"x`, 1), 0o600), silent: true},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			err := os.Mkdir(filepath.Dir(r.options.Journal), 0o700)
			if err == nil {
				err = tt.spoil(r)
			}
			if err != nil {
				t.Fatal(err)
			}
			wantPass(t, r.pass(t, true))
			if got := strings.Contains(r.log.String(), "begun anew"); got == tt.silent {
				t.Errorf("log %q", r.log.String())
			}
			if name == "no file" {
				return // a directory in its place is not replaced
			}
			wantPass(t, r.pass(t, true, r.peer(2)), "add 10.5.2.0/24")
			if strings.Contains(r.journal(t), "10.5.1.0") {
				t.Error("believed")
			}
			r.restart()
			wantPass(t, r.pass(t, true), "remove 10.5.2.0/24")
		})
	}
}

// Nothing runs that the journal would not remember.
func TestNoJournalNoCommand(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	if err := os.WriteFile(filepath.Dir(r.options.Journal), nil, 0o600); err != nil {
		t.Fatal(err) // a file where the directory must be
	}
	out := reconcile.Execute(t.Context(), []reconcile.Driver{r.Driver}, &state.Set{Hooks: []state.Hook{r.peer(1)}}, true)
	if len(out.Unread) != 1 && len(out.Failed()) != 1 {
		t.Errorf("%+v", out)
	}
	r.wantRan(t)
}

func TestNotAllowed(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.pass(t, true, r.peer(1))
	r.ran(t)
	r.options.Allowed = false
	r.restart()
	for range 3 {
		wantPass(t, r.pass(t, true))
	}
	if n := strings.Count(r.log.String(), "--allow-extension"); n != 1 {
		t.Errorf("told %d times: %s", n, r.log.String())
	}
	wantPass(t, r.pass(t, true, r.peer(2)), "add 10.5.2.0/24: "+hook.ErrNotAllowed.Error())
	r.wantRan(t)
	r.options.Allowed = true
	r.restart()
	wantPass(t, r.pass(t, true), "remove 10.5.1.0/24")
	r.wantRan(t, "del 10.5.1.0/24")
}

// A command that runs when the daemon stops comes to its end.
func TestStop(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	h := r.peer(1)
	h.Run = r.shell(`touch $DIR/begun; until [ -e $DIR/go ]; do sleep 0.02; done; echo whole >>$RAN`)
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan []reconcile.Result)
	go func() { done <- r.Apply(ctx, []reconcile.Change{{Op: reconcile.Add, Object: h}}) }()
	eventually(t, "the command runs", func() bool { return exists(r.path("begun")) })
	stop()
	if res := <-done; !errors.Is(res[0].Err, hook.ErrRunning) {
		t.Errorf("%v", res[0].Err)
	}
	if err := os.WriteFile(r.path("go"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	r.Wait()
	r.wantRan(t, "whole")
}

// A command that does not end is killed, and the stop ends.
func TestStopIsBounded(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	h := r.peer(1)
	h.Run = r.shell(`touch $DIR/begun; sleep 300`)
	h.Run.Timeout = time.Hour
	ctx, stop := context.WithCancel(t.Context())
	go func() {
		eventually(t, "the command runs", func() bool { return exists(r.path("begun")) })
		stop()
	}()
	start := time.Now()
	r.Apply(ctx, []reconcile.Change{{Op: reconcile.Add, Object: h}})
	r.Wait()
	if d := time.Since(start); d > 20*time.Second {
		t.Errorf("the stop took %s", d)
	}
}

// Results come in the order of the changes, whatever ran first.
func TestOrderOfResults(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	a, b, c := r.peer(3), r.peer(1), r.peer(2)
	a.After = "10.5.2.0/24"
	results := r.Apply(t.Context(), []reconcile.Change{
		{Op: reconcile.Add, Object: a},
		{Op: reconcile.Add, Object: state.File{Path: "/x"}},
		{Op: reconcile.Add, Object: b},
		{Op: reconcile.Add, Object: c},
	})
	var got []string
	for _, res := range results {
		got = append(got, fmt.Sprint(res.Object.Key().Name, " ", res.Err))
	}
	want := []string{"10.5.3.0/24 <nil>", "/x hook driver got state.File", "10.5.1.0/24 <nil>", "10.5.2.0/24 <nil>"}
	if !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
}

// A whole fabric appears: everything is run once, in a few passes.
func TestManyPeers(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	var hooks []state.Hook
	for n := range 250 {
		h := r.peer(n)
		h.Run.Words = []string{"true"}
		hooks = append(hooks, h)
	}
	eventually(t, "all stand", func() bool { return len(r.pass(t, true, hooks...)) == 0 })
	eventually(t, "all are gone", func() bool { return len(r.pass(t, true)) == 0 })
	if n := len(r.ran(t)); n != 250 {
		t.Errorf("%d undone", n)
	}
}

// Whatever is in the file, the driver starts.
func FuzzJournal(f *testing.F) {
	for _, seed := range []string{
		"", "{}", "null", `{"version":1}`, `{"version":1,"entries":[{}]}`, `{"version":1,"entries":[{"hook":{"Name":"a","Undo":{"Words":["x"]}},"before":[{}]}]}`,
	} {
		f.Add(seed)
	}
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, text string) {
		path := filepath.Join(dir, fmt.Sprintf("%d.json", os.Getpid()))
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		d := hook.New(hook.Options{Journal: path, Allowed: true, Wake: func() {}, Log: slog.New(slog.DiscardHandler)})
		if _, err := d.Plan(t.Context(), &state.Set{}); err != nil {
			t.Error(err)
		}
	})
}
