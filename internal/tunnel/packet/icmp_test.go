package packet_test

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/flannel-ng/flannel-ng/internal/tunnel/packet"
)

// mustBeError checks what every error message has in common.
func mustBeError(t *testing.T, about []byte, m packet.ICMP, from netip.Addr) {
	t.Helper()
	most, pseudo := 576-20, []byte(nil)
	if from.Is6() {
		most = 1280 - 40
		src, dst := from.As16(), m.To.As16()
		pseudo = bytes.Join([][]byte{src[:], dst[:], binary.BigEndian.AppendUint32(nil, uint32(len(m.Message))), {0, 0, 0, 58}}, nil)
	}
	if len(m.Message) != min(most, 8+len(about)) || !bytes.Equal(m.Message[8:], about[:len(m.Message)-8]) {
		t.Errorf("%d bytes do not quote as much as fits of %d", len(m.Message), len(about))
	}
	if c := checksum(pseudo, m.Message); c != 0 {
		t.Errorf("checksum is off by %#x", c)
	}
	if h, err := packet.Parse(about); err != nil || h.Src != m.To {
		t.Errorf("sent to %s, not to the sender of %x", m.To, about)
	}
}

func TestICMP(t *testing.T) {
	big := make([]byte, 2000)
	for i := range big {
		big[i] = byte(i)
	}
	for _, tt := range []struct {
		name, from string
		about      []byte
		tell       func([]byte, netip.Addr) (packet.ICMP, bool)
		head       [2]byte
		rest       [4]byte
	}{
		{"no route, IPv4", "10.5.37.0", recorded(t)[0], packet.Unreachable, [2]byte{3, 0}, [4]byte{}},
		{"no route, IPv4, long", "10.5.37.0", ipv4(17, 0, nil, big), packet.Unreachable, [2]byte{3, 0}, [4]byte{}},
		{"no route, IPv4, odd", "10.5.37.0", ipv4(17, 0, nil, big[:5]), packet.Unreachable, [2]byte{3, 0}, [4]byte{}},
		{"no route, IPv6", "fc00:5:0:1::", ipv6(17, big[:20]), packet.Unreachable, [2]byte{1, 0}, [4]byte{}},
		{"no route, IPv6, odd", "fc00:5:0:1::", ipv6(17, big[:21]), packet.Unreachable, [2]byte{1, 0}, [4]byte{}},
		{"too big, IPv4", "10.5.37.0", ipv4(6, 1<<14, nil, big), tooBig(1472), [2]byte{3, 4}, [4]byte{2: 0x05, 3: 0xc0}},
		{"too big, IPv6", "fc00:5:0:1::", ipv6(6, big), tooBig(1452), [2]byte{2, 0}, [4]byte{2: 0x05, 3: 0xac}},
		{"no such MTU", "10.5.37.0", ipv4(6, 1<<14, nil, big), tooBig(1 << 20), [2]byte{3, 4}, [4]byte{2: 0xff, 3: 0xff}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			from := netip.MustParseAddr(tt.from)
			m, ok := tt.tell(tt.about, from)
			if !ok {
				t.Fatal("no error")
			}
			mustBeError(t, tt.about, m, from)
			if [2]byte(m.Message) != tt.head || [4]byte(m.Message[4:]) != tt.rest {
				t.Errorf("head % x", m.Message[:8])
			}
		})
	}
}

func tooBig(mtu int) func([]byte, netip.Addr) (packet.ICMP, bool) {
	return func(b []byte, from netip.Addr) (packet.ICMP, bool) { return packet.TooBig(b, from, mtu) }
}

