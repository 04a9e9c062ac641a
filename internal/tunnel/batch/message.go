package batch

import (
	"encoding/binary"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/flannel-ng/flannel-ng/internal/addr"
)

// maxControl is room for all control messages that are sent or received, in
// bytes: a number each for segment size, IPv4's and IPv6's class of traffic.
const maxControl = 96

// name is any socket address.
type name [unix.SizeofSockaddrInet6]byte

// set makes n the address to and returns its length.
func (n *name) set(to netip.AddrPort) uint32 {
	if a := to.Addr(); a.Is4() {
		binary.NativeEndian.PutUint16(n[0:], unix.AF_INET)
		binary.BigEndian.PutUint16(n[2:], to.Port())
		ip := a.As4()
		copy(n[4:8], ip[:])
		return unix.SizeofSockaddrInet4
	}
	clear(n[:])
	binary.NativeEndian.PutUint16(n[0:], unix.AF_INET6)
	binary.BigEndian.PutUint16(n[2:], to.Port())
	ip := to.Addr().As16()
	copy(n[8:24], ip[:])
	return unix.SizeofSockaddrInet6
}

// addr is what n says, without scope: invalid if it is of no known family.
func (n *name) addr() netip.Addr {
	switch binary.NativeEndian.Uint16(n[0:]) {
	case unix.AF_INET:
		return netip.AddrFrom4([4]byte(n[4:8]))
	case unix.AF_INET6:
		return netip.AddrFrom16([16]byte(n[8:24])).Unmap()
	default:
		return netip.Addr{}
	}
}

// control is a buffer of control messages, aligned as the kernel wants it.
type control [maxControl / 8]uint64

func (c *control) bytes() *[maxControl]byte { return (*[maxControl]byte)(unsafe.Pointer(c)) }

// put writes a message at at and returns where the next one begins.
func (c *control) put(at int, level, typ int32, data []byte) int {
	b := c.bytes()
	h := (*unix.Cmsghdr)(unsafe.Pointer(&b[at]))
	h.Level, h.Type = level, typ
	h.SetLen(unix.CmsgLen(len(data)))
	copy(b[at+unix.CmsgLen(0):], data)
	return at + unix.CmsgSpace(len(data))
}

// class is the control message for the class of traffic of a family.
func class(f addr.Family) (level, typ int32) {
	if f == addr.IPv4 {
		return unix.IPPROTO_IP, unix.IP_TOS
	}
	return unix.IPPROTO_IPV6, unix.IPV6_TCLASS
}

// describe makes the control messages for datagrams of one size (0: only one
// datagram) and class, and returns their length.
func (c *control) describe(f addr.Family, size int, tos uint8) int {
	n := 0
	if size > 0 {
		var data [2]byte
		binary.NativeEndian.PutUint16(data[:], uint16(size)) //nolint:gosec // of a datagram
		n = c.put(n, unix.IPPROTO_UDP, unix.UDP_SEGMENT, data[:])
	}
	if tos != 0 {
		var data [4]byte
		binary.NativeEndian.PutUint32(data[:], uint32(tos))
		level, typ := class(f)
		n = c.put(n, level, typ, data[:])
	}
	return n
}

// read understands n bytes of control messages: size of the datagrams in the
// message (0: it is one), and their class.
func (c *control) read(n int) (size int, tos uint8) {
	b := c.bytes()
	n = min(n, maxControl)
	for at := 0; at+unix.SizeofCmsghdr <= n; {
		h := (*unix.Cmsghdr)(unsafe.Pointer(&b[at]))
		length := int(h.Len) //nolint:gosec // checked below
		data := at + unix.CmsgLen(0)
		if length < data-at+1 || at+length > n {
			return size, tos
		}
		switch {
		case h.Level == unix.IPPROTO_UDP && h.Type == unix.UDP_GRO && length-(data-at) >= 4:
			size = int(binary.NativeEndian.Uint32(b[data:]))
		case h.Level == unix.IPPROTO_IP && h.Type == unix.IP_TOS:
			tos = b[data] // one byte, whatever is set
		case h.Level == unix.IPPROTO_IPV6 && h.Type == unix.IPV6_TCLASS && length-(data-at) >= 4:
			tos = uint8(binary.NativeEndian.Uint32(b[data:])) //nolint:gosec // is eight bits
		}
		at += unix.CmsgSpace(length - (data - at))
	}
	return size, tos
}

// setIov makes v the memory of b.
func setIov(v *unix.Iovec, b []byte) {
	v.Base = unsafe.SliceData(b)
	v.SetLen(len(b))
}
