package packet

import (
	"encoding/binary"
	"errors"
	"slices"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/tunnel/checksum"
)

// The reasons not to fragment a packet.
var (
	ErrDontFragment = errors.New("packet may not be fragmented")
	ErrMTU          = errors.New("MTU has no room for a fragment")
)

// maxPacket is the most that the length field of IPv4 can say, in bytes.
const maxPacket = 0xffff

// The 16 bits of flags and offset of an IPv4 header (RFC 791 §3.1).
const (
	dontFragment  = 1 << 14
	moreFragments = 1 << 13
	offsetMask    = 1<<13 - 1 // in units of eight bytes
)

// Fragment cuts an IPv4 packet into packets of at most mtu bytes (RFC 791
// §3.2). What fits already comes back as it is. A fragment is cut further: its
// parts keep its place in the whole. Errors: those of Parse, ErrDontFragment
// for DF and all IPv6, ErrMTU.
func Fragment(b []byte, mtu int) ([][]byte, error) {
	h, err := Parse(b)
	switch {
	case err != nil:
		return nil, err
	case len(b) <= mtu:
		return [][]byte{b}, nil
	case h.Family != addr.IPv4 || h.DontFragment:
		return nil, ErrDontFragment
	case h.Length+8 > mtu:
		return nil, ErrMTU
	}
	first := b[:h.Length]
	later, err := laterHeader(first)
	if err != nil {
		return nil, err
	}
	field := binary.BigEndian.Uint16(b[6:])
	c := cutter{mtu: mtu, field: field, offset: int(field&offsetMask) * 8}
	if c.offset+len(b) > maxPacket {
		return nil, ErrLength // ends behind the largest packet there is
	}
	head := first
	for rest := b[h.Length:]; len(rest) > 0; head = later {
		rest = rest[c.cut(head, rest):]
	}
	return c.out, nil
}

type cutter struct {
	mtu    int
	field  uint16 // flags and offset of the packet that is cut
	offset int    // of the next part, in bytes
	out    [][]byte
}

// cut makes the next packet from what is left and says how much of it it took.
func (c *cutter) cut(head, rest []byte) int {
	n, field := len(rest), c.field&^offsetMask
	if len(head)+n > c.mtu {
		n, field = (c.mtu-len(head))&^7, field|moreFragments
	}
	p := make([]byte, 0, len(head)+n)
	p = append(append(p, head...), rest[:n]...)
	binary.BigEndian.PutUint16(p[2:], uint16(len(p)))           //nolint:gosec // a part of a packet
	binary.BigEndian.PutUint16(p[6:], field|uint16(c.offset/8)) //nolint:gosec // below maxPacket/8
	binary.BigEndian.PutUint16(p[10:], 0)                       // the checksum does not cover itself
	binary.BigEndian.PutUint16(p[10:], ^checksum.Sum(p[:len(head)], 0))
	c.out = append(c.out, p)
	c.offset += n
	return n
}

// The options of one byte, and the bit of those that every fragment repeats
// (RFC 791 §3.1).
const (
	optionEnd   = 0
	optionNone  = 1
	copiedToAll = 0x80
)

// laterHeader is the header of all fragments but the first: it has only the
// options that are to be copied.
func laterHeader(first []byte) ([]byte, error) {
	out := slices.Clone(first[:IPv4Header])
	options := first[IPv4Header:]
	for len(options) > 0 && options[0] != optionEnd {
		n := 1
		if options[0] != optionNone {
			if len(options) < 2 || options[1] < 2 || int(options[1]) > len(options) {
				return nil, ErrLength
			}
			n = int(options[1])
		}
		if options[0]&copiedToAll != 0 {
			out = append(out, options[:n]...)
		}
		options = options[n:]
	}
	for len(out)%4 != 0 {
		out = append(out, optionEnd)
	}
	out[0] = out[0]&0xf0 | byte(len(out)/4)
	return out, nil
}
