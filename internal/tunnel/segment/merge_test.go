package segment_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/flannel-ng/flannel-ng/internal/tunnel/packet"
	"github.com/flannel-ng/flannel-ng/internal/tunnel/segment"
)

// merge joins packets and gives the frames.
func merge(t *testing.T, packets ...[]byte) [][]byte {
	t.Helper()
	m := segment.NewMerger()
	m.Datagrams = true
	return frames(t, m, packets...)
}

func frames(t *testing.T, m *segment.Merger, packets ...[]byte) [][]byte {
	t.Helper()
	m.Reset()
	for _, b := range packets {
		h, err := packet.Parse(b)
		if err != nil {
			t.Fatal(err)
		}
		m.Add(b, h)
	}
	var out [][]byte
	var count, size int
	for i := range m.Len() {
		f := m.Frame(i)
		out = append(out, bytes.Join(f.Parts, nil))
		count += f.Packets
		size += f.Bytes
		m.Packets(i, func(b []byte) { size -= len(b) })
	}
	if count != len(packets) || size != 0 {
		t.Fatalf("%d packets and %d bytes too many counted, of %d", count, size, len(packets))
	}
	return out
}

// Cutting what was joined, and joining what was cut, changes nothing.
func TestIdentity(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	for _, f := range flows() {
		for _, c := range []struct{ bytes, size int }{{2, 1}, {100, 33}, {99, 33}, {2920, 1460}, {40000, 1447}, {61, 60}} {
			if f.protocol == udp && c.bytes/c.size > 63 {
				continue
			}
			t.Run(fmt.Sprintf("%+v %+v", f, c), func(t *testing.T) {
				payload := text(r, c.bytes)
				packets := f.expected(0xfffffff0, ack|psh, payload, c.size)
				joined := merge(t, packets...)
				if len(joined) != 1 {
					t.Fatalf("%d frames", len(joined))
				}
				if again := cut(t, joined[0]); !equal(again, packets) {
					t.Error("cut again, the packets are others")
				}
				// It is what the device gives for the same data.
				super := f.super(0xfffffff0, ack|psh, payload, c.size)
				if !bytes.Equal(joined[0], super) {
					t.Errorf("joined\n%x\nwant\n%x", joined[0][:80], super[:80])
				}
			})
		}
	}
}

func equal(a, b [][]byte) bool { return slices.EqualFunc(a, b, bytes.Equal) }

