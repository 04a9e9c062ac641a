package torture

import (
	"encoding/binary"
)

// groups are all subjects.
func groups() []group {
	return []group{
		{name: "sizes", make: sizes},
		{name: "checksums", make: checksums},
		{name: "hops", make: hops},
		{name: "DSCP and ECN", make: classes},
		{name: "ECN, network writes 1", mark: 1, make: marked(1)},
		{name: "ECN, network writes 2", mark: 2, make: marked(2)},
		{name: "ECN, network marks congestion", mark: 3, make: marked(3)},
		{name: "IP options", make: options},
		{name: "ICMP", make: messages},
		{name: "too large", make: tooLarge},
		{name: "too large, cut", whole: true, make: cut},
		{name: "nobody there", make: nobody, need: forwards},
		{name: "1,000 flows", make: flows},
		{name: "order", make: order},
		{name: "TCP headers", make: tcpHeaders},
		{name: "TCP streams", make: streams},
		{name: "super-packets", make: superPackets},
		{name: "small path", make: smallPath, path: pathMTU, need: forwards},
		{name: "small path, cut", whole: true, make: smallPathCut, path: pathMTU, need: forwards},
	}
}

// sizes are packets of every size up to the MTU, and larger ones in fragments.
func sizes(k *kit) []probe {
	most := 65535
	head := k.packet(protoTest).headerLen()
	if k.v4() {
		most -= head
	}
	var all []probe
	for n := 0; n <= most; n = k.next(n, most) {
		p := k.packet(protoTest)
		if n >= 8 {
			p = k.udp([2]uint16{4000, 5000}, n-8)
		} else {
			p.body = k.data(n)
		}
		if head+n <= k.mtu {
			all = append(all, passes(p))
			continue
		}
		p.df = false
		for _, piece := range fragments(p, k.mtu) {
			all = append(all, passes(piece))
		}
	}
	return all
}

// next is the size after n: every one up to the MTU in a full run, then in
// steps, but always those at the edges.
func (k *kit) next(n, most int) int {
	edge := k.mtu - k.packet(protoTest).headerLen()
	step := k.choose(1, 53)
	if n > edge {
		step = k.choose(13, 6007)
	}
	for _, at := range []int{40, edge, edge + 10, 2*edge + 1, most} {
		if n < at && n+step > at-3 {
			return max(n+1, at-3)
		}
	}
	if n < 40 {
		return n + 1
	}
	return n + step
}

// checksums are wrong in every way: a router does not look at them, and must not
// mend them. Only the IPv4 header's is its own affair.
func checksums(k *kit) []probe {
	var all []probe
	odd := func(p packet, at int, change uint16) {
		body := append([]byte(nil), p.body...)
		binary.BigEndian.PutUint16(body[at:], binary.BigEndian.Uint16(body[at:])+change)
		p.body = body
		probe := passes(p)
		probe.odd = true
		all = append(all, probe)
	}
	for _, size := range []int{1, 2, 31, 64, 999, 1200} {
		for _, change := range []uint16{1, 0x0100, 0xffff, 0x8000} {
			odd(k.udp([2]uint16{4000, 5000}, size), 6, change)
			odd(k.tcp(segment{flags: ack | psh, data: k.data(size)}), 16, change)
			odd(k.message([2]byte{echo(k), 0}, k.data(size)), 2, change)
		}
		none := k.udp([2]uint16{4000, 5000}, size)
		binary.BigEndian.PutUint16(none.body[6:], 0)
		probe := passes(none)
		probe.odd = !k.v4()
		all = append(all, probe)
	}
	all = append(all, k.zeroSum())
	if k.v4() {
		bad := k.udp([2]uint16{4000, 5000}, 100).bytes()
		bad[10] ^= 0x55
		all = append(all, probe{send: bad})
	}
	return all
}

// zeroSum is a datagram whose sum is zero, which is written as 0xffff.
func (k *kit) zeroSum() probe {
	p := k.packet(protoUDP)
	data := k.data(64)
	data[0], data[1] = 0, 0
	p.body = udp(p, [2]uint16{4000, 5000}, data)
	// Adding the checksum itself to the data makes the sum come out as zero.
	copy(data, p.body[6:8])
	p.body = udp(p, [2]uint16{4000, 5000}, data)
	return passes(p)
}

