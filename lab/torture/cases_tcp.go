package torture

import (
	"encoding/binary"
	"slices"
)

// tcp is a packet with a segment. Without ports it is part of the usual flow.
func (k *kit) tcp(s segment) packet {
	p := k.packet(protoTCP)
	if s.ports == [2]uint16{} {
		s.ports = [2]uint16{4001, 5001}
	}
	if s.window == 0 {
		s.window = 1000
	}
	p.body = s.bytes(p)
	return p
}

// stamps is the timestamp option as all systems write it.
func stamps(value, echo uint32) []byte {
	b := []byte{1, 1, 8, 10}
	return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(b, value), echo)
}

// flows are a thousand at once, TCP and UDP, taking turns.
func flows(k *kit) []probe {
	var all []probe
	const count = 1000
	for turn := range k.choose(12, 4) {
		for i := range count {
			ports := [2]uint16{uint16(10000 + i), uint16(20000 + i*7%count)}
			size := 1 + (i*31+turn*97)%1300
			if i%2 == 0 {
				all = append(all, passes(k.udp(ports, size)))
				continue
			}
			all = append(all, passes(k.tcp(segment{
				ports: ports, seq: uint32(turn * 1300), flags: ack, options: stamps(uint32(turn), 7), data: k.data(size),
			})))
		}
	}
	return all
}

// order is one stream with segments swapped and doubled. Ids differ, so each
// copy is another packet.
func order(k *kit) []probe {
	var all []probe
	const size = 700
	data := k.data(40 * size)
	sequence := k.dice.Perm(40)
	sequence = append(sequence, 3, 3, 17, 17, 17, 39, 0, 1, 2, 3, 3, 2, 1, 0, 5, 4, 6, 8, 7)
	for _, n := range sequence {
		all = append(all, passes(k.tcp(segment{
			seq: uint32(n * size), flags: ack, options: stamps(9, 9), data: data[n*size : (n+1)*size],
		})))
	}
	return all
}

// tcpHeaders are all flags, all lengths of the header, and the usual options.
func tcpHeaders(k *kit) []probe {
	var all []probe
	for flags := range uint16(1 << 12) {
		if flags >= 1<<9 && flags&0x1ff != ack {
			continue // the reserved ones, one combination each
		}
		all = append(all, passes(k.tcp(segment{seq: uint32(flags) * 100, flags: flags, urgent: flags, data: k.data(int(flags % 5))})))
	}
	for words := range 11 {
		o := k.data(4 * words)
		for i := range o {
			o[i] |= 0x80 // unknown kinds, impossible lengths
		}
		for _, size := range []int{0, 1, 100, 1200} {
			all = append(all, passes(k.tcp(segment{flags: ack, options: o, data: k.data(size)})))
		}
	}
	sack := []byte{1, 1, 5, 34}
	sack = append(sack, k.data(32)...)
	for _, o := range [][]byte{
		{2, 4, 5, 0xb4},
		{2, 4, 5, 0xb4, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 3, 7},
		stamps(1, 2),
		sack[:12],
		sack,
		append([]byte{1, 1, 19, 18}, k.data(16)...),
		{0, 0, 0, 0},
		{1, 1, 1, 0},
		{34, 2, 1, 1},
		append([]byte{34, 18}, append(k.data(16), 1, 1)...), // fast open
		append([]byte{1, 1, 30, 10}, k.data(8)...),          // multipath
	} {
		for _, flags := range []uint16{syn, syn | ack, ack, ack | psh, fin | ack, rst} {
			all = append(all, passes(k.tcp(segment{flags: flags, options: o})))
			all = append(all, passes(k.tcp(segment{flags: flags, options: o, data: k.data(512)})))
		}
	}
	return all
}

// streams are segments in order, which the receiving host may join, with
// something in the middle that must not be lost in joining.
func streams(k *kit) []probe {
	var all []probe
	for n, trap := range k.traps() {
		at := 0
		for i := range 12 {
			size := 1000
			s := segment{
				ports: [2]uint16{uint16(6000 + n), 5001}, seq: uint32(at), ack: 77, flags: ack,
				options: stamps(5, 6), data: nil,
			}
			p := k.packet(protoTCP)
			if i == 6 {
				size = trap(&p, &s, size)
			}
			s.data = k.data(size)
			if s.window == 0 {
				s.window = 1000
			}
			p.body = s.bytes(p)
			one := passes(p)
			if i == 6 && n == 0 {
				one = k.spoiled(p)
			}
			all = append(all, one)
			at += size
		}
	}
	return all
}

// spoiled is a packet with a wrong checksum amid right ones.
func (k *kit) spoiled(p packet) probe {
	p.body = slices.Clone(p.body)
	p.body[len(p.body)/2] ^= 1
	one := passes(p)
	one.odd = true
	return one
}

