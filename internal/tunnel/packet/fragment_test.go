package packet_test

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"slices"
	"testing"

	"github.com/flannel-ng/flannel-ng/internal/tunnel/packet"
)

// mustReassemble puts the parts together as a host does, and must get whole.
func mustReassemble(t *testing.T, whole []byte, parts [][]byte, mtu int) {
	t.Helper()
	if len(parts) == 0 {
		t.Fatal("no parts")
	}
	offset := func(b []byte) uint16 { return binary.BigEndian.Uint16(b[6:]) & 0x1fff }
	var payload []byte
	for i, p := range parts {
		h, err := packet.Parse(p)
		if err != nil || len(p) > mtu {
			t.Fatalf("part %d of %d bytes: %v", i, len(p), err)
		}
		if len(parts) == 1 {
			break // even an IPv6 packet
		}
		if at := int(offset(p)-offset(parts[0])) * 8; at != len(payload) {
			t.Fatalf("part %d is for %d, after %d bytes", i, at, len(payload))
		}
		if last := i == len(parts)-1; !last && p[6]&0x20 == 0 {
			t.Fatalf("part %d says it is the last", i)
		}
		payload = append(payload, p[h.Length:]...)
	}
	if len(parts) == 1 {
		if !bytes.Equal(whole, parts[0]) {
			t.Errorf("changed\n%x\n%x", whole, parts[0])
		}
		return
	}
	last := parts[len(parts)-1]
	head := int(parts[0][0]&15) * 4
	got := with(append(slices.Clone(parts[0][:head]), payload...), func(b []byte) {
		binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
		b[6] = b[6]&^0x20 | last[6]&0x20
	})
	if !bytes.Equal(whole, got) {
		t.Errorf("put together\n%x\nwas\n%x", got, whole)
	}
}

func TestFragment(t *testing.T) {
	payload := make([]byte, 3000)
	for i := range payload {
		payload[i] = byte(i * 7)
	}
	for _, tt := range []struct {
		name  string
		b     []byte
		mtu   int
		sizes []int
	}{
		{"fits", ipv4(17, 0, nil, payload[:80]), 100, []int{100}},
		{"one too many", ipv4(17, 0, nil, payload[:81]), 100, []int{100, 21}},
		{"in eights", ipv4(17, 0, nil, payload), 1472, []int{1468, 1468, 124}},
		{"the smallest", ipv4(17, 0, nil, payload[:16]), 28, []int{28, 28}},
		{"first fragment again", ipv4(17, 1<<13, nil, payload[:160]), 100, []int{100, 100}},
		{"later fragment again", ipv4(17, 1<<13|100, nil, payload[:160]), 100, []int{100, 100}},
		{"last fragment again", ipv4(17, 100, nil, payload[:163]), 100, []int{100, 100, 23}},
		{"options", ipv4(17, 0, []byte{0x94, 4, 0, 0, 1, 7, 3, 4}, payload[:160]), 100, []int{100, 96, 40}},
		{"no option is repeated", ipv4(17, 0, []byte{7, 3, 4, 0}, payload[:160]), 100, []int{96, 100, 28}},
		{"odd options are filled up", ipv4(17, 0, []byte{0x83, 3, 4, 0}, payload[:160]), 100, []int{96, 96, 40}},
		{"DF that fits", ipv4(17, 1<<14, nil, payload[:80]), 100, []int{100}},
		{"IPv6 that fits", ipv6(17, payload[:60]), 100, []int{100}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			parts, err := packet.Fragment(tt.b, tt.mtu)
			if err != nil {
				t.Fatal(err)
			}
			mustReassemble(t, tt.b, parts, tt.mtu)
			var sizes []int
			for _, p := range parts {
				sizes = append(sizes, len(p))
			}
			if !slices.Equal(sizes, tt.sizes) {
				t.Errorf("parts of %v bytes, want %v", sizes, tt.sizes)
			}
		})
	}
}

// Byte by byte: offset and flags go on from those of the packet, and one of the
// two options is repeated.
func TestFragmentBytes(t *testing.T) {
	b := ipv4(17, 1<<13|2, []byte{0x94, 4, 0, 0, 7, 3, 4, 0}, []byte("0123456789abcdef"))
	parts, err := packet.Fragment(b, 36)
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{
		"470000241234" + "2002" + "3f11" + "????" + "0a0525020a053d02" + "9404000007030400" + hex.EncodeToString([]byte("01234567")),
		"460000201234" + "2003" + "3f11" + "????" + "0a0525020a053d02" + "94040000" + hex.EncodeToString([]byte("89abcdef")),
	} {
		got := hex.EncodeToString(parts[i])
		if got = got[:20] + "????" + got[24:]; got != want {
			t.Errorf("part %d\n%s want\n%s", i, got, want)
		}
	}
}

func TestFragmentRefused(t *testing.T) {
	big := make([]byte, 200)
	for _, tt := range []struct {
		name string
		b    []byte
		mtu  int
		want error
	}{
		{"DF", ipv4(17, 1<<14, nil, big), 100, packet.ErrDontFragment},
		{"IPv6", ipv6(17, big), 100, packet.ErrDontFragment},
		{"no room", ipv4(17, 0, nil, big), 27, packet.ErrMTU},
		{"no room for the header", ipv4(17, 0, nil, nil), 19, packet.ErrMTU},
		{"no MTU", ipv4(17, 0, nil, big), -1, packet.ErrMTU},
		{"not a packet", big, 100, packet.ErrVersion},
		{"behind the end of the largest packet", ipv4(17, 0x1fff, nil, big), 100, packet.ErrLength},
		{"option without a length", ipv4(17, 0, []byte{1, 1, 1, 7}, big), 100, packet.ErrLength},
		{"option of no length", ipv4(17, 0, []byte{7, 1, 0, 0}, big), 100, packet.ErrLength},
		{"option behind the end", ipv4(17, 0, []byte{7, 5, 0, 0}, big), 100, packet.ErrLength},
	} {
		if parts, err := packet.Fragment(tt.b, tt.mtu); !errors.Is(err, tt.want) || parts != nil {
			t.Errorf("%s: %d parts, %v; want %v", tt.name, len(parts), err, tt.want)
		}
	}
}
