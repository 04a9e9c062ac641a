package ipt

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/state"
)

// Host is what the driver asks of the machine.
type Host interface {
	// Has says whether a program is in PATH.
	Has(program string) bool
	// Run runs a program with stdin and returns its standard output. The
	// error carries what the program said.
	Run(ctx context.Context, stdin string, argv []string) (string, error)
	// LegacyTables says whether the kernel has loaded legacy tables.
	LegacyTables(f addr.Family) bool
}

// System is this machine.
type System struct {
	// Patience bounds one run of a program; 0 means ten seconds. Without a
	// bound one that hangs would stop every pass.
	Patience time.Duration
	// Started is told the number of each process, before it is waited for; nil:
	// nobody asks.
	Started func(pid int)
}

const (
	usualPatience = 10 * time.Second
	// lockWait is how long a restore waits for the xtables lock, in seconds:
	// less than the patience, so that the program itself says what is wrong.
	lockWait = "5"
	// pipeWait is how long we listen to what a killed program left running.
	pipeWait = time.Second
)

// Has implements Host.
func (System) Has(program string) bool {
	_, err := exec.LookPath(program)
	return err == nil
}

// Run implements Host.
func (s System) Run(ctx context.Context, stdin string, argv []string) (string, error) {
	patience := cmp.Or(s.Patience, usualPatience)
	ctx, cancel := context.WithTimeoutCause(ctx, patience, errHangs)
	defer cancel()
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.WaitDelay = pipeWait
	cmd.Stdin = strings.NewReader(stdin)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Start()
	if err == nil {
		if s.Started != nil {
			s.Started(cmd.Process.Pid)
		}
		err = cmd.Wait()
	}
	if errors.Is(context.Cause(ctx), errHangs) && err != nil {
		err = fmt.Errorf("ended after %s: %w: %w", patience, errHangs, err)
	}
	if err != nil {
		return "", fmt.Errorf("%w: %s", err, strings.Join(strings.Fields(stderr.String()), " "))
	}
	return stdout.String(), nil
}

// errHangs names the usual reason, because the program was in no state to.
var errHangs = errors.New("it hangs, perhaps because another program holds the xtables lock (/run/xtables.lock)")

// LegacyTables implements Host.
func (System) LegacyTables(f addr.Family) bool {
	path := "/proc/thread-self/net/ip6_tables_names"
	if f == addr.IPv4 {
		path = "/proc/thread-self/net/ip_tables_names"
	}
	names, err := os.ReadFile(path)
	return err == nil && len(names) > 0
}

// tools are the programs of one flavour of iptables for one family.
type tools struct {
	save, restore string
	legacy        bool
	// modern: 1.6.2 or later, which knows MASQUERADE --random-fully and
	// iptables-restore --wait.
	modern bool
}

func (t *tools) restoreArgs() []string {
	args := []string{t.restore, "--noflush"}
	if t.modern {
		args = append(args, "--wait", lockWait)
	}
	return args
}

// possible replaces what this version cannot do.
func (t *tools) possible(f state.Filter) state.Filter {
	if t.modern {
		return f
	}
	f.Postrouting = slices.Clone(f.Postrouting)
	for i, r := range f.Postrouting {
		if r.Verdict == state.MasqueradeRandom {
			f.Postrouting[i].Verdict = state.Masquerade
		}
	}
	return f
}

// toolset is the flavour in which our rules live, and the other one, which is
// kept free of them: the kernel obeys both.
type toolset struct{ home, other *tools }

// flavours lists the home first: rules are added before others are removed.
func (ts *toolset) flavours() []*tools {
	if ts.other == nil {
		return []*tools{ts.home}
	}
	return []*tools{ts.home, ts.other}
}

// share is the part of want that belongs into t.
func (ts *toolset) share(t *tools, want state.Filter) state.Filter {
	if t == ts.home {
		return want
	}
	return state.Filter{}
}

// toolset finds the programs once: a host does not change its flavour while it
// runs.
func (d *Driver) toolset(ctx context.Context, f addr.Family) (*toolset, error) {
	if ts := d.tools.At(f); ts != nil {
		return ts, nil
	}
	base := "ip6tables"
	if f == addr.IPv4 {
		base = "iptables"
	}
	var found []*tools
	for _, name := range []string{base, base + "-nft", base + "-legacy"} {
		t, err := d.inspect(ctx, name)
		if err != nil {
			return nil, err
		}
		if t != nil && !slices.ContainsFunc(found, func(o *tools) bool { return o.legacy == t.legacy }) {
			found = append(found, t)
		}
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("%s: %w", f, ErrNoTools)
	}
	ts := &toolset{home: found[0]}
	if len(found) == 2 {
		ts.other = found[1]
		if err := d.choose(ctx, f, ts); err != nil {
			return nil, err
		}
	}
	d.tools.Put(f, ts)
	return ts, nil
}

// inspect returns nil if the host lacks the programs.
func (d *Driver) inspect(ctx context.Context, name string) (*tools, error) {
	t := &tools{save: name + "-save", restore: name + "-restore"}
	if !d.host.Has(name) || !d.host.Has(t.save) || !d.host.Has(t.restore) {
		return nil, nil
	}
	out, err := d.host.Run(ctx, "", []string{name, "--version"})
	if err != nil {
		return nil, fmt.Errorf("%s --version: %w", name, err)
	}
	v, err := parseVersion(out)
	if err != nil {
		return nil, fmt.Errorf("%s --version: %w", name, err)
	}
	t.legacy, t.modern = v.legacy, slices.Compare(v.number, []int{1, 6, 2}) >= 0
	return t, nil
}

// choose prefers the flavour in which others already keep their chains, and
// among equals the one that "iptables" stands for.
func (d *Driver) choose(ctx context.Context, f addr.Family, ts *toolset) error {
	home, err := d.neighbours(ctx, f, ts.home)
	if err != nil {
		return err
	}
	other, err := d.neighbours(ctx, f, ts.other)
	if err != nil {
		return err
	}
	if home == 0 && other > 0 {
		ts.home, ts.other = ts.other, ts.home
	}
	return nil
}

// neighbours counts the chains of Docker and Kubernetes in one flavour.
func (d *Driver) neighbours(ctx context.Context, f addr.Family, t *tools) (int, error) {
	if t.legacy && !d.host.LegacyTables(f) {
		return 0, nil
	}
	out, err := d.host.Run(ctx, "", []string{t.save})
	if err != nil {
		return 0, fmt.Errorf("%s: %w", t.save, err)
	}
	return strings.Count(out, "\n:DOCKER") + strings.Count(out, "\n:KUBE-"), nil
}

// version is what "iptables --version" says.
type version struct {
	number []int
	legacy bool
}

var errVersion = errors.New("not a version of iptables")

// parseVersion reads "iptables v1.8.9 (nf_tables)". Versions before 1.8 name
// no flavour and are legacy.
func parseVersion(s string) (version, error) {
	words := strings.Fields(s)
	if len(words) < 2 || !strings.HasPrefix(words[1], "v") {
		return version{}, fmt.Errorf("%q: %w", s, errVersion)
	}
	v := version{legacy: !slices.Contains(words[2:], "(nf_tables)")}
	for part := range strings.SplitSeq(words[1][1:], ".") {
		n, err := strconv.Atoi(part)
		if err != nil {
			return version{}, fmt.Errorf("%q: %w", s, errVersion)
		}
		v.number = append(v.number, n)
	}
	return v, nil
}
