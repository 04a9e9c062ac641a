package forwarder_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/tunnel"
	"github.com/flannel-ng/flannel-ng/internal/tunnel/forwarder"
)

// connect opens a TCP connection from one host's inner address to the other's.
func connect(t *testing.T, from, to *host, f addr.Family) (out, in net.Conn) {
	t.Helper()
	var l net.Listener
	to.do(t, func() (err error) {
		l, err = net.Listen("tcp", at(to.inner(f), 0).String())
		return err
	})
	defer l.Close()
	from.do(t, func() (err error) {
		d := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(at(from.inner(f), 0)), Timeout: timeout}
		out, err = d.DialContext(t.Context(), "tcp", l.Addr().String())
		return err
	})
	in, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { out.Close(); in.Close() })
	return out, in
}

// pour sends what all know through out and compares what comes from in.
func pour(out, in net.Conn, size int) error {
	seed := [32]byte{1}
	sent := make(chan error, 1)
	go func() {
		_, err := io.CopyN(out, rand.NewChaCha8(seed), int64(size))
		sent <- err
	}()
	want, got := rand.NewChaCha8(seed), make([]byte, 1<<16)
	wanted := make([]byte, len(got))
	if err := in.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		return err
	}
	for done := 0; done < size; {
		n, err := in.Read(got[:min(len(got), size-done)])
		if err != nil {
			return fmt.Errorf("after %d bytes: %w", done, err)
		}
		if _, err := io.ReadFull(want, wanted[:n]); err != nil {
			return err
		}
		if !bytes.Equal(got[:n], wanted[:n]) {
			return fmt.Errorf("other content within %d bytes after %d", n, done)
		}
		done += n
	}
	return <-sent
}

// Streams arrive as they were sent, whichever form of loop is at either end.
func TestStreams(t *testing.T) {
	for _, c := range [][2]bool{{false, false}, {false, true}, {true, false}} {
		t.Run(fmt.Sprintf("plain %t to %t", c[0], c[1]), func(t *testing.T) {
			one, two := hosts(t)
			one.plain, two.plain = c[0], c[1]
			a, b := one.start(t, 2), two.start(t, 1)
			var pouring sync.WaitGroup
			for _, f := range addr.Families() {
				for i := range 4 {
					out, in := connect(t, one, two, f)
					if i%2 == 1 {
						out, in = in, out
					}
					pouring.Go(func() {
						if err := pour(out, in, 4<<20); err != nil {
							t.Errorf("%s %d: %v", f, i, err)
						}
					})
				}
			}
			pouring.Wait()
			for _, c := range []*tunnel.Client{a, b} {
				n := status(t, c).Counters
				for _, why := range []tunnel.Reason{tunnel.Malformed, tunnel.NotSent, tunnel.NotDelivered, tunnel.TooBig} {
					if n.Dropped[why] != 0 {
						t.Errorf("%d dropped: %s", n.Dropped[why], why)
					}
				}
			}
		})
	}
}

// The fast form says which offloads it has; they go on only in it.
func TestOffload(t *testing.T) {
	one, _ := hosts(t)
	c := one.start(t, 2)
	o := status(t, c).Offload
	if o == nil || o.Plain || !slices.Contains(o.On, "csum") || !slices.Contains(o.On, "tso4") || !slices.Contains(o.On, "gso IPv4") {
		t.Errorf("%+v", o)
	}
	one.plain = true
	one.configure(t, c, one.config())
	if o := status(t, c).Offload; o == nil || !o.Plain || len(o.On) != 0 {
		t.Errorf("plain: %+v", o)
	}
}

