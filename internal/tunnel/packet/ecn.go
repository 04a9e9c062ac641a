package packet

import (
	"encoding/binary"

	"github.com/flannel-ng/flannel-ng/internal/tunnel/checksum"
)

// ECN is the two bits of explicit congestion notification in a class of
// traffic (RFC 3168 §5).
type ECN uint8

// The values of ECN.
const (
	NotECT ECN = 0
	ECT1   ECN = 1
	ECT0   ECN = 2
	CE     ECN = 3

	ecnMask = 3
)

// ECNOf is that of a class of traffic, be it IPv4's TOS or IPv6's.
func ECNOf(class uint8) ECN { return ECN(class & ecnMask) }

// ECNIn is that of a packet, whose header has been parsed.
func ECNIn(b []byte) ECN {
	if b[0]>>4 == 4 {
		return ECNOf(b[1])
	}
	return ECNOf(b[1] >> 4)
}

// Combine changes b, whose header has been parsed, to what it must be when it
// leaves a tunnel whose outer header said outer (RFC 6040 §4.2). False: it must
// be dropped, for its sender would not understand what happened on the way.
func Combine(b []byte, outer ECN) bool {
	inner := ECNIn(b)
	switch {
	case outer == CE && inner == NotECT:
		return false
	case outer == CE, outer == ECT1 && inner == ECT0:
		mark(b, inner, outer)
	}
	return true
}

// mark replaces the bits, and makes the checksum of an IPv4 header that of the
// new ones (RFC 1624).
func mark(b []byte, from, to ECN) {
	if b[0]>>4 == 6 {
		b[1] = b[1]&^(ecnMask<<4) | uint8(to)<<4
		return
	}
	b[1] = b[1]&^ecnMask | uint8(to)
	change := [4]byte{0xff, ^uint8(from), 0, uint8(to)}
	sum := checksum.Sum(change[:], ^binary.BigEndian.Uint16(b[10:]))
	binary.BigEndian.PutUint16(b[10:], ^sum)
}
