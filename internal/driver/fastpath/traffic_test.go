package fastpath_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/state"
)

// transfer sends n bytes by TCP from one inner address to another and compares.
func transfer(tb testing.TB, from, to *host, n int64) {
	tb.Helper()
	var l net.Listener
	to.do(tb, func() (err error) {
		l, err = net.Listen("tcp", netip.AddrPortFrom(to.inner(), 0).String())
		return err
	})
	defer func() { _ = l.Close() }()
	sums := make(chan []byte, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			sums <- nil
			return
		}
		_ = c.SetDeadline(time.Now().Add(timeout))
		h := sha256.New()
		_, _ = io.Copy(h, c)
		sums <- h.Sum(nil)
	}()
	h := sha256.New()
	from.do(tb, func() error {
		d := net.Dialer{Timeout: timeout, LocalAddr: &net.TCPAddr{IP: from.inner().AsSlice()}}
		c, err := d.Dial("tcp", l.Addr().String())
		if err != nil {
			return err
		}
		_ = c.SetDeadline(time.Now().Add(timeout))
		random := rand.NewChaCha8([32]byte{byte(n)})
		_, err = io.CopyN(io.MultiWriter(c, h), random, n)
		return errors.Join(err, c.Close())
	})
	if got := <-sums; !bytes.Equal(got, h.Sum(nil)) {
		tb.Fatalf("host %d to %d: %d bytes did not arrive as sent", from.n, to.n, n)
	}
}

func ping(tb testing.TB, from, to *host, size int) {
	tb.Helper()
	from.output(tb, "ping", "-n", "-c1", "-W5", "-Mdo", fmt.Sprintf("-s%d", size-28), "-I", from.inner().String(), to.inner().String())
}

func TestCarries(t *testing.T) {
	a, b := pair(t)
	for _, size := range []int{28, 29, 100, 1471, 1472} {
		ping(t, a, b, size)
		ping(t, b, a, size)
	}
	transfer(t, a, b, 1<<25)
	transfer(t, b, a, 1<<25)
	for _, h := range []*host{a, b} {
		c := h.counters(t)
		if c.SentBytes < 1<<25 || c.ReceivedBytes < 1<<25 || c.SentPackets < 1<<25/1500 || c.ReceivedPackets < 1<<25/1500 {
			t.Errorf("host %d: %+v: not all was carried", h.n, c)
		}
		if c.Malformed+c.InnerSource+c.InnerDest+c.SendError+c.DeliverError > 0 {
			t.Errorf("host %d: drops: %+v", h.n, c)
		}
	}
}

// Without the offloads that veth has, segments are cut and summed before the
// wire, and with GRO put together after it: as on network cards. A socket that
// asks for UDP_GRO, as a forwarder's may, must not make the kernel merge
// datagrams before the program sees them.
func TestCarriesOverPlainWire(t *testing.T) {
	a, b := pair(t)
	for _, h := range []*host{a, b} {
		h.run(t, `
			ethtool -K eth0 tx-udp_tnl-segmentation off tx-udp-segmentation off tso off gso on
			ethtool -K eth0 gro on
		`)
		h.do(t, func() error {
			return h.listen(t, func(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_UDP, unix.UDP_GRO, 1) })
		})
	}
	transfer(t, a, b, 1<<24)
	transfer(t, b, a, 1<<24)
	if c := b.counters(t); c.ReceivedBytes < 1<<24 {
		t.Errorf("%+v: not all was carried", c)
	}
}

// A firewall on the host sees the datagrams as they came, and one that
// translates addresses, as every host with containers has it, takes none away.
func TestFirewall(t *testing.T) {
	a, b := pair(t)
	if _, err := exec.LookPath("nft"); err != nil {
		t.Skipf("needs nftables: %v", err)
	}
	rules := filepath.Join(t.TempDir(), "rules")
	if err := os.WriteFile(rules, []byte(`
		table ip test {
			chain pre { type nat hook prerouting priority dstnat; }
			chain post {
				type nat hook postrouting priority srcnat
				oifname eth0 masquerade
			}
			chain in {
				type filter hook input priority filter; policy drop
				ct state invalid drop
				iifname eth0 udp dport 8285 counter accept
				iifname flannel0 accept
			}
		}`), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, h := range []*host{a, b} {
		h.run(t, "nft -f "+rules)
		h.socket(t) // the forwarder's, which must not get them
	}
	ping(t, a, b, 100)
	ping(t, b, a, 100)
	transfer(t, a, b, 1<<22)
	transfer(t, b, a, 1<<22)
	for _, h := range []*host{a, b} {
		if out := h.output(t, "nft", "list", "chain", "ip", "test", "in"); strings.Contains(out, "counter packets 0 ") {
			t.Errorf("host %d: no datagram passed the firewall: %s", h.n, out)
		}
	}
	// And it is obeyed.
	b.run(t, "nft flush chain ip test in")
	if out := a.try(t, "ping", "-n", "-c1", "-W1", "-I", a.inner().String(), b.inner().String()); !strings.Contains(out, "100% packet loss") {
		t.Errorf("past the firewall: %s", out)
	}
}

// listen binds the forwarder's port until the test ends.
func (h *host) listen(tb testing.TB, set func(fd int) error) error {
	tb.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	tb.Cleanup(func() { _ = unix.Close(fd) })
	return errors.Join(set(fd), unix.Bind(fd, &unix.SockaddrInet4{Addr: h.outer().As4(), Port: port}))
}

// socket is the forwarder's.
func (h *host) socket(tb testing.TB) *net.UDPConn {
	tb.Helper()
	var c *net.UDPConn
	h.do(tb, func() (err error) {
		c, err = net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(h.outer(), port)))
		return err
	})
	tb.Cleanup(func() { _ = c.Close() })
	return c
}

