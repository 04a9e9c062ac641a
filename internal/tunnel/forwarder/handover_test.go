package forwarder_test

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/tunnel"
)

// flow sends numbered packets, a thousand a second, and sees which arrive.
type flow struct {
	stop     context.CancelFunc
	sending  sync.WaitGroup
	from, to *net.UDPConn

	sent int
	mu   sync.Mutex
	seen map[uint32]int
}

func startFlow(t *testing.T, from, to *net.UDPConn) *flow {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	f := &flow{stop: stop, from: from, to: to, seen: map[uint32]int{}}
	f.sending.Go(func() { f.send(ctx, t) })
	go f.receive()
	return f
}

func (f *flow) send(ctx context.Context, t *testing.T) {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for ; ctx.Err() == nil; <-tick.C {
		b := binary.BigEndian.AppendUint32(nil, uint32(f.sent))
		if _, err := f.from.WriteToUDPAddrPort(b, localOf(f.to)); err != nil {
			t.Error(err)
			return
		}
		f.sent++
	}
}

func (f *flow) receive() {
	b := make([]byte, 64)
	for {
		if _, _, err := f.to.ReadFromUDPAddrPort(b); err != nil {
			return
		}
		f.mu.Lock()
		f.seen[binary.BigEndian.Uint32(b)]++
		f.mu.Unlock()
	}
}

func (f *flow) arrived() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.seen)
}

// await waits until some more have arrived.
func (f *flow) await(t *testing.T) {
	t.Helper()
	const n = 50
	before := f.arrived()
	eventually(t, "flow", func() error {
		if got := f.arrived() - before; got < n {
			return fmt.Errorf("%d arrived", got)
		}
		return nil
	})
}

