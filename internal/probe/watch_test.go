package probe_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/driver/drivertest"
	"github.com/flannel-ng/flannel-ng/internal/nl"
	"github.com/flannel-ng/flannel-ng/internal/probe"
	"github.com/flannel-ng/flannel-ng/internal/state"
)

const (
	device   = "flannel.1"
	objectID = 1073741830 // of a nexthop object
)

// peers are what is wanted for them on the device: two in each family.
func peers() []state.Object {
	var out []state.Object
	for i := range uint8(2) {
		mac := addr.MAC{2, 0, 0, 0, 1, i}
		out = append(out,
			state.Neighbour{Link: device, IP: netip.AddrFrom4([4]byte{10, 5, i, 0}), MAC: mac},
			state.Neighbour{Link: device, IP: netip.MustParseAddr("fd00:5::").Next(), MAC: addr.MAC{2, 0, 0, 0, 1, 0}},
			state.FDBEntry{Link: device, MAC: mac, Dst: netip.AddrFrom4([4]byte{198, 51, 100, 10 + i})},
		)
	}
	return out
}

// fabric gives the test host a device with peers on it.
func fabric(t *testing.T) {
	t.Helper()
	drivertest.Run(t, `
		ip link add flannel.1 type vxlan id 1 dstport 8472 local 198.51.100.1 dev eth0 nolearning
		ip link set flannel.1 alias flannel-ng
		ip addr add 10.5.7.0/32 dev flannel.1
		ip link set flannel.1 up
	`)
	entries(t)
}

func entries(t *testing.T) {
	t.Helper()
	drivertest.Run(t, `
		ip neigh replace 10.5.0.0 lladdr 02:00:00:00:01:00 dev flannel.1 nud permanent
		ip neigh replace 10.5.1.0 lladdr 02:00:00:00:01:01 dev flannel.1 nud permanent
		ip neigh replace fd00:5::1 lladdr 02:00:00:00:01:00 dev flannel.1 nud permanent
		bridge fdb replace 02:00:00:00:01:00 dev flannel.1 dst 198.51.100.10 self permanent
		bridge fdb replace 02:00:00:00:01:01 dev flannel.1 dst 198.51.100.11 self permanent
	`)
}

// log takes in what is told.
type log struct {
	mu   sync.Mutex
	all  []probe.Change
	hold func(n int)
	seen int // how many settle has returned
}

func (l *log) tell(c probe.Change) {
	l.mu.Lock()
	l.all = append(l.all, c)
	n, hold := len(l.all), l.hold
	l.mu.Unlock()
	if hold != nil {
		hold(n)
	}
}

func (l *log) since(n int) []probe.Change {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.all[n:])
}

func (l *log) count() int { return len(l.since(0)) }

// watch runs Watch on the test host. Routes of ours are wanted as the test host
// has them, and stand on eth0, fvx and the device.
func watch(t *testing.T, l *log, more ...state.Object) {
	t.Helper()
	routes := []string{"203.0.113.64/26", "10.200.0.0/24", "10.5.0.0/24"}
	wanted := map[state.Key]state.Object{}
	for _, o := range append(peers(), more...) {
		wanted[o.Key()] = o
	}
	w := probe.Watcher{
		Tell:    l.tell,
		Wants:   func(p netip.Prefix) bool { return slices.Contains(routes, p.String()) },
		Wanted:  func(k state.Key) state.Object { return wanted[k] },
		Nexthop: func(id uint32) bool { return id == objectID },
		Device:  func(name, alias string) bool { return name == device && (alias == "" || alias == "flannel-ng") },
		Carries: func(link string) bool { return link == "eth0" || link == "fvx" || link == device },
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	drivertest.Go(t, func() { done <- probe.Watch(ctx, w) })
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("watch: %v", err)
		}
	})
	until(t, "first news", func() bool { return l.count() > 0 })
	if first := l.since(0)[0]; !first.Facts || !first.Doubt {
		t.Errorf("no doubt about what happened before: %+v", first)
	}
	settle(t, l)
}

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Fatal("waited in vain: " + what)
		}
	}
}

