package batch

import (
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/flannel-ng/flannel-ng/internal/addr"
)

const (
	// maxRun is how many datagrams the kernel cuts one message into, before
	// Linux 6.9 (UDP_MAX_SEGMENTS).
	maxRun = 64
	// maxRunBytes is what a message may have: an IPv4 packet's less headers.
	maxRunBytes = 65507
	// maxMessages is how many go with one system call.
	maxMessages = 256
	maxParts    = 4096 // of all of them
)

// Target is where a datagram goes, and how.
type Target struct {
	To    netip.AddrPort
	Class uint8 // TOS or traffic class
}

// Sender gathers datagrams for one socket and sends them together, in order.
// Runs of datagrams for one target and of one size are a message that the
// kernel cuts, or the network card.
type Sender struct {
	// Together is whether there are runs: not all devices can.
	Together bool

	family   addr.Family
	messages []unix.Mmsghdr
	iovs     []unix.Iovec
	names    []name
	controls []control
	runs     []Run
}

// Run is one message.
type Run struct {
	Target
	Count, Bytes int // datagrams, and the sum of their sizes
	Size         int // of each datagram but the last
	full         bool
	from, parts  int // in iovs
}

// NewSender makes one for datagrams of one outer family.
func NewSender(f addr.Family) *Sender {
	return &Sender{
		family: f, messages: make([]unix.Mmsghdr, maxMessages), iovs: make([]unix.Iovec, 0, maxParts),
		names: make([]name, maxMessages), controls: make([]control, maxMessages), runs: make([]Run, 0, maxMessages),
	}
}

// Room says whether there is room for another datagram.
func (s *Sender) Room() bool { return len(s.iovs)+2 <= maxParts && len(s.runs) < maxMessages }

// Add appends a datagram of two parts, the second of which may be empty. Both
// must stay as they are until Reset. There must be room.
func (s *Sender) Add(to Target, head, rest []byte) {
	size := len(head) + len(rest)
	n := len(s.runs)
	if n == 0 || !s.Together || !s.runs[n-1].takes(to, size) {
		s.runs = append(s.runs, Run{Target: to, Size: size, from: len(s.iovs)})
		n++
	}
	r := &s.runs[n-1]
	r.Count++
	r.Bytes += size
	r.full = size < r.Size
	s.append(r, head)
	if len(rest) > 0 {
		s.append(r, rest)
	}
}

func (s *Sender) append(r *Run, b []byte) {
	s.iovs = append(s.iovs, unix.Iovec{})
	setIov(&s.iovs[len(s.iovs)-1], b)
	r.parts++
}

func (r *Run) takes(to Target, size int) bool {
	return !r.full && r.Target == to && size <= r.Size && r.Count < maxRun && r.Bytes+size <= maxRunBytes
}

// Runs are those since Reset.
func (s *Sender) Runs() []Run { return s.runs }

// Reset forgets all datagrams.
func (s *Sender) Reset() { s.runs, s.iovs = s.runs[:0], s.iovs[:0] }

// Send sends the runs from the given one on, without waiting, and says how many
// went. Errors are those of sendmmsg about the first one.
func (s *Sender) Send(fd, from int) (int, error) {
	for i := from; i < len(s.runs); i++ {
		s.describe(i)
	}
	n, _, errno := unix.RawSyscall6(unix.SYS_SENDMMSG, uintptr(fd), uintptr(unsafe.Pointer(&s.messages[from])),
		uintptr(len(s.runs)-from), unix.MSG_DONTWAIT, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

func (s *Sender) describe(i int) {
	r, h := &s.runs[i], &s.messages[i].Hdr
	h.Name, h.Namelen = &s.names[i][0], s.names[i].set(r.To)
	h.Iov = &s.iovs[r.from]
	h.SetIovlen(r.parts)
	size := 0
	if r.Count > 1 {
		size = r.Size
	}
	h.Control = nil
	n := s.controls[i].describe(s.family, size, r.Class)
	if n > 0 {
		h.Control = &s.controls[i].bytes()[0]
	}
	h.SetControllen(n)
}

// Datagrams calls yield with a copy of each datagram of run i.
func (s *Sender) Datagrams(i int, yield func(b []byte)) {
	r := s.runs[i]
	all := make([]byte, 0, r.Bytes)
	for _, v := range s.iovs[r.from : r.from+r.parts] {
		all = append(all, unsafe.Slice(v.Base, int(v.Len))...) //nolint:gosec // of a datagram
	}
	for len(all) > 0 {
		n := min(r.Size, len(all))
		yield(all[:n])
		all = all[n:]
	}
}

// SendOne sends one datagram, and waits until there is room for it. Errors are
// those of sendmsg.
func SendOne(fd int, to Target, b []byte) error {
	var c control
	n := c.describe(addr.Of(to.To.Addr()), 0, to.Class)
	for {
		_, err := unix.SendmsgN(fd, b, c.bytes()[:n], sockaddr(to.To), unix.MSG_DONTWAIT)
		switch err {
		case unix.EINTR:
		case unix.EAGAIN:
			if err := WaitToWrite(fd); err != nil {
				return err
			}
		default:
			return err
		}
	}
}

func sockaddr(to netip.AddrPort) unix.Sockaddr {
	if to.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()}
	}
	return &unix.SockaddrInet6{Port: int(to.Port()), Addr: to.Addr().As16()}
}
