package packet_test

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/tunnel/packet"
)

// checksum is a second implementation, by big steps.
func checksum(parts ...[]byte) uint16 {
	var total uint64
	b := bytes.Join(parts, nil)
	if len(b)%2 == 1 {
		b = append(b, 0)
	}
	for i := 0; i < len(b); i += 2 {
		total += uint64(b[i])*256 + uint64(b[i+1])
	}
	return uint16(0xffff - (total-1)%0xffff - 1)
}

// ipv4 makes a packet; options must be a multiple of four bytes long.
func ipv4(protocol byte, field uint16, options, payload []byte) []byte {
	b := make([]byte, 20, 20+len(options)+len(payload))
	b = append(append(b, options...), payload...)
	head := 20 + len(options)
	b[0] = 0x40 | byte(head/4)
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
	binary.BigEndian.PutUint16(b[4:], 0x1234)
	binary.BigEndian.PutUint16(b[6:], field)
	b[8], b[9] = 63, protocol
	copy(b[12:], []byte{10, 5, 37, 2, 10, 5, 61, 2})
	binary.BigEndian.PutUint16(b[10:], checksum(b[:head]))
	return b
}

func ipv6(next byte, payload []byte) []byte {
	b := make([]byte, 40, 40+len(payload))
	b[0], b[6], b[7] = 0x60, next, 63
	binary.BigEndian.PutUint16(b[4:], uint16(len(payload)))
	src, dst := netip.MustParseAddr("fc00:5:0:1::2").As16(), netip.MustParseAddr("fc00:5:0:2::2").As16()
	copy(b[8:], src[:])
	copy(b[24:], dst[:])
	return append(b, payload...)
}

// with is b with one thing changed, and its IPv4 checksum put right.
func with(b []byte, change func(b []byte)) []byte {
	b = bytes.Clone(b)
	change(b)
	if head := int(b[0]&15) * 4; b[0]>>4 == 4 && head <= len(b) && len(b) >= 20 {
		b[10], b[11] = 0, 0
		binary.BigEndian.PutUint16(b[10:], checksum(b[:head]))
	}
	return b
}

func recorded(tb testing.TB) [][]byte {
	tb.Helper()
	text, err := os.ReadFile("testdata/underlay.hex")
	if err != nil {
		tb.Fatal(err)
	}
	var out [][]byte
	for line := range strings.FieldsSeq(string(text)) {
		b, err := hex.DecodeString(line)
		if err != nil {
			tb.Fatal(err)
		}
		out = append(out, b)
	}
	return out
}

func TestParseRecorded(t *testing.T) {
	one, two := netip.MustParseAddr("10.5.37.2"), netip.MustParseAddr("10.5.61.2")
	ping := packet.Header{Family: addr.IPv4, Src: one, Dst: two, Protocol: 1, DontFragment: true, Length: 20}
	pong := packet.Header{Family: addr.IPv4, Src: two, Dst: one, Protocol: 1, Length: 20}
	for i, b := range recorded(t) {
		want := []packet.Header{ping, pong}[i%2]
		if got, err := packet.Parse(b); err != nil || got != want {
			t.Errorf("packet %d: %+v, %v; want %+v", i, got, err, want)
		}
	}
}

func TestParse(t *testing.T) {
	v4, v6 := ipv4(17, 0, nil, make([]byte, 12)), ipv6(17, make([]byte, 12))
	hop := []byte{17, 0, 1, 4, 0, 0, 0, 0}
	for _, tt := range []struct {
		name string
		b    []byte
		err  error
		want packet.Header // but for family and addresses
	}{
		{"IPv4", v4, nil, packet.Header{Protocol: 17, Length: 20}},
		{"IPv4 with options", ipv4(6, 0, []byte{1, 1, 1, 0}, nil), nil, packet.Header{Protocol: 6, Length: 24}},
		{"IPv4 DF", ipv4(6, 1<<14, nil, nil), nil, packet.Header{Protocol: 6, Length: 20, DontFragment: true}},
		{"IPv4 first fragment", ipv4(6, 1<<13, nil, v4[:8]), nil, packet.Header{Protocol: 6, Length: 20}},
		{"IPv4 later fragment", ipv4(6, 7, nil, nil), nil, packet.Header{Protocol: 6, Length: 20, Fragment: true}},
		{"IPv6", v6, nil, packet.Header{Protocol: 17, Length: 40, DontFragment: true}},
		{"IPv6 empty", ipv6(59, nil), nil, packet.Header{Protocol: 59, Length: 40, DontFragment: true}},
		{"IPv6 hop by hop", ipv6(0, hop), nil, packet.Header{Protocol: 17, Length: 48, DontFragment: true}},
		{
			"IPv6 routing, authentication, first fragment",
			ipv6(43, append([]byte{51, 1, 14: 0, 15: 0, 16: 44, 17: 1, 27: 0, 28: 58, 31: 1}, make([]byte, 4)...)), nil,
			packet.Header{Protocol: 58, Length: 40 + 16 + 12 + 8, DontFragment: true},
		},
		{
			"IPv6 later fragment of an extension", ipv6(44, []byte{60, 0, 0, 8, 0, 0, 0, 1, 255}), nil,
			packet.Header{Protocol: 60, Length: 48, DontFragment: true, Fragment: true},
		},
		{"nothing", nil, packet.ErrLength, packet.Header{}},
		{"version 0", make([]byte, 40), packet.ErrVersion, packet.Header{}},
		{"version 5", with(v4, func(b []byte) { b[0] = 0x55 }), packet.ErrVersion, packet.Header{}},
		{"IPv4 short", v4[:19], packet.ErrLength, packet.Header{}},
		{"IPv4 truncated", v4[:31], packet.ErrLength, packet.Header{}},
		{"IPv4 with a tail", append(bytes.Clone(v4), 0), packet.ErrLength, packet.Header{}},
		{"IPv4 two packets", append(bytes.Clone(v4), v4...), packet.ErrLength, packet.Header{}},
		{"IPv4 header of 16", with(v4, func(b []byte) { b[0] = 0x44 }), packet.ErrLength, packet.Header{}},
		{"IPv4 header behind the end", with(v4, func(b []byte) { b[0] = 0x4f }), packet.ErrLength, packet.Header{}},
		{"IPv4 checksum", append([]byte{0x45, 1}, v4[2:]...), packet.ErrChecksum, packet.Header{}},
		{"IPv6 short", v6[:39], packet.ErrLength, packet.Header{}},
		{"IPv6 truncated", v6[:51], packet.ErrLength, packet.Header{}},
		{"IPv6 with a tail", append(bytes.Clone(v6), 0), packet.ErrLength, packet.Header{}},
		{"IPv6 no room for an extension", ipv6(0, hop[:7]), packet.ErrLength, packet.Header{}},
		{"IPv6 extension behind the end", ipv6(60, []byte{17, 1, 0, 0, 0, 0, 0, 0}), packet.ErrLength, packet.Header{}},
		{"IPv6 endless extensions", ipv6(60, bytes.Repeat([]byte{60, 0, 0, 0, 0, 0, 0, 0}, 9)), packet.ErrLength, packet.Header{}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := packet.Parse(tt.b)
			if !errors.Is(err, tt.err) {
				t.Fatalf("error %v, want %v", err, tt.err)
			}
			got.Family, got.Src, got.Dst = 0, netip.Addr{}, netip.Addr{}
			if got != tt.want {
				t.Errorf("got %+v, want %+v", got, tt.want)
			}
		})
	}
}