// arrives says whether data comes to the forwarder's socket.
func arrives(tb testing.TB, c *net.UDPConn, data []byte) bool {
	tb.Helper()
	buffer := make([]byte, 1<<16)
	_ = c.SetReadDeadline(time.Now().Add(2 * time.Second))
	for {
		n, _, err := c.ReadFromUDPAddrPort(buffer)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return false
		}
		if err != nil {
			tb.Fatal(err)
		}
		if bytes.Equal(buffer[:n], data) {
			return true
		}
	}
}

// datagram is an inner packet of UDP without a checksum.
func datagram(from, to netip.Addr, payload string) []byte {
	n := 28 + len(payload)
	b := make([]byte, 28, n)
	b[0], b[8], b[9] = 0x45, 64, unix.IPPROTO_UDP
	binary.BigEndian.PutUint16(b[2:], uint16(n))
	copy(b[12:], from.AsSlice())
	copy(b[16:], to.AsSlice())
	binary.BigEndian.PutUint16(b[10:], checksum(b[:20]))
	binary.BigEndian.PutUint16(b[20:], 4000)
	binary.BigEndian.PutUint16(b[22:], 4000)
	binary.BigEndian.PutUint16(b[24:], uint16(8+len(payload)))
	return append(b, payload...)
}

func checksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}

// send sends payload as a datagram to a UDP port, with a UDP checksum or
// without.
func (h *host) send(tb testing.TB, to netip.AddrPort, payload []byte, sum bool) {
	tb.Helper()
	h.do(tb, func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer func() { _ = unix.Close(fd) }()
		if !sum {
			if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_NO_CHECK, 1); err != nil {
				return err
			}
		}
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DONT); err != nil {
			return err
		}
		return unix.Sendto(fd, payload, 0, &unix.SockaddrInet4{Addr: to.Addr().As4(), Port: int(to.Port())})
	})
}

// container listens inside, where datagrams end up.
func (h *host) container(tb testing.TB) *net.UDPConn {
	tb.Helper()
	var c *net.UDPConn
	h.do(tb, func() (err error) {
		c, err = net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(h.inner(), 4000)))
		return err
	})
	tb.Cleanup(func() { _ = c.Close() })
	return c
}

func other(n int) netip.Addr { return addr.Host(subnet(n), 1) }

// What fl_in does not carry whole comes to the forwarder's socket as it was
// sent, and never inside.
func TestLeavesToForwarder(t *testing.T) {
	all := hosts(t, 3)
	a, b, stranger := all[0], all[1], all[2]
	b.make(t, b.want(a))
	forwarder, inside := b.socket(t), b.container(t)
	to := netip.AddrPortFrom(b.outer(), port)

	good := datagram(other(1), b.inner(), "good")
	a.send(t, to, good, false)
	if !arrives(t, inside, []byte("good")) {
		t.Fatal("a good datagram was not carried: nothing below shows anything")
	}
	for _, tt := range []struct {
		name    string
		from    *host
		payload []byte
		sum     bool
	}{
		{"of a stranger", stranger, datagram(other(1), b.inner(), "stranger"), false},
		{"inner source of nobody", a, datagram(netip.MustParseAddr("10.9.9.9"), b.inner(), "nobody"), false},
		{"inner source of another host", a, datagram(other(3), b.inner(), "another"), false},
		{"inner destination elsewhere", a, datagram(other(1), other(3), "elsewhere"), false},
		{"with a checksum: of a forwarder", a, datagram(other(1), b.inner(), "checksum"), true},
		{"no IP packet", a, []byte("not an IP packet, but long enough to be one"), false},
		{"too short", a, []byte("short"), false},
		{"two packets in one", a, append(datagram(other(1), b.inner(), "one"), datagram(other(1), b.inner(), "two")...), false},
		{"cut short", a, datagram(other(1), b.inner(), "cut short")[:33], false},
		{"in fragments", a, datagram(other(1), b.inner(), string(bytes.Repeat([]byte("x"), 3000))), false},
		{"IPv6", a, append([]byte{0x60}, make([]byte, 60)...), false},
	} {
		tt.from.send(t, to, tt.payload, tt.sum)
		if !arrives(t, forwarder, tt.payload) {
			t.Errorf("%s: not left to the forwarder", tt.name)
		}
	}
	_ = inside.SetReadDeadline(time.Now())
	if n, from, err := inside.ReadFromUDP(make([]byte, 100)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%d bytes inside from %s, %v", n, from, err)
	}
}