// Two packets are joined or not, and why not.
func TestJoins(t *testing.T) {
	four := flow{protocol: tcp, port: 1, id: 7, df: true}
	six := flow{v6: true, protocol: tcp, port: 1}
	dgram := flow{protocol: udp, port: 1, id: 7}
	full, less := make([]byte, 100), make([]byte, 60)
	next := func(f flow) flow { f.id++; return f }
	change := func(b []byte, at int, to byte) []byte {
		b = bytes.Clone(b)
		b[at] = to
		fix(b)
		return b
	}
	wrong := func(b []byte) []byte {
		b = bytes.Clone(b)
		b[len(b)-1] ^= 1
		return b
	}
	first, second := four.packet(1, ack, full), next(four).packet(101, ack, full)
	first6, second6 := six.packet(1, ack, full), six.packet(101, ack, full)
	dgram1, dgram2 := dgram.packet(0, 0, full), next(dgram).packet(0, 0, full)
	atomic := flow{protocol: udp, port: 1, df: true}
	for _, c := range []struct {
		name   string
		a, b   []byte
		joined bool
	}{
		{"TCP over IPv4", first, second, true},
		{"TCP over IPv6", first6, second6, true},
		{"UDP", dgram1, dgram2, true},
		{"last one smaller", first, next(four).packet(101, ack, less), true},
		{"last one pushed", first, next(four).packet(101, ack|psh, full), true},
		{"last one ends", first, next(four).packet(101, ack|fin, full), true},
		{"atomic datagrams of one identification", atomic.packet(0, 0, full), atomic.packet(0, 0, full), true},
		{"first one pushed", four.packet(1, ack|psh, full), second, false},
		{"second one larger", four.packet(1, ack, less), next(four).packet(61, ack, full), false},
		{"gap", first, next(four).packet(102, ack, full), false},
		{"again", first, next(four).packet(1, ack, full), false},
		{"no payload", first, next(four).packet(101, ack, nil), false},
		{"first without payload", four.packet(1, ack, nil), next(four).packet(1, ack, full), false},
		{"other flags", first, next(four).packet(101, ack|ece, full), false},
		{"reset", first, next(four).packet(101, ack|rst, full), false},
		{"urgent", four.packet(1, ack|urg, full), next(four).packet(101, ack|urg, full), false},
		{"synchronized", four.packet(1, syn, full), next(four).packet(101, syn, full), false},
		{"window reduced", first, next(four).packet(101, ack|cwr, full), false},
		{"other acknowledgement", first, change(second, 20+11, 9), false},
		{"other window", first, change(second, 20+15, 9), false},
		{"other options", first, flow{protocol: tcp, port: 1, id: 8, df: true, options: []byte{1, 1, 1, 1}}.packet(101, ack, full), false},
		{"other port", first, flow{protocol: tcp, port: 2, id: 8, df: true}.packet(101, ack, full), false},
		{"other TOS", first, change(second, 1, 2), false},
		{"other TTL", first, change(second, 8, 9), false},
		{"other DF", first, change(second, 6, 0), false},
		{"reserved flag", change(first, 6, 0xc0), change(second, 6, 0xc0), false},
		{"identification jumps", first, change(second, 5, 9), false},
		{"identification stays, fragments allowed", dgram1, dgram.packet(0, 0, full), false},
		{"other source", first, change(second, 15, 8), false},
		{"other flow label", first6, change(second6, 3, 9), false},
		{"other hop limit", first6, change(second6, 7, 9), false},
		{"second one damaged", first, wrong(second), false},
		{"first one damaged", wrong(first), second, false},
		{"second datagram damaged", dgram1, wrong(dgram2), false},
		{"datagrams without checksum", bare(dgram1), bare(dgram2), false},
		{"other protocol", first, dgram2, false},
		{"other family", first, second6, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := merge(t, c.a, c.b)
			if (len(got) == 1) != c.joined {
				t.Errorf("%d frames", len(got))
			}
			for i, want := range [][]byte{c.a, c.b} {
				if !c.joined && !bytes.Equal(got[i], append(about{}.bytes(), want...)) {
					t.Errorf("packet %d was changed", i)
				}
			}
		})
	}
}

// bare is a datagram whose sender computed no checksum.
func bare(b []byte) []byte {
	b = bytes.Clone(b)
	field, _ := transport(b)
	clear(field)
	return b
}

func TestLimits(t *testing.T) {
	f := flow{protocol: udp, port: 1}
	var many [][]byte
	for range 65 {
		many = append(many, f.packet(0, 0, []byte("x")))
		f.id++
	}
	if got := merge(t, many...); len(got) != 2 {
		t.Errorf("65 datagrams are %d frames", len(got))
	}
	m := segment.NewMerger()
	if got := frames(t, m, many...); len(got) != 65 {
		t.Errorf("not to be joined, they are %d frames", len(got))
	}
	g := flow{protocol: tcp, port: 1}
	var large [][]byte
	for i := range 3 {
		large = append(large, g.packet(uint32(30000*i), ack, make([]byte, 30000)))
		g.id++
	}
	got := merge(t, large...)
	if len(got) != 2 || len(got[0]) != 10+40+60000 {
		t.Errorf("90,000 bytes are %d frames", len(got))
	}
}

// Whatever comes in whatever order: each packet leaves once, unchanged, and
// those of a flow in the order they came in.
func TestOrder(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 8))
	for range 300 {
		var packets [][]byte
		seq, number := map[int]uint32{}, map[int]uint16{}
		for range 200 {
			packets = append(packets, anyPacket(r, seq, number))
		}
		var got [][]byte
		for _, frame := range merge(t, packets...) {
			got = append(got, cut(t, frame)...)
		}
		if len(got) != len(packets) {
			t.Fatalf("%d packets of %d", len(got), len(packets))
		}
		in, out := byFlow(packets), byFlow(got)
		for k := range in {
			if !equal(in[k], out[k]) {
				t.Fatalf("flow %x differs", k)
			}
		}
	}
}

