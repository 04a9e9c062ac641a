package segment

import (
	"encoding/binary"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/tunnel/checksum"
	"github.com/flannel-ng/flannel-ng/internal/tunnel/packet"
)

// Frame is what is to be written to the device, in parts. It is good until the
// next one is made.
type Frame struct {
	Parts   [][]byte
	Packets int // joined in it
	Bytes   int // of these packets
}

// Frame gives item i. A packet that stayed alone is as it came.
func (m *Merger) Frame(i int) Frame {
	it := &m.items[i]
	if it.count == 1 {
		return m.Single(it.b)
	}
	m.heads = append(m.heads[:0], make([]byte, HeaderSize)...)
	m.heads = append(m.heads, it.b[:it.head]...)
	it.describe(m.heads)
	m.parts = append(m.parts[:0], m.heads)
	f := Frame{Packets: it.count, Bytes: it.bytes + it.count*it.head}
	for p := it.first; p != 0; p = m.pieces[p].next {
		m.parts = append(m.parts, m.pieces[p].b[it.head:])
	}
	f.Parts = m.parts
	return f
}

// Single is the frame of a packet as it is.
func (m *Merger) Single(b []byte) Frame {
	m.heads = append(m.heads[:0], make([]byte, HeaderSize)...)
	m.parts = append(m.parts[:0], m.heads, b)
	return Frame{Parts: m.parts, Packets: 1, Bytes: len(b)}
}

// Packets calls yield with each packet that item i has been made of.
func (m *Merger) Packets(i int, yield func(b []byte)) {
	for p := m.items[i].first; p != 0; p = m.pieces[p].next {
		yield(m.pieces[p].b)
	}
}

// describe turns a copy of the first packet's headers into those of the whole.
// The checksum is left to the kernel, or to the offload of a device.
func (it *item) describe(frame []byte) {
	header{
		flags: needsChecksum, gso: it.gso, length: it.head, size: it.payload(),
		start: it.ip, offset: it.checksum,
	}.put(frame)
	b := frame[HeaderSize:]
	total := it.head + it.bytes
	if it.family == addr.IPv4 {
		binary.BigEndian.PutUint16(b[2:], uint16(total)) //nolint:gosec // at most maxPacket
		binary.BigEndian.PutUint16(b[10:], 0)
		binary.BigEndian.PutUint16(b[10:], ^checksum.Sum(b[:it.ip], 0))
	} else {
		binary.BigEndian.PutUint16(b[4:], uint16(total-packet.IPv6Header)) //nolint:gosec // the same
	}
	transport := b[it.ip:]
	if it.protocol == protoTCP {
		transport[13] |= it.final
	} else {
		binary.BigEndian.PutUint16(transport[4:], uint16(total-it.ip)) //nolint:gosec // the same
	}
	sum := checksum.Pseudo(addresses(b, it.family), it.protocol, total-it.ip)
	binary.BigEndian.PutUint16(transport[it.checksum:], sum)
}
