package tunnel_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/driver/drivertest"
	"github.com/flannel-ng/flannel-ng/internal/driver/kernel"
	driver "github.com/flannel-ng/flannel-ng/internal/driver/tunnel"
	"github.com/flannel-ng/flannel-ng/internal/reconcile"
	"github.com/flannel-ng/flannel-ng/internal/state"
	"github.com/flannel-ng/flannel-ng/internal/tunnel"
	"github.com/flannel-ng/flannel-ng/internal/tunnel/forwarder"
)

// toolVerb makes the test binary a tool that meddles with a forwarder, for the
// commands of the suite.
const toolVerb = "meddle"

// TestMain makes the test binary what flanneld is too: its own forwarder.
func TestMain(m *testing.M) {
	// A process that was told to end is waited for until it has.
	burying := goleak.IgnoreAnyFunction("github.com/flannel-ng/flannel-ng/internal/tunnel.Start.func1")
	if len(os.Args) < 2 {
		goleak.VerifyTestMain(m, burying)
	}
	var err error
	switch os.Args[1] {
	case tunnel.Subcommand: // forward --socket PATH --build TEXT
		o := forwarder.Options{Socket: os.Args[3], Build: os.Args[5], Log: slog.New(slog.DiscardHandler)}
		err = forwarder.Run(context.Background(), o)
	case toolVerb:
		err = meddle(os.Args[2:])
	default:
		goleak.VerifyTestMain(m, burying)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// meddle does to the forwarder on a socket what somebody else might.
func meddle(args []string) error {
	ctx := context.Background()
	c, err := tunnel.Dial(ctx, args[1])
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	switch args[0] {
	case "kill":
		if err := unix.Kill(c.Hello().PID, unix.SIGKILL); err != nil {
			return err
		}
		<-c.Done()
		return nil
	case "quit":
		return c.Quit(ctx)
	case "put":
		p := tunnel.Peer{Subnet: netip.MustParsePrefix(args[2]), Dst: netip.MustParseAddr(args[3])}
		return c.Change(ctx, tunnel.Change{Put: []tunnel.Peer{p}})
	case "remove":
		return c.Change(ctx, tunnel.Change{Remove: []netip.Prefix{netip.MustParsePrefix(args[2])}})
	case "port":
		st, err := c.Status(ctx)
		if err != nil {
			return err
		}
		st.Config.Port++
		return c.Change(ctx, tunnel.Change{Config: st.Config})
	default:
		return errors.ErrUnsupported
	}
}

// host is where the forwarders of one test answer.
type host struct {
	dir   string
	woken atomic.Int64
}

func newHost(tb testing.TB) *host {
	tb.Helper()
	if _, err := os.Stat("/dev/net/tun"); err != nil {
		tb.Skipf("needs TUN devices: %v", err)
	}
	dir, err := os.MkdirTemp("", "fwd") //nolint:usetesting // a socket's path must be short
	if err != nil {
		tb.Fatal(err)
	}
	h := &host{dir: dir}
	tb.Cleanup(func() {
		sockets, _ := filepath.Glob(filepath.Join(dir, "*.sock"))
		for _, s := range sockets {
			end(tb, s)
		}
		if err := os.RemoveAll(dir); err != nil {
			tb.Error(err)
		}
	})
	return h
}

// end ends the forwarder on a socket, even one that hangs.
func end(tb testing.TB, socket string) {
	tb.Helper()
	ctx := context.WithoutCancel(tb.Context()) // the test is over
	last, err := tunnel.Succeed(ctx, socket, slog.New(slog.DiscardHandler))
	if errors.Is(err, tunnel.ErrNoForwarder) {
		return
	}
	if err == nil {
		for _, f := range last.Descriptors {
			err = errors.Join(err, f.File.Close())
		}
		_, quit := last.Quit()
		err = errors.Join(err, quit)
	}
	if err != nil {
		tb.Error(err)
	}
}

func (h *host) socket(f drivertest.Fabric) string {
	return filepath.Join(h.dir, fmt.Sprintf("%d.sock", f.ID))
}

// driver of a flanneld with this build; it ends with the test.
func (h *host) driver(tb testing.TB, f drivertest.Fabric, build string) *driver.Driver {
	tb.Helper()
	d := driver.New(driver.Options{
		Owner: f.Owner, Process: tunnel.Process{Socket: h.socket(f), Build: build},
		Wake: func() { h.woken.Add(1) }, Log: slog.New(slog.DiscardHandler),
	})
	tb.Cleanup(func() {
		if err := d.Close(); err != nil {
			tb.Error(err)
		}
	})
	return d
}

// status asks the forwarder without the driver.
func (h *host) status(tb testing.TB, f drivertest.Fabric) tunnel.Status {
	tb.Helper()
	c, err := tunnel.Dial(tb.Context(), h.socket(f))
	if err != nil {
		tb.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	st, err := c.Status(tb.Context())
	if err != nil {
		tb.Fatal(err)
	}
	return st
}

func (h *host) meddle(tb testing.TB, f drivertest.Fabric, words string) {
	tb.Helper()
	verb, rest, _ := strings.Cut(words, " ")
	drivertest.Run(tb, fmt.Sprintf("%s %s %s %s %s", os.Args[0], toolVerb, verb, h.socket(f), rest))
}

func overTUN(id uint8) drivertest.Fabric {
	f := drivertest.FabricOf(id)
	f.TUN = true
	return f
}

func TestConformance(t *testing.T) {
	h := newHost(t)
	tool := func(verb, rest string) string {
		return strings.Join([]string{os.Args[0], toolVerb, verb, h.socket(overTUN(1)), rest}, " ")
	}
	drivertest.Conformance(t, drivertest.Subject{
		New:   func(f drivertest.Fabric) reconcile.Driver { return h.driver(t, f, "one") },
		TUN:   true,
		Peers: 999,
		Steal: []string{
			tool("kill", ""),
			tool("quit", ""),
			tool("remove", "10.16.0.16/28"),
			tool("remove", "fd00:1:0:1::/64"),
			tool("put", "10.16.0.16/28 198.51.100.99"),
			tool("port", ""),
		},
		Litter: []string{
			tool("put", "10.16.99.0/28 198.51.100.66"),
			tool("put", "fd00:1:0:99::/64 2001:db8::66"),
		},
		Bad: func(f drivertest.Fabric, s *state.Set) {
			e := s.Ends[0]
			e.Link = "missing0"
			s.Ends = append(s.Ends, e)
		},
	})
}

// start brings up a fabric with three peers of each family.
func start(t *testing.T) (*host, drivertest.Fabric, *driver.Driver) {
	t.Helper()
	drivertest.Namespace(t)
	h, f := newHost(t), overTUN(1)
	d := h.driver(t, f, "one")
	drivertest.Ground(t, f)
	drivertest.MustApply(t, d, f.With(3))
	drivertest.MustBeDone(t, d, f.With(3))
	return h, f, d
}

func TestWhatTheForwarderIsTold(t *testing.T) {
	h, f, _ := start(t)
	st := h.status(t, f)
	want := tunnel.Config{
		Link: "flannel1", Port: 8286,
		Source: []netip.Addr{netip.MustParseAddr("198.51.100.1"), netip.MustParseAddr("2001:db8::1")},
		Local:  []netip.Prefix{netip.MustParsePrefix("10.16.0.0/28"), netip.MustParsePrefix("fd00:1::/64")},
	}
	got := *st.Config
	if got.Link != want.Link || got.Port != want.Port || !slices.Equal(got.Source, want.Source) || !slices.Equal(got.Local, want.Local) {
		t.Errorf("config %+v, want %+v", got, want)
	}
	var peers []tunnel.Peer
	for _, family := range addr.Families() {
		for i := 1; i <= 3; i++ {
			peers = append(peers, tunnel.Peer{Subnet: f.Subnet(family, i), Dst: drivertest.Public(family, i)})
		}
	}
	if !slices.Equal(st.Peers, peers) {
		t.Errorf("peers %v, want %v", st.Peers, peers)
	}
}

// The daemon hears of the forwarder's end, but not of one that it wanted.
func TestDeathIsNoticed(t *testing.T) {
	h, f, d := start(t)
	before := h.woken.Load()
	h.meddle(t, f, "kill")
	for deadline := time.Now().Add(5 * time.Second); h.woken.Load() == before; {
		if time.Now().After(deadline) {
			t.Fatal("nobody was told")
		}
	}
	drivertest.MustApply(t, d, f.With(3))
	before = h.woken.Load()
	drivertest.MustApply(t, d, &state.Set{Links: f.Local().Links})
	if _, err := tunnel.Dial(t.Context(), h.socket(f)); !errors.Is(err, tunnel.ErrNoForwarder) {
		t.Errorf("still there: %v", err)
	}
	if err := d.Close(); err != nil || h.woken.Load() != before {
		t.Errorf("told of an end that was wanted, %v", err)
	}
}

// flanneld goes and comes back, or is upgraded: the forwarder that is there is
// used if it is of the same build, and replaced by one with all it has if not.
func TestRestartAndUpgrade(t *testing.T) {
	h, f, d := start(t)
	first := h.status(t, f)
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	again := h.driver(t, f, "one")
	drivertest.MustBeDone(t, again, f.With(3))
	if st := h.status(t, f); st.PID != first.PID {
		t.Errorf("process %d became %d", first.PID, st.PID)
	}
	upgraded := h.driver(t, f, "two")
	changes := drivertest.MustPlan(t, upgraded, f.With(3))
	if len(changes) != 1 || changes[0].Op != reconcile.Update || !strings.Contains(changes[0].Was, "of build one") {
		t.Errorf("plan of another build: %v", changes)
	}
	drivertest.MustApply(t, upgraded, f.With(3))
	drivertest.MustBeDone(t, upgraded, f.With(3))
	st := h.status(t, f)
	if st.PID == first.PID || st.Build != "two" || !slices.Equal(st.Peers, first.Peers) {
		t.Errorf("after the upgrade %+v", st)
	}
	mustBeGone(t, first.PID)
}

// mustBeGone waits until a process that has ended is also buried.
func mustBeGone(t *testing.T, pid int) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); !errors.Is(unix.Kill(pid, 0), unix.ESRCH); {
		if time.Now().After(deadline) {
			t.Fatalf("process %d is still there", pid)
		}
	}
}

// A forwarder that hangs is replaced, or ended when nobody wants one.
func TestHangingForwarder(t *testing.T) {
	for name, wanted := range map[string]bool{"replaced": true, "ended": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // it is all waiting
			h, f, d := start(t)
			first := h.status(t, f)
			mustHang(t, first.PID)
			want := &state.Set{Links: f.Local().Links}
			if wanted {
				want = f.With(3)
			}
			began := time.Now()
			drivertest.MustApply(t, d, want)
			if took := time.Since(began); wanted && took > 10*time.Second {
				t.Errorf("it took %s: it was asked more than twice", took)
			}
			drivertest.MustBeDone(t, d, want)
			mustBeGone(t, first.PID)
		})
	}
}

