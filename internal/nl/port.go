package nl

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// A notification bears the port of the socket whose request caused it. Conns
// are bound to ports that tell this process: its number in the lower bits, as
// libnl does it, and above them a number that is never zero, because zero is
// what the kernel gives a program's first socket, and another container's
// program may have the same process number.
const (
	processBits = 22 // PID_MAX_LIMIT is 1<<22
	processMask = 1<<processBits - 1
	portTries   = 16
)

// dialOwn opens a socket on a port of this process.
func dialOwn() (*netlink.Conn, error) {
	for range portTries {
		n := 1 + rand.Uint32N(1<<(32-processBits)-1) //nolint:gosec // tells sockets apart, hides nothing
		sock, err := netlink.Dial(unix.NETLINK_ROUTE, &netlink.Config{PID: uint32(os.Getpid())&processMask | n<<processBits})
		if !errors.Is(err, unix.EADDRINUSE) {
			return sock, err
		}
	}
	// By any other port, what it changes looks like a stranger's doing: then
	// more is read than need be.
	return netlink.Dial(unix.NETLINK_ROUTE, nil)
}

// ignoreOwn makes the kernel drop notifications of what this process changed:
// 20,000 routes of ours would overrun the socket, and say nothing new.
func ignoreOwn(sock *netlink.Conn) error {
	raw, err := sock.SyscallConn()
	if err != nil {
		return fmt.Errorf("filter notifications: %w", err)
	}
	const port, accept = 12, 1<<32 - 1 // offset of nlmsghdr.nlmsg_pid; bytes of a message
	program := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: port},
		{Code: unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K, K: asLoaded(^uint32(processMask)), Jf: 3},
		{Code: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, K: asLoaded(processMask)},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: asLoaded(uint32(os.Getpid()) & processMask), Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0},
		{Code: unix.BPF_RET | unix.BPF_K, K: accept},
	}
	if ctlErr := raw.Control(func(fd uintptr) {
		err = unix.SetsockoptSockFprog(int(fd), unix.SOL_SOCKET, unix.SO_ATTACH_FILTER,
			&unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]})
	}); ctlErr != nil || err != nil {
		return fmt.Errorf("filter notifications: %w", errors.Join(ctlErr, err))
	}
	return nil
}

// asLoaded is v as a filter sees it: filters load in network byte order, and
// netlink writes in that of the machine.
func asLoaded(v uint32) uint32 {
	return binary.BigEndian.Uint32(binary.NativeEndian.AppendUint32(nil, v))
}
