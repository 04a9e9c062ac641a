package cleanup_test

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/cleanup"
	"github.com/flannel-ng/flannel-ng/internal/driver/all"
	"github.com/flannel-ng/flannel-ng/internal/driver/drivertest"
	"github.com/flannel-ng/flannel-ng/internal/driver/filter/ipt"
	"github.com/flannel-ng/flannel-ng/internal/driver/filter/nft"
	"github.com/flannel-ng/flannel-ng/internal/driver/sysctl"
	"github.com/flannel-ng/flannel-ng/internal/identity"
	"github.com/flannel-ng/flannel-ng/internal/reconcile"
	"github.com/flannel-ng/flannel-ng/internal/state"
	"github.com/flannel-ng/flannel-ng/internal/subnetenv"
	"github.com/flannel-ng/flannel-ng/internal/tunnel"
)

// host is one on which flanneld ran.
type host struct {
	cleanup.Options
	dir     string
	fabric  drivertest.Fabric
	before  string
	lines   []string
	classic bool
}

const forwarding = "net/ipv4/conf/eth0/forwarding"

// newHost makes a namespace in which a flanneld of peers peers ran and stopped.
func newHost(t *testing.T, classic bool, peers int) *host {
	t.Helper()
	drivertest.Namespace(t)
	drivertest.Run(t, "sysctl -qw "+forwarding+"=0")
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	h := &host{dir: dir, fabric: drivertest.FabricOf(1), classic: classic}
	// As left by a daemon whose stop a test asks about.
	h.Options = cleanup.Options{
		SubnetFile: dir + "/subnet.env", StateDir: dir + "/state", ControlSocket: dir + "/subnet.sock",
		Say: func(l cleanup.Line) {
			h.lines = append(h.lines, strings.TrimSpace(string(l.Act)+" "+l.Object+" "+l.Why))
		},
	}
	h.fabric.Owner = state.OwnerOf(h.SubnetFile)
	h.before = h.dump(t)
	h.populate(t, peers)
	return h
}

func (h *host) dump(t *testing.T) string {
	t.Helper()
	var b strings.Builder
	for _, line := range []string{
		"ip -d link", "ip addr", "ip -d route show table all", "ip -6 -d route show table all", "ip nexthop",
		"ip neigh show nud permanent", "bridge fdb", "nft --stateless list ruleset", "sysctl -a -r ^net.ipv[46].conf",
	} {
		b.WriteString(drivertest.Output(t, line))
	}
	err := filepath.WalkDir(h.dir, func(path string, _ fs.DirEntry, err error) error {
		b.WriteString(path + "\n")
		return err
	})
	if err != nil {
		t.Error(err)
	}
	return b.String()
}

// populate does what a daemon does.
func (h *host) populate(t *testing.T, peers int) {
	t.Helper()
	id, err := identity.Open(h.StateDir)
	if err != nil {
		t.Fatal(err)
	}
	lock, err := identity.Lock(h.SubnetFile)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(id.Close(), lock.Close()); err != nil {
		t.Fatal(err)
	}
	networks := addr.Pair(h.fabric.Networks()[0], h.fabric.Networks()[1])
	text := subnetenv.Format(subnetenv.Env{Networks: networks, Subnets: networks})
	for path, content := range map[string]string{
		h.SubnetFile: text, h.dir + "/.subnet.env1234": "half", h.ControlSocket: "dead",
		h.StateDir + "/last-known-good.json": "damaged",
	} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want := h.fabric.With(peers)
	want.Sysctls = []state.Sysctl{{Path: forwarding, Value: "1", Link: "eth0"}}
	for _, f := range addr.Families() {
		want.Filters = append(want.Filters, state.Filter{
			Mode: state.ModeNFTables, Family: f,
			Forward: []state.Rule{{Dst: state.Match{Prefix: networks.At(f)}, Verdict: state.Accept}},
		})
	}
	log := slog.New(slog.DiscardHandler)
	d := append(all.All(all.Options{
		Owner: h.fabric.Owner, Networks: h.fabric.Networks(), ClassicRoutes: h.classic, Wake: func() {}, Log: log,
		Forwarder: tunnel.Process{Socket: state.TunnelSocket(h.SubnetFile)},
		Switches:  sysctl.Options{Record: state.SwitchRecord(h.SubnetFile), Owner: h.fabric.Owner},
	}), nft.New(nft.Options{Owner: h.fabric.Owner, Log: log}), ipt.New(ipt.Options{Owner: h.fabric.Owner, Log: log}))
	out := reconcile.Execute(t.Context(), d, want, true)
	for _, f := range out.Failed() {
		t.Fatalf("%s: %v", f.Object, f.Err)
	}
	if len(out.Unread) > 0 {
		t.Fatal(out.Unread)
	}
}

// run cleans up and wants these numbers. Another flanneld of the host has a route
// on the uplink, which is left and named each time.
func (h *host) run(t *testing.T, failed, left int) cleanup.Report {
	t.Helper()
	left++
	h.lines = nil
	r, err := cleanup.Run(t.Context(), h.Options)
	if err != nil {
		t.Fatal(err)
	}
	if r.Failed != failed || r.Left != left {
		t.Errorf("%d failed and %d left, not %d and %d:\n%s", r.Failed, r.Left, failed, left, strings.Join(h.lines, "\n"))
	}
	return r
}

// is wants the host as it was before.
func (h *host) is(t *testing.T) {
	t.Helper()
	if now := h.dump(t); now != h.before {
		t.Errorf("before:\n%s\nnow:\n%s", h.before, now)
	}
}

