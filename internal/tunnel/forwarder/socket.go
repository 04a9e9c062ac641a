package forwarder

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/tunnel/batch"
)

const (
	// receiveBuffer in bytes: bursts of a fast underlay wait there.
	receiveBuffer = 8 << 20
	// sendBuffer in bytes. What waits for the answer of a neighbour that is down
	// counts, up to 208 kB for each (net.ipv4.neigh.*.unres_qlen_bytes): with the
	// usual buffer of that size, two dead peers would hold up all others.
	sendBuffer = 128 << 20
)

// option is an integer socket option.
type option struct{ level, name int }

// The options that the families name differently.
func mtuDiscovery(f addr.Family) option {
	if f == addr.IPv4 {
		return option{unix.IPPROTO_IP, unix.IP_MTU_DISCOVER}
	}
	return option{unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER}
}

func mtu(f addr.Family) option {
	if f == addr.IPv4 {
		return option{unix.IPPROTO_IP, unix.IP_MTU}
	}
	return option{unix.IPPROTO_IPV6, unix.IPV6_MTU}
}

// The values of mtuDiscovery, the same for both families.
const (
	refuse = unix.IP_PMTUDISC_DO   // EMSGSIZE for what is larger than the path's MTU
	split  = unix.IP_PMTUDISC_WANT // fragments instead
)

// class asks for the class of traffic of what is received.
func class(f addr.Family) option {
	if f == addr.IPv4 {
		return option{unix.IPPROTO_IP, unix.IP_RECVTOS}
	}
	return option{unix.IPPROTO_IPV6, unix.IPV6_RECVTCLASS}
}

// socket sends and receives the datagrams of one outer family.
type socket struct {
	*batch.Handle
	local netip.AddrPort
	gso   together
	gro   atomic.Bool // on
	// unsized is whether datagrams that the kernel has joined may come without
	// their size: it tells it only while joining is on, not while it was.
	unsized atomic.Bool
}

// network is "udp4" or "udp6": the latter takes no IPv4.
func network(protocol string, f addr.Family) string {
	if f == addr.IPv4 {
		return protocol + "4"
	}
	return protocol + "6"
}

// listen binds local. The kernel discovers path MTUs and tells us.
func listen(ctx context.Context, local netip.AddrPort) (*socket, error) {
	f := addr.Of(local.Addr())
	lc := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		return control(raw, func(fd int) error { return prepare(fd, f) })
	}}
	conn, err := lc.ListenPacket(ctx, network("udp", f), local.String())
	switch {
	case errors.Is(err, unix.EADDRINUSE):
		return nil, fmt.Errorf("bind UDP %s: %w: another process, perhaps plain flannel, has the port", local, err)
	case err != nil:
		return nil, fmt.Errorf("bind UDP %s: %w", local, err)
	}
	return take(conn.(*net.UDPConn), local)
}

// take makes a socket of conn, which it closes.
func take(conn *net.UDPConn, local netip.AddrPort) (*socket, error) {
	handle, err := batch.Take(conn)
	if err = errors.Join(err, conn.Close()); err != nil {
		return nil, fmt.Errorf("UDP %s: %w", local, err)
	}
	s := &socket{Handle: handle, local: local}
	f := addr.Of(local.Addr())
	if err := handle.Control(func(fd int) error { return marks(fd, f) }); err != nil {
		return nil, errors.Join(fmt.Errorf("UDP %s: %w", local, err), handle.Close())
	}
	return s, nil
}

// marks asks for the outer ECN of all that is received. A predecessor did not
// know it, and does not mind.
func marks(fd int, f addr.Family) error {
	o := class(f)
	if err := unix.SetsockoptInt(fd, o.level, o.name, 1); err != nil {
		return fmt.Errorf("ask for class of traffic: %w", err)
	}
	return nil
}

func prepare(fd int, f addr.Family) error {
	if err := enlarge(fd, unix.SO_RCVBUFFORCE, unix.SO_RCVBUF, receiveBuffer); err != nil {
		return fmt.Errorf("set receive buffer: %w", err)
	}
	if err := enlarge(fd, unix.SO_SNDBUFFORCE, unix.SO_SNDBUF, sendBuffer); err != nil {
		return fmt.Errorf("set send buffer: %w", err)
	}
	return discover(fd, f, refuse)
}

