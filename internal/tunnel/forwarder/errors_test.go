package forwarder_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/tunnel"
	"github.com/flannel-ng/flannel-ng/internal/tunnel/forwarder"
)

// verdict is what a network said of a packet, in the words of ICMP.
type verdict struct {
	typ, code uint8
	mtu       uint32
	from      netip.Addr
}

// strict opens a UDP socket that is told what becomes of its packets and may
// not have them fragmented on the way.
func (h *host) strict(t *testing.T, f addr.Family) *net.UDPConn {
	t.Helper()
	c := h.udp(t, at(h.inner(f), 0))
	set(t, c, f, unix.IP_RECVERR, unix.IPV6_RECVERR, 1)
	set(t, c, f, unix.IP_MTU_DISCOVER, unix.IPV6_MTU_DISCOVER, unix.IP_PMTUDISC_PROBE)
	return c
}

func set(t *testing.T, c *net.UDPConn, f addr.Family, ipv4, ipv6, value int) {
	t.Helper()
	level, name := unix.IPPROTO_IP, ipv4
	if f == addr.IPv6 {
		level, name = unix.IPPROTO_IPV6, ipv6
	}
	onSocket(t, c, func(fd int) error { return unix.SetsockoptInt(fd, level, name, value) })
}

func onSocket(t *testing.T, c *net.UDPConn, f func(fd int) error) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var cause error
	if err := errors.Join(raw.Control(func(fd uintptr) { cause = f(int(fd)) }), cause); err != nil {
		t.Fatal(err)
	}
}

// told waits for the error that the network reports about c's last packet.
func told(t *testing.T, c *net.UDPConn) verdict {
	t.Helper()
	var v verdict
	eventually(t, "ICMP error", func() error {
		oob := make([]byte, 512)
		var n int
		var cause error
		onSocket(t, c, func(fd int) error {
			_, n, _, _, cause = unix.Recvmsg(fd, nil, oob, unix.MSG_ERRQUEUE|unix.MSG_DONTWAIT)
			return nil
		})
		if cause != nil {
			return cause
		}
		messages, err := unix.ParseSocketControlMessage(oob[:n])
		if err != nil {
			return err
		}
		for _, m := range messages {
			// struct sock_extended_err, and the offender's address behind it.
			if m.Header.Type == unix.IP_RECVERR || m.Header.Type == unix.IPV6_RECVERR {
				v = verdict{typ: m.Data[5], code: m.Data[6], mtu: binary.NativeEndian.Uint32(m.Data[8:])}
				v.from = address(m.Data[16:])
				return nil
			}
		}
		return fmt.Errorf("no error in %x", oob[:n])
	})
	return v
}

func address(sockaddr []byte) netip.Addr {
	if binary.NativeEndian.Uint16(sockaddr) == unix.AF_INET {
		return netip.AddrFrom4([4]byte(sockaddr[4:8]))
	}
	return netip.AddrFrom16([16]byte(sockaddr[8:24]))
}

// Nobody has the destination: the sender is told, by the device's address.
func TestUnreachable(t *testing.T) {
	both(t, func(t *testing.T, plain bool) {
		one, _ := hostsThat(t, plain)
		c := one.start(t, 2)
		for f, want := range map[addr.Family]verdict{
			addr.IPv4: {typ: 3, code: 0, from: one.device(addr.IPv4)},
			addr.IPv6: {typ: 1, code: 0, from: one.device(addr.IPv6)},
		} {
			before := status(t, c).Counters.Dropped[tunnel.NoPeer]
			s := one.strict(t, f)
			transmit(t, s, []byte("anybody?"), at(addr.Host(subnetOf(9, f), 1), 7000))
			if got := told(t, s); got != want {
				t.Errorf("%s: told %+v, want %+v", f, got, want)
			}
			if status(t, c).Counters.Dropped[tunnel.NoPeer] == before {
				t.Errorf("%s: not counted", f)
			}
		}
	})
}