func TestParseIPv6Addresses(t *testing.T) {
	got, err := packet.Parse(ipv6(17, nil))
	want := packet.Header{
		Family: addr.IPv6, Protocol: 17, DontFragment: true, Length: 40,
		Src: netip.MustParseAddr("fc00:5:0:1::2"), Dst: netip.MustParseAddr("fc00:5:0:2::2"),
	}
	if err != nil || got != want {
		t.Errorf("got %+v, %v; want %+v", got, err, want)
	}
}

func TestParseMakesNoGarbage(t *testing.T) {
	for _, b := range [][]byte{recorded(t)[0], ipv6(0, []byte{17, 0, 1, 4, 0, 0, 0, 0})} {
		if n := testing.AllocsPerRun(100, func() {
			if _, err := packet.Parse(b); err != nil {
				t.Fatal(err)
			}
		}); n != 0 {
			t.Errorf("%v allocations", n)
		}
	}
}

func BenchmarkParse(b *testing.B) {
	for name, p := range map[string][]byte{"IPv4": recorded(b)[0], "IPv6": ipv6(0, []byte{17, 0, 1, 4, 0, 0, 0, 0})} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := packet.Parse(p); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func seeds(f *testing.F) {
	f.Helper()
	for _, b := range append(
		recorded(f), nil,
		ipv4(17, 0, nil, make([]byte, 100)), ipv4(17, 1<<13|185, []byte{0x94, 4, 0, 0, 7, 3, 4, 0}, make([]byte, 64)),
		ipv6(0, []byte{58, 0, 1, 4, 0, 0, 0, 0, 128, 0}), ipv6(44, []byte{58, 0, 0, 1, 0, 0, 0, 0, 1, 0}),
	) {
		f.Add(b, 44)
	}
}

// FuzzParse finds no packet that fools what builds on Parse.
func FuzzParse(f *testing.F) {
	seeds(f)
	from := addr.Pair(netip.MustParseAddr("10.5.37.0"), netip.MustParseAddr("fc00:5:0:1::"))
	f.Fuzz(func(t *testing.T, b []byte, mtu int) {
		before := bytes.Clone(b)
		h, err := packet.Parse(b)
		if err == nil && (h.Length < 20 || h.Length > len(b) || !h.Src.IsValid() || !h.Dst.IsValid()) {
			t.Errorf("%x: %+v", b, h)
		}
		for _, tell := range []func() (packet.ICMP, bool){
			func() (packet.ICMP, bool) { return packet.Unreachable(b, from.At(h.Family)) },
			func() (packet.ICMP, bool) { return packet.TooBig(b, from.At(h.Family), mtu) },
		} {
			m, ok := tell()
			switch {
			case ok && err != nil:
				t.Errorf("an error about %x, which is %v", b, err)
			case ok:
				mustBeError(t, b, m, from.At(h.Family))
			}
		}
		if !bytes.Equal(before, b) {
			t.Error("the packet was changed")
		}
	})
}

func FuzzFragment(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, b []byte, mtu int) {
		before := bytes.Clone(b)
		parts, err := packet.Fragment(b, mtu)
		if err == nil {
			mustReassemble(t, b, parts, mtu)
		}
		if !bytes.Equal(before, b) {
			t.Error("the packet was changed")
		}
	})
}
