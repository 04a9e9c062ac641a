package batch

import (
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"
)

// maxDatagram is more than the kernel ever gives at once, in bytes.
const maxDatagram = 1 << 16

// skew moves each buffer to other lines of the processor's cache.
const skew = 5 * 64

// Receiver takes messages from a socket, several at once.
type Receiver struct {
	messages []unix.Mmsghdr
	iovs     []unix.Iovec
	names    []name
	controls []control
	memory   []byte
}

// Message is what arrived from one sender: one datagram, or, if Size is not 0,
// datagrams of that size with the last one perhaps smaller.
type Message struct {
	From  netip.Addr
	Bytes []byte // until the next Receive
	Size  int
	Class uint8 // TOS or traffic class
}

// NewReceiver makes one for up to n messages at once.
func NewReceiver(n int) *Receiver {
	r := &Receiver{
		messages: make([]unix.Mmsghdr, n), iovs: make([]unix.Iovec, n), names: make([]name, n),
		controls: make([]control, n), memory: make([]byte, n*(maxDatagram+skew)),
	}
	for i := range n {
		setIov(&r.iovs[i], r.memory[i*(maxDatagram+skew):][:maxDatagram])
		h := &r.messages[i].Hdr
		h.Iov = &r.iovs[i]
		h.SetIovlen(1)
		h.Name = &r.names[i][0]
		h.Control = &r.controls[i].bytes()[0]
	}
	return r
}

// Receive takes what is there, without waiting, and says how many messages
// that are. Errors are those of recvmmsg.
func (r *Receiver) Receive(fd int) (int, error) {
	for i := range r.messages {
		h := &r.messages[i].Hdr
		h.Namelen = uint32(len(name{}))
		h.SetControllen(maxControl)
	}
	n, _, errno := unix.RawSyscall6(unix.SYS_RECVMMSG, uintptr(fd), uintptr(unsafe.Pointer(&r.messages[0])),
		uintptr(len(r.messages)), unix.MSG_DONTWAIT, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

// Message gives message i of the last Receive.
func (r *Receiver) Message(i int) Message {
	m := &r.messages[i]
	size, tos := r.controls[i].read(int(m.Hdr.Controllen)) //nolint:gosec // at most maxControl
	b := r.memory[i*(maxDatagram+skew):][:m.Len]
	if size >= len(b) {
		size = 0
	}
	return Message{From: r.names[i].addr(), Bytes: b, Size: size, Class: tos}
}

// Writer gives packets in parts to a device.
type Writer struct{ iovs []unix.Iovec }

// Write writes the parts as one packet. Errors are those of writev.
func (w *Writer) Write(fd int, parts [][]byte) error {
	w.iovs = w.iovs[:0]
	for _, p := range parts {
		var v unix.Iovec
		setIov(&v, p)
		w.iovs = append(w.iovs, v)
	}
	for {
		_, _, errno := unix.RawSyscall(unix.SYS_WRITEV, uintptr(fd), uintptr(unsafe.Pointer(&w.iovs[0])), uintptr(len(w.iovs)))
		switch errno {
		case 0:
			return nil
		case unix.EINTR:
		default:
			return errno
		}
	}
}

// Read takes one packet from a device, without waiting. Errors are those of
// read.
func Read(fd int, b []byte) (int, error) {
	for {
		n, _, errno := unix.RawSyscall(unix.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)))
		switch errno {
		case 0:
			return int(n), nil
		case unix.EINTR:
		default:
			return 0, errno
		}
	}
}
