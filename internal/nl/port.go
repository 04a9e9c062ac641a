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

// dialOwn opens a socket of a netlink family on a port of this process.
func dialOwn(family int) (*netlink.Conn, error) {
	for range portTries {
		n := 1 + rand.Uint32N(1<<(32-processBits)-1) //nolint:gosec // tells sockets apart, hides nothing
		sock, err := netlink.Dial(family, &netlink.Config{PID: uint32(os.Getpid())&processMask | n<<processBits})
		if !errors.Is(err, unix.EADDRINUSE) {
			return sock, err
		}
	}
	// By any other port, what it changes looks like a stranger's doing: then
	// more is read than need be.
	return netlink.Dial(family, nil)
}

// maxDevices is for how many devices a filter tells neighbours apart: a jump
// inside of it reaches 255 instructions far. With more, all come through.
const maxDevices = 64

// attach makes the kernel drop, before it queues them, notifications of what
// this process changed, because 20,000 routes of ours would overrun the socket
// and say nothing new; and those of neighbours and forwarding entries of all
// links but these, because those of a busy host's containers never end. It
// takes the place of the filter that was there at once.
func attach(sock *netlink.Conn, links []int) error {
	raw, err := sock.SyscallConn()
	if err != nil {
		return fmt.Errorf("filter notifications: %w", err)
	}
	program := foreignPort()
	if len(links) <= maxDevices {
		program = append(neighboursOf(links), program...)
	}
	if ctlErr := raw.Control(func(fd uintptr) {
		err = unix.SetsockoptSockFprog(int(fd), unix.SOL_SOCKET, unix.SO_ATTACH_FILTER,
			&unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]})
	}); ctlErr != nil || err != nil {
		return fmt.Errorf("filter notifications: %w", errors.Join(ctlErr, err))
	}
	return nil
}

// Offsets in a notification, in bytes.
const (
	atType  = 4              // nlmsghdr.nlmsg_type
	atPort  = 12             // nlmsghdr.nlmsg_pid
	atIndex = headerSize + 4 // ndmsg.ndm_ifindex
	whole   = 1<<32 - 1      // accept: how many bytes of a message to pass on
	load    = unix.BPF_LD | unix.BPF_ABS
	equal   = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
)

// neighboursOf drops notifications of neighbours of other links, and requests to
// resolve one. All else goes on behind its end.
func neighboursOf(links []int) []unix.SockFilter {
	n := uint8(len(links))
	program := []unix.SockFilter{
		{Code: load | unix.BPF_H, K: atType},
		{Code: equal, K: typeAsLoaded(unix.RTM_NEWNEIGH), Jt: 3},
		{Code: equal, K: typeAsLoaded(unix.RTM_DELNEIGH), Jt: 2},
		{Code: equal, K: typeAsLoaded(unix.RTM_GETNEIGH), Jt: n + 2},
		{Code: unix.BPF_JMP | unix.BPF_JA, K: uint32(n) + 2},
		{Code: load | unix.BPF_W, K: atIndex},
	}
	for i, index := range links {
		program = append(program, unix.SockFilter{Code: equal, K: asLoaded(uint32(index)), Jt: n - uint8(i)})
	}
	return append(program, unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: 0})
}

// foreignPort drops what bears a port of this process.
func foreignPort() []unix.SockFilter {
	return []unix.SockFilter{
		{Code: load | unix.BPF_W, K: atPort},
		{Code: unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K, K: asLoaded(^uint32(processMask)), Jf: 3},
		{Code: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, K: asLoaded(processMask)},
		{Code: equal, K: asLoaded(uint32(os.Getpid()) & processMask), Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0},
		{Code: unix.BPF_RET | unix.BPF_K, K: whole},
	}
}

func typeAsLoaded(v uint16) uint32 {
	return uint32(binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, v)))
}

// asLoaded is v as a filter sees it: filters load in network byte order, and
// netlink writes in that of the machine.
func asLoaded(v uint32) uint32 {
	return binary.BigEndian.Uint32(binary.NativeEndian.AppendUint32(nil, v))
}