// anyPacket goes on with a random flow, most of the time as it should.
func anyPacket(r *rand.Rand, seq map[int]uint32, number map[int]uint16) []byte {
	n := r.IntN(6)
	f := flow{v6: n%2 == 0, protocol: tcp, port: uint16(n), id: number[n]}
	if n >= 4 {
		f.protocol = udp
	}
	payload := text(r, []int{100, 100, 100, 100, 40, 0}[r.IntN(6)])
	flags := uint8(ack)
	if r.IntN(10) == 0 {
		flags |= []uint8{psh, fin, syn, rst, urg, ece, cwr}[r.IntN(7)]
	}
	b := f.packet(seq[n], flags, payload)
	seq[n] += uint32(len(payload))
	number[n]++
	switch r.IntN(20) {
	case 0:
		b[len(b)-1] ^= 0x10 // damaged
	case 1:
		seq[n]++ // a gap comes
	case 2:
		if !f.v6 && len(b) > 28 { // a first fragment
			b[6] |= 0x20
			h := bytes.Clone(b[:20])
			clear(h[10:12])
			b[10], b[11] = byte(sum(h)>>8), byte(sum(h))
		}
	}
	return b
}

// byFlow sorts packets by addresses and ports, fragments to their flow.
func byFlow(packets [][]byte) map[string][][]byte {
	out := map[string][][]byte{}
	for _, b := range packets {
		k := fmt.Sprintf("%x", b[12:24])
		if b[0]>>4 == 6 {
			k = fmt.Sprintf("%x", b[8:44])
		}
		out[k] = append(out[k], b)
	}
	return out
}

// More flows than there is room for only cost speed.
func TestManyFlows(t *testing.T) {
	var packets [][]byte
	for round := range 3 {
		for n := range 4 * segment.Open {
			f := flow{protocol: tcp, port: uint16(n), id: uint16(round)}
			packets = append(packets, f.packet(uint32(100*round), ack, make([]byte, 100)))
		}
	}
	var got [][]byte
	for _, frame := range merge(t, packets...) {
		got = append(got, cut(t, frame)...)
	}
	in, out := byFlow(packets), byFlow(got)
	for k := range in {
		if !equal(in[k], out[k]) {
			t.Fatalf("flow %x differs", k)
		}
	}
}

func FuzzMerge(f *testing.F) {
	for _, flow := range flows() {
		f.Add(flow.packet(1, ack, make([]byte, 30)), flow.packet(31, ack, make([]byte, 30)))
	}
	f.Fuzz(func(t *testing.T, a, b []byte) {
		m := segment.NewMerger()
		m.Datagrams = true
		want := map[string]int{}
		for _, p := range [][]byte{a, b, a} {
			h, err := packet.Parse(p)
			if err != nil {
				continue
			}
			m.Add(p, h)
			want[same(p)]++
		}
		for i := range m.Len() {
			for _, p := range cut(t, bytes.Join(m.Frame(i).Parts, nil)) {
				want[same(p)]--
			}
		}
		for p, n := range want {
			if n != 0 {
				t.Fatalf("%x: %d too few", p, n)
			}
		}
	})
}

// same is b without what may change: the identification of a packet that nobody
// may fragment (RFC 6864), and which of its two zeros a checksum is.
func same(b []byte) string {
	b = bytes.Clone(b)
	if b[0]>>4 == 4 && b[6]&0x40 != 0 {
		clear(b[4:6])
		clear(b[10:12])
	}
	head := 40
	if b[0]>>4 == 4 {
		head = 20
	}
	if protocol := map[int]byte{20: b[9], 40: b[6]}[head]; protocol == tcp && len(b) >= head+18 {
		if field := b[head+16 : head+18]; field[0] == 0xff && field[1] == 0xff {
			clear(field)
		}
	}
	return string(b)
}

func BenchmarkMerge(b *testing.B) {
	f := flow{protocol: tcp, port: 1}
	packets := f.expected(1, ack, make([]byte, 44*1420), 1420)
	m := segment.NewMerger()
	b.SetBytes(44 * 1420)
	for b.Loop() {
		for _, p := range packets {
			h, _ := packet.Parse(p)
			m.Add(p, h)
		}
		m.Frame(0)
		m.Reset()
	}
}