// settle waits until all that happened so far has been told: notifications come
// in order. It returns what was told since the last time, but for marks, which are
// news of facts by nobody known.
func settle(t *testing.T, l *log) []probe.Change {
	t.Helper()
	before, start := l.seen, l.count()
	isMark := func(c probe.Change) bool { return c == probe.Change{Facts: true} }
	marked := -1
	until(t, "mark", func() bool {
		if n := l.count(); n > marked { // the last one came together with other news
			marked = n
			mark(t)
		}
		return slices.ContainsFunc(l.since(start), isMark)
	})
	l.seen = l.count()
	return slices.DeleteFunc(l.since(before), isMark)
}

func mark(t *testing.T) {
	t.Helper()
	drivertest.Run(t, "ip link set foreign1 alias "+strconv.FormatInt(time.Now().UnixNano(), 36))
}

// stranger runs a command on the test host and returns its process number.
func stranger(t *testing.T, command string) int {
	t.Helper()
	words := strings.Fields(command)
	cmd := exec.CommandContext(t.Context(), words[0], words[1:]...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", command, err, out)
	}
	return cmd.Process.Pid
}

// Who is named by a change.
const (
	nobody = iota // the kernel does not tell
	kernel
	program
)

// Every fault that the kernel announces is told within a moment, with whoever
// did it if the kernel says so.
func TestWatch(t *testing.T) {
	drivertest.Namespace(t)
	fabric(t)
	var l log
	watch(t, &l)
	for _, c := range []struct {
		command string
		doubt   bool
		by      int
	}{
		{"ip link set foreign1 mtu 1300", false, nobody},
		{"ip addr add 192.0.2.50/32 dev foreign0", false, program},
		{"ip addr del 192.0.2.50/32 dev foreign0", false, program},
		{"ip -6 addr add 2001:db8:7::50/128 dev foreign0 nodad", false, kernel},
		{"ip addr add 198.51.100.77/24 dev eth0", false, program},
		{"ip addr del 198.51.100.77/24 dev eth0", true, program},
		{"ip route add 203.0.113.250/32 dev foreign0", false, program},
		{"ip route add default via 198.51.100.254 dev eth0", false, program},
		{"ip -6 route add default via 2001:db8::fe dev eth0", false, program},
		{"ip route add 198.51.100.128/25 via 192.0.2.9 dev foreign0", false, program},
		{"ip addr add 10.77.0.1/16 dev foreign0", false, program},
		{"ip route add 10.77.8.0/24 via 192.0.2.9 dev foreign0", false, program},

		{"ip route del 203.0.113.64/26 proto 70", true, program},
		{"ip route replace 10.200.0.0/24 via 198.51.100.7 dev eth0 proto static", true, program},
		{"ip route flush root 10.200.0.0/16", true, program},
		{"ip nexthop add id 1073741830 via 198.51.100.9 dev eth0 proto 70", true, program},
		{"ip nexthop replace id 1073741830 via 198.51.100.8 dev eth0 proto zebra", true, program},
		{"ip nexthop del id 1073741830", true, program},

		{"ip neigh replace 10.5.0.0 lladdr 02:00:00:00:01:77 dev flannel.1 nud permanent", true, program},
		{"ip neigh replace 10.5.0.0 lladdr 02:00:00:00:01:00 dev flannel.1 nud stale", true, program},
		{"ip neigh del 10.5.0.0 dev flannel.1", true, program},
		{"ip neigh del fd00:5::1 dev flannel.1", true, program},
		{"ip neigh flush dev flannel.1 nud permanent", true, program},
		{"ip neigh add 10.5.99.0 lladdr 02:00:00:00:01:00 dev flannel.1 nud permanent", true, program},
		{"bridge fdb replace 02:00:00:00:01:00 dev flannel.1 dst 198.51.100.99 self permanent", true, nobody},
		{"bridge fdb replace 02:00:00:00:01:00 dev flannel.1 dst 198.51.100.10 port 4789 self permanent", true, nobody},
		{"bridge fdb del 02:00:00:00:01:00 dev flannel.1 self", true, nobody},
		{"bridge fdb add 02:00:00:00:01:99 dev flannel.1 dst 198.51.100.99 self permanent", true, nobody},
		{"bridge fdb flush dev flannel.1", true, nobody},

		{"ip addr add 169.254.1.1/16 dev flannel.1", true, program},
		{"ip -6 addr add fd00:9::1/64 dev flannel.1 nodad", true, kernel},
		{"ip addr del 10.5.7.0/32 dev flannel.1", true, program},
		{"ip link set flannel.1 mtu 1300", true, nobody},
		{"ip link set flannel.1 address 02:00:00:00:00:99", true, nobody},
		{"ip link set flannel.1 type vxlan learning", true, nobody},
		{"ip link set flannel.1 down", true, kernel}, // of the addresses and routes that went
		{"ip link set flannel.1 up", true, kernel},
		{"ip link set flannel.1 alias other", true, nobody},
		{"ip link set flannel.1 alias flannel-ng", true, nobody},
		{"ip link set flannel.1 name other", true, kernel}, // of its addresses
		{"ip link set other name flannel.1", true, kernel},
		{"ip link del flannel.1", true, kernel},
		{"ip link set fvx mtu 1300", true, nobody},
		{"ip link set fvx down", true, kernel},
		{"ip link set fvx name other", true, nobody},
		{"ip link set eth0 mtu 1300", true, nobody},
		{"ip link del eth0", true, kernel},
	} {
		before := l.count()
		pid := stranger(t, c.command)
		named := func(x probe.Change) bool { return strings.Contains(x.By, fmt.Sprintf("process %d", pid)) }
		until(t, c.command, func() bool {
			return slices.ContainsFunc(l.since(before), func(x probe.Change) bool {
				return x.Doubt == c.doubt && (c.by != program || named(x))
			})
		})
		settle(t, &l)
		for _, x := range l.since(before) {
			if x.Doubt && !c.doubt || named(x) && c.by != program || x.Doubt && x.By != "" && c.by == nobody {
				t.Errorf("%s: %+v", c.command, x)
			}
		}
	}
}