// hops are all values of TTL or hop limit. The answers quote the packet as it
// was where it died.
func hops(k *kit) []probe {
	var all []probe
	exceeded := [2]byte{11, 0}
	if !k.v4() {
		exceeded = [2]byte{3, 0}
	}
	for ttl := range 256 {
		p := k.udp([2]uint16{4000, 5000}, 40)
		p.ttl = byte(ttl)
		raw := p.bytes()
		switch {
		case ttl < 2:
			all = append(all, probe{send: raw, back: &answer{from: k.homes[0], kind: exceeded, quote: raw}})
		case ttl == 2:
			all = append(all, probe{send: raw, back: &answer{from: k.homes[1], kind: exceeded, quote: hop(raw, 1)}})
		default:
			all = append(all, passes(p))
		}
	}
	return all
}

// classes are all values of the traffic class: nobody marks, so nothing changes.
func classes(k *kit) []probe {
	var all []probe
	for tos := range 256 {
		p := k.udp([2]uint16{4000, 5000}, 20)
		p.tos = byte(tos)
		all = append(all, passes(p))
		p = k.tcp(segment{flags: ack, data: k.data(30)})
		p.tos = byte(tos)
		all = append(all, passes(p))
	}
	return all
}

// Values of the ECN field.
const (
	notECT = iota
	ect1
	ect0
	ce
)

// rfc6040 is what the inner field becomes where the outer one arrived as it did;
// false: dropped (RFC 6040 §4.2).
func rfc6040(inner, outer byte) (byte, bool) {
	switch {
	case inner == notECT:
		return notECT, outer != ce
	case inner == ce || outer == ce:
		return ce, true
	case outer == ect1:
		return ect1, true
	default:
		return inner, true
	}
}

// marked are packets whose outer header the network marks.
func marked(outer byte) func(*kit) []probe {
	return func(k *kit) []probe {
		var all []probe
		for _, dscp := range []byte{0, 10, 46, 63} {
			for inner := range byte(4) {
				for _, p := range []packet{
					k.udp([2]uint16{4000, 5000}, 50),
					k.tcp(segment{flags: ack, data: k.data(50)}),
				} {
					p.tos = dscp<<2 | inner
					now, passed := rfc6040(inner, outer)
					one := probe{send: p.bytes()}
					if passed {
						p.tos = dscp<<2 | now
						one.want = [][]byte{hop4(one.send, p.tos)}
					}
					all = append(all, one)
				}
			}
		}
		return all
	}
}

// hop4 is a packet after two hops with another traffic class.
func hop4(raw []byte, tos byte) []byte {
	b := hop(raw, 2)
	if b[0]>>4 == 6 {
		b[0], b[1] = 0x60|tos>>4, tos<<4|b[1]&15
		return b
	}
	b[1] = tos
	b[10], b[11] = 0, 0
	binary.BigEndian.PutUint16(b[10:], ^sum(0, b[:int(b[0]&15)*4]))
	return b
}

// options are IP options that a router hands on, and extension headers.
func options(k *kit) []probe {
	if k.v4() {
		return k.options4()
	}
	return k.options6()
}

func (k *kit) options4() []probe {
	var all []probe
	for _, o := range [][]byte{
		{1, 1, 1, 1},
		{1, 1, 1, 0},
		{0, 0, 0, 0},
		{148, 4, 0, 0},                          // router alert
		{222, 6, 1, 2, 3, 4, 0, 0},              // unknown
		{130, 11, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0}, // security
		append([]byte{222, 40}, k.data(38)...),  // as large as they get
	} {
		for _, size := range []int{0, 1, 700, 1300} {
			p := k.packet(protoUDP)
			p.options = o
			p.body = udp(p, [2]uint16{4000, 5000}, k.data(size))
			all = append(all, passes(p))
			p = k.tcp(segment{flags: ack | psh, data: k.data(size)})
			p.options = o
			all = append(all, passes(p))
		}
	}
	return all
}

func (k *kit) options6() []probe {
	var all []probe
	for _, first := range []byte{protoHopByHop, protoDestOpts} {
		for _, o := range [][]byte{ // length in eight bytes, less one; then options
			{0, 1, 4, 0, 0, 0, 0},
			{0, 1, 0, 1, 2, 0, 0}, // seven times Pad1 would be refused by Linux
			{1, 30, 4, 1, 2, 3, 4, 1, 1, 0, 30, 3, 9, 9, 9},
		} {
			for _, size := range []int{0, 1, 700, 1300} {
				p := k.packet(protoUDP)
				p.first, p.options = first, append([]byte{protoUDP}, o...)
				p.body = udp(p, [2]uint16{4000, 5000}, k.data(size))
				all = append(all, passes(p))
			}
		}
	}
	return all
}

// echo is the type of an echo request.
func echo(k *kit) byte {
	if k.v4() {
		return 8
	}
	return 128
}

