package nl

import (
	"context"
	"encoding/binary"
	"net/netip"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/flannel-ng/flannel-ng/internal/addr"
)

// Neighbour is a permanent ARP or NDP entry.
type Neighbour struct {
	Link int // index
	IP   netip.Addr
	MAC  addr.MAC
}

// FDB is a permanent entry of the forwarding table that a VXLAN device itself
// has ("self"; not that of a bridge above it).
type FDB struct {
	Link int // index
	MAC  addr.MAC
	Dst  netip.Addr // zero if the destination is no plain address
	// Special: the entry overrides port, VNI or outgoing link, or uses a
	// nexthop object, so it does not mean what Dst says.
	Special bool
}

const (
	neighbourHeader = 12
	ndaProtocol     = 12 // NDA_PROTOCOL, Linux 5.0; older kernels ignore it
	ndaNexthop      = 13 // NDA_NH_ID
)

func neighbourMsg(family uint8, link int, state uint16, flags uint8) []byte {
	b := make([]byte, neighbourHeader)
	b[0] = family
	binary.NativeEndian.PutUint32(b[4:], uint32(link))
	binary.NativeEndian.PutUint16(b[8:], state)
	b[10] = flags
	return b
}

// ndm is the fixed part of a neighbour message, struct ndmsg.
type ndm struct {
	family uint8
	link   int
	state  uint16
	flags  uint8
}

func decodeNdm(b []byte) ndm {
	return ndm{
		family: b[0], link: int(binary.NativeEndian.Uint32(b[4:])),
		state: binary.NativeEndian.Uint16(b[8:]), flags: b[10],
	}
}

func onLink(link int) func(*netlink.AttributeEncoder) {
	return func(ae *netlink.AttributeEncoder) { ae.Uint32(unix.NDA_IFINDEX, uint32(link)) }
}

// Neighbours lists the permanent neighbours of a family on one link.
func (c *Conn) Neighbours(ctx context.Context, f addr.Family, link int) ([]Neighbour, error) {
	r := newRequest(unix.RTM_GETNEIGH, 0, neighbourMsg(fromFamily(f), 0, 0, 0), onLink(link))
	return dump(ctx, c, r, func(b []byte) (Neighbour, bool, error) { return decodeNeighbour(b, f, link) })
}

// decodeNeighbour says also whether it is a permanent one of that family and
// link.
func decodeNeighbour(b []byte, f addr.Family, link int) (Neighbour, bool, error) {
	n := Neighbour{Link: link}
	err := attributes(b, neighbourHeader, func(ad *netlink.AttributeDecoder) {
		switch ad.Type() {
		case unix.NDA_DST:
			n.IP = toAddr(ad.Bytes())
		case unix.NDA_LLADDR:
			n.MAC = toMAC(ad.Bytes())
		}
	})
	if err != nil {
		return n, false, err
	}
	m := decodeNdm(b)
	return n, m.link == link && m.family == fromFamily(f) && n.IP.IsValid() &&
		m.state&unix.NUD_PERMANENT != 0 && m.flags&unix.NTF_PROXY == 0, nil
}

// PutNeighbour sets a permanent entry, whatever was there.
func PutNeighbour(n Neighbour, protocol uint8) Request {
	return newRequest(unix.RTM_NEWNEIGH, netlink.Create|netlink.Replace,
		neighbourMsg(fromFamily(addr.Of(n.IP)), n.Link, unix.NUD_PERMANENT, 0), func(ae *netlink.AttributeEncoder) {
			ae.Bytes(unix.NDA_DST, n.IP.AsSlice())
			ae.Bytes(unix.NDA_LLADDR, n.MAC[:])
			ae.Uint8(ndaProtocol, protocol)
		})
}

// DelNeighbour removes an entry.
func DelNeighbour(n Neighbour) Request {
	return newRequest(unix.RTM_DELNEIGH, 0,
		neighbourMsg(fromFamily(addr.Of(n.IP)), n.Link, 0, 0), func(ae *netlink.AttributeEncoder) {
			ae.Bytes(unix.NDA_DST, n.IP.AsSlice())
		})
}

// FDB lists the permanent entries of one VXLAN link. A MAC may come several
// times, once for each destination.
func (c *Conn) FDB(ctx context.Context, link int) ([]FDB, error) {
	r := newRequest(unix.RTM_GETNEIGH, 0, neighbourMsg(unix.AF_BRIDGE, 0, 0, 0), onLink(link))
	return dump(ctx, c, r, func(b []byte) (FDB, bool, error) { return decodeFDB(b, link) })
}

// decodeFDB says also whether it is a permanent one that the link itself has.
func decodeFDB(b []byte, link int) (FDB, bool, error) {
	e := FDB{Link: link}
	err := attributes(b, neighbourHeader, func(ad *netlink.AttributeDecoder) {
		switch ad.Type() {
		case unix.NDA_LLADDR:
			e.MAC = toMAC(ad.Bytes())
		case unix.NDA_DST:
			e.Dst = toAddr(ad.Bytes())
		case unix.NDA_PORT, unix.NDA_VNI, unix.NDA_IFINDEX, ndaNexthop:
			e.Special = true
		}
	})
	if err != nil {
		return e, false, err
	}
	m := decodeNdm(b)
	return e, m.link == link && m.family == unix.AF_BRIDGE &&
		m.state&unix.NUD_PERMANENT != 0 && m.flags&unix.NTF_SELF != 0, nil
}

// PutFDB sets the one destination of a unicast MAC, whatever it was.
func PutFDB(e FDB) Request {
	return newRequest(unix.RTM_NEWNEIGH, netlink.Create|netlink.Replace,
		neighbourMsg(unix.AF_BRIDGE, e.Link, unix.NUD_PERMANENT, unix.NTF_SELF), func(ae *netlink.AttributeEncoder) {
			ae.Bytes(unix.NDA_LLADDR, e.MAC[:])
			ae.Bytes(unix.NDA_DST, e.Dst.AsSlice())
		})
}

// DelFDB removes a MAC with all its destinations.
func DelFDB(e FDB) Request {
	return newRequest(unix.RTM_DELNEIGH, 0,
		neighbourMsg(unix.AF_BRIDGE, e.Link, unix.NUD_PERMANENT, unix.NTF_SELF), func(ae *netlink.AttributeEncoder) {
			ae.Bytes(unix.NDA_LLADDR, e.MAC[:])
		})
}
