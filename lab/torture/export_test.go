package torture

import "net/netip"

// Fragments cuts an IPv4 or IPv6 datagram with so many bytes of body.
func Fragments(from, to netip.Addr, body []byte, mtu int) [][]byte {
	var raw [][]byte
	for _, p := range fragments(packet{from: from, to: to, ttl: 9, proto: protoTest, id: 7, body: body}, mtu) {
		raw = append(raw, p.bytes())
	}
	return raw
}

// Together puts fragments together again.
func Together(pieces [][]byte) (body []byte, complete bool, err error) {
	var z puzzle
	for _, raw := range pieces {
		v, err := parse(raw)
		if err != nil {
			return nil, false, err
		}
		if body, complete = z.add(v); complete {
			break
		}
	}
	return body, complete, nil
}

// Sums parses a packet and says whether its checksum is right.
func Sums(raw []byte) (bool, error) {
	v, err := parse(raw)
	return err == nil && v.summed(), err
}

// Hop is a packet after so many routers.
func Hop(raw []byte, hops int) []byte { return hop(raw, hops) }

// Combine is what RFC 6040 makes of inner and outer ECN.
func Combine(inner, outer byte) (byte, bool) { return rfc6040(inner, outer) }

// Datagram is a whole UDP packet.
func Datagram(from, to netip.Addr, tos byte, data []byte) []byte {
	p := packet{from: from, to: to, tos: tos, ttl: 64, proto: protoUDP}
	p.body = udp(p, [2]uint16{8285, 8285}, data)
	return p.bytes()
}

// Segment is a whole TCP packet.
func Segment(from, to netip.Addr, options, data []byte) []byte {
	p := packet{from: from, to: to, ttl: 64, proto: protoTCP}
	p.body = segment{seq: 1, flags: ack, options: options, data: data}.bytes(p)
	return p.bytes()
}

// Judge looks at a datagram of the udp tunnel on the wire.
func Judge(raw []byte, mark int) (ours bool, err error) {
	return judge{tunnel: udpTunnel(), mtu: 1500, mark: mark}.look(raw)
}

// Settle says of each arrival whether it was expected, and how many are missing.
func Settle(whole bool, want, got [][]byte) (expected []bool, missing int) {
	l := newLedger(whole)
	for _, w := range want {
		l.expect(w)
	}
	for _, g := range got {
		expected = append(expected, l.settle(g))
	}
	missing, _ = l.missing()
	return expected, missing
}

// Parse must not panic.
func Parse(raw []byte) { _, _ = parse(raw) }
