package nl

import (
	"context"
	"encoding/binary"
	"net/netip"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/flannel-ng/flannel-ng/internal/addr"
)

// Nexthop is a nexthop object (Linux 5.3, ip-nexthop(8)).
type Nexthop struct {
	ID       uint32
	Protocol uint8
	Hop      Hop
	Group    uint32 // the first member of a group, 0: no group
	Several  bool   // a group of more than one; Hop is zero
	Special  bool   // blackhole, encapsulation, or for FDB use
}

// Hop is where a nexthop object leads.
type Hop struct {
	Link   int // index
	Via    netip.Addr
	Onlink bool
}

const (
	nexthopMsgSize = 8
	nhaFDB         = 11 // NHA_FDB
	groupMember    = 8  // struct nexthop_grp
)

func nexthopMsg(family, protocol uint8, flags uint32) []byte {
	b := make([]byte, nexthopMsgSize)
	b[0] = family
	b[2] = protocol
	binary.NativeEndian.PutUint32(b[4:], flags)
	return b
}

// Nexthops lists all nexthop objects. EOPNOTSUPP: the kernel has none at all.
func (c *Conn) Nexthops(ctx context.Context) ([]Nexthop, error) {
	r := newRequest(unix.RTM_GETNEXTHOP, 0, nexthopMsg(unix.AF_UNSPEC, 0, 0), nil)
	return dump(ctx, c, r, func(b []byte) (Nexthop, bool, error) {
		n, err := decodeNexthop(b)
		return n, true, err
	})
}

func decodeNexthop(b []byte) (Nexthop, error) {
	var n Nexthop
	err := attributes(b, nexthopMsgSize, func(ad *netlink.AttributeDecoder) {
		switch ad.Type() {
		case unix.NHA_ID:
			n.ID = ad.Uint32()
		case unix.NHA_OIF:
			n.Hop.Link = int(ad.Uint32())
		case unix.NHA_GATEWAY:
			n.Hop.Via = toAddr(ad.Bytes())
		case unix.NHA_GROUP:
			// A list of struct nexthop_grp: id, weight, reserved.
			if b := ad.Bytes(); len(b) >= groupMember {
				n.Group, n.Several = binary.NativeEndian.Uint32(b), len(b) > groupMember
			}
		case unix.NHA_BLACKHOLE, unix.NHA_ENCAP, nhaFDB:
			n.Special = true
		}
	})
	if err == nil {
		n.Protocol = b[2]
		n.Hop.Onlink = binary.NativeEndian.Uint32(b[4:])&unix.RTNH_F_ONLINK != 0
	}
	return n, err
}

// AddNexthop creates an object; EEXIST if the id is taken.
func AddNexthop(n Nexthop) Request {
	var flags uint32
	if n.Hop.Onlink {
		flags = unix.RTNH_F_ONLINK
	}
	return newRequest(unix.RTM_NEWNEXTHOP, netlink.Create|netlink.Excl,
		nexthopMsg(fromFamily(addr.Of(n.Hop.Via)), n.Protocol, flags), func(ae *netlink.AttributeEncoder) {
			ae.Uint32(unix.NHA_ID, n.ID)
			ae.Uint32(unix.NHA_OIF, uint32(n.Hop.Link))
			ae.Bytes(unix.NHA_GATEWAY, n.Hop.Via.AsSlice())
		})
}

// DelNexthop removes an object and every route that uses it.
func DelNexthop(id uint32) Request {
	return newRequest(unix.RTM_DELNEXTHOP, 0, nexthopMsg(unix.AF_UNSPEC, 0, 0), func(ae *netlink.AttributeEncoder) {
		ae.Uint32(unix.NHA_ID, id)
	})
}
