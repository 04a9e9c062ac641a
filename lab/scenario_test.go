package lab_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/flannel-ng/flannel-ng/lab"
)

// TestScenarios runs every script of testdata. A script whose first line is
// "# matrix: key=a,b other=c,d" runs once for each combination, with the
// values in its environment. FLANNEL_BIN names a directory with the built
// programs; without it they are built once.
func TestScenarios(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip(lab.ErrNotRoot)
	}
	needTools(t)
	bin := binaries(t)
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scripts in testdata: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			t.Parallel()
			for _, v := range matrix(t, file) {
				runVariant(t, file, v, bin)
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
		build := exec.Command("go", "build", "-o", dir, "../cmd/flanneld", "../cmd/flannelctl", "./cmd/lab")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			t.Fatalf("build: %v\n%s", err, out)
		}
	}
	bin, err := lab.BinariesIn(dir)
	if err != nil {
		t.Fatal(err)
	}
	return bin
}

// variant is one combination of a matrix.
type variant map[string]string

func (v variant) String() string {
	var parts []string
	for _, key := range slices.Sorted(maps.Keys(v)) {
		parts = append(parts, v[key])
	}
	return strings.Join(parts, "-")
}

// matrix reads the first line of a script; without one there is one variant.
func matrix(t *testing.T, file string) []variant {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	all := []variant{{}}
	first, _, _ := strings.Cut(string(text), "\n")
	axes, ok := strings.CutPrefix(first, "# matrix: ")
	if !ok {
		return all
	}
	for axis := range strings.FieldsSeq(axes) {
		key, values, ok := strings.Cut(axis, "=")
		if !ok {
			t.Fatalf("%s: matrix axis %q has no =", file, axis)
		}
		var next []variant
		for _, v := range all {
			for value := range strings.SplitSeq(values, ",") {
				w := maps.Clone(v)
				w[key] = value
				next = append(next, w)
			}
		}
		all = next
	}
	return all
}

// runVariant runs one script once, as a subtest named after the variant.
func runVariant(t *testing.T, file string, v variant, bin lab.Binaries) {
	t.Helper()
	name := v.String()
	if name == "" {
		name = "once"
	}
	deadline, _ := t.Deadline()
	testscript.RunT(shim{T: t, name: name}, testscript.Params{
		Files:    []string{file},
		Deadline: deadline,
		Cmds:     commands(),
		Setup: func(env *testscript.Env) error {
			for key, value := range v {
				env.Setenv(key, value)
			}
			env.Setenv("mtu", map[string]string{"4": "1450", "6": "1430", "dual": "1430"}[v["family"]])
			s := &stage{bin: bin, saved: map[string]string{}, flows: map[string]*lab.Flow{}, captures: map[string]*lab.Capture{}}
			env.Values[stageKey{}] = s
			env.Defer(func() { s.leave(env.T()) })
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
	bin    lab.Binaries
	fabric *lab.Fabric
	saved  map[string]string    // by kind and host, for "save" and "same"
	flows  map[string]*lab.Flow // by name

	captures map[string]*lab.Capture // by name
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
