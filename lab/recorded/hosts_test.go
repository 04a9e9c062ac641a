package recorded_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/lab"
	"github.com/flannel-ng/flannel-ng/lab/recorded"
)

// limit bounds one case; it needs a fraction of it.
const limit = 60 * time.Second

// TestHostsMatchRecordings makes each recorded run again with flanneld of ours
// and finds exactly the differences of the table.
func TestHostsMatchRecordings(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip(lab.ErrNotRoot)
	}
	needSameTools(t)
	table, cases := load(t)
	bin := binaries(t)
	for _, c := range cases {
		t.Run(c.Name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), limit)
			defer cancel()
			run := start(ctx, t, bin, c)
			run.ping(ctx, t)
			wanted := views(t, c.Facts)
			var wrong []string
			err := lab.Eventually(ctx, func(ctx context.Context) error {
				facts, err := run.facts(ctx)
				if err != nil {
					return err
				}
				if wrong = judge(t, table, c.Name, wanted, views(t, facts)); len(wrong) > 0 && !run.settled() {
					return errors.New("differs")
				}
				return nil
			})
			if err != nil {
				t.Error(err)
			}
			for _, w := range wrong {
				t.Error(w)
			}
		})
	}
}

func judge(t *testing.T, table recorded.Table, name string, wanted, have []recorded.View) []string {
	t.Helper()
	var wrong []string
	for i := range wanted {
		wrong = append(wrong, table.Judge(name, wanted[i], have[i])...)
	}
	return wrong
}

func views(t *testing.T, f recorded.Facts) []recorded.View {
	t.Helper()
	v, err := f.Views()
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// needSameTools skips where other versions would say the same in other words.
func needSameTools(t *testing.T) {
	t.Helper()
	for tool, version := range map[string]string{
		"ip": "iproute2-6.1.0", "iptables": "v1.8.9 (nf_tables)", "nft": "v1.0.6",
		"bridge": "6.1.0", "tcpdump": "version 4.99",
	} {
		flag := "--version"
		if tool == "ip" || tool == "bridge" {
			flag = "-V"
		}
		out, err := exec.CommandContext(t.Context(), tool, flag).CombinedOutput()
		if err != nil || !strings.Contains(string(out), version) {
			t.Skipf("needs %s %s, with which the recordings were made: have %q, %v", tool, version, out, err)
		}
	}
}

func binaries(t *testing.T) lab.Binaries {
	t.Helper()
	dir := os.Getenv("FLANNEL_BIN")
	if dir == "" {
		dir = t.TempDir()
		build := exec.CommandContext(t.Context(), "go", "build", "-o", dir, "../../cmd/flanneld", "../../cmd/flannelctl", "../cmd/lab")
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

// run is a recorded case with hosts of ours.
type run struct {
	name    string
	fabric  *lab.Fabric
	capture *lab.Capture
	since   time.Time // when all that makes state was over
}

// settled says whether what is seen now is what stays: late link-local
// addresses and packets still in tcpdump come within a moment.
func (r *run) settled() bool { return time.Since(r.since) > 5*time.Second }

// start does what the recorder did: two hosts with both families on the uplink
// whatever the config says, flanneld, a bridge and a container with an IPv4
// address each.
func start(ctx context.Context, t *testing.T, bin lab.Binaries, c recorded.Case) *run {
	t.Helper()
	// Nodes and daemons end with the fabric, not with the deadline: a node that
	// is killed takes nothing along.
	life := context.WithoutCancel(ctx)
	f, err := lab.New(life, lab.Options{
		Hosts: 2, Families: []addr.Family{addr.IPv4}, Underlay: lab.L2,
		NetConf: strings.TrimSpace(c.NetConf), Binaries: bin,
	})
	t.Cleanup(func() { leave(t, f) })
	must(t, err)
	for i, h := range f.Hosts {
		_, err := h.Run(ctx, "ip", "addr", "replace", fmt.Sprintf("2001:db8::%d/64", i+1), "dev", "eth0", "nodad")
		must(t, err)
		_, err = h.Run(ctx, "ip", "-6", "route", "replace", "default", "via", "2001:db8::fe")
		must(t, err)
		must(t, h.Start(life, "--ip-masq", "--iface=eth0"))
	}
	for i, h := range f.Hosts {
		must(t, h.WaitReady(ctx))
		_, err := f.Attach(life, h, fmt.Sprintf("c%d", i+1))
		must(t, err)
	}
	// The recorder's world had no router that leads to containers.
	_, err = f.Outside.Run(ctx, "ip", "route", "flush", "root", "10.5.0.0/16")
	must(t, err)
	return &run{name: c.Name, fabric: f}
}

func leave(t *testing.T, f *lab.Fabric) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), limit)
	defer cancel()
	if t.Failed() && testing.Verbose() {
		var b strings.Builder
		f.Dump(ctx, &b)
		t.Log(b.String())
	}
	if err := f.Close(ctx); err != nil {
		t.Errorf("close: %v", err)
	}
}

