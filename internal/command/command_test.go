package command_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/flannel-ng/flannel-ng/internal/command"
	"github.com/flannel-ng/flannel-ng/internal/state"
)

// script writes an executable and returns its path.
func script(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "script")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text), 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestRun(t *testing.T) {
	each := script(t, `for w in "$@"; do echo "<$w>"; done`)
	for name, tt := range map[string]struct {
		command state.Command
		want    string
	}{
		"no words":             {state.Command{Timeout: 1}, ""},
		"one value, one word":  {state.Command{Words: []string{each, "$A", "x${A}y"}, Env: []string{"A=1 2; id"}}, "<1 2; id>\n<x1 2; idy>\n"},
		"nothing is a shell's": {state.Command{Words: []string{each, `"a`, `b"`, ";", "&&", "*", "`id`"}}, "<\"a>\n<b\">\n<;>\n<&&>\n<*>\n<`id`>\n"},
		"unknown is empty":     {state.Command{Words: []string{each, "$NO_SUCH_THING", "a${NO_SUCH_THING}b"}}, "<>\n<ab>\n"},
		"program by variable":  {state.Command{Words: []string{"$EACH", "a"}, Env: []string{"EACH=" + each}}, "<a>\n"},
		"environment":          {state.Command{Words: []string{"printenv", "A"}, Env: []string{"A=1", "A=2"}}, "2\n"},
		"input":                {state.Command{Words: []string{"cat"}, Stdin: "one\ntwo\n"}, "one\ntwo\n"},
		"no input":             {state.Command{Words: []string{"cat"}}, ""},
		"both outputs":         {state.Command{Words: []string{script(t, "echo a; echo b >&2; echo c")}}, "a\nb\nc\n"},
		"input left unread":    {state.Command{Words: []string{"true"}, Stdin: strings.Repeat("x", 1<<20)}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := command.Run(t.Context(), tt.command)
			if err != nil || got != tt.want {
				t.Errorf("%q, %v; want %q", got, err, tt.want)
			}
		})
	}
}

// More input than a pipe holds, while the output fills up as well.
func TestLargeInputAndOutput(t *testing.T) {
	data := strings.Repeat("0123456789abcdef", 1<<16) // 1 MiB
	out, err := command.Run(t.Context(), state.Command{Words: []string{"cat"}, Stdin: data, Timeout: time.Minute})
	if err != nil || out != data[len(data)-command.MaxOutput:] {
		t.Errorf("%d bytes, %v", len(out), err)
	}
}

func TestErrors(t *testing.T) {
	for name, tt := range map[string]struct {
		command state.Command
		want    string
		is      error
	}{
		"exit code":         {state.Command{Words: []string{script(t, "echo; echo no  room >&2; printf '\\033[31m'; exit 3")}}, "exit status 3: no room [31m", nil},
		"silent":            {state.Command{Words: []string{"false"}}, "command false: exit status 1", nil},
		"no such program":   {state.Command{Words: []string{"/nowhere/x"}}, "command /nowhere/x: ", os.ErrNotExist},
		"program vanished":  {state.Command{Words: []string{"$NO_SUCH_THING", "x"}}, "command $NO_SUCH_THING: ", command.ErrNoProgram},
		"not executable":    {state.Command{Words: []string{"/dev/null"}}, "/dev/null", os.ErrPermission},
		"timeout":           {state.Command{Words: []string{script(t, "echo begun; sleep 60")}, Timeout: 200 * time.Millisecond}, "timed out after 200ms: begun", command.ErrTimeout},
		"only the end told": {state.Command{Words: []string{script(t, "yes | head -c 100000; echo end; exit 1")}}, "y end", nil},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := command.Run(t.Context(), tt.command)
			if err == nil || !strings.Contains(err.Error(), tt.want) || tt.is != nil && !errors.Is(err, tt.is) {
				t.Fatalf("%v, want %q", err, tt.want)
			}
			if len(err.Error()) > 3<<10 {
				t.Errorf("an error of %d bytes", len(err.Error()))
			}
		})
	}
}

