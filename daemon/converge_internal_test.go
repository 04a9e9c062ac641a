package daemon

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/events"
	"github.com/flannel-ng/flannel-ng/internal/identity"
	"github.com/flannel-ng/flannel-ng/internal/lease"
	"github.com/flannel-ng/flannel-ng/internal/options"
)

// childMark says that the process is a host of its own: a network namespace
// that nobody else is in.
const childMark = "FLANNEL_CONVERGE"

// The sizes of the fabric: that which the figures are for, and of a test.
const (
	manyPeers = 20_000
	fewPeers  = 600
)

// figures are what a run found out, by name and unit.
type figures map[string]float64

// onHost runs TestConvergeHost as a process of its own in a network namespace of
// its own, and returns its figures.
func onHost(tb testing.TB, scenario string, peers int) figures {
	tb.Helper()
	if os.Geteuid() != 0 {
		tb.Skip("needs root: makes network namespaces")
	}
	for _, tool := range []string{"ip", "bridge"} {
		if _, err := exec.LookPath(tool); err != nil {
			tb.Skipf("needs iproute2: %v", err)
		}
	}
	out := filepath.Join(tb.TempDir(), "figures.json")
	c := exec.CommandContext(tb.Context(), "/proc/self/exe", "-test.run=^TestConvergeHost$", "-test.timeout=5m")
	c.Env = append(os.Environ(), childMark+"="+scenario, childMark+"_OUT="+out, childMark+"_PEERS="+strconv.Itoa(peers))
	c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET, Pdeathsig: unix.SIGKILL}
	text, err := c.CombinedOutput()
	if err != nil {
		tb.Fatalf("%s: %v\n%s", scenario, err, text)
	}
	raw, err := os.ReadFile(out)
	if err != nil {
		tb.Fatalf("%s: %v\n%s", scenario, err, text)
	}
	var found figures
	if err := json.Unmarshal(raw, &found); err != nil {
		tb.Fatal(err)
	}
	return found
}

// scenario is the part of the host in the child: false in the parent.
func scenario() (name string, child bool) { return os.LookupEnv(childMark) }

func tell(tb testing.TB, found figures) {
	tb.Helper()
	raw, err := json.Marshal(found)
	if err == nil {
		err = os.WriteFile(os.Getenv(childMark+"_OUT"), raw, 0o600)
	}
	if err != nil {
		tb.Fatal(err)
	}
}

func tool(tb testing.TB, input, line string) string {
	tb.Helper()
	words := strings.Fields(line)
	c := exec.CommandContext(tb.Context(), words[0], words[1:]...)
	c.Stdin = strings.NewReader(input)
	out, err := c.CombinedOutput()
	if err != nil {
		tb.Fatalf("%s: %v\n%.2000s", line, err, out)
	}
	return string(out)
}

// underlay gives the namespace an uplink that 20,000 hosts are neighbours on.
func underlay(tb testing.TB) {
	tb.Helper()
	for line := range strings.Lines(`ip link set lo up
		sysctl -qw net.ipv6.conf.all.accept_dad=0
		sysctl -qw net.ipv6.conf.default.accept_dad=0
		ip link add eth0 type veth peer name eth0peer
		ip link set eth0peer up
		ip link set eth0 up
		ip addr add 198.18.0.1/15 dev eth0
		ip addr add 2001:db8::1/64 dev eth0 nodad
		ip route add default via 198.18.0.2
		ip -6 route add default via 2001:db8::2
	`) {
		if strings.TrimSpace(line) != "" {
			tool(tb, "", line)
		}
	}
}

// subject is a daemon, all but its store.
type subject struct {
	*parts
	fleet *fleet
	file  string
	log   *bytes.Buffer
	began time.Time
	stop  func()
}

func startSubject(tb testing.TB, f *fleet) *subject {
	tb.Helper()
	dir := tb.TempDir()
	s := &subject{fleet: f, file: filepath.Join(dir, "subnet.env"), log: &bytes.Buffer{}, began: time.Now()}
	opts, err := options.Parse([]string{"--subnet-file=" + s.file, "--state-dir=" + dir, "--ip-masq"}, nil)
	if err != nil {
		tb.Fatal(err)
	}
	id, err := identity.Open(dir)
	if err != nil {
		tb.Fatal(err)
	}
	f.host = id.Host
	s.parts = newParts(Config{Options: opts, Log: slog.New(slog.NewTextHandler(s.log, nil)), Version: "bench"}, id, &stores{watched: f}, events.New(events.DefaultLimit, time.Now))
	ctx, cancel := context.WithCancel(tb.Context())
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return stopped(f.Watch(ctx, s.picture)) })
	g.Go(func() error { return stopped(s.world.keeper.Run(ctx)) })
	g.Go(func() error { return s.watchKernel(ctx) })
	g.Go(func() error { return stopped(s.engine.Run(ctx)) })
	s.stop = func() {
		cancel()
		if err := errors.Join(g.Wait(), id.Close()); err != nil {
			tb.Error(err)
		}
	}
	return s
}