func (h *host) says(t *testing.T, what string) {
	t.Helper()
	if !slices.ContainsFunc(h.lines, func(l string) bool { return strings.Contains(l, what) }) {
		t.Errorf("nothing of %q in:\n%s", what, strings.Join(h.lines, "\n"))
	}
}

func TestHostIsAsBefore(t *testing.T) {
	for name, classic := range map[string]bool{"nexthop objects": false, "classic routes": true} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t, classic, 150)
			full := h.dump(t)
			h.DryRun = true
			would := h.run(t, 0, 0)
			if h.dump(t) != full {
				t.Error("a dry run changed something")
			}
			h.says(t, "link flannel.1 ")
			h.says(t, "sysctl "+forwarding+" = 0")
			h.DryRun = false
			did := h.run(t, 0, 0)
			h.is(t)
			if would.Done < 150 || did.Done < 150 {
				t.Errorf("said %d, removed %d", would.Done, did.Done)
			}
			h.says(t, "more of kind route")
			if again := h.run(t, 0, 0); again.Done != 0 {
				t.Errorf("the second run removed %q", h.lines)
			}
			h.is(t)
		})
	}
}

// Neither who listens nor who holds the lock is pulled the ground from under.
func TestRunning(t *testing.T) {
	h := newHost(t, false, 1)
	full := h.dump(t)
	lock, err := identity.Lock(h.SubnetFile)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := cleanup.Run(t.Context(), h.Options); !errors.Is(err, cleanup.ErrRunning) {
		t.Errorf("with the lock held: %v", err)
	}
	if err := lock.Close(); err != nil {
		t.Fatal(err)
	}
	h.ControlSocket = h.dir + "/other.sock"
	var l net.ListenConfig
	socket, err := l.Listen(t.Context(), "unix", h.ControlSocket)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := cleanup.Run(t.Context(), h.Options); !errors.Is(err, cleanup.ErrRunning) {
		t.Errorf("with a socket that answers: %v", err)
	}
	h.DryRun = true
	if r := h.run(t, 0, 0); !r.Running {
		t.Error("a dry run does not say that flanneld runs")
	}
	if err := socket.Close(); err != nil {
		t.Fatal(err)
	}
	if h.dump(t) != full {
		t.Error("something was changed")
	}
}

var errDown = errors.New("the store is down")

// One object that stays is named, and the others go. The next run, which can, goes
// by what was kept.
func TestGoesOn(t *testing.T) {
	h := newHost(t, false, 3)
	if err := errors.Join(os.Remove(h.ControlSocket), os.MkdirAll(h.ControlSocket+"/x", 0o700)); err != nil {
		t.Fatal(err)
	}
	host, err := identity.Peek(h.StateDir)
	if err != nil {
		t.Fatal(err)
	}
	h.Release = func(_ context.Context, id string) (released, reserved []string, err error) {
		if id != host {
			t.Errorf("released as %s", id)
		}
		return nil, nil, errDown
	}
	h.run(t, 2, 1)
	h.says(t, "failed lease in the store the store is down")
	h.says(t, "failed file "+h.ControlSocket)
	h.says(t, "left "+h.StateDir)
	if id, err := identity.Peek(h.StateDir); err != nil || id != host {
		t.Errorf("the identity is lost: %v", err)
	}
	if strings.Contains(drivertest.Output(t, "ip -br link"), "flannel") {
		t.Error("links are left")
	}
	if err := os.RemoveAll(h.ControlSocket); err != nil {
		t.Fatal(err)
	}
	h.Release = func(context.Context, string) (released, reserved []string, err error) {
		return []string{"10.16.0.0-28"}, []string{"10.16.1.0-28"}, nil
	}
	h.run(t, 0, 1)
	h.says(t, "released lease 10.16.0.0-28")
	h.says(t, "left lease 10.16.1.0-28")
	h.is(t)
	h.run(t, 0, 1)
	h.says(t, "no id")
}

// Without a file that names the networks, what is on the uplink is left and
// named, unless somebody names them.
func TestNetworksAreNotKnown(t *testing.T) {
	h := newHost(t, true, 3)
	if err := os.Remove(h.SubnetFile); err != nil {
		t.Fatal(err)
	}
	h.run(t, 0, 3) // two blackholes and a peer on the uplink
	h.says(t, "via "+drivertest.DirectVia().String())
	h.Networks = []netip.Prefix{h.fabric.Networks()[0], h.fabric.Networks()[1]}
	h.run(t, 0, 0)
	h.is(t)
}

// What is to be kept is kept, and no more.
func TestKeep(t *testing.T) {
	h := newHost(t, false, 3)
	h.KeepState, h.KeepForwarding = true, true
	h.run(t, 0, 0)
	if b, err := os.ReadFile("/proc/sys/" + forwarding); string(b) != "1\n" {
		t.Errorf("forwarding is %q, %v", b, err)
	}
	if _, err := os.Stat(h.StateDir + "/host-id"); err != nil {
		t.Error(err)
	}
	h.KeepState = false
	h.run(t, 0, 0)
	drivertest.Run(t, "sysctl -qw "+forwarding+"=0")
	h.is(t)
}

// What an embedded etcd has, and what nobody knows, is not for a cleanup.
func TestStrangersInTheStateDirectory(t *testing.T) {
	h := newHost(t, false, 1)
	if err := errors.Join(os.MkdirAll(h.StateDir+"/etcd/member", 0o700), os.WriteFile(h.StateDir+"/notes", nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	h.run(t, 0, 2)
	h.says(t, "left "+h.StateDir+"/etcd the data of a member of the store")
	h.says(t, "left "+h.StateDir+"/notes")
	if err := os.RemoveAll(h.StateDir); err != nil {
		t.Fatal(err)
	}
	h.is(t)
}
