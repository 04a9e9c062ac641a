package torture

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/flannel-ng/flannel-ng/lab"
)

// port is a packet socket on a node's eth0: frames go in and out unseen by the
// node's own IP stack.
type port struct {
	fd      int
	index   int
	own     net.HardwareAddr
	frames  chan []byte // what arrives, without what the node sends
	closing atomic.Bool
	quiet   atomic.Int64 // how often nothing came for the length of silence
	done    chan struct{}
}

// Layout of Ethernet, and of struct virtio_net_hdr before it.
const (
	etherLen  = 14
	virtioLen = 10
	etherIPv4 = 0x0800
	etherIPv6 = 0x86dd
)

// offload is a virtio_net_hdr: what the kernel shall still do to a packet.
type offload struct {
	kind      byte   // VIRTIO_NET_HDR_GSO_*
	size      uint16 // payload of each segment
	head      uint16 // bytes before the payload, without Ethernet
	sumStart  uint16 // where the checksum starts, without Ethernet
	sumOffset uint16 // where it is from there
}

// Kinds of offload (virtio 1.2, 5.1.6).
const (
	gsoTCP4 = 1
	gsoTCP6 = 4
	gsoUDP  = 5
	needSum = 1
)

// silence is how long nothing comes before a port says that all has come.
const silence = 40 * time.Millisecond

const (
	packetVnetHdr = 15 // PACKET_VNET_HDR
	room          = 64 << 20
	wholeFrame    = 1 << 17
)

func openPort(n *lab.Node) (*port, error) {
	p := &port{frames: make(chan []byte, 1<<16), done: make(chan struct{})}
	err := n.Inside(func() error {
		link, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		p.index, p.own = link.Index, link.HardwareAddr
		// Protocol 0 receives nothing until bind.
		if p.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		patience := unix.NsecToTimeval(int64(silence))
		return errors.Join(
			unix.SetsockoptInt(p.fd, unix.SOL_PACKET, packetVnetHdr, 1),
			unix.SetsockoptInt(p.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, room),
			unix.SetsockoptTimeval(p.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &patience),
			unix.Bind(p.fd, &unix.SockaddrLinklayer{Protocol: swap(unix.ETH_P_ALL), Ifindex: p.index}))
	})
	if err != nil {
		return nil, fmt.Errorf("packet socket on %s: %w", n.Name, err)
	}
	go p.receive()
	return p, nil
}

// swap gives a protocol number the byte order that the kernel wants.
func swap(n uint16) uint16 {
	var b [2]byte
	binary.BigEndian.PutUint16(b[:], n)
	return binary.NativeEndian.Uint16(b[:])
}

func (p *port) close() error {
	p.closing.Store(true)
	<-p.done
	return unix.Close(p.fd)
}

func (p *port) receive() {
	defer close(p.done)
	buf := make([]byte, wholeFrame)
	for !p.closing.Load() {
		n, from, err := unix.Recvfrom(p.fd, buf, 0)
		if errors.Is(err, unix.EAGAIN) {
			p.quiet.Add(1)
		}
		if err != nil || n < virtioLen+etherLen {
			continue
		}
		if at, ok := from.(*unix.SockaddrLinklayer); ok && at.Pkttype == unix.PACKET_OUTGOING {
			continue
		}
		select {
		case p.frames <- append([]byte(nil), buf[:n]...):
		default: // nobody takes them: they will be missed
		}
	}
}

// send writes an IP packet to the gateway at that MAC.
func (p *port) send(gateway net.HardwareAddr, raw []byte, o offload) error {
	frame := make([]byte, virtioLen, virtioLen+etherLen+len(raw))
	if o.sumStart > 0 {
		frame[0] = needSum
		binary.NativeEndian.PutUint16(frame[6:], etherLen+o.sumStart)
		binary.NativeEndian.PutUint16(frame[8:], o.sumOffset)
	}
	if o.kind != 0 {
		frame[1] = o.kind
		binary.NativeEndian.PutUint16(frame[2:], etherLen+o.head)
		binary.NativeEndian.PutUint16(frame[4:], o.size)
	}
	frame = append(append(frame, gateway...), p.own...)
	kind := uint16(etherIPv4)
	if raw[0]>>4 == 6 {
		kind = etherIPv6
	}
	frame = append(binary.BigEndian.AppendUint16(frame, kind), raw...)
	err := unix.Sendto(p.fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: p.index})
	if err != nil {
		return fmt.Errorf("send %d bytes: %w", len(raw), err)
	}
	return nil
}

// ip returns the IP packet in a frame, and false for everything else. Padding
// of short frames is cut off. A packet that the kernel would still have to
// segment or sum is returned with done false.
func ip(frame []byte) (raw []byte, done, ok bool) {
	done = frame[0]&needSum == 0 && frame[1] == 0
	frame = frame[virtioLen:]
	raw = frame[etherLen:]
	switch binary.BigEndian.Uint16(frame[12:]) {
	case etherIPv4:
		if len(raw) < 20 {
			return nil, done, false
		}
		return raw[:min(len(raw), int(binary.BigEndian.Uint16(raw[2:])))], done, true
	case etherIPv6:
		if len(raw) < 40 {
			return nil, done, false
		}
		return raw[:min(len(raw), 40+int(binary.BigEndian.Uint16(raw[4:])))], done, true
	default:
		return nil, done, false
	}
}