// until waits for a condition and returns how long that took since from.
func until(tb testing.TB, from time.Time, what string, ok func() bool) time.Duration {
	tb.Helper()
	tick := time.NewTicker(500 * time.Microsecond)
	defer tick.Stop()
	for !ok() {
		if <-tick.C; time.Since(from) > 2*time.Minute {
			tb.Fatalf("never: %s", what)
		}
	}
	return time.Since(from)
}

func (s *subject) programmed() int { return s.engine.Summary().PeerCount.Programmed }

// size is how many peers there are.
func (f *fleet) size() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.now.Leases) - 1
}

func (s *subject) all(n int) func() bool { return func() bool { return s.programmed() == n } }

// verify counts in the kernel itself.
func verify(tb testing.TB, f *fleet, n int) {
	tb.Helper()
	for _, family := range f.families {
		v := map[addr.Family]string{addr.IPv4: "-4", addr.IPv6: "-6"}[family]
		if got := strings.Count(tool(tb, "", "ip "+v+" route show proto 70"), " via "); got != n {
			tb.Errorf("%s: %d routes, want %d", family, got, n)
		}
		if f.backend != "vxlan" {
			continue
		}
		dev := map[addr.Family]string{addr.IPv4: "flannel.1", addr.IPv6: "flannel-v6.1"}[family]
		if got := strings.Count(tool(tb, "", "ip "+v+" neigh show nud permanent"), "lladdr"); got != n {
			tb.Errorf("%s: %d neighbours, want %d", family, got, n)
		}
		if got := strings.Count(tool(tb, "", "bridge fdb show"), "self permanent"); got < n {
			tb.Errorf("%s: %d forwarding entries of %s, want %d", family, got, dev, n)
		}
	}
}

func processor() time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// children is the processor time of commands that have ended: of iproute2.
func children() time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_CHILDREN, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// status reads a number in kB from /proc/self/status.
func status(tb testing.TB, field string) float64 {
	tb.Helper()
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		tb.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		var n float64
		if _, err := fmt.Sscanf(line, field+": %f kB", &n); err == nil {
			return n / 1024
		}
	}
	tb.Fatalf("no %s", field)
	return 0
}

// floor is how long iproute2 takes to program the same, from a file.
func floor(tb testing.TB, f *fleet) time.Duration {
	tb.Helper()
	var ip, bridge strings.Builder
	for _, family := range f.families {
		dev := map[addr.Family]string{addr.IPv4: "floor.4", addr.IPv6: "floor.6"}[family]
		base := map[addr.Family]int{addr.IPv4: 1 << 20, addr.IPv6: 2 << 20}[family]
		if f.backend == "vxlan" {
			local := f.public(family, 0)
			tool(tb, "", fmt.Sprintf("ip link add %s type vxlan id %d dstport 8479 local %s dev eth0 nolearning", dev, 40+family, local))
			tool(tb, "", "ip link set "+dev+" up")
		} else {
			dev = "eth0"
		}
		for i := 1; i <= f.peers; i++ {
			s, mac := f.subnet(family, i), addr.MAC{2, 1, byte(family), byte(i >> 16), byte(i >> 8), byte(i)}
			via, onlink := f.public(family, i), ""
			if f.backend == "vxlan" {
				fmt.Fprintf(&ip, "neigh add %s lladdr %s dev %s nud permanent\n", s.Addr(), mac, dev)
				fmt.Fprintf(&bridge, "fdb add %s dev %s dst %s self permanent\n", mac, dev, f.public(family, i))
				via, onlink = s.Addr(), " onlink"
			}
			fmt.Fprintf(&ip, "nexthop add id %d via %s dev %s%s\n", base+i, via, dev, onlink)
			fmt.Fprintf(&ip, "route add %s nhid %d\n", s, base+i)
		}
	}
	began := time.Now()
	tool(tb, ip.String(), "ip -batch -")
	if bridge.Len() > 0 {
		tool(tb, bridge.String(), "bridge -batch -")
	}
	took := time.Since(began)
	for _, family := range f.families {
		v := map[addr.Family]string{addr.IPv4: "-4", addr.IPv6: "-6"}[family]
		tool(tb, "", "ip "+v+" nexthop flush")
		if f.backend == "vxlan" {
			tool(tb, "", "ip link del "+map[addr.Family]string{addr.IPv4: "floor.4", addr.IPv6: "floor.6"}[family])
		}
	}
	return took
}