func (k *kit) message(kind [2]byte, data []byte) packet {
	p := k.packet(protoICMP)
	p.body = icmp(p, kind, 0x00010002, data)
	return p
}

// messages are ICMP of all kinds between the ends, errors included: routers hand
// them on.
func messages(k *kit) []probe {
	var all []probe
	inner := k.udp([2]uint16{5000, 4000}, 100)
	inner.from, inner.to = k.ends[1], k.ends[0]
	for kind := range 256 {
		if !k.v4() && kind >= 130 && kind <= 137 {
			continue // neighbour discovery stays on its link
		}
		for _, code := range []byte{0, 1, 4, 15} {
			all = append(all, passes(k.message([2]byte{byte(kind), code}, inner.bytes())))
		}
	}
	for n := 0; n <= 1200; n += k.choose(7, 101) {
		all = append(all, passes(k.message([2]byte{echo(k), 0}, k.data(n))))
	}
	return all
}

// tooLarge are packets that do not fit the tunnel and must not be cut.
func tooLarge(k *kit) []probe {
	var all []probe
	kind := [2]byte{3, 4}
	if !k.v4() {
		kind = [2]byte{2, 0}
	}
	for _, more := range []int{1, 2, 8, 100, 1000, 5000} {
		p := k.udp([2]uint16{4000, 5000}, 0)
		p.body = udp(p, [2]uint16{4000, 5000}, k.data(k.mtu+more-p.headerLen()-8))
		if len(p.bytes()) > 9000 {
			continue
		}
		raw := p.bytes()
		all = append(all, probe{send: raw, back: &answer{from: k.homes[0], kind: kind, mtu: uint32(k.mtu), quote: raw}})
	}
	return all
}

// cut are packets that do not fit and may be cut.
func cut(k *kit) []probe {
	if !k.v4() {
		return nil
	}
	var all []probe
	for _, size := range []int{k.mtu + 1, k.mtu + 9, 2 * k.mtu, 4000, 8999} {
		if size > 8999 || size <= k.mtu {
			continue
		}
		p := k.packet(protoUDP)
		p.df = false
		p.body = udp(p, [2]uint16{4000, 5000}, k.data(size-28))
		all = append(all, passes(p))
	}
	return all
}

// nobody is a destination that no host has.
func nobody(k *kit) []probe {
	kind := [2]byte{3, 0}
	if !k.v4() {
		kind = [2]byte{1, 0}
	}
	var all []probe
	for _, size := range []int{0, 1, 100, 1200} {
		p := k.packet(protoUDP)
		p.to = k.nobody
		p.body = udp(p, [2]uint16{4000, 5000}, k.data(size))
		raw := p.bytes()
		all = append(all, probe{send: raw, back: &answer{from: k.homes[0], kind: kind, quote: hop(raw, 1)}})
	}
	return all
}

// forwards says whether flannel-ng answers for the tunnel itself; VXLAN's
// answers are the kernel's, and others.
func forwards(s stage) bool { return s.from.tunnel.header == 0 }

// pathMTU is what a router between the hosts lets through, in bytes.
const pathMTU = 1400

// fit is the largest packet that fits the small path.
func (k *kit) fit() int { return pathMTU - k.tunnel.overhead.At(k.family) }

// smallPath are packets that must not be cut where the path between the hosts
// is smaller than their links.
func smallPath(k *kit) []probe {
	kind := [2]byte{3, 4}
	if !k.v4() {
		kind = [2]byte{2, 0}
	}
	var all []probe
	// The first one may be what tells the host of the path, so it is too large.
	for _, size := range []int{k.fit() + 1, k.fit() + 1, k.fit(), k.fit() - 1, k.fit() + 8, k.mtu, 100} {
		p := k.udp([2]uint16{4000, 5000}, size-k.packet(protoUDP).headerLen()-8)
		one := passes(p)
		if size > k.fit() {
			one.want = nil
			one.back = &answer{from: k.homes[0], kind: kind, mtu: uint32(k.fit()), quote: hop(one.send, 1)}
		}
		all = append(all, one)
	}
	return all
}

// smallPathCut are packets that may be cut there.
func smallPathCut(k *kit) []probe {
	if !k.v4() {
		return nil
	}
	var all []probe
	for _, size := range []int{k.fit() + 1, k.fit() - 1, k.mtu, k.fit() + 9} {
		p := k.packet(protoUDP)
		p.df = false
		p.body = udp(p, [2]uint16{4000, 5000}, k.data(size-28))
		all = append(all, passes(p))
	}
	return all
}