// A route's protocol tells more than a process that is gone.
func TestWhoByProtocol(t *testing.T) {
	drivertest.Namespace(t)
	var l log
	watch(t, &l)
	before := l.count()
	stranger(t, "ip route replace 10.200.0.0/24 via 198.51.100.7 dev eth0 proto bird")
	until(t, "a change by bird", func() bool {
		return slices.ContainsFunc(l.since(before), func(c probe.Change) bool { return strings.HasSuffix(c.By, ", protocol bird") })
	})
}

// A program whose socket has a port that the kernel chose is found as well.
func TestWhoByAnyPort(t *testing.T) {
	drivertest.Namespace(t)
	if _, err := exec.LookPath("python3"); err != nil {
		t.Skip("needs python3: a program with two netlink sockets")
	}
	var l log
	watch(t, &l)
	before := l.count()
	cmd := exec.CommandContext(t.Context(), "python3", "-c", `
import socket, struct, sys
first = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0); first.bind((0, 0))
s = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0); s.bind((0, 0))
body = struct.pack("BBBBBBBBI", 2, 26, 0, 0, 254, 70, 0, 6, 0) + struct.pack("HH4s", 8, 1, bytes([203, 0, 113, 64]))
s.send(struct.pack("IHHII", 16 + len(body), 25, 5, 1, 0) + body)
sys.stdin.read()`)
	in, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf("python3 (process %d)", cmd.Process.Pid)
	until(t, want, func() bool {
		return slices.ContainsFunc(l.since(before), func(c probe.Change) bool { return c.By == want })
	})
	if err := errors.Join(in.Close(), cmd.Wait()); err != nil {
		t.Error(err)
	}
}