// enlarge sets a buffer, beyond the system's limit only with CAP_NET_ADMIN.
func enlarge(fd, force, polite, size int) error {
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, force, size) == nil {
		return nil
	}
	return unix.SetsockoptInt(fd, unix.SOL_SOCKET, polite, size)
}

func discover(fd int, f addr.Family, how int) error {
	o := mtuDiscovery(f)
	if err := unix.SetsockoptInt(fd, o.level, o.name, how); err != nil {
		return fmt.Errorf("set path MTU discovery: %w", err)
	}
	return nil
}

// control runs f on the descriptor behind raw.
func control(raw syscall.RawConn, f func(fd int) error) error {
	var cause error
	if err := raw.Control(func(fd uintptr) { cause = f(int(fd)) }); err != nil {
		return err
	}
	return cause
}

// inheritSocket makes a socket of what file shares with a predecessor. The
// caller still closes file.
func inheritSocket(file *os.File) (*socket, error) {
	conn, err := net.FilePacketConn(file)
	if err != nil {
		return nil, fmt.Errorf("inherit socket: %w", err)
	}
	udp, ok := conn.(*net.UDPConn)
	if !ok {
		return nil, errors.Join(fmt.Errorf("%w: socket of %s", ErrConfig, conn.LocalAddr().Network()), conn.Close())
	}
	local := udp.LocalAddr().(*net.UDPAddr).AddrPort()
	// Another build may have prepared it otherwise, or have ended in sendSplit.
	raw, err := udp.SyscallConn()
	if err == nil {
		err = control(raw, func(fd int) error { return prepare(fd, addr.Of(local.Addr().Unmap())) })
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("inherit socket: %w", err), udp.Close())
	}
	return take(udp, netip.AddrPortFrom(local.Addr().Unmap(), local.Port()))
}

// again is another descriptor of the same socket.
func (s *socket) again() (*socket, error) {
	file, err := s.Duplicate()
	if err != nil {
		return nil, err
	}
	next, err := inheritSocket(file)
	return next, errors.Join(err, file.Close())
}

func (s *socket) send(b []byte, to batch.Target) error {
	return s.Control(func(fd int) error {
		err := batch.SendOne(fd, to, b)
		if errors.Is(err, unix.ECONNREFUSED) {
			// The kernel tells of an earlier datagram and has not sent this one.
			err = batch.SendOne(fd, to, b)
		}
		return err
	})
}

// sendSplit lets the kernel cut the datagram. Only one goroutine sends.
func (s *socket) sendSplit(b []byte, to batch.Target) error {
	mode := func(how int) error {
		return s.Control(func(fd int) error { return discover(fd, addr.Of(to.To.Addr()), how) })
	}
	if err := mode(split); err != nil {
		return err
	}
	return errors.Join(s.send(b, to), mode(refuse))
}

// boost lets the kernel join what it receives for us.
func (s *socket) boost() error {
	return s.Control(func(fd int) error {
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_UDP, unix.UDP_GRO, 1); err != nil {
			return fmt.Errorf("UDP %s: %w", s.local, err)
		}
		s.gro.Store(true)
		s.unsized.Store(false)
		return nil
	})
}

// calm lets it give us each datagram by itself. A kernel that knows no joining
// does so anyway.
func (s *socket) calm() error {
	return s.Control(func(fd int) error {
		s.gro.Store(false)
		s.unsized.Store(true)
		err := unix.SetsockoptInt(fd, unix.IPPROTO_UDP, unix.UDP_GRO, 0)
		if errors.Is(err, unix.ENOPROTOOPT) {
			return nil
		}
		return err
	})
}

// pathMTU is what the kernel knows of the way to to, in bytes with the IP
// header. Only a connected socket is told.
func (s *socket) pathMTU(to netip.AddrPort) (int, error) {
	f := addr.Of(to.Addr())
	conn, err := net.DialUDP(network("udp", f), net.UDPAddrFromAddrPort(netip.AddrPortFrom(s.local.Addr(), 0)), net.UDPAddrFromAddrPort(to))
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, err
	}
	var n int
	err = control(raw, func(fd int) error {
		o := mtu(f)
		n, err = unix.GetsockoptInt(fd, o.level, o.name)
		return err
	})
	return n, err
}