// fabricOf reads a scenario's name: backend/families.
func fabricOf(tb testing.TB, name string) *fleet {
	tb.Helper()
	backend, which, _ := strings.Cut(name, "/")
	families := map[string][]addr.Family{"ipv4": {addr.IPv4}, "ipv6": {addr.IPv6}, "dual": {addr.IPv4, addr.IPv6}}[which]
	if families == nil {
		tb.Fatalf("no such fabric: %s", name)
	}
	peers := manyPeers
	if text, ok := os.LookupEnv(childMark + "_PEERS"); ok {
		var err error
		if peers, err = strconv.Atoi(text); err != nil {
			tb.Fatal(err)
		}
	}
	return newFleet(backend, families, peers)
}

// TestConvergeHost is the host of the benchmarks below and nothing by itself.
func TestConvergeHost(t *testing.T) {
	name, child := scenario()
	if !child {
		t.Skip("runs in the processes that BenchmarkConverge starts")
	}
	what, fabric, _ := strings.Cut(name, ":")
	underlay(t)
	f := fabricOf(t, fabric)
	found := figures{}
	switch what {
	case "cold":
		cold(t, f, found)
	case "changes":
		changes(t, f, found)
	case "linkdown":
		linkDown(t, f, found)
	case "departure":
		departure(t, f, found)
	case "burst":
		burst(t, f, found)
	case "quiet":
		quiet(t, f, found)
	case "proof":
		proof(t, f, found)
	case "fight":
		fight(t, f, found)
	default:
		t.Fatalf("no such scenario: %s", what)
	}
	tell(t, found)
}

func (s *subject) exists() bool { _, err := os.Stat(s.file); return err == nil }

// settled waits until the daemon has come to rest.
func settled(tb testing.TB, s *subject) {
	tb.Helper()
	until(tb, s.began, "all peers programmed", func() bool { return s.programmed() > 0 && s.programmed() >= s.fleet.size() })
	since := time.Now()
	passes := s.engine.Summary().Pass.Passes
	until(tb, s.began, "rest", func() bool {
		if now := s.engine.Summary().Pass.Passes; now != passes {
			passes, since = now, time.Now()
		}
		return time.Since(since) > time.Second
	})
}

func cold(t *testing.T, f *fleet, found figures) {
	t.Helper()
	base := floor(t, f)
	cpu := processor()
	s := startSubject(t, f)
	found["s/subnet.env"] = until(t, s.began, "subnet.env", s.exists).Seconds()
	last := until(t, s.began, "all programmed", s.all(f.peers))
	found["s/last-peer"], found["s/ip-batch"] = last.Seconds(), base.Seconds()
	found["x/ip-batch"] = last.Seconds() / base.Seconds()
	found["cpu-s/cold"], found["cpu-s/ip-batch"] = (processor() - cpu).Seconds(), children().Seconds()
	found["MB/rss-peak"] = status(t, "VmHWM")
	s.stop()
	verify(t, f, f.peers)
	found["log-lines"] = float64(strings.Count(s.log.String(), "\n"))
}

