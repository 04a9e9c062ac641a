// Package drivertest holds what every driver must do, as one suite, and the
// host it is shown on: a network namespace with an uplink and foreign objects.
//
// It is called by the tests of the drivers only. The host's tools (ip, bridge)
// are the second opinion: no test asks the code under test what it has done.
package drivertest

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const mark = "drivertest0"

// Uplink is the link of the test host that carries traffic between hosts.
const Uplink = "eth0"

// Namespace moves the calling test into a network namespace of its own, with
// an uplink and foreign objects. The thread is never given back, so that it
// ends with the test and takes the namespace along.
func Namespace(tb testing.TB) {
	tb.Helper()
	if os.Geteuid() != 0 {
		tb.Skip("needs root: makes network namespaces")
	}
	for _, tool := range []string{"ip", "bridge"} {
		if _, err := exec.LookPath(tool); err != nil {
			tb.Skipf("needs iproute2: %v", err)
		}
	}
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		tb.Skipf("needs CAP_SYS_ADMIN: make a network namespace: %v", err)
	}
	c := exec.CommandContext(tb.Context(), "ip", "link", "add", mark, "type", "bridge")
	if out, err := c.CombinedOutput(); err != nil {
		tb.Fatalf("%s: %v\n%s", c, err, out)
	}
	// Duplicate address detection would add routes a second later.
	for _, conf := range []string{"all", "default"} {
		if err := os.WriteFile("/proc/sys/net/ipv6/conf/"+conf+"/accept_dad", []byte("0"), 0); err != nil {
			tb.Skipf("needs IPv6: %v", err)
		}
	}
	Run(tb, `
		ip link set lo up
		ip link add eth0 type veth peer name eth0peer
		ip link set eth0peer up
		ip link set eth0 up
		ip addr add 198.51.100.1/24 dev eth0
		ip addr add 2001:db8::1/64 dev eth0 nodad
		ip link add foreign0 type veth peer name foreign1
		ip link set foreign0 up
		ip link set foreign1 up
		ip addr add 192.0.2.1/24 dev foreign0
		ip addr add 169.254.7.7/16 dev foreign0
		ip addr add 2001:db8:7::1/64 dev foreign0 nodad
		ip neigh add 192.0.2.9 lladdr 02:00:00:00:00:09 dev foreign0 nud permanent
		ip neigh add 2001:db8:7::9 lladdr 02:00:00:00:00:09 dev foreign0 nud permanent
		ip link add fvx type vxlan id 777 dstport 4790 local 198.51.100.1 dev eth0 nolearning
		ip link set fvx up
		bridge fdb add 02:00:00:00:00:77 dev fvx dst 198.51.100.77 self permanent
		ip route add 203.0.113.0/24 via 192.0.2.9 dev foreign0
		ip route add 203.0.113.128/25 via 198.51.100.5 dev eth0 proto static
		ip route add blackhole 203.0.113.64/26 proto 70
		ip route add 10.200.0.0/24 via 198.51.100.6 dev eth0 proto 70
		ip -6 route add 2001:db8:8::/48 via 2001:db8:7::9 dev foreign0
		ip nexthop add id 5 via 192.0.2.9 dev foreign0
		ip route add 203.0.113.32/28 nhid 5
	`)
	settle(tb)
}

// settle waits for the carrier of the veth pairs, which the kernel notices a
// moment later and follows up with addresses and routes, and until no address is
// tentative: on a busy machine that takes longer.
func settle(tb testing.TB) {
	tb.Helper()
	deadline := time.Now().Add(5 * time.Second)
	for strings.Count(Output(tb, "ip -6 -br addr show up scope link"), " UP ") < 4 ||
		Output(tb, "ip -6 addr show tentative") != "" {
		if time.Now().After(deadline) {
			tb.Fatal("links of the test host do not come up")
		}
	}
}

// Go runs f beside the test, on a thread of its own in the test's network
// namespace, which ends with f.
func Go(tb testing.TB, f func()) {
	tb.Helper()
	mustBeAway(tb)
	netns, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		tb.Fatal(err)
	}
	entered := make(chan error)
	go func() {
		runtime.LockOSThread()
		err := unix.Setns(int(netns.Fd()), unix.CLONE_NEWNET)
		entered <- errors.Join(err, netns.Close())
		if err == nil {
			f()
		}
	}()
	if err := <-entered; err != nil {
		tb.Fatal(err)
	}
}

// Run runs shell commands on the test host, one a line.
func Run(tb testing.TB, script string) {
	tb.Helper()
	for line := range strings.Lines(script) {
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		Output(tb, line)
	}
}

// mustBeAway keeps a test that forgot Namespace, or runs in a subtest (another
// thread), from working on the real host. It knows the test host by a link.
func mustBeAway(tb testing.TB) {
	tb.Helper()
	if _, err := net.InterfaceByName(mark); err != nil {
		tb.Fatalf("not in a network namespace for tests: %v", err)
	}
}

// Output runs one command on the test host and returns what it prints.
func Output(tb testing.TB, line string) string {
	tb.Helper()
	mustBeAway(tb)
	words := strings.Fields(line)
	out, err := exec.CommandContext(tb.Context(), words[0], words[1:]...).CombinedOutput()
	if err != nil {
		tb.Fatalf("%s: %v\n%s", line, err, out)
	}
	return string(out)
}

// Foreign is everything on the host that does not belong to the fabrics of
// this package, as text: two readings must be equal.
func Foreign(tb testing.TB) []string {
	tb.Helper()
	var out []string
	for _, list := range []string{
		"ip -j -d link show", "ip -j addr show", "ip -j neigh show nud permanent", "bridge -j fdb show",
		"ip -j route show table all", "ip -j -6 route show table all", "ip -j nexthop show",
	} {
		var objects []map[string]any
		text := Output(tb, list)
		if err := json.Unmarshal([]byte(text), &objects); err != nil {
			tb.Fatalf("%s: %v\n%s", list, err, text)
		}
		for _, o := range objects {
			if !ofFabric(o) {
				out = append(out, fmt.Sprintf("%s: %v", list, o))
			}
		}
	}
	slices.Sort(out)
	return out
}

// ofFabric knows the fabrics' links by name and the rest by destination.
func ofFabric(o map[string]any) bool {
	for _, k := range []string{"dev", "ifname"} {
		if s, ok := o[k].(string); ok && strings.HasPrefix(s, "flannel") {
			return true
		}
	}
	if gateway, ok := o["gateway"].(string); ok && gateway == DirectVia().String() {
		return true
	}
	dst, _ := o["dst"].(string)
	return strings.HasPrefix(dst, "10.16.") || strings.HasPrefix(dst, "10.32.") || strings.HasPrefix(dst, "fd00:")
}