// ping sends two pings of the recorded size and shows them on host 2's uplink.
// alloc carries nothing, so there they must not arrive.
func (r *run) ping(ctx context.Context, t *testing.T) {
	t.Helper()
	from, to := r.fabric.Containers()[0], r.fabric.Containers()[1]
	carried := r.name != "alloc"
	if carried {
		must(t, lab.Eventually(ctx, func(ctx context.Context) error { // routes stand, addresses are resolved
			_, err := from.Run(ctx, "ping", "-n", "-c1", "-W1", to.Addr(addr.IPv4).String())
			return err
		}))
	}
	var err error
	r.capture, err = r.fabric.Hosts[1].StartCapture(context.WithoutCancel(ctx), "-t", "-xx",
		"icmp or udp port 8472 or udp port 8285")
	must(t, err)
	wait := map[bool]string{true: "-W5", false: "-W1"}[carried]
	_, err = from.Run(ctx, "ping", "-n", "-c2", "-i0.3", "-s24", wait, to.Addr(addr.IPv4).String())
	if carried != (err == nil) {
		t.Fatalf("ping: %v; carried: %v", err, carried)
	}
	r.since = time.Now()
}

// facts dumps what the recorder dumped.
func (r *run) facts(ctx context.Context) (recorded.Facts, error) {
	f := recorded.Facts{Packets: r.capture.Packets()}
	pairs, err := r.fabric.Etcd.List(ctx, lab.Prefix)
	if err != nil {
		return f, err
	}
	for _, p := range pairs {
		f.Etcd += p.Key + "\n" + p.Value + "\n"
	}
	for i, h := range r.fabric.Hosts {
		env, err := os.ReadFile(h.Path(lab.SubnetFile))
		if err != nil {
			return f, err
		}
		f.Hosts[i] = recorded.HostFacts{SubnetEnv: string(env), Kernel: kernel(ctx, h)}
	}
	return f, nil
}

// kernel runs the recorder's commands; those without output leave no trace.
func kernel(ctx context.Context, h *lab.Host) string {
	var b strings.Builder
	for _, command := range []string{
		"ip -d link show type vxlan", "ip -d link show type tun",
		"ip addr show scope global",
		"ip route show table main", "ip -6 route show table main",
		"ip neigh show nud permanent", "ip -6 neigh show nud permanent",
		"bridge fdb show dev flannel.1", "bridge fdb show dev flannel-v6.1",
		"iptables-save", "ip6tables-save", "nft list ruleset",
	} {
		out, err := h.Run(ctx, strings.Fields(command)...)
		if err != nil || strings.TrimSpace(out) == "" {
			continue // bridge fails where the device is not
		}
		fmt.Fprintf(&b, "$ %s\n%s\n", command, out)
	}
	return b.String()
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