// The hidden device has a UDP port, too. What comes there by itself must prove
// the same.
func TestHiddenPort(t *testing.T) {
	all := hosts(t, 3)
	a, b, stranger := all[0], all[1], all[2]
	b.make(t, b.want(a))
	inside := b.container(t)
	hidden := b.settings(t).Decap
	vxlan := func(inner []byte) []byte {
		ethernet := []byte{2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0}
		return append(append([]byte{8, 0, 0, 0, 0, 0, 0, 0}, ethernet...), inner...)
	}
	to := netip.AddrPortFrom(b.outer(), hidden)
	before := b.counters(t)
	stranger.send(t, to, vxlan(datagram(other(1), b.inner(), "stranger")), false)
	a.send(t, to, vxlan(datagram(other(3), b.inner(), "spoofed")), false)
	a.send(t, to, vxlan(datagram(other(1), other(3), "elsewhere")), false)
	a.send(t, to, vxlan(nil), false)
	// Whoever can forge a peer's address could do so on the known port as well.
	a.send(t, to, vxlan(datagram(other(1), b.inner(), "last")), false)
	buffer := make([]byte, 100)
	_ = inside.SetReadDeadline(time.Now().Add(timeout))
	if n, _, err := inside.ReadFromUDP(buffer); err != nil || string(buffer[:n]) != "last" {
		t.Errorf("%q inside, %v; want the last only", buffer[:n], err)
	}
	c := b.counters(t)
	if got := c.InnerSource - before.InnerSource; got != 2 {
		t.Errorf("%d drops for the inner source, want 2", got)
	}
	if got := c.InnerDest - before.InnerDest; got != 1 {
		t.Errorf("%d drops for the inner destination, want 1", got)
	}
	if c.Malformed == before.Malformed {
		t.Log("an empty frame was dropped before the program")
	}
}

// reader is on a TUN device where the forwarder would be.
func (h *host) reader(tb testing.TB) *os.File {
	tb.Helper()
	var f *os.File
	h.do(tb, func() error {
		fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		ifr, err := unix.NewIfreq("flannel0")
		if err != nil {
			return err
		}
		ifr.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
		if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr); err != nil {
			return err
		}
		f = os.NewFile(uintptr(fd), "flannel0")
		return nil
	})
	tb.Cleanup(func() { _ = f.Close() })
	return f
}

// What fl_out does not carry whole shows on the TUN device.
func TestLeavesToReader(t *testing.T) {
	all := hosts(t, 2)
	a, b := all[0], all[1]
	// The path to b carries 1400 bytes, however large the links.
	a.make(t, a.want(b))
	b.make(t, b.want(a))
	a.run(t, "ip route add "+b.outer().String()+" dev eth0 mtu lock 1400")
	tun := a.reader(t)
	ping(t, a, b, 1372)
	for _, tt := range []struct {
		name string
		size int
		to   netip.Addr
	}{
		{"larger than the path", 1373, b.inner()},
		{"to nobody", 100, netip.MustParseAddr("10.5.77.1")},
	} {
		inner := datagram(a.inner(), tt.to, string(bytes.Repeat([]byte("x"), tt.size-28)))
		a.do(t, func() error {
			c, err := net.DialUDP("udp4", &net.UDPAddr{IP: a.inner().AsSlice(), Port: 4000}, &net.UDPAddr{IP: tt.to.AsSlice(), Port: 4000})
			if err != nil {
				return err
			}
			_, err = c.Write(inner[28:])
			return errors.Join(err, c.Close())
		})
		if !shows(t, tun, tt.size, tt.to) {
			t.Errorf("%s: not left to the forwarder", tt.name)
		}
	}
}

func shows(tb testing.TB, tun *os.File, size int, to netip.Addr) bool {
	tb.Helper()
	buffer := make([]byte, 1<<16)
	_ = tun.SetReadDeadline(time.Now().Add(2 * time.Second))
	for {
		n, err := tun.Read(buffer)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return false
		}
		if err != nil {
			tb.Fatal(err)
		}
		if n == size && netip.AddrFrom4([4]byte(buffer[16:20])) == to {
			return true
		}
	}
}

