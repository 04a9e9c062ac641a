package segment_test

import (
	"encoding/binary"
	"math/rand/v2"
	"testing"

	"github.com/flannel-ng/flannel-ng/internal/tunnel/packet"
	"github.com/flannel-ng/flannel-ng/internal/tunnel/segment"
)

const (
	tcp = 6
	udp = 17

	fin, syn, rst, psh, ack, urg, ece, cwr = 1, 2, 4, 8, 16, 32, 64, 128
)

// flow describes the packets of one direction of one connection.
type flow struct {
	v6       bool
	protocol uint8
	port     uint16 // source
	id       uint16 // IPv4 identification
	df       bool
	options  []byte // of TCP, whole words
}

// packet is a whole packet of f, made the slow and obvious way.
func (f flow) packet(seq uint32, flags uint8, payload []byte) []byte {
	var l4 []byte
	if f.protocol == udp {
		l4 = binary.BigEndian.AppendUint16(l4, f.port)
		l4 = binary.BigEndian.AppendUint16(l4, 7000)
		l4 = binary.BigEndian.AppendUint16(l4, uint16(8+len(payload)))
		l4 = append(l4, 0, 0)
	} else {
		l4 = binary.BigEndian.AppendUint16(l4, f.port)
		l4 = binary.BigEndian.AppendUint16(l4, 7000)
		l4 = binary.BigEndian.AppendUint32(l4, seq)
		l4 = binary.BigEndian.AppendUint32(l4, 4711)
		l4 = append(l4, byte(20+len(f.options))<<2, flags)
		l4 = binary.BigEndian.AppendUint16(l4, 512)
		l4 = append(append(l4, 0, 0, 0, 0), f.options...)
	}
	b := f.ip(append(l4, payload...))
	fix(b)
	return b
}

func (f flow) ip(l4 []byte) []byte {
	if f.v6 {
		b := []byte{0x60, 1, 2, 3}
		b = binary.BigEndian.AppendUint16(b, uint16(len(l4)))
		b = append(b, f.protocol, 63)
		for _, last := range []byte{1, 2} {
			b = append(b, 0xfd, 0, 0, 5, 0, last, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9)
		}
		return append(b, l4...)
	}
	b := []byte{0x45, 0}
	b = binary.BigEndian.AppendUint16(b, uint16(20+len(l4)))
	b = binary.BigEndian.AppendUint16(b, f.id)
	b = append(b, 0, 0, 63, f.protocol, 0, 0, 10, 5, 1, 9, 10, 5, 2, 9)
	if f.df {
		b[6] = 0x40
	}
	return append(b, l4...)
}

// sum is RFC 1071, byte by byte.
func sum(parts ...[]byte) uint16 {
	var total uint32
	at := 0
	for _, p := range parts {
		for _, x := range p {
			total += uint32(x) << (8 * (1 - at%2))
			total = total>>16 + total&0xffff
			at++
		}
	}
	return ^uint16(total)
}

// transport finds the checksum field of an unextended packet, and computes what
// must be there.
func transport(b []byte) (field []byte, right uint16) {
	head, addresses, protocol := 20, b[12:20], b[9]
	if b[0]>>4 == 6 {
		head, addresses, protocol = 40, b[8:40], b[6]
	}
	l4 := b[head:]
	at := 16
	if protocol == udp {
		at = 6
	}
	field = l4[at : at+2]
	was := [2]byte(field)
	clear(field)
	pseudo := binary.BigEndian.AppendUint32(nil, uint32(len(l4)))
	right = sum(addresses, append(pseudo, 0, 0, 0, protocol), l4)
	if right == 0 && protocol == udp {
		right = 0xffff
	}
	copy(field, was[:])
	return field, right
}

// fix sets all checksums of b.
func fix(b []byte) {
	if b[0]>>4 == 4 {
		clear(b[10:12])
		binary.BigEndian.PutUint16(b[10:], sum(b[:20]))
	}
	field, right := transport(b)
	binary.BigEndian.PutUint16(field, right)
}

// valid fails if b is not a packet that a kernel would accept.
func valid(t *testing.T, b []byte) packet.Header {
	t.Helper()
	h, err := packet.Parse(b)
	if err != nil {
		t.Fatalf("%x: %v", b[:min(60, len(b))], err)
	}
	if field, right := transport(b); binary.BigEndian.Uint16(field) != right {
		t.Fatalf("checksum %x, want %x", field, right)
	}
	return h
}

// about is struct virtio_net_hdr in words.
type about struct {
	flags, gso                    uint8
	length, size, start, checksum uint16
}

func (a about) bytes() []byte {
	b := []byte{a.flags, a.gso}
	for _, n := range []uint16{a.length, a.size, a.start, a.checksum} {
		b = binary.NativeEndian.AppendUint16(b, n)
	}
	return b
}

// super is what the device gives for a packet of f that is to be cut.
func (f flow) super(seq uint32, flags uint8, payload []byte, size int) []byte {
	a := about{flags: 1, gso: 1, size: uint16(size), start: 20, checksum: 16, length: uint16(40 + len(f.options))}
	if f.v6 {
		a.gso, a.start, a.length = 4, 40, a.length+20
	}
	if f.protocol == udp {
		a.gso, a.checksum, a.length = 5, 6, a.start+8
	}
	b := f.packet(seq, flags, payload)
	f.leave(b)
	return append(a.bytes(), b...)
}

// leave leaves the checksum of b to whoever comes next, as the kernel does: with
// the sum of the pseudo header.
func (f flow) leave(b []byte) {
	field, _ := transport(b)
	pseudo := binary.BigEndian.AppendUint32(nil, uint32(len(b)-f.head()))
	binary.BigEndian.PutUint16(field, ^sum(f.addresses(b), append(pseudo, 0, 0, 0, f.protocol)))
}

func (f flow) head() int {
	if f.v6 {
		return 40
	}
	return 20
}

func (f flow) addresses(b []byte) []byte {
	if f.v6 {
		return b[8:40]
	}
	return b[12:20]
}

// cut gives the packets that a frame from the device stands for.
func cut(t *testing.T, frame []byte) [][]byte {
	t.Helper()
	h, err := packet.Parse(frame[segment.HeaderSize:])
	if err != nil {
		t.Fatal(err)
	}
	s, err := segment.Read(frame, h)
	if err != nil {
		t.Fatal(err)
	}
	return segments(&s)
}

func segments(s *segment.Super) [][]byte {
	if b, ok := s.Whole(); ok {
		return [][]byte{b}
	}
	var out [][]byte
	for i := range s.Count() {
		head := make([]byte, s.HeaderLength())
		rest := s.Segment(i, head)
		out = append(out, append(head, rest...))
	}
	return out
}

func text(r *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}
