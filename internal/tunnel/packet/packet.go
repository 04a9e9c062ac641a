// Package packet reads the headers of IP packets, says of a packet that goes
// nowhere what its sender should be told, and cuts packets that are too large.
//
// It is pure: bytes in, bytes out. It never sends, keeps or changes a packet.
// Called by the forwarder.
package packet

import (
	"encoding/binary"
	"errors"
	"net/netip"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/tunnel/checksum"
)

// The reasons why bytes are not one whole IP packet.
var (
	ErrVersion  = errors.New("neither IPv4 nor IPv6")
	ErrLength   = errors.New("lengths of the IP headers do not fit the packet")
	ErrChecksum = errors.New("wrong IPv4 header checksum")
)

// The lengths of the headers in bytes that both families fix (RFC 791, RFC 8200).
const (
	IPv4Header = 20 // without options
	IPv6Header = 40
)

// maxExtensions bounds the walk along IPv6 extension headers. RFC 8200 §4.1
// has seven in a packet that is whole; more are an attack.
const maxExtensions = 8

// Header is what the headers of a packet say.
type Header struct {
	Family addr.Family
	// Src and Dst are as in the packet: an IPv6 packet with IPv4-mapped
	// addresses stays one.
	Src, Dst netip.Addr
	// Protocol is that of the payload, behind all IPv6 extension headers.
	Protocol uint8
	// Fragment is a fragment other than the first: its payload does not begin
	// with the header of Protocol.
	Fragment bool
	// DontFragment: IPv4 with DF, and all IPv6, which routers never fragment.
	DontFragment bool
	// Length is where the payload begins, in bytes.
	Length int
}

// Parse reads the headers of b, which must be exactly one packet. It makes no
// garbage. Errors: ErrVersion, ErrLength, ErrChecksum.
func Parse(b []byte) (Header, error) {
	if len(b) == 0 {
		return Header{}, ErrLength
	}
	switch b[0] >> 4 {
	case 4:
		return parseIPv4(b)
	case 6:
		return parseIPv6(b)
	default:
		return Header{}, ErrVersion
	}
}

func parseIPv4(b []byte) (Header, error) {
	if len(b) < IPv4Header {
		return Header{}, ErrLength
	}
	length := int(b[0]&0xf) * 4
	if length < IPv4Header || length > len(b) || int(binary.BigEndian.Uint16(b[2:])) != len(b) {
		return Header{}, ErrLength
	}
	if checksum.Sum(b[:length], 0) != 0xffff {
		return Header{}, ErrChecksum
	}
	flags := binary.BigEndian.Uint16(b[6:])
	return Header{
		Family: addr.IPv4, Length: length, Protocol: b[9],
		Src: netip.AddrFrom4([4]byte(b[12:16])), Dst: netip.AddrFrom4([4]byte(b[16:20])),
		Fragment: flags&offsetMask != 0, DontFragment: flags&dontFragment != 0,
	}, nil
}

func parseIPv6(b []byte) (Header, error) {
	if len(b) < IPv6Header || IPv6Header+int(binary.BigEndian.Uint16(b[4:])) != len(b) {
		return Header{}, ErrLength
	}
	h := Header{
		Family: addr.IPv6, Length: IPv6Header, Protocol: b[6], DontFragment: true,
		Src: netip.AddrFrom16([16]byte(b[8:24])), Dst: netip.AddrFrom16([16]byte(b[24:40])),
	}
	for range maxExtensions {
		if h.Fragment || !isExtension(h.Protocol) {
			return h, nil
		}
		if err := h.skip(b); err != nil {
			return Header{}, err
		}
	}
	return Header{}, ErrLength
}

// The IPv6 extension headers that have another header behind them (IANA
// "IPv6 Extension Header Types").
const (
	hopByHop       = 0
	routing        = 43
	fragment       = 44
	authentication = 51
	destination    = 60
	mobility       = 135
	hostIdentity   = 139
	shim6          = 140
)

func isExtension(protocol uint8) bool {
	switch protocol {
	case hopByHop, routing, fragment, authentication, destination, mobility, hostIdentity, shim6:
		return true
	default:
		return false
	}
}

// skip goes over the extension header that h stands on.
func (h *Header) skip(b []byte) error {
	rest := b[h.Length:]
	if len(rest) < 8 {
		return ErrLength
	}
	length := (int(rest[1]) + 1) * 8
	switch h.Protocol {
	case fragment:
		length = 8
		h.Fragment = binary.BigEndian.Uint16(rest[2:])>>3 != 0
	case authentication: // counts in words of four bytes (RFC 4302 §2.2)
		length = (int(rest[1]) + 2) * 4
	}
	if length > len(rest) {
		return ErrLength
	}
	h.Protocol, h.Length = rest[0], h.Length+length
	return nil
}

// Length is what the IP header at the start of b says of its packet's length,
// in bytes, whether or not b holds all of it. 0: it says nothing.
func Length(b []byte) int {
	switch {
	case len(b) >= IPv4Header && b[0]>>4 == 4:
		return int(binary.BigEndian.Uint16(b[2:]))
	case len(b) >= IPv6Header && b[0]>>4 == 6:
		return IPv6Header + int(binary.BigEndian.Uint16(b[4:]))
	default:
		return 0
	}
}
