package segment

import (
	"encoding/binary"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/tunnel/checksum"
	"github.com/flannel-ng/flannel-ng/internal/tunnel/packet"
)

// Super is a packet from the device, of one segment or many.
type Super struct {
	b    []byte
	head int // length of the IP and transport headers of each segment
	size int // payload of each but the last; 0: b is the only one

	family addr.Family
	ip     int // length of the IP header
	transport
}

// Read understands a frame from the device, whose packet has header h. If
// there is only one segment, the kernel's unfinished checksum is finished in
// place. Errors: ErrFrame.
func Read(frame []byte, h packet.Header) (Super, error) {
	about, s := readHeader(frame), Super{b: frame[HeaderSize:], family: h.Family, ip: h.Length}
	if about.gso == whole {
		switch {
		case about.flags&needsChecksum == 0:
			return s, nil
		case about.start < h.Length:
			return s, ErrFrame
		}
		return s, finish(s.b, about.start, about.offset)
	}
	var err error
	if s.transport, err = transportOf(h.Family, h.Protocol); err != nil {
		return s, err
	}
	length, ok := s.headerLength(s.b[h.Length:])
	if !ok || h.Fragment || about.gso != s.gso || about.start != h.Length || about.size == 0 || about.flags&needsChecksum == 0 {
		return s, ErrFrame
	}
	s.head = h.Length + length
	if len(s.b)-s.head <= about.size {
		return s, finish(s.b, about.start, s.checksum)
	}
	s.size = about.size
	return s, nil
}

// finish sums b from start on, where a field at offset holds the sum of the
// pseudo header.
func finish(b []byte, start, offset int) error {
	at := start + offset
	if at+2 > len(b) {
		return ErrFrame
	}
	sum := ^checksum.Sum(b[start:], 0)
	if sum == 0 {
		sum = 0xffff // none, for UDP; the same, for all others
	}
	binary.BigEndian.PutUint16(b[at:], sum)
	return nil
}

// Whole is the only packet. False: there are segments.
func (s *Super) Whole() ([]byte, bool) { return s.b, s.size == 0 }

// Count of segments.
func (s *Super) Count() int {
	if s.size == 0 {
		return 1
	}
	return (len(s.b) - s.head + s.size - 1) / s.size
}

// HeaderLength is that of each segment, in bytes.
func (s *Super) HeaderLength() int { return s.head }

// Segment writes the headers of segment i into head, which has HeaderLength
// bytes, and returns the payload that follows them. There must be more than
// one.
func (s *Super) Segment(i int, head []byte) []byte {
	from := s.head + i*s.size
	payload := s.b[from:min(from+s.size, len(s.b))]
	copy(head, s.b[:s.head])
	s.putIP(i, head, len(payload))
	transport := head[s.ip:s.head]
	last := from+s.size >= len(s.b)
	if s.protocol == protoTCP {
		binary.BigEndian.PutUint32(transport[4:], binary.BigEndian.Uint32(transport[4:])+uint32(i*s.size)) //nolint:gosec // below maxPacket
		if !last {
			transport[13] &^= flagFIN | flagPSH
		}
		if i > 0 {
			transport[13] &^= flagCWR
		}
	} else {
		binary.BigEndian.PutUint16(transport[4:], uint16(udpHeader+len(payload))) //nolint:gosec // a part of a packet
	}
	binary.BigEndian.PutUint16(transport[s.checksum:], 0)
	sum := checksum.Pseudo(addresses(head, s.family), s.protocol, len(transport)+len(payload))
	sum = ^checksum.Sum(payload, checksum.Sum(transport, sum))
	if sum == 0 && s.protocol == protoUDP {
		sum = 0xffff
	}
	binary.BigEndian.PutUint16(transport[s.checksum:], sum)
	return payload
}

// putIP makes the IP header that of segment i. Identification counts, as in
// the kernel's own segments.
func (s *Super) putIP(i int, head []byte, payload int) {
	if s.family == addr.IPv6 {
		binary.BigEndian.PutUint16(head[4:], uint16(s.head-packet.IPv6Header+payload)) //nolint:gosec // a part of a packet
		return
	}
	binary.BigEndian.PutUint16(head[2:], uint16(s.head+payload))                      //nolint:gosec // the same
	binary.BigEndian.PutUint16(head[4:], binary.BigEndian.Uint16(head[4:])+uint16(i)) //nolint:gosec // goes round
	binary.BigEndian.PutUint16(head[10:], 0)
	binary.BigEndian.PutUint16(head[10:], ^checksum.Sum(head[:s.ip], 0))
}