// changes takes one peer out and puts it in, again and again: first watching the
// kernel for when that has happened, then only counting what it costs.
func changes(t *testing.T, f *fleet, found figures) {
	t.Helper()
	s := startSubject(t, f)
	settled(t, s)
	found["MB/rss"] = status(t, "VmRSS")
	k := dialKernel(t)
	var delays []time.Duration
	const times = 200
	pictures := f.variants(4)
	target := func(i int) netip.Prefix { return f.subnet(f.families[0], variantPeer(i/2%(len(pictures)-1))) }
	for i := range times {
		began := time.Now()
		f.show(pictures, i)
		delays = append(delays, until(t, began, "change", func() bool { return k.leads(target(i)) == (i%2 != 0) }))
	}
	slices.Sort(delays)
	found["ms/p50"], found["ms/p99"] = ms(delays[times/2]), ms(delays[times*99/100])
	var spent time.Duration
	for i := range times {
		passes, cpu := s.engine.Summary().Pass.Passes, processor()
		f.show(pictures, i)
		until(t, time.Now(), "pass", func() bool { return s.engine.Summary().Pass.Passes > passes })
		spent += processor() - cpu
	}
	found["cpu-ms/change"] = ms(spent) / times
	s.stop()
	verify(t, f, f.peers)
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// variants are pictures that lack one peer each, built beforehand: what a store
// does is not measured here. The first is whole.
func (f *fleet) variants(n int) [][]*lease.Lease {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := [][]*lease.Lease{f.now.Leases}
	for i := range n {
		l := f.lease(variantPeer(i), 1)
		at, _ := slices.BinarySearchFunc(f.now.Leases, l, lease.Compare)
		out = append(out, slices.Delete(slices.Clone(f.now.Leases), at, at+1))
	}
	return out
}

func variantPeer(i int) int { return 100 + 100*i }

// show publishes a variant and the whole picture by turns.
func (f *fleet) show(pictures [][]*lease.Lease, i int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if i%2 == 0 {
		f.publish(pictures[1+i/2%(len(pictures)-1)])
	} else {
		f.publish(pictures[0])
	}
}

func linkDown(t *testing.T, f *fleet, found figures) {
	t.Helper()
	if f.backend != "vxlan" {
		t.Skip("has no link of its own")
	}
	s := startSubject(t, f)
	settled(t, s)
	k := dialKernel(t)
	for _, dev := range []string{"flannel.1", "flannel-v6.1"}[:len(f.families)] {
		tool(t, "", "ip link set "+dev+" down")
		began := time.Now()
		last := f.subnet(f.families[len(f.families)-1], f.peers)
		if dev == "flannel.1" {
			last = f.subnet(addr.IPv4, f.peers)
		}
		found["s/repair-"+dev] = until(t, began, "repaired", func() bool { return k.leads(last) }).Seconds()
	}
	settled(t, s)
	s.stop()
	verify(t, f, f.peers)
}

func departure(t *testing.T, f *fleet, found figures) {
	t.Helper()
	s := startSubject(t, f)
	settled(t, s)
	before := s.engine.Summary().Pass.Changes
	f.put(func(l []*lease.Lease) []*lease.Lease { return l }) // a re-list
	settled(t, s)
	for what, n := range s.engine.Summary().Pass.Changes {
		found["writes/re-list"] += float64(n - before[what])
	}
	began := time.Now()
	f.put(func(all []*lease.Lease) []*lease.Lease {
		left := f.peers / 2
		return slices.DeleteFunc(all, func(l *lease.Lease) bool {
			if l.Owner == f.host {
				return false
			}
			left--
			return left < 0
		})
	})
	found["s/departure"] = until(t, began, "gone", s.all(f.peers/2)).Seconds()
	s.stop()
	verify(t, f, f.peers/2)
}

// burst lets hosts join at 1,000 a second and follows the kernel's
// notifications for when each can be reached. The store merges what comes
// within 25 ms, and takes a picture of it.
func burst(t *testing.T, f *fleet, found figures) {
	t.Helper()
	const rate, seconds, every = 1000, 30, 25 * time.Millisecond
	s := startSubject(t, f)
	settled(t, s)
	heard := make(chan map[netip.Prefix]time.Time, 1)
	go func() { heard <- follow(t.Context(), rate*seconds) }()
	asked := map[netip.Prefix]time.Time{}
	cpu := processor()
	tick := time.NewTicker(every)
	defer tick.Stop()
	for next := f.peers + 1; next <= f.peers+rate*seconds; {
		began := <-tick.C
		var fresh []*lease.Lease
		for range rate * int(every) / int(time.Second) {
			fresh = append(fresh, f.lease(next, 1))
			asked[f.subnet(f.families[0], next)] = began
			next++
		}
		f.put(func(all []*lease.Lease) []*lease.Lease {
			return slices.Insert(all, len(all)-1, fresh...) // the host's own is the last
		})
	}
	spent := processor() - cpu
	var delays []time.Duration
	for p, at := range <-heard {
		delays = append(delays, at.Sub(asked[p]))
	}
	slices.Sort(delays)
	if len(delays) < rate*seconds {
		t.Fatalf("%d of %d routes were heard of", len(delays), rate*seconds)
	}
	found["ms/p50"], found["ms/p99"] = ms(delays[len(delays)/2]), ms(delays[len(delays)*99/100])
	found["cpu-%/burst"] = 100 * spent.Seconds() / seconds
	s.stop()
	verify(t, f, f.peers+rate*seconds)
}

func quiet(t *testing.T, f *fleet, found figures) {
	t.Helper()
	s := startSubject(t, f)
	settled(t, s)
	<-time.After(settleTime)
	settled(t, s)
	const long = 30 * time.Second
	cpu, began := processor(), time.Now()
	<-time.After(long)
	found["cpu-%/quiet"] = 100 * (processor() - cpu).Seconds() / time.Since(began).Seconds()
	found["MB/rss"] = status(t, "VmRSS")
	s.stop()
}

// proof has the daemon read all, as it does to prove its mirror.
func proof(t *testing.T, f *fleet, found figures) {
	t.Helper()
	const times = 10
	s := startSubject(t, f)
	settled(t, s)
	cpu := processor()
	for range times {
		before := s.engine.Summary().Pass.Passes
		s.engine.Doubt()
		until(t, time.Now(), "pass", func() bool { return s.engine.Summary().Pass.Passes > before })
	}
	found["cpu-ms/proof"] = ms(processor()-cpu) / times
	s.stop()
}

// fight has a stranger remove the routes of three peers every 10 ms for ten
// seconds, and meanwhile that of another one, once.
func fight(t *testing.T, f *fleet, found figures) {
	t.Helper()
	s := startSubject(t, f)
	settled(t, s)
	<-time.After(settleTime)
	k := dialKernel(t)
	stolen := func(peer int) netip.Prefix { return f.subnet(f.families[0], peer) }
	const long, every = 10 * time.Second, 10 * time.Millisecond
	tick := time.NewTicker(every)
	defer tick.Stop()
	steal := func(peer int) {
		c := exec.CommandContext(t.Context(), "ip", "route", "del", stolen(peer).String(), "proto", "70")
		_ = c.Run() // it is not there, mostly
	}
	passes, cpu, began := s.engine.Summary().Pass.Passes, processor(), time.Now()
	var gone time.Time
	for now := began; now.Sub(began) < long; now = <-tick.C {
		for peer := range 3 {
			steal(variantPeer(peer))
		}
		switch {
		case gone.IsZero() && now.Sub(began) > long/2:
			steal(variantPeer(4))
			gone = time.Now()
		case found["ms/other"] == 0 && !gone.IsZero() && k.leads(stolen(variantPeer(4))):
			found["ms/other"] = ms(time.Since(gone))
		}
	}
	found["cpu-%/fight"] = 100 * (processor() - cpu).Seconds() / time.Since(began).Seconds()
	found["passes/s"] = float64(s.engine.Summary().Pass.Passes-passes) / time.Since(began).Seconds()
	found["contested"] = float64(s.engine.Summary().Pass.Contested)
	over := time.Now()
	for peer := range 3 {
		until(t, over, "back", func() bool { return k.leads(stolen(variantPeer(peer))) })
	}
	found["s/back"] = time.Since(over).Seconds()
	s.stop()
	verify(t, f, f.peers)
}

// settleTime is how long a start takes to be over: what is changed afterwards is
// a repair. Notifications of the new device, and what they leave doubt about,
// come late, too.
const settleTime = 11 * time.Second

// TestConverge takes the daemon through the same with few peers: each scenario
// counts in the kernel that all is as it should be.
func TestConverge(t *testing.T) {
	for _, c := range []string{
		"cold:vxlan/dual", "changes:vxlan/dual", "linkdown:vxlan/dual", "departure:vxlan/dual", "proof:vxlan/dual", "changes:host-gw/ipv4", "fight:vxlan/ipv4",
	} {
		t.Run(c, func(t *testing.T) {
			found := onHost(t, c, fewPeers)
			if found["writes/re-list"] > 0 || found["log-lines"] > 60 {
				t.Errorf("writes for nothing, or a log that grows with the fabric: %v", found)
			}
			if found["cpu-%/fight"] > 30 || found["ms/other"] > 1000 || found["s/back"] > 20 {
				t.Errorf("a fight keeps the host busy, or others waiting: %v", found)
			}
		})
	}
}

// BenchmarkConverge takes the daemon, all but its store, through what a fabric
// of 20,000 hosts does to it. Each scenario has a process and a network
// namespace of its own.
func BenchmarkConverge(b *testing.B) {
	for _, what := range []string{"cold", "changes", "burst", "linkdown", "departure", "quiet", "proof", "fight"} {
		for _, fabric := range []string{"vxlan/ipv4", "vxlan/dual", "host-gw/ipv4"} {
			if what == "linkdown" && !strings.HasPrefix(fabric, "vxlan") {
				continue
			}
			b.Run(what+"/"+fabric, func(b *testing.B) {
				sum := figures{}
				for b.Loop() {
					for name, v := range onHost(b, what+":"+fabric, manyPeers) {
						sum[name] += v
					}
				}
				for name, v := range sum {
					b.ReportMetric(v/float64(b.N), name)
				}
				b.ReportMetric(0, "ns/op")
			})
		}
	}
}
