// Package segment cuts the super-packets of a device with offloads into the
// packets that go over the wire, and joins packets from the wire into
// super-packets, as segmentation and receive offload of the kernel do.
//
// It is pure: bytes in, bytes out. Payload is never copied: what it returns
// points into what it was given. It never repairs: a packet whose checksum is
// wrong leaves as it came. Called by the forwarder.
package segment

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/flannel-ng/flannel-ng/internal/addr"
)

// ErrFrame says that the kernel's description of a packet does not fit it.
var ErrFrame = errors.New("packet is not as its header from the device says")

// HeaderSize is that of struct virtio_net_hdr, in bytes: before each packet
// from and to the device.
const HeaderSize = 10

const (
	needsChecksum = 1 // VIRTIO_NET_HDR_F_NEEDS_CSUM

	whole    = 0 // VIRTIO_NET_HDR_GSO_NONE
	tcpIPv4  = 1 // VIRTIO_NET_HDR_GSO_TCPV4
	tcpIPv6  = 4 // VIRTIO_NET_HDR_GSO_TCPV6
	udpBoth  = 5 // VIRTIO_NET_HDR_GSO_UDP_L4
	protoTCP = 6
	protoUDP = 17

	// In bytes, or at this byte of the header.
	minTCP      = 20
	udpHeader   = 8
	tcpChecksum = 16
	udpChecksum = 6
	maxPacket   = 1<<16 - 1
)

// The flags in byte 13 of a TCP header.
const (
	flagFIN = 1 << 0
	flagSYN = 1 << 1
	flagRST = 1 << 2
	flagPSH = 1 << 3
	flagURG = 1 << 5
	flagCWR = 1 << 7
)

// header is struct virtio_net_hdr, whose numbers have this machine's byte
// order.
type header struct {
	flags, gso    uint8
	length        int // of IP and transport headers, a hint
	size          int // payload of each segment
	start, offset int // of the sum, and of its field from there
}

func readHeader(b []byte) header {
	number := func(at int) int { return int(binary.NativeEndian.Uint16(b[at:])) }
	return header{flags: b[0], gso: b[1], length: number(2), size: number(4), start: number(6), offset: number(8)}
}

func (h header) put(b []byte) {
	b[0], b[1] = h.flags, h.gso
	for i, n := range []int{h.length, h.size, h.start, h.offset} {
		binary.NativeEndian.PutUint16(b[2+2*i:], uint16(n)) //nolint:gosec // inside a packet
	}
}

// Whole says whether the packet of a frame is as it would be on a wire: one
// packet, with its checksum.
func Whole(frame []byte) bool {
	return frame[0]&needsChecksum == 0 && frame[1] == whole
}

// transport is what differs between the protocols.
type transport struct {
	gso      uint8
	protocol uint8
	checksum int // its place in the header
}

func transportOf(f addr.Family, protocol uint8) (transport, error) {
	switch {
	case protocol == protoUDP:
		return transport{udpBoth, protoUDP, udpChecksum}, nil
	case protocol == protoTCP && f == addr.IPv4:
		return transport{tcpIPv4, protoTCP, tcpChecksum}, nil
	case protocol == protoTCP:
		return transport{tcpIPv6, protoTCP, tcpChecksum}, nil
	default:
		return transport{}, fmt.Errorf("%w: segments of protocol %d", ErrFrame, protocol)
	}
}

// headerLength of the transport header at the start of b. False: b is too
// short for it.
func (t transport) headerLength(b []byte) (int, bool) {
	if t.protocol == protoUDP {
		return udpHeader, len(b) >= udpHeader
	}
	if len(b) < minTCP {
		return 0, false
	}
	n := int(b[12]>>4) * 4
	return n, n >= minTCP && n <= len(b)
}

// addresses are those in the IP header of b, one behind the other.
func addresses(b []byte, f addr.Family) []byte {
	if f == addr.IPv4 {
		return b[12:20]
	}
	return b[8:40]
}