// end stops the flow and says how many were lost and how many came twice.
func (f *flow) end(t *testing.T) (lost, twice int) {
	t.Helper()
	f.stop()
	f.sending.Wait()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(time.Second); f.arrived() < f.sent && time.Now().Before(end); {
		<-tick.C
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, n := range f.seen {
		twice += n - 1
	}
	return f.sent - len(f.seen), twice
}

// replace puts another build in the place of old.
func (h *host) replace(t *testing.T, old *tunnel.Client, build string) *tunnel.Client {
	t.Helper()
	var c *tunnel.Client
	h.do(t, func() (err error) {
		c, err = tunnel.Replace(t.Context(), old, tunnel.Process{Socket: h.socket, Build: build})
		return err
	})
	t.Cleanup(func() { c.Close() })
	return c
}

// Forwarders on both sides are replaced again and again under a flow in both
// families, and nobody notices.
func TestHandover(t *testing.T) {
	both(t, func(t *testing.T, plain bool) {
		one, two := hostsThat(t, plain)
		clients := map[*host]*tunnel.Client{one: one.start(t, 2), two: two.start(t, 1)}
		var flows []*flow
		for _, f := range addr.Families() {
			flows = append(flows,
				startFlow(t, one.udp(t, at(one.inner(f), 0)), two.udp(t, at(two.inner(f), 7000))),
				startFlow(t, two.udp(t, at(two.inner(f), 0)), one.udp(t, at(one.inner(f), 7000))))
		}
		for i := range 3 {
			for _, h := range []*host{one, two} {
				flows[0].await(t)
				old, before := clients[h].Hello(), status(t, clients[h])
				c := h.replace(t, clients[h], fmt.Sprint("build ", i))
				clients[h] = c
				after := status(t, c)
				if after.PID == old.PID || after.Build != fmt.Sprint("build ", i) {
					t.Errorf("replaced %+v by %+v", old, after.Hello)
				}
				awaitEnd(t, old.PID)
				if fmt.Sprint(before.Config, before.Peers) != fmt.Sprint(after.Config, after.Peers) {
					t.Errorf("configuration before %+v, after %+v", before, after)
				}
				if after.Counters.SentPackets < before.Counters.SentPackets || after.Counters.ReceivedBytes < before.Counters.ReceivedBytes {
					t.Errorf("counters before %+v, after %+v", before.Counters, after.Counters)
				}
			}
		}
		flows[0].await(t)
		var sent int
		for _, f := range flows {
			lost, twice := f.end(t)
			if lost != 0 || twice != 0 {
				t.Errorf("of %d packets %d were lost and %d came twice", f.sent, lost, twice)
			}
			sent += f.sent
		}
		// Each packet was counted by exactly one of the processes.
		var counted uint64
		for _, c := range clients {
			counted += status(t, c).Counters.ReceivedPackets
		}
		if counted != uint64(sent) {
			t.Errorf("%d counted, %d sent", counted, sent)
		}
		t.Logf("%d packets, 6 handovers, none lost", sent)
	})
}

// What flanneld tells the successor counts there.
func TestChangeAfterHandover(t *testing.T) {
	both(t, func(t *testing.T, plain bool) {
		one, two := hostsThat(t, plain)
		c := one.replace(t, one.start(t, 9), "two")
		if err := c.Change(t.Context(), tunnel.Change{Put: peers(2), Remove: []netip.Prefix{subnetOf(9, addr.IPv4)}}); err != nil {
			t.Fatal(err)
		}
		wire := two.udp(t, at(two.outer(addr.IPv4), port))
		transmit(t, one.udp(t, at(one.inner(addr.IPv4), 0)), nil, at(two.inner(addr.IPv4), 7000))
		receive(t, wire)
	})
}

// The parent is killed: the forwarder goes on, and is found again.
func TestParentKilled(t *testing.T) {
	both(t, func(t *testing.T, plain bool) {
		one, two := hostsThat(t, plain)
		two.start(t, 1)
		var parent *exec.Cmd
		var lines *bufio.Reader
		one.do(t, func() error {
			parent = exec.CommandContext(t.Context(), "/proc/self/exe", "parent", one.socket)
			parent.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
			// Its end takes away the forwarder's standard error too.
			stderr, err := parent.StderrPipe()
			if err != nil {
				return err
			}
			stdout, err := parent.StdoutPipe()
			if err != nil {
				return err
			}
			lines = bufio.NewReader(stdout)
			return errors.Join(parent.Start(), stderr.Close())
		})
		if line, err := lines.ReadString('\n'); err != nil || !strings.HasPrefix(line, "started ") {
			t.Fatal(line, err)
		}
		c, err := tunnel.Dial(t.Context(), one.socket)
		if err != nil {
			t.Fatal(err)
		}
		one.configure(t, c, one.config(), peers(2)...)
		f := startFlow(t, one.udp(t, at(one.inner(addr.IPv4), 0)), two.udp(t, at(two.inner(addr.IPv4), 7000)))
		f.await(t)
		if err := unix.Kill(-parent.Process.Pid, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		_ = parent.Wait() // killed
		f.await(t)
		if lost, twice := f.end(t); lost != 0 || twice != 0 {
			t.Errorf("of %d packets %d were lost and %d came twice", f.sent, lost, twice)
		}
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		again, err := tunnel.Dial(t.Context(), one.socket)
		if err != nil {
			t.Fatal(err)
		}
		defer again.Close()
		if s := status(t, again); s.Build != "orphan" || len(s.Peers) != 2 || s.Counters.SentPackets < 100 {
			t.Errorf("found %+v", s)
		}
		// It is written where nobody reads; that must not end it.
		one.run(t, "rm "+one.socket)
		eventually(t, "socket made again", func() error {
			c, err := tunnel.Dial(t.Context(), one.socket)
			if err != nil {
				return err
			}
			defer c.Close()
			if c.Hello() != again.Hello() {
				return fmt.Errorf("another one: %+v", c.Hello())
			}
			return nil
		})
	})
}

// A forwarder that hangs is killed, and nothing stands in the way of a new one.
func TestHung(t *testing.T) {
	one, _ := hosts(t)
	old := one.start(t, 2)
	if err := unix.Kill(old.Hello().PID, unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	c := one.start(t, 2) // configured: the device was free
	awaitEnd(t, old.Hello().PID)
	if s := status(t, c); s.Config == nil {
		t.Errorf("status %+v", s)
	}
}

// One whose descriptors are of no use to a successor ends, and the successor
// starts with nothing.
func TestNothingToInherit(t *testing.T) {
	one, _ := hosts(t)
	old := one.startBare(t)
	if err := old.Change(t.Context(), tunnel.Change{Put: peers(2)}); err != nil {
		t.Fatal(err)
	}
	c := one.replace(t, old, "two")
	if s := status(t, c); s.Config != nil || len(s.Peers) != 2 {
		t.Errorf("status %+v", s)
	}
}

// Nothing of the parent leaks into a forwarder: it has a null input, the
// parent's stderr and its own.
func TestDescriptors(t *testing.T) {
	one, _ := hosts(t)
	leak, err := os.Open("/dev/zero")
	if err != nil {
		t.Fatal(err)
	}
	defer leak.Close()
	c := one.start(t, 2)
	dir := fmt.Sprintf("/proc/%d/fd", c.Hello().PID)
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var sockets, tuns int
	for _, e := range entries {
		target, err := os.Readlink(dir + "/" + e.Name())
		switch {
		case err != nil:
			t.Error(err)
		case target == "/dev/zero":
			t.Error("a descriptor of the parent is open in the forwarder")
		case target == "/dev/net/tun":
			tuns++
		case strings.HasPrefix(target, "socket:"):
			sockets++
		case e.Name() == "0" && target != os.DevNull:
			t.Errorf("input is %s", target)
		}
	}
	if tuns != 1 || sockets != 6 { // listener, client, two UDP, two ICMP
		t.Errorf("%d TUN devices and %d sockets are open", tuns, sockets)
	}
}

// A predecessor may be of a build that prepared its sockets otherwise.
func TestInheritedSocketsArePrepared(t *testing.T) {
	one, _ := hosts(t)
	c := one.start(t, 2)
	last, err := tunnel.Succeed(t.Context(), one.socket, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range last.Descriptors {
		defer d.File.Close()
	}
	fd := int(last.Descriptors[1].File.Fd()) // the IPv4 socket
	if err := errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, 1<<14),
		unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_WANT),
		last.Abandon(),
	); err != nil {
		t.Fatal(err)
	}
	one.replace(t, c, "two")
	buffer, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF)
	how, err2 := unix.GetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MTU_DISCOVER)
	if err := errors.Join(err, err2); err != nil {
		t.Fatal(err)
	}
	if buffer <= 1<<15 || how != unix.IP_PMTUDISC_DO {
		t.Errorf("send buffer %d, path MTU discovery %d", buffer, how)
	}
}
