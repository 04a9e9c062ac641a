package batch_test

import (
	"bytes"
	"errors"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/tunnel/batch"
)

func TestNames(t *testing.T) {
	for _, a := range []string{"198.51.100.7", "2001:db8::7"} {
		if got := batch.Name(netip.AddrPortFrom(netip.MustParseAddr(a), 8285)); got.String() != a {
			t.Errorf("%s became %s", a, got)
		}
	}
}

// What is sent of IPv6 reads back; IPv4's class is one byte on the way in, and
// no sender's message looks like that of a receiver.
func TestControl(t *testing.T) {
	if n, _, tos := batch.Roundtrip(addr.IPv6, 0, 0x03); n != unix.CmsgSpace(4) || tos != 3 {
		t.Errorf("%d bytes, class %#x", n, tos)
	}
	if n, size, tos := batch.Roundtrip(addr.IPv4, 1400, 0); n != unix.CmsgSpace(2) || size != 0 || tos != 0 {
		t.Errorf("%d bytes, size %d, class %#x", n, size, tos)
	}
	if n, _, _ := batch.Roundtrip(addr.IPv4, 0, 0); n != 0 {
		t.Errorf("%d bytes for nothing", n)
	}
}

func FuzzControl(f *testing.F) {
	f.Add([]byte{})
	f.Add(bytes.Repeat([]byte{0xff}, 200))
	f.Fuzz(func(_ *testing.T, b []byte) { batch.ReadControl(b) })
}

// Datagrams of one target and size are one run, in order, within the limits.
func TestRuns(t *testing.T) {
	one := batch.Target{To: netip.MustParseAddrPort("198.51.100.1:1")}
	two := batch.Target{To: netip.MustParseAddrPort("198.51.100.2:1")}
	marked := batch.Target{To: one.To, Class: 1}
	type datagram struct {
		to   batch.Target
		size int
	}
	several := func(n int, d datagram) []datagram {
		var out []datagram
		for range n {
			out = append(out, d)
		}
		return out
	}
	for name, c := range map[string]struct {
		in   []datagram
		want []int // datagrams of each run
	}{
		"one":             {several(1, datagram{one, 9}), []int{1}},
		"equal":           {several(5, datagram{one, 9}), []int{5}},
		"last smaller":    {append(several(2, datagram{one, 9}), datagram{one, 8}), []int{3}},
		"behind smaller":  {append(several(2, datagram{one, 9}), datagram{one, 8}, datagram{one, 8}), []int{3, 1}},
		"larger":          {[]datagram{{one, 8}, {one, 9}}, []int{1, 1}},
		"other target":    {[]datagram{{one, 9}, {two, 9}, {one, 9}}, []int{1, 1, 1}},
		"other class":     {[]datagram{{one, 9}, {marked, 9}}, []int{1, 1}},
		"too many":        {several(65, datagram{one, 9}), []int{64, 1}},
		"too many bytes":  {several(45, datagram{one, 1472}), []int{44, 1}},
		"largest by size": {several(2, datagram{one, 65507}), []int{1, 1}},
	} {
		t.Run(name, func(t *testing.T) {
			s := batch.NewSender(addr.IPv4)
			s.Together = true
			for i, d := range c.in {
				b := bytes.Repeat([]byte{byte(i)}, d.size)
				s.Add(d.to, b[:d.size/2], b[d.size/2:])
			}
			var got []int
			next := 0
			for i, r := range s.Runs() {
				got = append(got, r.Count)
				s.Datagrams(i, func(b []byte) {
					if len(b) != c.in[next].size || b[0] != byte(next) {
						t.Errorf("datagram %d has %d bytes of %d", next, len(b), b[0])
					}
					next++
				})
			}
			if len(got) != len(c.want) || next != len(c.in) {
				t.Fatalf("runs %v, want %v; %d datagrams of %d", got, c.want, next, len(c.in))
			}
			for i := range got {
				if got[i] != c.want[i] {
					t.Errorf("runs %v, want %v", got, c.want)
				}
			}
		})
	}
}

func TestNotTogether(t *testing.T) {
	s := batch.NewSender(addr.IPv4)
	n := 0
	for to := (batch.Target{To: netip.MustParseAddrPort("198.51.100.1:1")}); s.Room(); n++ {
		s.Add(to, []byte("x"), nil)
	}
	if len(s.Runs()) != n || n < 100 {
		t.Errorf("%d runs of %d datagrams", len(s.Runs()), n)
	}
	if s.Reset(); !s.Room() || len(s.Runs()) != 0 {
		t.Error("something is left")
	}
}

func handle(t *testing.T) (*batch.Handle, *net.UDPConn) {
	t.Helper()
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	h, err := batch.Take(conn)
	if err != nil {
		t.Fatal(err)
	}
	return h, conn
}

// read is a loop as those of the forwarder. It says why it ended.
func read(h *batch.Handle) <-chan error {
	ended := make(chan error, 1)
	go func() {
		fd, err := h.Enter()
		if err != nil {
			ended <- err
			return
		}
		defer h.Leave()
		r := batch.NewReceiver(2)
		for {
			n, err := r.Receive(fd)
			if errors.Is(err, unix.EAGAIN) {
				err = h.Wait(n)
			}
			if err != nil {
				ended <- err
				return
			}
		}
	}()
	return ended
}

func TestHandle(t *testing.T) {
	h, _ := handle(t)
	ended := read(h)
	if !h.Empty(10 * time.Second) {
		t.Error("nothing was sent, and yet it is not empty")
	}
	h.Interrupt()
	if err := <-ended; !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("ended: %v", err)
	}
	if h.Empty(time.Millisecond) {
		t.Error("empty, says nobody")
	}
	if err := h.Control(func(int) error { return nil }); err != nil {
		t.Errorf("after the reader's end: %v", err)
	}
	if err := h.Close(); err != nil {
		t.Error(err)
	}
	if err := h.Control(func(int) error { return nil }); !errors.Is(err, net.ErrClosed) {
		t.Errorf("after close: %v", err)
	}
}

// Close ends the reader and waits for all who use the descriptor.
func TestClose(t *testing.T) {
	h, _ := handle(t)
	ended := read(h)
	if !h.Empty(10 * time.Second) {
		t.Fatal("no reader")
	}
	if err := h.Close(); err != nil {
		t.Error(err)
	}
	select {
	case err := <-ended:
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("ended: %v", err)
		}
	default:
		t.Error("closed under the reader")
	}
}

func TestDuplicate(t *testing.T) {
	h, conn := handle(t)
	file, err := h.Duplicate()
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := net.FilePacketConn(file)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if again.LocalAddr().String() != conn.LocalAddr().String() {
		t.Errorf("%s is not %s", again.LocalAddr(), conn.LocalAddr())
	}
}
