package fastpath_test

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/flannel-ng/flannel-ng/internal/bpf"
	"github.com/flannel-ng/flannel-ng/internal/driver/fastpath"
	"github.com/flannel-ng/flannel-ng/internal/reconcile"
	"github.com/flannel-ng/flannel-ng/internal/state"
)

const (
	port    = 8285
	timeout = 10 * time.Second
)

// host is a network namespace with an uplink, a TUN device, and an inner
// address behind the device as a container would have. No forwarder runs: what
// the programs leave to it shows on the TUN device or at the UDP port.
//
//	inner 10.5.<n>.1 (lo) ── flannel0 ── eth0 198.51.100.<n>
type host struct {
	n     int
	netns *os.File
	root  string // bpf file system
	owner state.Owner
}

func (h *host) outer() netip.Addr { return netip.AddrFrom4([4]byte{198, 51, 100, byte(h.n)}) }
func subnet(n int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 5, byte(n), 0}), 24)
}
func (h *host) inner() netip.Addr { return netip.AddrFrom4([4]byte{10, 5, byte(h.n), 1}) }

// path is what h is wanted to have.
func (h *host) path() state.FastPath {
	return state.FastPath{
		Link: "flannel0", Uplink: "eth0", Decap: "flannel0-in", Port: port, Source: h.outer(), Local: subnet(h.n),
	}
}

// want has the fast path of h and the other host as a peer.
func (h *host) want(peers ...*host) *state.Set {
	s := &state.Set{FastPaths: []state.FastPath{h.path()}}
	for _, p := range peers {
		s.FastPeers = append(s.FastPeers, state.FastPeer{Link: "flannel0", Subnet: subnet(p.n), Dst: p.outer()})
	}
	return s
}

// do runs f in the host's namespace, on a thread that ends with it.
func (h *host) do(tb testing.TB, f func() error) {
	tb.Helper()
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends here
		if err := unix.Setns(int(h.netns.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- err
			return
		}
		done <- f()
	}()
	if err := <-done; err != nil {
		tb.Fatal(err)
	}
}

// run runs commands on the host, one a line.
func (h *host) run(tb testing.TB, script string) {
	tb.Helper()
	for line := range strings.Lines(script) {
		if words := strings.Fields(line); len(words) > 0 {
			h.output(tb, words...)
		}
	}
}

func (h *host) output(tb testing.TB, words ...string) string {
	tb.Helper()
	var out []byte
	h.do(tb, func() (err error) {
		if out, err = exec.CommandContext(tb.Context(), words[0], words[1:]...).CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w\n%s", words, err, out)
		}
		return nil
	})
	return string(out)
}

// try is output of a command that may fail.
func (h *host) try(tb testing.TB, words ...string) string {
	tb.Helper()
	var out []byte
	h.do(tb, func() error {
		out, _ = exec.CommandContext(tb.Context(), words[0], words[1:]...).CombinedOutput()
		return nil
	})
	return string(out)
}

// hosts makes n hosts on one switch.
func hosts(tb testing.TB, n int) []*host {
	tb.Helper()
	if os.Geteuid() != 0 {
		tb.Skip("needs root: makes network namespaces")
	}
	if _, err := exec.LookPath("ip"); err != nil {
		tb.Skipf("needs iproute2: %v", err)
	}
	if err := bpf.Try(); err != nil {
		tb.Skipf("needs a kernel with TCX and BPF: %v", err)
	}
	root := tb.TempDir()
	tb.Cleanup(func() { _ = unix.Unmount(root, unix.MNT_DETACH) })
	wire := &host{netns: namespace(tb)}
	// A switch looks at no IP header, so br_netfilter, where it is loaded, must not.
	wire.run(tb, `
		ip link add br0 type bridge
		ip link set br0 up
		sysctl -qew net.bridge.bridge-nf-call-iptables=0
	`)
	var all []*host
	for i := 1; i <= n; i++ {
		h := &host{n: i, netns: namespace(tb), root: root}
		all = append(all, h)
		ns := fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), h.netns.Fd())
		wire.run(tb, fmt.Sprintf(`
			ip link add p%d type veth peer name eth0 netns %s
			ip link set p%d master br0 up
		`, i, ns, i))
		h.run(tb, fmt.Sprintf(`
			ip link set lo up
			ip link set eth0 up
			ip addr add %s/24 dev eth0
			ip addr add %s/32 dev lo
		`, h.outer(), h.inner()))
		h.tun(tb, "flannel0", "flannel-ng")
		h.run(tb, "ip route add 10.5.0.0/16 dev flannel0 src "+h.inner().String())
	}
	return all
}

