package forwarder_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/tunnel"
	"github.com/flannel-ng/flannel-ng/internal/tunnel/forwarder"
)

const (
	port    = 8285
	link    = "flannel0"
	timeout = 10 * time.Second
)

// TestMain is three programs: a forwarder, the parent of one, and the tests.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case tunnel.Subcommand:
			os.Exit(beForwarder())
		case "parent":
			os.Exit(beParent(os.Args[2]))
		}
	}
	os.Exit(m.Run())
}

// beForwarder does what cmd/flanneld does.
func beForwarder() int {
	signal.Ignore(unix.SIGPIPE, unix.SIGHUP, unix.SIGINT)
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM)
	defer stop()
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	o := forwarder.Options{Socket: os.Args[3], Build: os.Args[5], Log: log}
	if err := forwarder.Run(ctx, o); err != nil {
		log.Info("forwarder ends", "err", err)
		return 1
	}
	return 0
}

// beParent starts a forwarder and waits to be killed.
func beParent(socket string) int {
	c, err := tunnel.Start(context.Background(), tunnel.Process{Socket: socket, Build: "orphan"})
	if err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println("started", c.Hello().PID)
	select {}
}

// host is a network namespace with an uplink, a TUN device, and an inner
// address behind the device as a container would have.
//
//	inner .1 (lo) ── flannel0 ── forwarder ── eth0 198.51.100.<n>
type host struct {
	n      int
	netns  *os.File
	socket string
	plain  bool // how its forwarder is to move packets
}

func (h *host) outer(f addr.Family) netip.Addr { return outerOf(h.n, f) }

func outerOf(n int, f addr.Family) netip.Addr {
	if f == addr.IPv4 {
		return netip.AddrFrom4([4]byte{198, 51, 100, byte(n)})
	}
	return netip.MustParseAddr(fmt.Sprintf("2001:db8::%d", n))
}

func subnetOf(n int, f addr.Family) netip.Prefix {
	if f == addr.IPv4 {
		return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 5, byte(n), 0}), 24)
	}
	return netip.MustParsePrefix(fmt.Sprintf("fd00:5:%d::/64", n))
}

func (h *host) device(f addr.Family) netip.Addr { return subnetOf(h.n, f).Addr() }
func (h *host) inner(f addr.Family) netip.Addr  { return addr.Host(subnetOf(h.n, f), 1) }

func (h *host) config() *tunnel.Config {
	return &tunnel.Config{
		Link: link, Port: port,
		Source: []netip.Addr{h.outer(addr.IPv4), h.outer(addr.IPv6)},
		Local:  []netip.Prefix{subnetOf(h.n, addr.IPv4), subnetOf(h.n, addr.IPv6)},
		Plain:  h.plain,
	}
}

func peers(n int) []tunnel.Peer {
	return []tunnel.Peer{
		{Subnet: subnetOf(n, addr.IPv4), Dst: outerOf(n, addr.IPv4), ECN: true},
		{Subnet: subnetOf(n, addr.IPv6), Dst: outerOf(n, addr.IPv6), ECN: true},
	}
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
	h.do(tb, func() error {
		for line := range strings.Lines(script) {
			words := strings.Fields(line)
			if len(words) == 0 {
				continue
			}
			if out, err := exec.CommandContext(tb.Context(), words[0], words[1:]...).CombinedOutput(); err != nil {
				return fmt.Errorf("%s: %w\n%s", line, err, out)
			}
		}
		return nil
	})
}

// both runs a test with each form of the forwarder's loops.
func both(t *testing.T, test func(t *testing.T, plain bool)) {
	t.Helper()
	t.Run("fast", func(t *testing.T) { test(t, false) })
	t.Run("plain", func(t *testing.T) { test(t, true) })
}

// hostsThat makes two hosts whose forwarders are plain, or fast.
func hostsThat(tb testing.TB, plain bool) (*host, *host) {
	tb.Helper()
	one, two := hosts(tb)
	one.plain, two.plain = plain, plain
	return one, two
}

// hosts makes two hosts on one wire. Forwarders are not started.
func hosts(tb testing.TB) (*host, *host) {
	tb.Helper()
	switch _, err := os.Stat("/dev/net/tun"); {
	case os.Geteuid() != 0:
		tb.Skip("needs root: makes network namespaces")
	case err != nil:
		tb.Skipf("needs TUN devices: %v", err)
	}
	if _, err := exec.LookPath("ip"); err != nil {
		tb.Skipf("needs iproute2: %v", err)
	}
	dir := tb.TempDir()
	one, two := newHost(tb, dir, 1), newHost(tb, dir, 2)
	one.run(tb, fmt.Sprintf("ip link add eth0 type veth peer name eth0 netns /proc/%d/fd/%d", os.Getpid(), two.netns.Fd()))
	for _, h := range []*host{one, two} {
		h.furnish(tb)
	}
	one.awaitCarrier(tb, "eth0")
	return one, two
}

func newHost(tb testing.TB, dir string, n int) *host {
	tb.Helper()
	h := &host{n: n, socket: filepath.Join(dir, fmt.Sprintf("h%d.sock", n))}
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			h.netns, err = os.Open("/proc/thread-self/ns/net")
		}
		done <- err
	}()
	if err := <-done; err != nil {
		tb.Skipf("needs CAP_SYS_ADMIN: make a network namespace: %v", err)
	}
	tb.Cleanup(func() {
		h.stop(tb)
		h.netns.Close()
	})
	return h
}

