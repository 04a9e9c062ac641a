package forwarder

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/flannel-ng/flannel-ng/internal/addr"
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

// socket sends and receives the datagrams of one outer family.
type socket struct {
	conn  *net.UDPConn
	local netip.AddrPort
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
	return &socket{conn: conn.(*net.UDPConn), local: local}, nil
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
	s := &socket{conn: udp, local: netip.AddrPortFrom(local.Addr().Unmap(), local.Port())}
	// Another build may have prepared it otherwise, or have ended in sendSplit.
	raw, err := udp.SyscallConn()
	if err == nil {
		err = control(raw, func(fd int) error { return prepare(fd, addr.Of(s.local.Addr())) })
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("inherit socket: %w", err), udp.Close())
	}
	return s, nil
}

func (s *socket) send(b []byte, to netip.AddrPort) error {
	_, err := s.conn.WriteToUDPAddrPort(b, to)
	if errors.Is(err, unix.ECONNREFUSED) {
		// The kernel tells of an earlier datagram and has not sent this one.
		_, err = s.conn.WriteToUDPAddrPort(b, to)
	}
	return err
}

// sendSplit lets the kernel cut the datagram. Only one goroutine sends.
func (s *socket) sendSplit(b []byte, to netip.AddrPort) error {
	raw, err := s.conn.SyscallConn()
	if err != nil {
		return err
	}
	mode := func(how int) error {
		return control(raw, func(fd int) error { return discover(fd, addr.Of(to.Addr()), how) })
	}
	if err := mode(split); err != nil {
		return err
	}
	return errors.Join(s.send(b, to), mode(refuse))
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
