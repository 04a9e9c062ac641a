package segment_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/flannel-ng/flannel-ng/internal/tunnel/packet"
	"github.com/flannel-ng/flannel-ng/internal/tunnel/segment"
)

// expected are the segments made one by one, as a sender without offload would.
func (f flow) expected(seq uint32, flags uint8, payload []byte, size int) [][]byte {
	var out [][]byte
	for at := 0; at < len(payload); at += size {
		next := f
		next.id += uint16(len(out))
		end, now := min(at+size, len(payload)), flags
		if end < len(payload) {
			now &^= fin | psh
		}
		if at > 0 {
			now &^= cwr
		}
		out = append(out, next.packet(seq+uint32(at), now, payload[at:end]))
	}
	return out
}

func flows() []flow {
	timestamps := []byte{1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8}
	var out []flow
	for _, v6 := range []bool{false, true} {
		out = append(out,
			flow{v6: v6, protocol: tcp, port: 1, id: 7, df: true},
			flow{v6: v6, protocol: tcp, port: 2, id: 0xfffe, options: timestamps},
			flow{v6: v6, protocol: udp, port: 3, id: 9, df: true},
			flow{v6: v6, protocol: udp, port: 4, id: 0xffff})
	}
	return out
}

// Each segment is what a sender without offload would have sent, byte for byte.
func TestCut(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for _, f := range flows() {
		for _, c := range []struct{ bytes, size int }{{1, 1}, {2, 1}, {100, 33}, {99, 33}, {1460, 1460}, {2920, 1460}, {64000, 1447}, {61, 60}} {
			t.Run(fmt.Sprintf("%+v %+v", f, c), func(t *testing.T) {
				payload, flags := text(r, c.bytes), uint8(ack|psh|fin|cwr)
				seq := uint32(0xffffff00) // goes round
				got := cut(t, f.super(seq, flags, payload, c.size))
				want := f.expected(seq, flags, payload, c.size)
				if len(got) != len(want) {
					t.Fatalf("%d segments, want %d", len(got), len(want))
				}
				for i := range got {
					valid(t, got[i])
					if !bytes.Equal(got[i], want[i]) {
						t.Errorf("segment %d:\n%x\nwant\n%x", i, got[i], want[i])
					}
				}
			})
		}
	}
}

// Extension headers, of whatever kind, are those of each segment.
func TestCutBehindExtension(t *testing.T) {
	f := flow{v6: true, protocol: tcp}
	frame := f.super(1, ack, make([]byte, 300), 100)
	plain := frame[segment.HeaderSize:]
	b := append(bytes.Clone(plain[:40]), tcp, 0, 1, 4, 0, 0, 0, 0)
	b = append(b, plain[40:]...)
	b[6] = 0 // hop by hop
	binary.BigEndian.PutUint16(b[4:], uint16(len(b)-40))
	head := about{flags: 1, gso: 4, size: 100, start: 48, checksum: 16}
	for i, got := range cut(t, append(head.bytes(), b...)) {
		if _, err := packet.Parse(got); err != nil || len(got) != 168 {
			t.Fatalf("segment %d of %d bytes: %v", i, len(got), err)
		}
		// Without the extension it is a packet as any.
		without := append(bytes.Clone(got[:40]), got[48:]...)
		without[6] = tcp
		binary.BigEndian.PutUint16(without[4:], uint16(len(without)-40))
		valid(t, without)
	}
}

// The kernel leaves the checksum of a packet that needs no cutting.
func TestFinish(t *testing.T) {
	for _, f := range flows() {
		want := f.packet(1, ack, []byte("odd"))
		b := bytes.Clone(want)
		f.leave(b)
		a := about{flags: 1, start: uint16(f.head()), checksum: 16}
		if f.protocol == udp {
			a.checksum = 6
		}
		got := cut(t, append(a.bytes(), b...))
		if len(got) != 1 || !bytes.Equal(got[0], want) {
			t.Errorf("%+v: %x, want %x", f, got, want)
		}
		if got := cut(t, append(about{}.bytes(), want...)); !bytes.Equal(got[0], want) {
			t.Errorf("%+v: changed without need", f)
		}
	}
}

// What does not fit is refused, and nothing is read beyond the packet.
func TestCutRefuses(t *testing.T) {
	f := flow{protocol: tcp}
	whole := f.packet(1, ack, make([]byte, 100))
	for name, a := range map[string]about{
		"checksum beyond the packet":    {flags: 1, start: 130, checksum: 16},
		"checksum inside the IP header": {flags: 1, start: 10, checksum: 0},
		"no size":                       {flags: 1, gso: 1, start: 20, checksum: 16},
		"no checksum asked":             {gso: 1, size: 10, start: 20, checksum: 16},
		"other family":                  {flags: 1, gso: 4, size: 10, start: 20, checksum: 16},
		"other protocol":                {flags: 1, gso: 5, size: 10, start: 20, checksum: 6},
		"unknown kind":                  {flags: 1, gso: 3, size: 10, start: 20, checksum: 16},
		"other start":                   {flags: 1, gso: 1, size: 10, start: 24, checksum: 16},
	} {
		h, err := packet.Parse(whole)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := segment.Read(append(a.bytes(), whole...), h); !errors.Is(err, segment.ErrFrame) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzCut(f *testing.F) {
	for _, flow := range flows() {
		f.Add(flow.super(1, ack|psh, make([]byte, 300), 100))
	}
	f.Fuzz(func(t *testing.T, frame []byte) {
		if len(frame) < segment.HeaderSize {
			return
		}
		frame = bytes.Clone(frame) // checksums are finished in place
		h, err := packet.Parse(frame[segment.HeaderSize:])
		if err != nil {
			return
		}
		s, err := segment.Read(frame, h)
		if err != nil {
			return
		}
		var payload int
		all := segments(&s)
		for _, b := range all {
			if _, err := packet.Parse(b); err != nil {
				t.Fatalf("%x: %v", b, err)
			}
			payload += len(b) - s.HeaderLength()
		}
		if want := len(frame) - segment.HeaderSize - s.HeaderLength(); payload != want {
			t.Fatalf("%d bytes of payload, want %d", payload, want)
		}
	})
}
