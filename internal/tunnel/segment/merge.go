package segment

import (
	"bytes"
	"encoding/binary"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/tunnel/checksum"
	"github.com/flannel-ng/flannel-ng/internal/tunnel/packet"
)

const (
	// maxDatagrams is how many segments the kernel takes in a super-packet of
	// UDP (UDP_MAX_SEGMENTS before Linux 6.9).
	maxDatagrams = 64
	// flows is how many may be open at once. More close each other: that costs
	// speed and nothing else.
	flows = 256

	moreOrOffset = 0x3fff // in the word of flags and offset of an IPv4 header
	dontFragment = 0x4000
	reserved     = 0x8000
)

// Merger joins the packets of one batch. Packets of one flow leave in the
// order they came in.
type Merger struct {
	// Datagrams is whether UDP is joined too: the device may not take it.
	Datagrams bool

	items  []item
	pieces []piece
	open   [flows]int // by hash of the flow: one more than its place in items

	heads []byte // of the last frame
	parts [][]byte
}

// piece is one packet of an item.
type piece struct {
	b    []byte
	next int // place in pieces; 0: the last
}

// item is a packet, or several that are one.
type item struct {
	segment
	first, last int // places in pieces
	count       int
	bytes       int    // of payload, of all
	end         uint32 // sequence number behind it, for TCP
	final       uint8  // flags of the last packet, for TCP
	growing     bool   // nothing stands against another packet so far
	right       bool   // the checksum of the first is
	fixed       bool   // all have one identification
}

// segment is a packet of a known flow.
type segment struct {
	b      []byte
	family addr.Family
	ip     int // length of the IP header
	head   int // with that of the transport
	transport
}

func (s *segment) payload() int   { return len(s.b) - s.head }
func (s *segment) l4() []byte     { return s.b[s.ip:s.head] }
func (s *segment) ports() []byte  { return s.b[s.ip : s.ip+4] }
func (s *segment) flags() uint8   { return s.b[s.ip+13] }
func (s *segment) number() uint32 { return binary.BigEndian.Uint32(s.b[s.ip+4:]) }

// NewMerger makes one that is empty.
func NewMerger() *Merger {
	m := new(Merger)
	m.Reset()
	return m
}

// Len is the number of frames so far.
func (m *Merger) Len() int { return len(m.items) }

// Reset forgets all packets and frames.
func (m *Merger) Reset() {
	m.items = m.items[:0]
	m.pieces = append(m.pieces[:0], piece{}) // so that 0 is none
	clear(m.open[:])
}

// Add takes one packet, whose header is h. b must stay as it is until Reset.
func (m *Merger) Add(b []byte, h packet.Header) {
	s, ok := read(b, h)
	if !ok {
		// It may belong to any flow, as a fragment does: none may pass it.
		clear(m.open[:])
		m.append(s)
		return
	}
	at := &m.open[s.hash()]
	if *at > 0 && m.join(&m.items[*at-1], &s) {
		return
	}
	m.append(s)
	*at = len(m.items) // whoever was there is out of reach: nothing passes s
}

// read understands b. False: it is of no known flow.
func read(b []byte, h packet.Header) (segment, bool) {
	s := segment{b: b, family: h.Family, ip: h.Length}
	if h.Family == addr.IPv4 {
		if h.Length != packet.IPv4Header || binary.BigEndian.Uint16(b[6:])&(moreOrOffset|reserved) != 0 {
			return s, false
		}
	} else if h.Length != packet.IPv6Header {
		return s, false
	}
	var err error
	if s.transport, err = transportOf(h.Family, h.Protocol); err != nil {
		return s, false
	}
	length, ok := s.headerLength(b[h.Length:])
	if ok {
		s.head = h.Length + length
	}
	return s, ok
}

// hash is that of the flow.
func (s *segment) hash() uint32 {
	a := addresses(s.b, s.family)
	half := len(a) / 2
	x := binary.LittleEndian.Uint32(s.ports())
	x ^= binary.LittleEndian.Uint32(a[half-4:]) * 0x9e3779b1
	x ^= binary.LittleEndian.Uint32(a[len(a)-4:]) * 0x85ebca6b
	x *= 0xc2b2ae35
	return (x ^ x>>16 ^ x>>24) % flows
}