// The rules of RFC 1122 §3.2.2, RFC 1812 §4.3.2.7 and RFC 4443 §2.4 (e).
func TestNoICMPAbout(t *testing.T) {
	set := func(b []byte, at int, text string) []byte {
		return with(b, func(b []byte) { copy(b[at:], netip.MustParseAddr(text).AsSlice()) })
	}
	plain := map[string][]byte{"IPv4": ipv4(17, 0, nil, make([]byte, 8)), "IPv6": ipv6(17, make([]byte, 8))}
	icmp := func(kind byte) []byte { return ipv4(1, 0, nil, []byte{kind, 0, 0, 0}) }
	icmpv6 := func(kind byte) []byte { return ipv6(58, []byte{kind, 0, 0, 0}) }
	behind := []byte{58, 0, 1, 4, 0, 0, 0, 0, 3, 0, 0, 0}
	for _, tt := range []struct {
		name                string
		b                   []byte
		unreachable, tooBig bool
	}{
		{"UDP", plain["IPv4"], true, true},
		{"UDP, IPv6", plain["IPv6"], true, true},
		{"echo", icmp(8), true, true},
		{"echo reply", icmp(0), true, true},
		{"timestamp", icmp(13), true, true},
		{"unreachable", icmp(3), false, false},
		{"source quench", icmp(4), false, false},
		{"redirect", icmp(5), false, false},
		{"time exceeded", icmp(11), false, false},
		{"parameter problem", icmp(12), false, false},
		{"unknown ICMP", icmp(40), false, false},
		{"ICMP without a type", ipv4(1, 0, nil, nil), false, false},
		{"echo, IPv6", icmpv6(128), true, true},
		{"too big, IPv6", icmpv6(2), false, false},
		{"unknown error, IPv6", icmpv6(127), false, false},
		{"redirect, IPv6", icmpv6(137), false, false},
		{"ICMPv6 without a type", ipv6(58, nil), false, false},
		{"time exceeded behind an extension", ipv6(0, behind), false, false},
		{"ICMPv6 in IPv4, whatever it says", ipv4(58, 0, nil, []byte{3, 0, 0, 0}), false, false},
		{"later fragment", ipv4(17, 1, nil, nil), false, false},
		{"later fragment, IPv6", ipv6(44, []byte{17, 0, 0, 8, 0, 0, 0, 1}), false, false},
		{"first fragment", ipv4(17, 1<<13, nil, make([]byte, 8)), true, true},
		{"from nowhere", set(plain["IPv4"], 12, "0.0.0.0"), false, false},
		{"from network 0", set(plain["IPv4"], 12, "0.1.2.3"), false, false},
		{"from loopback", set(plain["IPv4"], 12, "127.0.0.1"), false, false},
		{"from a group", set(plain["IPv4"], 12, "224.0.0.1"), false, false},
		{"from class E", set(plain["IPv4"], 12, "240.0.0.1"), false, false},
		{"from everybody", set(plain["IPv4"], 12, "255.255.255.255"), false, false},
		{"to a group", set(plain["IPv4"], 16, "239.1.1.1"), false, false},
		{"to everybody", set(plain["IPv4"], 16, "255.255.255.255"), false, false},
		{"from nowhere, IPv6", set(plain["IPv6"], 8, "::"), false, false},
		{"from loopback, IPv6", set(plain["IPv6"], 8, "::1"), false, false},
		{"from a group, IPv6", set(plain["IPv6"], 8, "ff02::1"), false, false},
		{"from a mapped address", set(plain["IPv6"], 8, "::ffff:10.5.37.2"), false, false},
		{"to a group, IPv6", set(plain["IPv6"], 24, "ff0e::1"), false, true},
		{"wrong checksum", append([]byte{0x45, 1}, plain["IPv4"][2:]...), false, false},
		{"nothing", nil, false, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			from := netip.MustParseAddr("10.5.37.0")
			if len(tt.b) > 0 && tt.b[0]>>4 == 6 {
				from = netip.MustParseAddr("fc00:5:0:1::")
			}
			if _, ok := packet.Unreachable(tt.b, from); ok != tt.unreachable {
				t.Errorf("unreachable: %v", ok)
			}
			if _, ok := packet.TooBig(tt.b, from, 1400); ok != tt.tooBig {
				t.Errorf("too big: %v", ok)
			}
		})
	}
}