// What concerns nobody is not told, and what this process does is no news to it.
func TestWatchIsQuiet(t *testing.T) {
	drivertest.Namespace(t)
	fabric(t)
	var l log
	watch(t, &l)
	c, err := nl.Dial()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	index := map[string]int{}
	for _, name := range []string{device, "eth0"} {
		found, err := c.LinkNamed(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		index[name] = found.Index
	}
	route := nl.Route{Dst: netip.MustParsePrefix("203.0.113.64/26"), Type: nl.Blackhole, Protocol: state.Protocol}
	hop := nl.Nexthop{ID: objectID, Protocol: state.Protocol, Hop: nl.Hop{Link: index["eth0"], Via: netip.MustParseAddr("198.51.100.9")}}
	near := nl.Neighbour{Link: index[device], IP: netip.MustParseAddr("10.5.0.0"), MAC: addr.MAC{2, 0, 0, 0, 1, 0}}
	gone := nl.Neighbour{Link: index[device], IP: netip.MustParseAddr("10.5.9.0"), MAC: addr.MAC{2, 0, 0, 0, 1, 9}}
	entry := nl.FDB{Link: index[device], MAC: addr.MAC{2, 0, 0, 0, 1, 0}, Dst: netip.MustParseAddr("198.51.100.10")}
	address := nl.Address{Link: index[device], Prefix: netip.MustParsePrefix("10.5.8.0/32")}
	// The kernel names nobody for forwarding entries: ours are known by what
	// they say. So one that is removed is not wanted any more.
	stray := nl.FDB{Link: index[device], MAC: gone.MAC, Dst: entry.Dst}
	drivertest.Run(t, "bridge fdb add 02:00:00:00:01:09 dev flannel.1 dst 198.51.100.10 self permanent")
	settle(t, &l)
	for name, reqs := range map[string][]nl.Request{
		"route":      {nl.DelRoute(route), nl.AddRoute(route)},
		"nexthop":    {nl.AddNexthop(hop), nl.DelNexthop(objectID)},
		"neighbour":  {nl.DelNeighbour(near), nl.PutNeighbour(near, state.Protocol), nl.PutNeighbour(gone, 70), nl.DelNeighbour(gone)},
		"forwarding": {nl.PutFDB(entry), nl.DelFDB(stray)},
		"address":    {nl.PutAddress(address), nl.DelAddress(address)},
	} {
		if err := errors.Join(c.Do(t.Context(), reqs)...); err != nil {
			t.Fatal(name, err)
		}
		if told := settle(t, &l); len(told) > 0 {
			t.Errorf("own %s: %+v", name, told)
		}
	}
	for _, command := range []string{
		"ip route add 203.0.113.251/32 dev foreign0 proto 70",
		"ip route add 203.0.113.252/32 dev foreign0 table 77",
		"ip route add 10.99.0.0/16 via 192.0.2.9 dev foreign0 proto bird",
		"ip route del 10.99.0.0/16 via 192.0.2.9 dev foreign0 proto bird",
		"ip -6 route add 2001:db8:99::/48 via 2001:db8:7::9 dev foreign0 proto bird",
		"ip route add 198.0.0.0/8 via 192.0.2.9 dev foreign0 proto bird",
		"ip nexthop add id 99 via 198.51.100.9 dev eth0",
		"ip neigh add 192.0.2.60 lladdr 02:00:00:00:00:60 dev foreign0",
		"ip neigh add 198.51.100.60 lladdr 02:00:00:00:00:60 dev eth0 nud permanent",
		"bridge fdb add 02:00:00:00:00:60 dev fvx dst 198.51.100.60 self permanent",
		// What the kernel would learn or try by itself.
		"ip neigh add 10.5.50.1 lladdr 02:00:00:00:00:60 dev flannel.1 nud reachable",
		"ip neigh del 10.5.50.1 dev flannel.1",
		"ip neigh add ff02::77 lladdr 33:33:00:00:00:77 dev flannel.1 nud noarp",
		"bridge fdb add 02:00:00:00:00:60 dev flannel.1 dst 198.51.100.60 self dynamic",
		"bridge fdb del 02:00:00:00:00:60 dev flannel.1 self",
	} {
		stranger(t, command)
		if told := settle(t, &l); len(told) > 0 {
			t.Errorf("%s: %+v", command, told)
		}
	}
}

// A device that this process made is attended to as well.
func TestWatchNewDevice(t *testing.T) {
	drivertest.Namespace(t)
	var l log
	watch(t, &l)
	c, err := nl.Dial()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	for range 3 {
		before := l.count()
		if err := c.Do(t.Context(), []nl.Request{nl.AddVXLAN(nl.Link{
			Name: device, MTU: 1400, MAC: addr.MAC{2, 0, 0, 0, 0, 1}, VXLAN: nl.VXLAN{VNI: 1, Port: 8472},
		})})[0]; err != nil {
			t.Fatal(err)
		}
		until(t, "news of the device", func() bool { return l.count() > before })
		settle(t, &l)
		before = l.count()
		stranger(t, "ip neigh add 10.5.99.0 lladdr 02:00:00:00:01:00 dev flannel.1 nud permanent")
		until(t, "news of the neighbour", func() bool {
			return slices.ContainsFunc(l.since(before), func(x probe.Change) bool { return x.Doubt })
		})
		drivertest.Run(t, "ip link del flannel.1")
	}
}

// batch is a file for ip or bridge.
func batch(t *testing.T, n int, line func(i int) string) string {
	t.Helper()
	var b strings.Builder
	for i := range n {
		b.WriteString(line(i) + "\n")
	}
	file := filepath.Join(t.TempDir(), "batch")
	if err := os.WriteFile(file, []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// Lost notifications are told. The flood is of routes that would not be by
// themselves, so that nothing else can be the cause.
func TestOverrun(t *testing.T) {
	drivertest.Namespace(t)
	held, held1 := make(chan struct{}), 0
	l := log{}
	watch(t, &l)
	release := make(chan struct{})
	l.mu.Lock()
	held1 = len(l.all) + 1
	l.hold = func(n int) {
		if n == held1 {
			close(held)
			<-release
		}
	}
	l.mu.Unlock()
	mark(t)
	<-held
	file := batch(t, 30000, func(i int) string { return fmt.Sprintf("route add blackhole 10.6.%d.%d/32 proto 70", i>>8, i&255) })
	drivertest.Run(t, "ip -batch "+file)
	close(release)
	until(t, "doubt after the overrun", func() bool {
		return slices.ContainsFunc(l.since(held1), func(x probe.Change) bool { return x.Doubt })
	})
	settle(t, &l)
	mark(t)
	if told := settle(t, &l); len(told) > 0 {
		t.Errorf("more than the overrun: %+v", told)
	}
}

// Entries of ten thousand new peers are no news and do not overrun anything.
func TestWatchOwnFlood(t *testing.T) {
	drivertest.Namespace(t)
	fabric(t)
	var all []state.Object
	for i := range 10000 {
		mac := addr.MAC{2, 0, 0, 1, uint8(i >> 8), uint8(i)}
		all = append(all,
			state.FDBEntry{Link: device, MAC: mac, Dst: netip.MustParseAddr("198.51.100.10")},
			state.Neighbour{Link: device, MAC: mac, IP: netip.AddrFrom4([4]byte{10, 6, uint8(i >> 8), uint8(i)})},
		)
	}
	var l log
	watch(t, &l, all...)
	c, err := nl.Dial()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	found, err := c.LinkNamed(t.Context(), device)
	if err != nil {
		t.Fatal(err)
	}
	var reqs []nl.Request
	for _, o := range all {
		switch o := o.(type) {
		case state.FDBEntry:
			reqs = append(reqs, nl.PutFDB(nl.FDB{Link: found.Index, MAC: o.MAC, Dst: o.Dst}))
		case state.Neighbour:
			reqs = append(reqs, nl.PutNeighbour(nl.Neighbour{Link: found.Index, MAC: o.MAC, IP: o.IP}, state.Protocol))
		}
	}
	if err := errors.Join(c.Do(t.Context(), reqs)...); err != nil {
		t.Fatal(err)
	}
	if told := settle(t, &l); len(told) > 0 {
		t.Errorf("%+v", told)
	}
}