// append starts an item.
func (m *Merger) append(s segment) {
	m.pieces = append(m.pieces, piece{b: s.b})
	it := item{segment: s, first: len(m.pieces) - 1, last: len(m.pieces) - 1, count: 1}
	if it.growing = m.mergeable(&s); it.growing {
		it.bytes = s.payload()
		if s.protocol == protoTCP {
			it.end, it.final = s.number()+uint32(it.bytes), s.flags() //nolint:gosec // below maxPacket
			it.growing = it.final&(flagFIN|flagPSH) == 0
		}
	}
	m.items = append(m.items, it)
}

// mergeable says whether s could be a part of something larger at all.
func (m *Merger) mergeable(s *segment) bool {
	if s.head == 0 || s.payload() == 0 {
		return false
	}
	if s.protocol == protoTCP {
		return s.flags()&(flagSYN|flagRST|flagURG|flagCWR) == 0
	}
	u := s.l4()
	return m.Datagrams && int(binary.BigEndian.Uint16(u[4:])) == len(s.b)-s.ip && binary.BigEndian.Uint16(u[udpChecksum:]) != 0
}

// join makes s the last part of it, if a kernel that cuts it again would make
// s of it. Otherwise it is closed.
func (m *Merger) join(it *item, s *segment) bool {
	if !it.growing || !it.sameFlow(s) {
		return false
	}
	it.growing = false
	if !m.mergeable(s) || !it.follows(s) || !it.verified() || !s.verify() {
		return false
	}
	m.pieces = append(m.pieces, piece{b: s.b})
	m.pieces[it.last].next = len(m.pieces) - 1
	it.last = len(m.pieces) - 1
	it.count++
	it.bytes += s.payload()
	it.growing = s.payload() == it.payload()
	if s.protocol == protoTCP {
		it.end, it.final = s.number()+uint32(s.payload()), s.flags() //nolint:gosec // below maxPacket
		it.growing = it.growing && it.final&(flagFIN|flagPSH) == 0
	}
	return true
}

func (it *item) sameFlow(s *segment) bool {
	return it.family == s.family && it.protocol == s.protocol && bytes.Equal(it.ports(), s.ports()) &&
		bytes.Equal(addresses(it.b, it.family), addresses(s.b, s.family))
}

// follows says whether s may stand behind it.
func (it *item) follows(s *segment) bool {
	if s.head != it.head || s.payload() > it.payload() || it.head+it.bytes+s.payload() > maxPacket || !it.likeIP(s) {
		return false
	}
	if s.protocol == protoUDP {
		return it.count < maxDatagrams
	}
	a, b := it.l4(), s.l4()
	const atEnd = flagFIN | flagPSH
	return s.number() == it.end &&
		bytes.Equal(a[8:13], b[8:13]) && // acknowledgement, length
		a[13]&^atEnd == b[13]&^atEnd &&
		bytes.Equal(a[14:16], b[14:16]) && // window
		bytes.Equal(a[18:20], b[18:20]) && // urgent pointer, which means nothing
		bytes.Equal(a[minTCP:], b[minTCP:])
}

// likeIP compares the IP headers: all but lengths and checksum must be equal.
// The identification may count, or be one if nobody may fragment (RFC 6864):
// the kernel's receive offload allows the same.
func (it *item) likeIP(s *segment) bool {
	a, b := it.b, s.b
	if it.family == addr.IPv6 {
		return [4]byte(a[:4]) == [4]byte(b[:4]) && a[7] == b[7]
	}
	if a[1] != b[1] || a[6] != b[6] || a[7] != b[7] || a[8] != b[8] {
		return false
	}
	step := binary.BigEndian.Uint16(b[4:]) - binary.BigEndian.Uint16(a[4:])
	if it.count == 1 {
		it.fixed = step == 0 && binary.BigEndian.Uint16(a[6:])&dontFragment != 0
	}
	if it.fixed {
		return step == 0
	}
	return step == uint16(it.count) //nolint:gosec // at most maxPacket
}

// verified sums the first packet once.
func (it *item) verified() bool {
	it.right = it.right || it.verify()
	return it.right
}

// verify says whether the transport checksum is right.
func (s *segment) verify() bool {
	rest := s.b[s.ip:]
	return checksum.Sum(rest, checksum.Pseudo(addresses(s.b, s.family), s.protocol, len(rest))) == 0xffff
}
