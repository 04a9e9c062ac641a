package nl

import (
	"context"
	"encoding/binary"
	"net/netip"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/flannel-ng/flannel-ng/internal/addr"
)

// Address is an IP address of a link.
type Address struct {
	Link       int          // index
	Prefix     netip.Prefix // not masked
	Permanent  bool         // no lifetime
	Deprecated bool
	Temporary  bool // RFC 8981
}

const addressHeader = 8

func addressMsg(f addr.Family, bits, link int) []byte {
	b := make([]byte, addressHeader)
	b[0] = fromFamily(f)
	b[1] = uint8(bits)
	binary.NativeEndian.PutUint32(b[4:], uint32(link))
	return b
}

// Addresses lists the addresses of a family, of one link or (zero) of all.
func (c *Conn) Addresses(ctx context.Context, f addr.Family, link int) ([]Address, error) {
	r := newRequest(unix.RTM_GETADDR, 0, addressMsg(f, 0, link), nil)
	return dump(ctx, c, r, func(b []byte) (Address, bool, error) {
		a, err := decodeAddress(b)
		keep := err == nil && a.Prefix.IsValid() && addr.Of(a.Prefix.Addr()) == f && (link == 0 || a.Link == link)
		return a, keep, err
	})
}

func decodeAddress(b []byte) (Address, error) {
	var a Address
	var local, address netip.Addr
	var flags uint32
	err := attributes(b, addressHeader, func(ad *netlink.AttributeDecoder) {
		switch ad.Type() {
		case unix.IFA_LOCAL:
			local = toAddr(ad.Bytes())
		case unix.IFA_ADDRESS:
			address = toAddr(ad.Bytes())
		case unix.IFA_FLAGS:
			flags = ad.Uint32()
		}
	})
	if err != nil {
		return a, err
	}
	if !local.IsValid() { // IPv6 without a peer has IFA_ADDRESS only
		local = address
	}
	a.Link = int(binary.NativeEndian.Uint32(b[4:]))
	a.Prefix = netip.PrefixFrom(local, int(b[1]))
	a.Permanent = flags&unix.IFA_F_PERMANENT != 0
	a.Deprecated = flags&unix.IFA_F_DEPRECATED != 0
	// IFA_F_SECONDARY is the same bit for IPv4 and means another thing.
	a.Temporary = local.Is6() && flags&unix.IFA_F_TEMPORARY != 0
	return a, nil
}

// PutAddress adds an address of global scope that never expires, or makes an
// existing one such. IPv6 skips duplicate address detection: our addresses are
// unique by lease, and a tentative one cannot be used for seconds.
func PutAddress(a Address) Request {
	ip := a.Prefix.Addr()
	return newRequest(unix.RTM_NEWADDR, netlink.Create|netlink.Replace,
		addressMsg(addr.Of(ip), a.Prefix.Bits(), a.Link), func(ae *netlink.AttributeEncoder) {
			ae.Bytes(unix.IFA_LOCAL, ip.AsSlice())
			ae.Bytes(unix.IFA_ADDRESS, ip.AsSlice())
			if ip.Is6() {
				ae.Uint32(unix.IFA_FLAGS, unix.IFA_F_NODAD)
			}
		})
}

// DelAddress removes an address.
func DelAddress(a Address) Request {
	ip := a.Prefix.Addr()
	return newRequest(unix.RTM_DELADDR, 0,
		addressMsg(addr.Of(ip), a.Prefix.Bits(), a.Link), func(ae *netlink.AttributeEncoder) {
			ae.Bytes(unix.IFA_LOCAL, ip.AsSlice())
		})
}
