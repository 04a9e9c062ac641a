package torture

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
)

// view is what is read from a packet that arrived.
type view struct {
	from, to netip.Addr
	tos, ttl byte
	proto    byte   // of the body
	id       uint32 // of a fragment
	offset   int
	more     bool
	body     []byte
}

var errPacket = errors.New("no IP packet")

// parse reads an IP packet whose length is that of raw, and whose IPv4 header
// sums up.
func parse(raw []byte) (view, error) {
	if len(raw) >= 20 && raw[0]>>4 == 4 {
		return parse4(raw)
	}
	if len(raw) >= 40 && raw[0]>>4 == 6 {
		return parse6(raw)
	}
	return view{}, fmt.Errorf("%w: %d bytes", errPacket, len(raw))
}

func parse4(raw []byte) (view, error) {
	head := int(raw[0]&15) * 4
	if head < 20 || len(raw) < head || int(binary.BigEndian.Uint16(raw[2:])) != len(raw) {
		return view{}, fmt.Errorf("%w: header of %d bytes, says %d, has %d", errPacket, head, binary.BigEndian.Uint16(raw[2:]), len(raw))
	}
	if sum(0, raw[:head]) != 0xffff {
		return view{}, fmt.Errorf("%w: wrong header checksum", errPacket)
	}
	flags := binary.BigEndian.Uint16(raw[6:])
	return view{
		from: netip.AddrFrom4([4]byte(raw[12:])), to: netip.AddrFrom4([4]byte(raw[16:])),
		tos: raw[1], ttl: raw[8], proto: raw[9], id: uint32(binary.BigEndian.Uint16(raw[4:])),
		offset: int(flags&0x1fff) * 8, more: flags&0x2000 != 0, body: raw[head:],
	}, nil
}

func parse6(raw []byte) (view, error) {
	if int(binary.BigEndian.Uint16(raw[4:]))+40 != len(raw) {
		return view{}, fmt.Errorf("%w: says %d, has %d", errPacket, binary.BigEndian.Uint16(raw[4:])+40, len(raw))
	}
	v := view{
		from: netip.AddrFrom16([16]byte(raw[8:])), to: netip.AddrFrom16([16]byte(raw[24:])),
		tos: raw[0]<<4 | raw[1]>>4, ttl: raw[7], proto: raw[6], body: raw[40:],
	}
	for v.proto == protoHopByHop || v.proto == protoDestOpts || v.proto == protoFragment {
		if len(v.body) < 8 {
			return view{}, fmt.Errorf("%w: short extension header", errPacket)
		}
		length := int(v.body[1])*8 + 8
		if v.proto == protoFragment {
			field := binary.BigEndian.Uint16(v.body[2:])
			v.offset, v.more, length = int(field&^7), field&1 != 0, 8
			v.id = binary.BigEndian.Uint32(v.body[4:])
		}
		if len(v.body) < length {
			return view{}, fmt.Errorf("%w: short extension header", errPacket)
		}
		v.proto, v.body = v.body[0], v.body[length:]
		if v.offset > 0 {
			break // what follows is the middle of something
		}
	}
	return v, nil
}

func (v view) fragment() bool { return v.more || v.offset > 0 }

// summed says whether the checksum of the body is right, or may be left out.
// Fragments and other protocols have none.
func (v view) summed() bool {
	if v.fragment() {
		return true
	}
	switch v.proto {
	case protoUDP:
		none := len(v.body) >= 8 && binary.BigEndian.Uint16(v.body[6:]) == 0
		return none && v.from.Is4() || v.full()
	case protoTCP, protoICMPv6:
		return v.full()
	case protoICMP:
		return sum(0, v.body) == 0xffff
	default:
		return true
	}
}

func (v view) full() bool {
	return sum(pseudo(v.from, v.to, v.proto, len(v.body)), v.body) == 0xffff
}

// puzzle puts fragments together.
type puzzle struct{ pieces map[puzzleKey][]view }

type puzzleKey struct {
	from, to netip.Addr
	id       uint32
}

// add returns the whole body when nothing is missing. IPv4 has the protocol in
// its key (RFC 791); the tests never use one id for two.
func (z *puzzle) add(v view) (body []byte, complete bool) {
	if z.pieces == nil {
		z.pieces = map[puzzleKey][]view{}
	}
	key := puzzleKey{v.from, v.to, v.id}
	z.pieces[key] = append(z.pieces[key], v)
	total, have := -1, 0
	for _, piece := range z.pieces[key] {
		have += len(piece.body)
		if !piece.more {
			total = piece.offset + len(piece.body)
		}
	}
	if total != have {
		return nil, false
	}
	body = make([]byte, total)
	for _, piece := range z.pieces[key] {
		copy(body[piece.offset:], piece.body)
	}
	delete(z.pieces, key)
	return body, true
}