// running says whether a process exists that is no zombie.
func running(pid int) bool {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, rest, _ := strings.Cut(string(raw), ") ")
	return !strings.HasPrefix(rest, "Z")
}

func readPID(t *testing.T, path string) int {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(raw)))
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatal("not in time: " + what)
		}
		<-time.After(5 * time.Millisecond)
	}
}

// The children of a command die with it.
func TestTimeoutKillsTheGroup(t *testing.T) {
	pidfile := filepath.Join(t.TempDir(), "pid")
	s := script(t, "trap '' TERM\nsleep 300 &\necho $! >$PIDFILE\nwait")
	_, err := command.Run(t.Context(), state.Command{
		Words: []string{s}, Env: []string{"PIDFILE=" + pidfile}, Timeout: 500 * time.Millisecond,
	})
	if !errors.Is(err, command.ErrTimeout) {
		t.Fatal(err)
	}
	pid := readPID(t, pidfile)
	eventually(t, "the child ends", func() bool { return !running(pid) })
}

// A command may leave a process behind, which lives on even if it keeps our
// pipe.
func TestProcessLeftBehind(t *testing.T) {
	pidfile := filepath.Join(t.TempDir(), "pid")
	start := time.Now()
	out, err := command.Run(t.Context(), state.Command{
		Words: []string{script(t, "sleep 300 &\necho $! >$PIDFILE\necho done")},
		Env:   []string{"PIDFILE=" + pidfile}, Timeout: time.Minute,
	})
	if err != nil || out != "done\n" || time.Since(start) > 30*time.Second {
		t.Errorf("%q, %v after %s", out, err, time.Since(start))
	}
	pid := readPID(t, pidfile)
	if !running(pid) {
		t.Error("it was killed")
	}
	_ = unix.Kill(pid, unix.SIGKILL)
}

// A child has the three standard descriptors, and its own for looking.
func TestNoDescriptorsInherited(t *testing.T) {
	fd, err := unix.Open("/dev/null", unix.O_RDONLY, 0) // as if left open by our parent
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(fd) }()
	out, err := command.Run(t.Context(), state.Command{Words: []string{"ls", "/proc/self/fd"}})
	if got := strings.Fields(out); err != nil || !slices.Equal(got, []string{"0", "1", "2", "3"}) {
		t.Errorf("descriptors %v, %v", got, err)
	}
}

func TestLinger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		longer, done := command.Linger(ctx, 5*time.Second)
		defer done()
		stop()
		stopped := time.Now()
		<-longer.Done()
		if d := time.Since(stopped); d != 5*time.Second || !errors.Is(context.Cause(longer), command.ErrStopped) {
			t.Errorf("ended %s after, %v", d, context.Cause(longer))
		}
		short, done := command.Linger(ctx, time.Hour)
		done()
		if short.Err() == nil {
			t.Error("not ended by its own end")
		}
	})
}

// A command that runs when the daemon stops may end by itself.
func TestStopLetsItEnd(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	longer, done := command.Linger(ctx, time.Minute)
	defer done()
	stop()
	if out, err := command.Run(longer, state.Command{Words: []string{"echo", "done"}}); err != nil || out != "done\n" {
		t.Errorf("%q, %v", out, err)
	}
}

func FuzzExpand(f *testing.F) {
	for _, seed := range []string{"", "$A", "${A}", "$$", "${", "$A$B", "a$*b", "${A", "$1", "x y;z"} {
		f.Add(seed, "v; $B `id`", seed+"2")
	}
	f.Fuzz(func(t *testing.T, word, value, other string) {
		got := command.Expand([]string{word, "$A", other}, []string{"A=old", "noise", "A=" + value})
		if len(got) != 3 {
			t.Fatalf("%d words", len(got))
		}
		if got[1] != value {
			t.Errorf("$A became %q, not %q", got[1], value)
		}
		if !strings.Contains(word, "$") && got[0] != word {
			t.Errorf("%q became %q", word, got[0])
		}
		if strings.Count(got[0], "$") > strings.Count(word, "$")*(1+strings.Count(value, "$")) {
			t.Errorf("%q became %q: expanded twice?", word, got[0])
		}
	})
}