// The form is changed again and again under traffic, and nothing is lost.
func TestChangeOfForm(t *testing.T) {
	one, two := hosts(t)
	clients := map[*host]*tunnel.Client{one: one.start(t, 2), two: two.start(t, 1)}
	var flows []*flow
	for _, f := range addr.Families() {
		flows = append(flows, startFlow(t, one.udp(t, at(one.inner(f), 0)), two.udp(t, at(two.inner(f), 7000))))
	}
	for range 3 {
		for _, h := range []*host{one, two} {
			flows[0].await(t)
			h.plain = !h.plain
			h.configure(t, clients[h], h.config())
		}
	}
	flows[0].await(t)
	for _, f := range flows {
		if lost, twice := f.end(t); lost != 0 || twice != 0 {
			t.Errorf("of %d packets %d were lost and %d came twice", f.sent, lost, twice)
		}
	}
	for h, c := range clients {
		if n := status(t, c).Counters.Dropped; n[tunnel.Malformed] != 0 {
			t.Errorf("host %d: %d malformed", h.n, n[tunnel.Malformed])
		}
	}
}

// A stream survives changes of form: its super-packets are not lost with the
// loop that asked for them.
func TestStreamThroughChanges(t *testing.T) {
	one, two := hosts(t)
	clients := map[*host]*tunnel.Client{one: one.start(t, 2), two: two.start(t, 1)}
	out, in := connect(t, one, two, addr.IPv4)
	poured := make(chan error, 1)
	go func() { poured <- pour(out, in, 20<<20) }()
	for range 2 {
		for _, h := range []*host{one, two} {
			h.plain = !h.plain
			h.configure(t, clients[h], h.config())
		}
	}
	if err := <-poured; err != nil {
		t.Error(err)
	}
	for h, c := range clients {
		if n := status(t, c).Counters.Dropped; n[tunnel.Malformed] != 0 {
			t.Errorf("host %d: %d malformed", h.n, n[tunnel.Malformed])
		}
	}
}

// A path narrower than the device refuses whole runs; the stream goes on with
// smaller segments.
func TestStreamOnNarrowPath(t *testing.T) {
	one, two := hosts(t)
	c := one.start(t, 2)
	two.start(t, 1)
	for _, f := range addr.Families() {
		one.run(t, fmt.Sprintf("ip route add %s dev eth0 mtu 1350", addr.Single(two.outer(f))))
		out, in := connect(t, one, two, f)
		if err := pour(out, in, 4<<20); err != nil {
			t.Errorf("%s: %v", f, err)
		}
	}
	if s := status(t, c); s.Counters.Dropped[tunnel.TooBig] == 0 || len(s.Offload.Off) != 0 {
		t.Errorf("%+v, %+v", s.Counters, s.Offload)
	}
}

// A form is handed over to the other, both ways, and nothing is lost.
func TestHandoverToOtherForm(t *testing.T) {
	one, two := hosts(t)
	two.start(t, 1)
	c := one.start(t, 2)
	f := startFlow(t, one.udp(t, at(one.inner(addr.IPv4), 0)), two.udp(t, at(two.inner(addr.IPv4), 7000)))
	for i := range 4 {
		f.await(t)
		c = one.replace(t, c, fmt.Sprint("build ", i))
		one.plain = !one.plain
		one.configure(t, c, one.config())
	}
	f.await(t)
	if lost, twice := f.end(t); lost != 0 || twice != 0 {
		t.Errorf("of %d packets %d were lost and %d came twice", f.sent, lost, twice)
	}
}