// mustHang stops a process and waits until it has: threads that the kernel
// keeps busy go on for a while.
func mustHang(t *testing.T, pid int) {
	t.Helper()
	if err := unix.Kill(pid, unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	if err != nil || len(tasks) == 0 {
		t.Fatalf("threads of process %d: %v, %v", pid, tasks, err)
	}
	for _, task := range tasks {
		for deadline := time.Now().Add(10 * time.Second); ; {
			stat, err := os.ReadFile(task)
			if err != nil || bytes.Contains(stat, []byte(") T ")) {
				break // the thread has ended, or stands
			}
			if time.Now().After(deadline) {
				t.Fatalf("still runs: %s", stat)
			}
		}
	}
}

// What the forwarder refuses harms nothing else: here its port is taken.
func TestRefusedConfig(t *testing.T) {
	drivertest.Namespace(t)
	h, one, two := newHost(t), overTUN(1), overTUN(2)
	d1, d2 := h.driver(t, one, "one"), h.driver(t, two, "one")
	drivertest.Ground(t, one)
	drivertest.Ground(t, two)
	drivertest.MustApply(t, d1, one.With(3))
	want := two.With(3)
	want.Tunnels[0].Port = one.With(0).Tunnels[0].Port
	failed := drivertest.Apply(t, d2, want)
	if len(failed) != 1 || failed[0].Object.Key() != want.Tunnels[0].Key() || !strings.Contains(failed[0].Err.Error(), "address already in use") {
		t.Errorf("want the tunnel alone to fail, got %v", failed)
	}
	drivertest.MustApply(t, d2, two.With(3))
	drivertest.MustBeDone(t, d2, two.With(3))
	drivertest.MustBeDone(t, d1, one.With(3))
}

// A forwarder is given no device that another daemon has, or that is missing;
// the peers wait for it.
func TestForeignDevice(t *testing.T) {
	drivertest.Namespace(t)
	h, one, two := newHost(t), overTUN(1), overTUN(2)
	d := h.driver(t, one, "one")
	want := one.With(3)
	blocked := func(failed []reconcile.Result) bool {
		return len(failed) == 7 && !slices.ContainsFunc(failed[1:], func(r reconcile.Result) bool { return !errors.Is(r.Err, reconcile.ErrBlocked) })
	}
	if failed := drivertest.Apply(t, d, want); !blocked(failed) || !errors.Is(failed[0].Err, unix.ENODEV) {
		t.Errorf("missing device: %v", failed)
	}
	drivertest.Ground(t, two)
	for i := range want.Ends {
		want.Ends[i].Link = two.Link(addr.IPv4)
	}
	want.Tunnels[0].Link = two.Link(addr.IPv4)
	if failed := drivertest.Apply(t, d, want); !blocked(failed) || !errors.Is(failed[0].Err, kernel.ErrForeign) {
		t.Errorf("foreign device: %v", failed)
	}
	if _, err := tunnel.Dial(t.Context(), h.socket(one)); !errors.Is(err, tunnel.ErrNoForwarder) {
		t.Errorf("a forwarder was started: %v", err)
	}
}

// The device got another name: one forwarder moves, nothing of it is removed.
func TestDeviceRenamed(t *testing.T) {
	h, f, d := start(t)
	first := h.status(t, f)
	drivertest.Run(t, "ip tuntap add dev flannel-new mode tun user root\nip link set flannel-new alias flannel-ng up")
	want := f.With(3)
	want.Tunnels[0].Link = "flannel-new"
	for i := range want.Ends {
		want.Ends[i].Link = "flannel-new"
	}
	drivertest.MustApply(t, d, want)
	drivertest.MustBeDone(t, d, want)
	if st := h.status(t, f); st.PID != first.PID || !slices.Equal(st.Peers, first.Peers) || st.Config.Link != "flannel-new" {
		t.Errorf("after the move %+v", st)
	}
}

// A forwarder that was never told anything is a leftover too.
func TestUnusedForwarderGoes(t *testing.T) {
	drivertest.Namespace(t)
	h, f := newHost(t), overTUN(1)
	c, err := tunnel.Start(t.Context(), tunnel.Process{Socket: h.socket(f), Build: "one"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	d := h.driver(t, f, "one")
	changes := drivertest.MustPlan(t, d, &state.Set{})
	if len(changes) != 1 || changes[0].Op != reconcile.Remove {
		t.Errorf("plan: %v", changes)
	}
	drivertest.MustApply(t, d, &state.Set{})
	drivertest.MustBeDone(t, d, &state.Set{})
	select {
	case <-c.Done():
	case <-time.After(5 * time.Second):
		t.Error("still there")
	}
}

// A socket that cannot be tried is no absence: nothing is planned.
func TestUnreadableSocket(t *testing.T) {
	drivertest.Namespace(t)
	h, f := newHost(t), overTUN(1)
	if err := os.WriteFile(filepath.Join(h.dir, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	d := driver.New(driver.Options{
		Owner: f.Owner, Process: tunnel.Process{Socket: filepath.Join(h.dir, "file", "1.sock")},
		Wake: func() {}, Log: slog.New(slog.DiscardHandler),
	})
	if changes, err := d.Plan(t.Context(), f.With(3)); err == nil || len(changes) > 0 {
		t.Errorf("plan %v, %v", changes, err)
	}
}

// BenchmarkPeers is what 20,000 peers cost to tell, and to compare.
func BenchmarkPeers(b *testing.B) {
	drivertest.Namespace(b)
	h, f := newHost(b), overTUN(1)
	d, want := h.driver(b, f, "one"), f.Local()
	for i := 1; i <= 20_000; i++ {
		want.Append(f.Peer(addr.IPv4, i))
	}
	drivertest.Ground(b, f)
	var tell, compare time.Duration
	for b.Loop() {
		begin := time.Now()
		drivertest.MustApply(b, d, want)
		told := time.Now()
		drivertest.MustBeDone(b, d, want)
		tell, compare = tell+told.Sub(begin), compare+time.Since(told)
		drivertest.MustApply(b, d, &state.Set{Links: want.Links})
	}
	b.ReportMetric(tell.Seconds()*1000/float64(b.N), "ms/tell")
	b.ReportMetric(compare.Seconds()*1000/float64(b.N), "ms/compare")
	b.ReportMetric(0, "ns/op")
}
