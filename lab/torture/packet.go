package torture

import (
	"encoding/binary"
	"net/netip"
)

// Numbers of protocols and headers (IANA).
const (
	protoHopByHop = 0
	protoICMP     = 1
	protoTCP      = 6
	protoUDP      = 17
	protoFragment = 44
	protoICMPv6   = 58
	protoDestOpts = 60
	protoTest     = 253 // for experiments (RFC 3692)
)

// packet is an IP packet of either family before it is written down.
type packet struct {
	from, to netip.Addr
	tos, ttl byte
	proto    byte
	id       uint16 // of IPv4, and of fragments in both families
	df, more bool   // IPv4; more fragments follow
	offset   int    // of a fragment, in bytes
	options  []byte // IPv4 options, padded; IPv6 extension headers, chained to proto
	first    byte   // number of the first extension header, if there are options
	body     []byte
}

// headerLen is the length of everything before the body, in bytes.
func (p packet) headerLen() int {
	if p.from.Is4() {
		return 20 + len(p.options)
	}
	return 40 + len(p.options)
}

// bytes writes the packet down.
func (p packet) bytes() []byte {
	if p.from.Is4() {
		return p.bytes4()
	}
	next := p.proto
	if len(p.options) > 0 {
		next = p.first
	}
	b := []byte{0x60 | p.tos>>4, p.tos << 4, 0, 0}
	b = binary.BigEndian.AppendUint16(b, uint16(len(p.options)+len(p.body)))
	b = append(b, next, p.ttl)
	b = append(append(b, p.from.AsSlice()...), p.to.AsSlice()...)
	return append(append(b, p.options...), p.body...)
}

func (p packet) bytes4() []byte {
	flags := uint16(p.offset / 8)
	if p.df {
		flags |= 0x4000
	}
	if p.more {
		flags |= 0x2000
	}
	b := []byte{0x40 | byte(p.headerLen()/4), p.tos}
	b = binary.BigEndian.AppendUint16(b, uint16(p.headerLen()+len(p.body)))
	b = binary.BigEndian.AppendUint16(b, p.id)
	b = binary.BigEndian.AppendUint16(b, flags)
	b = append(b, p.ttl, p.proto, 0, 0)
	b = append(append(append(b, p.from.AsSlice()...), p.to.AsSlice()...), p.options...)
	binary.BigEndian.PutUint16(b[10:], ^sum(0, b))
	return append(b, p.body...)
}

// sum adds 16-bit words in ones' complement (RFC 1071), starting from s.
func sum(s uint32, b []byte) uint16 {
	for ; len(b) > 1; b = b[2:] {
		s += uint32(b[0])<<8 | uint32(b[1])
	}
	if len(b) == 1 {
		s += uint32(b[0]) << 8
	}
	for s > 0xffff {
		s = s>>16 + s&0xffff
	}
	return uint16(s)
}

// pseudo is the sum of the pseudo header.
func pseudo(from, to netip.Addr, proto byte, length int) uint32 {
	s := uint32(sum(0, from.AsSlice())) + uint32(sum(0, to.AsSlice()))
	return s + uint32(proto) + uint32(length)
}

// udp is a UDP header with data, rightly summed.
func udp(p packet, ports [2]uint16, data []byte) []byte {
	b := binary.BigEndian.AppendUint16(nil, ports[0])
	b = binary.BigEndian.AppendUint16(b, ports[1])
	b = binary.BigEndian.AppendUint16(b, uint16(8+len(data)))
	b = append(append(b, 0, 0), data...)
	check := ^sum(pseudo(p.from, p.to, protoUDP, len(b)), b)
	if check == 0 {
		check = 0xffff // zero says "none" (RFC 768)
	}
	binary.BigEndian.PutUint16(b[6:], check)
	return b
}

// Flags of TCP.
const (
	fin = 1 << iota
	syn
	rst
	psh
	ack
	urg
	ece
	cwr
	ae // accurate ECN, was NS
)

// segment is a TCP segment before it is written down.
type segment struct {
	ports    [2]uint16
	seq, ack uint32
	flags    uint16 // twelve bits, the upper three reserved
	window   uint16
	urgent   uint16
	options  []byte // padded
	data     []byte
}

func (s segment) bytes(p packet) []byte {
	b := binary.BigEndian.AppendUint16(nil, s.ports[0])
	b = binary.BigEndian.AppendUint16(b, s.ports[1])
	b = binary.BigEndian.AppendUint32(b, s.seq)
	b = binary.BigEndian.AppendUint32(b, s.ack)
	b = binary.BigEndian.AppendUint16(b, uint16(5+len(s.options)/4)<<12|s.flags)
	b = binary.BigEndian.AppendUint16(b, s.window)
	b = append(b, 0, 0)
	b = binary.BigEndian.AppendUint16(b, s.urgent)
	b = append(append(b, s.options...), s.data...)
	binary.BigEndian.PutUint16(b[16:], ^sum(pseudo(p.from, p.to, protoTCP, len(b)), b))
	return b
}

// icmp is an ICMP message of the packet's family: type, code, rest of the header.
func icmp(p packet, kind [2]byte, rest uint32, data []byte) []byte {
	b := []byte{kind[0], kind[1], 0, 0}
	b = append(binary.BigEndian.AppendUint32(b, rest), data...)
	start := uint32(0)
	if !p.from.Is4() {
		start = pseudo(p.from, p.to, protoICMPv6, len(b))
	}
	binary.BigEndian.PutUint16(b[2:], ^sum(start, b))
	return b
}

// fragments cuts a packet into pieces of at most mtu bytes.
func fragments(p packet, mtu int) []packet {
	head := p.headerLen()
	if !p.from.Is4() {
		head += 8
	}
	most := (mtu - head) &^ 7
	var pieces []packet
	for at := 0; at < len(p.body); at += most {
		piece := p
		piece.body = p.body[at:min(at+most, len(p.body))]
		piece.offset, piece.more = at, at+most < len(p.body)
		if !p.from.Is4() {
			piece = piece.withFragmentHeader()
		}
		pieces = append(pieces, piece)
	}
	return pieces
}

// withFragmentHeader puts an IPv6 fragment header before the body.
func (p packet) withFragmentHeader() packet {
	field := uint16(p.offset)
	if p.more {
		field |= 1
	}
	h := binary.BigEndian.AppendUint16([]byte{p.proto, 0}, field)
	p.options = binary.BigEndian.AppendUint32(h, uint32(p.id))
	p.first = protoFragment
	return p
}

// hop is what a router changes in an IPv4 or IPv6 packet: one hop less. The
// checksum is adapted as routers do it (RFC 1141), not made anew.
func hop(raw []byte, hops int) []byte {
	b := append([]byte(nil), raw...)
	for range hops {
		if b[0]>>4 == 6 {
			b[7]--
			continue
		}
		b[8]--
		check := uint32(binary.BigEndian.Uint16(b[10:])) + 0x0100
		check = (check + check>>16) & 0xffff
		if check == 0xffff {
			check = 0 // the other way to write zero; Linux writes this one
		}
		binary.BigEndian.PutUint16(b[10:], uint16(check))
	}
	return b
}