func (h *host) tun(tb testing.TB, name, alias string) {
	tb.Helper()
	h.run(tb, fmt.Sprintf(`
		ip tuntap add %[1]s mode tun
		ip link set %[1]s mtu 1472 alias %[2]s up
		sysctl -qw net.ipv4.conf.%[1]s.forwarding=1
	`, name, alias))
}

// namespace makes a network namespace that lasts as long as the test.
func namespace(tb testing.TB) *os.File {
	tb.Helper()
	type made struct {
		f   *os.File
		err error
	}
	done := make(chan made)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends here
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			done <- made{nil, err}
			return
		}
		f, err := os.Open("/proc/thread-self/ns/net")
		done <- made{f, err}
	}()
	m := <-done
	if m.err != nil {
		tb.Skipf("needs CAP_SYS_ADMIN: make a network namespace: %v", m.err)
	}
	tb.Cleanup(func() { _ = m.f.Close() })
	return m.f
}

// driver is always a new one: a daemon that has just started.
func (h *host) driver() *fastpath.Driver {
	return fastpath.New(fastpath.Options{Owner: h.owner, Root: h.root})
}

func (h *host) plan(tb testing.TB, want *state.Set) []reconcile.Change {
	tb.Helper()
	var out []reconcile.Change
	h.do(tb, func() (err error) {
		out, err = h.driver().Plan(tb.Context(), want)
		return err
	})
	return out
}

// make makes want true and sees to it that nothing is left to do.
func (h *host) make(tb testing.TB, want *state.Set) {
	tb.Helper()
	h.do(tb, func() error {
		d := h.driver()
		out := reconcile.Execute(tb.Context(), []reconcile.Driver{d}, want, true)
		var errs []error
		for _, r := range out.Results {
			errs = append(errs, r.Err)
		}
		for _, err := range out.Unread {
			errs = append(errs, err)
		}
		return errors.Join(errs...)
	})
	if left := h.plan(tb, want); len(left) > 0 {
		tb.Fatalf("host %d: left to do: %v", h.n, left)
	}
}

// pair is two hosts with a fast path between them.
func pair(tb testing.TB) (a, b *host) {
	tb.Helper()
	all := hosts(tb, 2)
	a, b = all[0], all[1]
	a.make(tb, a.want(b))
	b.make(tb, b.want(a))
	return a, b
}

// pins opens what is pinned on h, in its namespace.
func (h *host) pins(tb testing.TB, f func(*bpf.Path) error) {
	tb.Helper()
	h.do(tb, func() error {
		dir, err := fastpath.Dir(h.root, h.owner)
		if err != nil {
			return err
		}
		p, err := bpf.Open(dir)
		if err != nil {
			return err
		}
		return errors.Join(f(p), p.Close())
	})
}

func (h *host) counters(tb testing.TB) bpf.Counters {
	tb.Helper()
	var c bpf.Counters
	h.pins(tb, func(p *bpf.Path) (err error) {
		c, err = p.Counters()
		return err
	})
	return c
}

func (h *host) settings(tb testing.TB) bpf.Settings {
	tb.Helper()
	var s bpf.Settings
	h.pins(tb, func(p *bpf.Path) (err error) {
		s, err = p.Settings()
		return err
	})
	return s
}
