package traffic

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"
)

// batchSize is how many datagrams one system call moves at most.
const batchSize = 64

// mmsghdr is struct mmsghdr of recvmmsg(2).
type mmsghdr struct {
	hdr unix.Msghdr
	len uint32
}

// batch holds as many messages as one system call moves.
type batch struct {
	msgs [batchSize]mmsghdr
	iovs [batchSize]unix.Iovec
}

// newBatch has room for datagrams of size bytes.
func newBatch(size int) *batch {
	b := &batch{}
	buf := make([]byte, batchSize*size)
	for i := range b.msgs {
		b.iovs[i].Base = &buf[i*size]
		b.iovs[i].SetLen(size)
		b.msgs[i].hdr.Iov = &b.iovs[i]
		b.msgs[i].hdr.SetIovlen(1)
	}
	return b
}

// move sends or receives, and returns how many datagrams it were. It blocks for
// the first one only.
func (b *batch) move(call uintptr, fd int, flags uintptr) (int, error) {
	for {
		n, _, errno := unix.Syscall6(call, uintptr(fd), uintptr(unsafe.Pointer(&b.msgs[0])), batchSize, flags, 0, 0)
		switch errno {
		case 0:
			return int(n), nil
		case unix.EINTR:
		default:
			return 0, errno
		}
	}
}

// dialUDP is a connected blocking socket: the system calls are made directly.
func dialUDP(to netip.AddrPort) (int, error) {
	fd, err := udpSocket(to.Addr())
	if err != nil {
		return -1, err
	}
	if err := unix.Connect(fd, sockaddr(to)); err != nil {
		return -1, errors.Join(fmt.Errorf("connect to %s: %w", to, err), unix.Close(fd))
	}
	return fd, nil
}

// listenUDP takes datagrams of both families.
func listenUDP(port uint16) (int, error) {
	fd, err := udpSocket(netip.IPv6Unspecified())
	if err != nil {
		return -1, err
	}
	err = errors.Join(
		unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 0),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 8<<20),
		unix.Bind(fd, &unix.SockaddrInet6{Port: int(port)}))
	if err != nil {
		return -1, errors.Join(fmt.Errorf("listen on UDP port %d: %w", port, err), unix.Close(fd))
	}
	return fd, nil
}

func udpSocket(a netip.Addr) (int, error) {
	family := unix.AF_INET6
	if a.Is4() {
		family = unix.AF_INET
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("UDP socket: %w", err)
	}
	return fd, nil
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	}
	return &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
}

// lost says whether a datagram could not be sent because of the path, which a
// flood shrugs off: queues are full, or an ICMP error came back.
func lost(err error) bool {
	return errors.Is(err, unix.ENOBUFS) || errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, unix.EAGAIN) ||
		errors.Is(err, unix.EHOSTUNREACH) || errors.Is(err, unix.ENETUNREACH) || errors.Is(err, net.ErrClosed)
}