// traps change the seventh segment of a stream, and say how long it is. The
// first one is spoiled by the caller.
func (k *kit) traps() []func(*packet, *segment, int) int {
	same := func(do func(*packet, *segment)) func(*packet, *segment, int) int {
		return func(p *packet, s *segment, size int) int { do(p, s); return size }
	}
	length := func(n int) func(*packet, *segment, int) int {
		return func(*packet, *segment, int) int { return n }
	}
	return []func(*packet, *segment, int) int{
		length(1000), length(1000), length(0), length(1), length(999), length(1001), length(1300),
		same(func(p *packet, _ *segment) { p.ttl = 33 }),
		same(func(p *packet, _ *segment) { p.tos = 4 }),
		same(func(p *packet, _ *segment) { p.tos = 1 }),
		same(func(p *packet, _ *segment) { p.id += 1000 }),
		same(func(p *packet, _ *segment) { p.id = 0 }),
		same(func(p *packet, _ *segment) { p.df = !p.df && k.v4() }),
		same(func(_ *packet, s *segment) { s.options = stamps(6, 6) }),
		same(func(_ *packet, s *segment) { s.options = nil }),
		same(func(_ *packet, s *segment) { s.options = append(stamps(5, 6), 1, 1, 1, 1) }),
		same(func(_ *packet, s *segment) { s.window = 2000 }),
		same(func(_ *packet, s *segment) { s.ack = 78 }),
		same(func(_ *packet, s *segment) { s.seq += 5 }),
		same(func(_ *packet, s *segment) { s.flags |= psh }),
		same(func(_ *packet, s *segment) { s.flags |= fin }),
		same(func(_ *packet, s *segment) { s.flags |= rst }),
		same(func(_ *packet, s *segment) { s.flags |= syn }),
		same(func(_ *packet, s *segment) { s.flags |= urg; s.urgent = 3 }),
		same(func(_ *packet, s *segment) { s.flags |= ece }),
		same(func(_ *packet, s *segment) { s.flags |= cwr }),
		same(func(_ *packet, s *segment) { s.flags |= ae }),
		same(func(_ *packet, s *segment) { s.flags = 0 }),
	}
}

// superPackets are what a container's kernel hands out when the host shall
// segment (TCP) or cut (UDP) for it, and sum.
func superPackets(k *kit) []probe {
	var all []probe
	for _, size := range []int{1, 100, 536, 999, 1300} {
		for _, total := range []int{size + 1, 3 * size, 7*size + 1, 40*size + 13} {
			if total > 64000 {
				continue
			}
			for _, flags := range []uint16{ack, ack | psh, ack | fin, ack | cwr, ack | psh | fin | cwr} {
				all = append(all, k.superTCP(segment{seq: 0xfffff000, flags: flags, options: stamps(1, 2)}, size, total))
			}
			all = append(all, k.superUDP(size, total))
		}
	}
	for _, o := range [][]byte{nil, stamps(3, 4), append([]byte{1, 1, 5, 10}, k.data(8)...), k.data(0)} {
		all = append(all, k.superTCP(segment{seq: 5, flags: ack, options: o}, 1200, 50000))
	}
	for _, n := range []int{0, 1, 600, 1300} { // only the sum is left to do
		all = append(all, k.unsummed(n))
	}
	return all
}

// superTCP wants the segments as the kernel makes them: ids count up, the end
// flags are on the last one, CWR on the first.
func (k *kit) superTCP(s segment, size, total int) probe {
	p := k.packet(protoTCP)
	s.ports, s.window = [2]uint16{4002, 5002}, 1000
	data := k.data(total)
	var one probe
	for at := 0; at < total; at += size {
		part, piece := s, p
		part.data = data[at:min(at+size, total)]
		part.seq += uint32(at)
		piece.id += uint16(at / size)
		if at+size < total {
			part.flags &^= fin | psh
		}
		if at > 0 {
			part.flags &^= cwr
		}
		piece.body = part.bytes(piece)
		one.want = append(one.want, hop(piece.bytes(), 2))
	}
	k.id += uint16(len(one.want))
	s.data = data
	head := 20 + len(s.options)
	one.via = offload{
		kind: gsoTCP4, size: uint16(size), head: uint16(p.headerLen() + head),
		sumStart: uint16(p.headerLen()), sumOffset: 16,
	}
	if !k.v4() {
		one.via.kind = gsoTCP6
	}
	if s.flags&cwr != 0 {
		one.via.kind |= 0x80 // VIRTIO_NET_HDR_GSO_ECN
	}
	p.body = s.bytes(p)
	half(p, protoTCP, 16)
	one.send = p.bytes()
	return one
}

// half leaves only the pseudo header's sum, as a kernel does when the device
// shall do the rest.
func half(p packet, proto byte, at int) {
	binary.BigEndian.PutUint16(p.body[at:], sum(pseudo(p.from, p.to, proto, len(p.body)), nil))
}

func (k *kit) superUDP(size, total int) probe {
	p := k.packet(protoUDP)
	data := k.data(total)
	ports := [2]uint16{4003, 5003}
	var one probe
	for at := 0; at < total; at += size {
		piece := p
		piece.id += uint16(at / size)
		piece.body = udp(piece, ports, data[at:min(at+size, total)])
		one.want = append(one.want, hop(piece.bytes(), 2))
	}
	k.id += uint16(len(one.want))
	one.via = offload{
		kind: gsoUDP, size: uint16(size), head: uint16(p.headerLen() + 8),
		sumStart: uint16(p.headerLen()), sumOffset: 6,
	}
	p.body = udp(p, ports, data)
	half(p, protoUDP, 6)
	one.send = p.bytes()
	return one
}

// unsummed is an ordinary datagram whose checksum is left to the device.
func (k *kit) unsummed(size int) probe {
	p := k.packet(protoUDP)
	p.body = udp(p, [2]uint16{4004, 5004}, k.data(size))
	one := passes(p)
	half(p, protoUDP, 6)
	one.send = p.bytes()
	one.via = offload{sumStart: uint16(p.headerLen()), sumOffset: 6}
	return one
}