// Whoever takes over may know nothing of offloads: they are off by then, and on
// again if it goes.
func TestOffloadsWaitForHeir(t *testing.T) {
	one, _ := hosts(t)
	c := one.start(t, 2)
	before := status(t, c).Offload.On
	heir, err := tunnel.Succeed(t.Context(), one.socket, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	features := func() (tso bool) {
		one.do(t, func() error {
			s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
			if err != nil {
				return err
			}
			defer unix.Close(s)
			tso, err = hasTSO(s, link)
			return err
		})
		return tso
	}
	if features() {
		t.Error("the device still gives super-packets")
	}
	for _, d := range heir.Descriptors {
		if d.Role == tunnel.RoleUDP {
			if gro, err := unix.GetsockoptInt(int(d.File.Fd()), unix.IPPROTO_UDP, unix.UDP_GRO); err != nil || gro != 0 {
				t.Errorf("datagrams are joined: %d, %v", gro, err)
			}
		}
		d.File.Close()
	}
	if on := status(t, c).Offload.On; slices.Contains(on, "tso4") {
		t.Errorf("says %v", on)
	}
	if err := heir.Abandon(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "offloads", func() error {
		if on := status(t, c).Offload.On; !slices.Equal(on, before) {
			return fmt.Errorf("%v, before %v", on, before)
		}
		return nil
	})
	if !features() {
		t.Error("the device gives no super-packets any more")
	}
}

// A device that cannot sum checksums refuses runs of datagrams before Linux 6.11.
func TestDeviceWithoutSegmentation(t *testing.T) {
	one, two := hosts(t)
	one.run(t, "ethtool -K eth0 tx off")
	c := one.start(t, 2)
	two.start(t, 1)
	out, in := connect(t, one, two, addr.IPv4)
	if err := pour(out, in, 4<<20); err != nil {
		t.Fatal(err)
	}
	if n := status(t, c).Counters.Dropped[tunnel.NotSent]; n != 0 {
		t.Errorf("%d not sent", n)
	}
}

// Many datagrams of many sizes through both forwarders arrive as they were, and
// those of each size in their order.
func TestDatagrams(t *testing.T) {
	both(t, func(t *testing.T, plain bool) {
		one, two := hostsThat(t, plain)
		one.start(t, 2)
		two.start(t, 1)
		for _, f := range addr.Families() {
			client, server := one.udp(t, at(one.inner(f), 0)), two.udp(t, at(two.inner(f), 7000))
			for _, size := range []int{1, 2, 64, 999, 1372, 5000} {
				for i := range 100 {
					b := bytes.Repeat([]byte{byte(i)}, size)
					transmit(t, client, b, localOf(server))
					if i%10 == 9 { // so that no queue overflows
						for j := i - 9; j <= i; j++ {
							if got, _ := receive(t, server); !bytes.Equal(got, bytes.Repeat([]byte{byte(j)}, size)) {
								t.Fatalf("%s: %d bytes of %d, want %d of %d", f, len(got), got[0], size, j)
							}
						}
					}
				}
			}
		}
	})
}

// Marks of congestion go out and come in as RFC 6040 says.
func TestCongestion(t *testing.T) {
	both(t, func(t *testing.T, plain bool) {
		for _, f := range addr.Families() {
			one, two := hostsThat(t, plain)
			c := one.start(t, 2)
			outer, inner := two.udp(t, at(two.outer(f), port)), one.udp(t, at(one.inner(f), 7000))
			listenClass(t, outer, f)
			listenClass(t, inner, f)
			set(t, inner, f, unix.IP_TOS, unix.IPV6_TCLASS, 0xb8|2) // expedited, and able to take marks
			transmit(t, inner, nil, at(two.inner(f), 7000))
			if _, got := classOf(t, outer, f); got != 2 {
				t.Errorf("%s: outer class %#x, want 2", f, got)
			}
			unaware := peers(2)
			for i := range unaware {
				unaware[i].ECN = false
			}
			if err := c.Change(t.Context(), tunnel.Change{Put: unaware}); err != nil {
				t.Fatal(err)
			}
			transmit(t, inner, nil, at(two.inner(f), 7000))
			if _, got := classOf(t, outer, f); got != 0 {
				t.Errorf("%s: outer class %#x to a peer that heeds none", f, got)
			}
			congestionIn(t, f, pair{c, outer, inner, one, two})
		}
	})
}

type pair struct {
	c            *tunnel.Client
	outer, inner *net.UDPConn
	one, two     *host
}

func congestionIn(t *testing.T, f addr.Family, p pair) {
	t.Helper()
	for _, c := range []struct{ inner, outer, want byte }{
		{0xb8, 0, 0xb8},
		{0xb8, 2, 0xb8},
		{0xb8 | 2, 0, 0xb8 | 2},
		{0xb8 | 2, 1, 0xb8 | 1},
		{0xb8 | 2, 3, 0xb8 | 3},
		{0xb8 | 1, 3, 0xb8 | 3},
		{0xb8 | 3, 0, 0xb8 | 3},
	} {
		set(t, p.outer, f, unix.IP_TOS, unix.IPV6_TCLASS, int(c.outer))
		b := inner(at(p.two.inner(f), 6000), at(p.one.inner(f), 7000), []byte{c.inner})
		transmit(t, p.outer, withClass(b, c.inner), at(p.one.outer(f), port))
		if got, class := classOf(t, p.inner, f); class != c.want || got[0] != c.inner {
			t.Errorf("%s: inner %#x in outer %#x became %#x, want %#x", f, c.inner, c.outer, class, c.want)
		}
	}
	set(t, p.outer, f, unix.IP_TOS, unix.IPV6_TCLASS, 3)
	b := inner(at(p.two.inner(f), 6000), at(p.one.inner(f), 7000), nil)
	transmit(t, p.outer, b, at(p.one.outer(f), port))
	eventually(t, "packet that no mark can be put on", func() error {
		if status(t, p.c).Counters.Dropped[tunnel.Congested] != 1 {
			return errors.New("not dropped")
		}
		return nil
	})
}

func listenClass(t *testing.T, c *net.UDPConn, f addr.Family) {
	t.Helper()
	set(t, c, f, unix.IP_RECVTOS, unix.IPV6_RECVTCLASS, 1)
}

// classOf receives a datagram with its class of traffic.
func classOf(t *testing.T, c *net.UDPConn, f addr.Family) ([]byte, byte) {
	t.Helper()
	if err := c.SetReadDeadline(time.Now().Add(timeout)); err != nil {
		t.Fatal(err)
	}
	b, oob := make([]byte, 2000), make([]byte, 100)
	n, oobn, _, _, err := c.ReadMsgUDPAddrPort(b, oob)
	if err != nil {
		t.Fatal(err)
	}
	messages, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil || len(messages) != 1 {
		t.Fatal(messages, err)
	}
	if f == addr.IPv4 {
		return b[:n], messages[0].Data[0]
	}
	return b[:n], slices.Max(messages[0].Data) // an int in this machine's order
}

func withClass(b []byte, class byte) []byte {
	if b[0]>>4 == 6 {
		b[0], b[1] = 0x60|class>>4, class<<4
		return b
	}
	b[1] = class
	clear(b[10:12])
	sum := checksum(b[:20])
	b[10], b[11] = byte(sum>>8), byte(sum)
	return b
}

// Runs that a device refuses are left for a minute after three failures in a
// row, and then tried again.
func TestTogether(t *testing.T) {
	g := forwarder.NewTogether()
	now := time.Unix(1_000_000, 0)
	at := func(d time.Duration) func() time.Time { return func() time.Time { return now.Add(d) } }
	fail := func(n int) {
		for range n {
			g.Failed(unix.EIO, now)
		}
	}
	fail(2)
	if !g.Allowed(at(0)) || g.Why() != "" {
		t.Error("off after two failures")
	}
	g.Worked()
	fail(2)
	if !g.Allowed(at(0)) {
		t.Error("off after failures that were not in a row")
	}
	fail(1)
	if g.Allowed(at(59*time.Second)) || g.Why() != unix.EIO.Error() {
		t.Errorf("not off after three: %q", g.Why())
	}
	if !g.Allowed(at(61 * time.Second)) {
		t.Error("off for good")
	}
	fail(1)
	if g.Allowed(at(59 * time.Second)) {
		t.Error("on after a trial that failed")
	}
	g.Worked()
	if !g.Allowed(at(0)) || g.Why() != "" {
		t.Error("off after a trial that worked")
	}
}