// The path to the peer is narrower than the device: the sender is told the
// largest packet that passes, and that one does.
func TestPathMTU(t *testing.T) {
	both(t, func(t *testing.T, plain bool) {
		for _, c := range []struct {
			path             int
			family           addr.Family
			inner, typ, code int
		}{
			{path: 1300, family: addr.IPv4, inner: 1272, typ: 3, code: 4},
			{path: 1400, family: addr.IPv4, inner: 1372, typ: 3, code: 4},
			{path: 1400, family: addr.IPv6, inner: 1352, typ: 2, code: 0},
			// IPv6 senders need not go below: the datagram is cut instead.
			{path: 1300, family: addr.IPv6, inner: 1280, typ: 2, code: 0},
		} {
			t.Run(fmt.Sprintf("%s path %d", c.family, c.path), func(t *testing.T) {
				one, two := hostsThat(t, plain)
				a := one.start(t, 2)
				two.start(t, 1)
				one.run(t, fmt.Sprintf("ip route add %s dev eth0 mtu %d", addr.Single(two.outer(c.family)), c.path))
				client, server := one.strict(t, c.family), two.udp(t, at(two.inner(c.family), 7000))
				headers := 28
				if c.family == addr.IPv6 {
					headers = 48
				}
				transmit(t, client, make([]byte, c.inner-headers+1), localOf(server))
				want := verdict{typ: uint8(c.typ), code: uint8(c.code), mtu: uint32(c.inner), from: one.device(c.family)}
				if got := told(t, client); got != want {
					t.Errorf("told %+v, want %+v", got, want)
				}
				if got := status(t, a).Counters.Dropped[tunnel.TooBig]; got != 1 {
					t.Errorf("%d counted", got)
				}
				// The kernel may tell of the last packet once more, as an error here.
				eventually(t, "sending what passes", func() error {
					_, err := client.WriteToUDPAddrPort(make([]byte, c.inner-headers), localOf(server))
					return err
				})
				if got, _ := receive(t, server); len(got) != c.inner-headers {
					t.Errorf("%d bytes arrived, sent %d", len(got), c.inner-headers)
				}
			})
		}
	})
}

// Without DF a packet that is too large arrives in pieces, and whole.
func TestFragments(t *testing.T) {
	both(t, func(t *testing.T, plain bool) {
		one, two := hostsThat(t, plain)
		a := one.start(t, 2)
		b := two.start(t, 1)
		one.run(t, "ip route add 198.51.100.2/32 dev eth0 mtu 1300")
		client, server := one.udp(t, at(one.inner(addr.IPv4), 0)), two.udp(t, at(two.inner(addr.IPv4), 7000))
		set(t, client, addr.IPv4, unix.IP_MTU_DISCOVER, 0, unix.IP_PMTUDISC_DONT)
		sent := bytes.Repeat([]byte("0123456789"), 140)
		before := status(t, b).Counters.ReceivedPackets
		transmit(t, client, sent, localOf(server))
		if got, _ := receive(t, server); !bytes.Equal(got, sent) {
			t.Errorf("%d bytes arrived, sent %d", len(got), len(sent))
		}
		eventually(t, "count of two pieces", func() error {
			if got := status(t, b).Counters.ReceivedPackets - before; got != 2 {
				return fmt.Errorf("%d packets", got)
			}
			return nil
		})
		if got := status(t, a).Counters.Dropped; got[tunnel.TooBig]+got[tunnel.NotSent] != 0 {
			t.Errorf("dropped %v", got)
		}
	})
}

func TestLimit(t *testing.T) {
	allow := forwarder.NewLimit(1000)
	now := time.Unix(1_000_000, 0)
	count := func(at time.Time) (n int) {
		for range 5000 {
			if allow(at) {
				n++
			}
		}
		return n
	}
	for _, c := range []struct {
		after time.Duration
		want  int
	}{{0, 1000}, {0, 0}, {time.Millisecond, 1}, {500 * time.Millisecond, 500}, {time.Hour, 1000}} {
		now = now.Add(c.after)
		if got := count(now); got != c.want {
			t.Errorf("after %s: %d allowed, want %d", c.after, got, c.want)
		}
	}
}
