package lab_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/flannel-ng/flannel-ng/lab"
)

// TestScenarios runs every script of testdata, each once for every combination
// of its matrix. FLANNEL_BIN names a directory with the built
// programs; without it they are built once.
func TestScenarios(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip(lab.ErrNotRoot)
	}
	needTools(t)
	bin := binaries(t)
	bin.Upgraded = upgraded(t, bin)
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scripts in testdata: %v", err)
	}
	sum := newReport()
	t.Cleanup(func() { sum.write(t) })
	var there []string
	t.Cleanup(func() {
		if err := sum.chosen(there); err != nil {
			t.Error(err)
		}
	})
	for _, file := range files {
		m, script := readMatrix(t, file), strings.TrimSuffix(filepath.Base(file), ".txtar")
		for _, v := range m.variants {
			there = append(there, script+"/"+v.name())
		}
		t.Run(script, func(t *testing.T) {
			t.Parallel()
			sum.leftOut(m)
			for _, v := range m.variants {
				runVariant(t, file, v, bench{bin, sum})
			}
		})
	}
}

func needTools(t *testing.T) {
	t.Helper()
	for _, tool := range []string{"nsenter", "ip", "bridge", "nft", "iptables", "ip6tables", "ping", "sysctl", "tcpdump"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("needs %s (scripts/deps.sh installs it): %v", tool, err)
		}
	}
}

// binaries builds the programs, or takes those of FLANNEL_BIN.
func binaries(t *testing.T) lab.Binaries {
	t.Helper()
	dir := os.Getenv("FLANNEL_BIN")
	if dir == "" {
		dir = t.TempDir()
		build(t, "-o", dir, "../cmd/flanneld", "../cmd/flannelctl", "./cmd/lab")
	}
	bin, err := lab.BinariesIn(dir)
	if err != nil {
		t.Fatal(err)
	}
	return bin
}

// upgraded is a flanneld that differs from the others by its version: from the
// folder "upgraded" beside them, or built here.
func upgraded(t *testing.T, bin lab.Binaries) string {
	t.Helper()
	path := filepath.Join(filepath.Dir(bin.Flanneld), "upgraded", "flanneld")
	if _, err := os.Stat(path); err != nil {
		path = filepath.Join(t.TempDir(), "flanneld")
		build(t, "-ldflags", "-X main.version=upgraded", "-o", path, "../cmd/flanneld")
	}
	return path
}

func build(t *testing.T, args ...string) {
	t.Helper()
	build := exec.Command("go", append([]string{"build"}, args...)...)
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
}

// bench is what all scripts share.
type bench struct {
	bin lab.Binaries
	sum *report
}

// runVariant runs one script once, as a subtest named after the variant.
func runVariant(t *testing.T, file string, v variant, at bench) {
	t.Helper()
	deadline, _ := t.Deadline()
	testscript.RunT(shim{T: t, name: v.name()}, testscript.Params{
		Files:    []string{file},
		Deadline: deadline,
		Cmds:     commands(),
		Setup: func(env *testscript.Env) error {
			for key, value := range v {
				env.Setenv(key, value)
			}
			env.Setenv("mtu", v.mtu())
			env.Setenv("backend", v.backend())
			env.Setenv("seen", v.seen())
			s := &stage{bin: at.bin, saved: map[string]string{}, flows: map[string]*lab.Flow{}, captures: map[string]*lab.Capture{}, usage: map[string]lab.Usage{}}
			env.Values[stageKey{}] = s
			env.Defer(func() { at.sum.ran(v, env.T(), s.figures); s.leave(env.T()) })
			return nil
		},
		Condition: func(cond string) (bool, error) {
			key, value, _ := strings.Cut(cond, ":")
			if _, ok := v[key]; !ok {
				return false, fmt.Errorf("the matrix has no axis %q", key)
			}
			return v[key] == value, nil
		},
	})
}

// shim names the subtests of testscript after the variant.
type shim struct {
	*testing.T
	name string
}

func (s shim) Run(_ string, f func(testscript.T)) {
	s.T.Run(s.name, func(t *testing.T) { f(shim{T: t, name: s.name}) })
}

func (s shim) Verbose() bool { return testing.Verbose() }

type stageKey struct{}

// stage is what a script acts on.
type stage struct {
	bin     lab.Binaries
	fabric  *lab.Fabric
	saved   map[string]string    // by kind and host, for "save" and "same"
	flows   map[string]*lab.Flow // by name
	figures []string             // what was measured, for the report

	captures map[string]*lab.Capture // by name

	mu    sync.Mutex
	usage map[string]lab.Usage // by host, at "quiet begin"
}

// limit bounds each command; a healthy fabric needs a fraction of it.
const limit = 60 * time.Second

// leave shows everything after a failure and closes the fabric.
func (s *stage) leave(t testscript.T) {
	if s.fabric == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	if sub, ok := t.(shim); ok && sub.Failed() {
		var b strings.Builder
		s.fabric.Dump(ctx, &b)
		t.Log(b.String())
	}
	for name, f := range s.flows { // those of a script that failed
		if _, err := f.Stop(ctx); err != nil {
			t.Log(fmt.Sprintf("flow %s: %v", name, err))
		}
	}
	if err := s.fabric.Close(ctx); err != nil {
		t.Log(fmt.Sprintf("close: %v", err))
	}
}

// action is a script command: an error fails the script.
type action func(ctx context.Context, s *stage, c call) error

// call is one line of a script.
type call struct {
	ts   *testscript.TestScript
	neg  bool
	args []string
}

var errUsage = errors.New("usage: see the table of commands in docs/testing.md")

func (c call) arg(i int) string {
	if i < len(c.args) {
		return c.args[i]
	}
	return ""
}

// dashes splits the arguments at "--".
func (c call) dashes() (before, after []string) {
	i := slices.Index(c.args, "--")
	if i < 0 {
		return c.args, nil
	}
	return c.args[:i], c.args[i+1:]
}

// command makes an action known to testscript. Only some allow "!".
func command(mayNegate bool, do action) func(*testscript.TestScript, bool, []string) {
	return func(ts *testscript.TestScript, neg bool, args []string) {
		if neg && !mayNegate {
			ts.Fatalf("this command cannot be negated")
		}
		s, ok := ts.Value(stageKey{}).(*stage)
		if !ok {
			ts.Fatalf("no stage")
		}
		ctx, cancel := context.WithTimeout(context.Background(), limit)
		defer cancel()
		ts.Check(do(ctx, s, call{ts: ts, neg: neg, args: args}))
	}
}
