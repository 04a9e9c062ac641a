package packet

import (
	"encoding/binary"
	"net/netip"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/tunnel/checksum"
)

// ICMP is an error message about a packet: what a raw ICMP socket of the
// family of To sends. The kernel puts the IP header before it.
type ICMP struct {
	To      netip.Addr
	Message []byte // with its checksum
}

// Protocol numbers of ICMP, and the types of both (RFC 792, RFC 4443).
const (
	protocolICMPv4 = 1
	protocolICMPv6 = 58

	unreachable = 3 // ICMPv4
	needsDF     = 4 // its code: fragmentation needed and DF set

	unreachableV6 = 1
	tooBigV6      = 2
	firstQueryV6  = 128
	redirectV6    = 137

	icmpHeader = 8
)

// errorSize is the most that an error may have with its IP header, in bytes
// (RFC 1812 §4.3.2.3, RFC 4443 §2.4 (c)): every link carries it whole.
func errorSize(f addr.Family) int {
	if f == addr.IPv4 {
		return 576
	}
	return 1280
}

// Unreachable tells the sender of b that the way to its destination is not
// known: network unreachable (3/0), no route to destination (1/0). from is the
// address that the message must leave with: the IPv6 checksum covers it.
// False: no error may be sent about b.
func Unreachable(b []byte, from netip.Addr) (ICMP, bool) {
	h, err := Parse(b)
	if err != nil || !answerable(b, h) || h.Dst.IsMulticast() {
		return ICMP{}, false
	}
	if h.Family == addr.IPv4 {
		return message(b, h, from, [icmpHeader]byte{unreachable}), true
	}
	return message(b, h, from, [icmpHeader]byte{unreachableV6}), true
}

// TooBig tells the sender of b the largest packet that would pass, in bytes:
// fragmentation needed (3/4), packet too big (2/0). Otherwise it is like
// Unreachable.
func TooBig(b []byte, from netip.Addr, mtu int) (ICMP, bool) {
	h, err := Parse(b)
	// A group's path MTU is found like any other in IPv6 (RFC 4443 §2.4 (e.3)).
	if err != nil || !answerable(b, h) || h.Family == addr.IPv4 && h.Dst.IsMulticast() {
		return ICMP{}, false
	}
	head := [icmpHeader]byte{tooBigV6}
	if h.Family == addr.IPv4 {
		head = [icmpHeader]byte{unreachable, needsDF}
	}
	// Both families have it in the last two bytes, IPv6 behind two zeros.
	binary.BigEndian.PutUint16(head[6:], uint16(min(max(mtu, 0), maxPacket))) //nolint:gosec // bounded
	return message(b, h, from, head), true
}

// answerable says whether an error about b may be sent at all: never about an
// error, a later fragment, or to a source that is not one host (RFC 1122
// §3.2.2, RFC 1812 §4.3.2.7, RFC 4443 §2.4 (e)).
func answerable(b []byte, h Header) bool {
	return !h.Fragment && isHost(h.Src) && !isBroadcast(h.Dst) && !isError(b[h.Length:], h.Protocol)
}

// isHost says whether a is one host that a message can be sent to: a source of
// class E or of network 0 is none.
func isHost(a netip.Addr) bool {
	if a.IsUnspecified() || a.IsLoopback() || a.IsMulticast() || a.Is4In6() {
		return false
	}
	if a.Is4() {
		first := a.As4()[0]
		return first != 0 && first < 240
	}
	return true
}

func isBroadcast(a netip.Addr) bool { return a == netip.AddrFrom4([4]byte{255, 255, 255, 255}) }

// isError says whether a packet of this payload is an ICMP message that must
// not be answered by another: any but a known query (IPv4), any in the range
// of errors and redirects (IPv6), one that has lost its type.
func isError(payload []byte, protocol uint8) bool {
	switch {
	case protocol != protocolICMPv4 && protocol != protocolICMPv6:
		return false
	case len(payload) == 0:
		return true
	case protocol == protocolICMPv6:
		return payload[0] < firstQueryV6 || payload[0] == redirectV6
	}
	switch payload[0] {
	case 0, 8, 9, 10, 13, 14, 15, 16, 17, 18: // RFC 1122 §3.2.2, RFC 1256
		return false
	default:
		return true
	}
}

// message puts head before as much of b as fits, and the checksum into it.
func message(b []byte, h Header, from netip.Addr, head [icmpHeader]byte) ICMP {
	quote := errorSize(h.Family) - IPv4Header - icmpHeader
	if h.Family == addr.IPv6 {
		quote = errorSize(h.Family) - IPv6Header - icmpHeader
	}
	m := make([]byte, 0, icmpHeader+min(quote, len(b)))
	m = append(m, head[:]...)
	m = append(m, b[:min(quote, len(b))]...)
	var so uint16
	if h.Family == addr.IPv6 {
		src, dst := from.As16(), h.Src.As16()
		so = checksum.Pseudo(append(src[:], dst[:]...), protocolICMPv6, len(m))
	}
	binary.BigEndian.PutUint16(m[2:], ^checksum.Sum(m, so))
	return ICMP{To: h.Src, Message: m}
}