// ECN goes out with the outer header and comes in again (RFC 6040).
func TestECN(t *testing.T) {
	all := hosts(t, 2)
	a, b := all[0], all[1]
	b.make(t, b.want(a))
	inside := b.container(t)
	raw, err := inside.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if err := raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_RECVTOS, 1) }); err != nil {
		t.Fatal(err)
	}
	const notECT, ect1, ect0, ce = 0, 1, 2, 3
	for _, tt := range []struct{ inner, outer, want int }{ // want -1: dropped
		{notECT, notECT, notECT},
		{ect0, notECT, ect0},
		{ect0, ce, ce},
		{ect1, ce, ce},
		{ect0, ect1, ect1},
		{ce, ect0, ce},
		{notECT, ce, -1},
		{notECT, ect0, notECT},
	} {
		p := datagram(other(1), b.inner(), "ecn")
		p[1] = byte(0xb8 | tt.inner)
		p[10], p[11] = 0, 0
		binary.BigEndian.PutUint16(p[10:], checksum(p[:20]))
		a.do(t, func() error { return sendTOS(p, netip.AddrPortFrom(b.outer(), port), tt.outer) })
		if got := tosOf(t, inside); got != tt.want && got != 0xb8|tt.want {
			t.Errorf("inner %d outer %d: %#x, want ECN %d", tt.inner, tt.outer, got, tt.want)
		}
	}
	// Out: a's own program copies it.
	a.make(t, a.want(b))
	b.run(t, "ip link set flannel0-in down") // let it come to the socket
	socket := b.socket(t)
	raw, err = socket.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if err := raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_RECVTOS, 1) }); err != nil {
		t.Fatal(err)
	}
	for ecn := range 4 {
		a.do(t, func() error { return sendTOS([]byte("out"), netip.AddrPortFrom(b.inner(), 4000), 0xb8|ecn) })
		if got := tosOf(t, socket); got != ecn {
			t.Errorf("outer TOS %#x for inner ECN %d: want ECN alone", got, ecn)
		}
	}
}

func sendTOS(payload []byte, to netip.AddrPort, tos int) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	return errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_NO_CHECK, 1),
		unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_TOS, tos),
		unix.Sendto(fd, payload, 0, &unix.SockaddrInet4{Addr: to.Addr().As4(), Port: int(to.Port())}))
}

// tosOf is the TOS of the next datagram; -1: none came.
func tosOf(tb testing.TB, c *net.UDPConn) int {
	tb.Helper()
	_ = c.SetReadDeadline(time.Now().Add(time.Second))
	oob := make([]byte, 64)
	_, n, _, _, err := c.ReadMsgUDP(make([]byte, 100), oob)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return -1
	}
	messages, err2 := unix.ParseSocketControlMessage(oob[:n])
	if err := errors.Join(err, err2); err != nil || len(messages) != 1 {
		tb.Fatal(messages, err)
	}
	return int(messages[0].Data[0])
}

// Two daemons on each host, with their own ports and devices.
func TestTwoInstances(t *testing.T) {
	a, b := pair(t)
	twin := func(h *host) *host {
		second := &host{n: h.n, netns: h.netns, root: h.root, owner: state.OwnerOf("/run/flannel/two.env")}
		h.tun(t, "flannel1", second.owner.Alias())
		h.run(t, fmt.Sprintf("ip addr add 10.6.%d.1/32 dev lo\nip route add 10.6.0.0/16 dev flannel1 src 10.6.%d.1", h.n, h.n))
		o := 3 - h.n
		s := &state.Set{
			FastPaths: []state.FastPath{{
				Link: "flannel1", Uplink: "eth0", Decap: "flannel1-in", Port: 8286, Source: h.outer(),
				Local: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 6, byte(h.n), 0}), 24),
			}},
			FastPeers: []state.FastPeer{{
				Link: "flannel1", Dst: netip.AddrFrom4([4]byte{198, 51, 100, byte(o)}),
				Subnet: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 6, byte(o), 0}), 24),
			}},
		}
		second.make(t, s)
		return second
	}
	a2 := twin(a)
	b2 := twin(b)
	both := func() {
		t.Helper()
		ping(t, a, b, 100)
		ping(t, b, a, 100)
	}
	both()
	a.output(t, "ping", "-n", "-c1", "-W5", "-I", "10.6.1.1", "10.6.2.1")
	a2.make(t, &state.Set{})
	b2.make(t, &state.Set{})
	both()
	if left := a.plan(t, a.want(b)); len(left) > 0 {
		t.Errorf("the end of another instance left to do: %v", left)
	}
}