func (h *host) furnish(tb testing.TB) {
	tb.Helper()
	h.run(tb, fmt.Sprintf(`
		sysctl -qw net.ipv6.conf.all.accept_dad=0 net.ipv6.conf.default.accept_dad=0
		ip link set lo up
		ip link set eth0 up
		ip addr add %s/24 dev eth0
		ip addr add %s/64 dev eth0 nodad
		ip tuntap add dev flannel0 mode tun vnet_hdr
		ip link set flannel0 mtu 1452 addrgenmode none
		ip link set flannel0 up
		ip addr add %s/32 dev flannel0
		ip addr add %s/128 dev flannel0 nodad
		ip addr add %s/32 dev lo
		ip addr add %s/128 dev lo nodad
		ip route add 10.5.0.0/16 dev flannel0
		ip route add fd00:5::/32 dev flannel0
	`, h.outer(addr.IPv4), h.outer(addr.IPv6), h.device(addr.IPv4), h.device(addr.IPv6), h.inner(addr.IPv4), h.inner(addr.IPv6)))
}

// awaitCarrier waits until the kernel has noticed that somebody is at the other
// end. Until then it drops packets.
func (h *host) awaitCarrier(tb testing.TB, link string) {
	tb.Helper()
	eventually(tb, "carrier of "+link, func() error {
		var flags net.Flags
		h.do(tb, func() error {
			i, err := net.InterfaceByName(link)
			if err == nil {
				flags = i.Flags
			}
			return err
		})
		if flags&net.FlagRunning == 0 {
			return errors.New("not running")
		}
		return nil
	})
}

// start starts a forwarder that is configured for the other host.
func (h *host) start(tb testing.TB, peer int) *tunnel.Client {
	tb.Helper()
	c := h.startBare(tb)
	h.configure(tb, c, h.config(), peers(peer)...)
	return c
}

// configure attaches c, and waits until that shows.
func (h *host) configure(tb testing.TB, c *tunnel.Client, config *tunnel.Config, peers ...tunnel.Peer) {
	tb.Helper()
	if err := c.Change(tb.Context(), tunnel.Change{Config: config, Put: peers}); err != nil {
		tb.Fatal(err)
	}
	h.awaitCarrier(tb, config.Link)
}

// startBare starts a forwarder that knows nothing.
func (h *host) startBare(tb testing.TB) *tunnel.Client {
	tb.Helper()
	var c *tunnel.Client
	h.do(tb, func() (err error) {
		c, err = tunnel.Start(tb.Context(), tunnel.Process{Socket: h.socket, Build: "one"})
		return err
	})
	tb.Cleanup(func() { c.Close() })
	return c
}

// stop ends whatever forwarder the host has.
func (h *host) stop(tb testing.TB) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(tb.Context()), timeout)
	defer cancel()
	c, err := tunnel.Dial(ctx, h.socket)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	if err == nil {
		err = errors.Join(c.Quit(ctx), c.Close())
	}
	if err != nil {
		tb.Error(err)
	}
}

// udp opens an inner or outer UDP socket on the host.
func (h *host) udp(tb testing.TB, local netip.AddrPort) *net.UDPConn {
	tb.Helper()
	var conn *net.UDPConn
	h.do(tb, func() (err error) {
		conn, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(local))
		return err
	})
	tb.Cleanup(func() { conn.Close() })
	return conn
}

func at(a netip.Addr, port uint16) netip.AddrPort { return netip.AddrPortFrom(a, port) }

func localOf(c *net.UDPConn) netip.AddrPort { return c.LocalAddr().(*net.UDPAddr).AddrPort() }

// eventually looks until there is no error any more.
func eventually(tb testing.TB, what string, look func() error) {
	tb.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(timeout); ; <-tick.C {
		err := look()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			tb.Fatalf("%s: %v", what, err)
		}
	}
}

// receive waits for one datagram.
func receive(tb testing.TB, c *net.UDPConn) ([]byte, netip.AddrPort) {
	tb.Helper()
	if err := c.SetReadDeadline(time.Now().Add(timeout)); err != nil {
		tb.Fatal(err)
	}
	b := make([]byte, 1<<16)
	n, from, err := c.ReadFromUDPAddrPort(b)
	if err != nil {
		tb.Fatal(err)
	}
	return b[:n], netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
}

func transmit(tb testing.TB, c *net.UDPConn, b []byte, to netip.AddrPort) {
	tb.Helper()
	if _, err := c.WriteToUDPAddrPort(b, to); err != nil {
		tb.Fatal(err)
	}
}

func status(tb testing.TB, c *tunnel.Client) tunnel.Status {
	tb.Helper()
	s, err := c.Status(tb.Context())
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

// alive says whether a process is there, be it a zombie.
func alive(pid int) bool { return unix.Kill(pid, 0) == nil }

func awaitEnd(tb testing.TB, pid int) {
	tb.Helper()
	eventually(tb, "end of forwarder", func() error {
		if alive(pid) {
			return fmt.Errorf("process %d is still there", pid)
		}
		return nil
	})
}
