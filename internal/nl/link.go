package nl

import (
	"context"
	"encoding/binary"
	"net/netip"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/flannel-ng/flannel-ng/internal/addr"
)

// Link is a network device.
type Link struct {
	Index int
	Name  string
	Kind  string // IFLA_INFO_KIND, "" for a plain device
	Alias string
	MTU   int // bytes
	MAC   addr.MAC
	Up    bool // administratively
	NoARP bool // asks nobody for MAC addresses
	// Master is the index of the bridge, bond or VRF that the device is a port
	// of, 0: none.
	Master int
	VXLAN  VXLAN
	TUN    TUN
}

// VXLAN holds the attributes of a device of kind vxlan.
type VXLAN struct {
	VNI      uint32
	Port     uint16
	Source   netip.Addr // zero: any
	Parent   int        // link index, 0: none
	TTL      uint8      // 0: the kernel's choice
	Learning bool
	GBP      bool // group policy extension
	UDPCsum  bool // outer UDP checksums over IPv4
	// Special is any mode that changes what is on the wire or who decides the
	// destination: a remote, external, GPE, proxy, and so on.
	Special bool
}

const (
	linkHeader = 16
	noStats    = 1 << 3 // RTEXT_FILTER_SKIP_STATS: halves the answer
)

func linkMsg(index int, flags, change uint32) []byte {
	b := make([]byte, linkHeader)
	binary.NativeEndian.PutUint32(b[4:], uint32(index))
	binary.NativeEndian.PutUint32(b[8:], flags)
	binary.NativeEndian.PutUint32(b[12:], change)
	return b
}

// Links lists all devices, or those of one kind.
func (c *Conn) Links(ctx context.Context, kind string) ([]Link, error) {
	r := newRequest(unix.RTM_GETLINK, 0, linkMsg(0, 0, 0), func(ae *netlink.AttributeEncoder) {
		ae.Uint32(unix.IFLA_EXT_MASK, noStats)
		if kind != "" {
			ae.Nested(unix.IFLA_LINKINFO, func(ae *netlink.AttributeEncoder) error {
				ae.String(unix.IFLA_INFO_KIND, kind)
				return nil
			})
		}
	})
	return dump(ctx, c, r, func(b []byte) (Link, bool, error) {
		l, err := decodeLink(b)
		return l, kind == "" || l.Kind == kind, err
	})
}

// LinkNamed finds one device; ENODEV if there is none.
func (c *Conn) LinkNamed(ctx context.Context, name string) (Link, error) {
	return c.link(ctx, 0, func(ae *netlink.AttributeEncoder) { ae.String(unix.IFLA_IFNAME, name) })
}

// LinkAt finds the device of an index; ENODEV if there is none.
func (c *Conn) LinkAt(ctx context.Context, index int) (Link, error) {
	return c.link(ctx, index, func(*netlink.AttributeEncoder) {})
}

func (c *Conn) link(ctx context.Context, index int, by func(*netlink.AttributeEncoder)) (Link, error) {
	var l Link
	err := c.get(ctx, newRequest(unix.RTM_GETLINK, 0, linkMsg(index, 0, 0), func(ae *netlink.AttributeEncoder) {
		ae.Uint32(unix.IFLA_EXT_MASK, noStats)
		by(ae)
	}), func(b []byte) (err error) {
		l, err = decodeLink(b)
		return err
	})
	return l, err
}

// get asks for one object and waits for it or an error.
func (c *Conn) get(ctx context.Context, r Request, decode func([]byte) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if _, err := c.sock.SendMessages([]netlink.Message{c.message(r)}); err != nil {
		return err
	}
	for done := false; !done; {
		err := c.receive(func(h header, body []byte) error {
			if h.seq != c.seq {
				return nil
			}
			done = true
			if h.typ == unix.NLMSG_ERROR {
				return parseError(h, body)
			}
			return decode(body)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func decodeLink(b []byte) (Link, error) {
	var l Link
	err := attributes(b, linkHeader, func(ad *netlink.AttributeDecoder) {
		switch ad.Type() {
		case unix.IFLA_IFNAME:
			l.Name = ad.String()
		case unix.IFLA_ADDRESS:
			l.MAC = toMAC(ad.Bytes())
		case unix.IFLA_MTU:
			l.MTU = int(ad.Uint32())
		case unix.IFLA_IFALIAS:
			l.Alias = ad.String()
		case unix.IFLA_MASTER:
			l.Master = int(ad.Uint32())
		case unix.IFLA_LINKINFO:
			ad.Nested(l.decodeInfo)
		}
	})
	if err == nil {
		l.Index = int(int32(binary.NativeEndian.Uint32(b[4:])))
		flags := binary.NativeEndian.Uint32(b[8:])
		l.Up, l.NoARP = flags&unix.IFF_UP != 0, flags&unix.IFF_NOARP != 0
	}
	return l, err
}

// decodeInfo reads IFLA_LINKINFO; the kernel writes the kind before its data.
func (l *Link) decodeInfo(ad *netlink.AttributeDecoder) error {
	for ad.Next() {
		switch ad.Type() {
		case unix.IFLA_INFO_KIND:
			l.Kind = ad.String()
		case unix.IFLA_INFO_DATA:
			switch l.Kind {
			case "vxlan":
				ad.Nested(l.VXLAN.decode)
			case "tun":
				ad.Nested(l.TUN.decode)
			}
		}
	}
	return nil
}

func (v *VXLAN) decode(ad *netlink.AttributeDecoder) error {
	for ad.Next() {
		switch ad.Type() {
		case unix.IFLA_VXLAN_ID:
			v.VNI = ad.Uint32()
		case unix.IFLA_VXLAN_PORT:
			if b := ad.Bytes(); len(b) == 2 {
				v.Port = binary.BigEndian.Uint16(b)
			}
		case unix.IFLA_VXLAN_LOCAL, unix.IFLA_VXLAN_LOCAL6:
			v.Source = specified(toAddr(ad.Bytes()))
		case unix.IFLA_VXLAN_LINK:
			v.Parent = int(ad.Uint32())
		case unix.IFLA_VXLAN_TTL:
			v.TTL = ad.Uint8()
		case unix.IFLA_VXLAN_LEARNING:
			v.Learning = ad.Uint8() != 0
		case unix.IFLA_VXLAN_GBP:
			v.GBP = true // present means on
		case unix.IFLA_VXLAN_UDP_CSUM:
			v.UDPCsum = ad.Uint8() != 0
		default:
			v.Special = v.Special || special(ad.Type(), ad.Bytes())
		}
	}
	return nil
}

func specified(a netip.Addr) netip.Addr {
	if a.IsUnspecified() {
		return netip.Addr{}
	}
	return a
}

// special says whether an attribute turns on a mode that we never ask for.
func special(typ uint16, b []byte) bool {
	switch typ {
	case unix.IFLA_VXLAN_GPE, unix.IFLA_VXLAN_REMCSUM_NOPARTIAL:
		return true // present means on
	case unix.IFLA_VXLAN_GROUP, unix.IFLA_VXLAN_GROUP6:
		return specified(toAddr(b)).IsValid()
	case unix.IFLA_VXLAN_COLLECT_METADATA, unix.IFLA_VXLAN_PROXY, unix.IFLA_VXLAN_RSC,
		unix.IFLA_VXLAN_L2MISS, unix.IFLA_VXLAN_L3MISS, unix.IFLA_VXLAN_TTL_INHERIT,
		unix.IFLA_VXLAN_UDP_ZERO_CSUM6_TX, unix.IFLA_VXLAN_UDP_ZERO_CSUM6_RX,
		unix.IFLA_VXLAN_REMCSUM_TX, unix.IFLA_VXLAN_REMCSUM_RX, unix.IFLA_VXLAN_VNIFILTER:
		return len(b) > 0 && b[0] != 0
	default:
		return false
	}
}

// AddVXLAN creates a VXLAN device, down. Its MAC is set at creation: a later
// change would race with udev's MACAddressPolicy. The TTL is the kernel's choice
// and outer UDP checksums are on, as flannel has it.
func AddVXLAN(l Link) Request {
	return newRequest(unix.RTM_NEWLINK, netlink.Create|netlink.Excl, linkMsg(0, 0, 0), func(ae *netlink.AttributeEncoder) {
		ae.String(unix.IFLA_IFNAME, l.Name)
		ae.Uint32(unix.IFLA_MTU, uint32(l.MTU))
		ae.Bytes(unix.IFLA_ADDRESS, l.MAC[:])
		vxlanInfo(ae, func(ae *netlink.AttributeEncoder) {
			ae.Uint32(unix.IFLA_VXLAN_ID, l.VXLAN.VNI)
			ae.Bytes(unix.IFLA_VXLAN_PORT, bigEndian16(l.VXLAN.Port))
			ae.Uint8(unix.IFLA_VXLAN_UDP_CSUM, 1)
			ae.Flag(unix.IFLA_VXLAN_GBP, l.VXLAN.GBP)
			vxlanChangeable(ae, l.VXLAN)
		})
	})
}

// MoveVXLAN changes what the kernel can change on a living VXLAN device:
// source, parent, TTL and learning.
func MoveVXLAN(index int, v VXLAN) Request {
	return newRequest(unix.RTM_NEWLINK, 0, linkMsg(index, 0, 0), func(ae *netlink.AttributeEncoder) {
		vxlanInfo(ae, func(ae *netlink.AttributeEncoder) {
			ae.Uint8(unix.IFLA_VXLAN_TTL, 0)
			vxlanChangeable(ae, v)
		})
	})
}

func vxlanInfo(ae *netlink.AttributeEncoder, data func(*netlink.AttributeEncoder)) {
	ae.Nested(unix.IFLA_LINKINFO, func(ae *netlink.AttributeEncoder) error {
		ae.String(unix.IFLA_INFO_KIND, "vxlan")
		ae.Nested(unix.IFLA_INFO_DATA, func(ae *netlink.AttributeEncoder) error {
			data(ae)
			return nil
		})
		return nil
	})
}

func vxlanChangeable(ae *netlink.AttributeEncoder, v VXLAN) {
	ae.Uint8(unix.IFLA_VXLAN_LEARNING, flag(v.Learning))
	ae.Uint32(unix.IFLA_VXLAN_LINK, uint32(v.Parent))
	switch {
	case v.Source.Is4():
		ae.Bytes(unix.IFLA_VXLAN_LOCAL, v.Source.AsSlice())
	case v.Source.Is6():
		ae.Bytes(unix.IFLA_VXLAN_LOCAL6, v.Source.AsSlice())
	}
}

func flag(on bool) uint8 {
	if on {
		return 1
	}
	return 0
}

// SetLink sets alias, MTU and MAC of the device l.Index, makes it nobody's port
// and brings it up. A zero MAC leaves that of the device, if it has one, alone. A
// VXLAN device asks for MAC addresses again.
func SetLink(l Link) Request {
	change := uint32(unix.IFF_UP)
	if l.Kind == "vxlan" {
		change |= unix.IFF_NOARP
	}
	return newRequest(unix.RTM_SETLINK, 0, linkMsg(l.Index, unix.IFF_UP, change), func(ae *netlink.AttributeEncoder) {
		ae.Uint32(unix.IFLA_MTU, uint32(l.MTU))
		ae.Uint32(unix.IFLA_MASTER, 0)
		if l.MAC != (addr.MAC{}) {
			ae.Bytes(unix.IFLA_ADDRESS, l.MAC[:])
		}
		ae.String(unix.IFLA_IFALIAS, l.Alias)
	})
}

// SetAlias gives the device of an index an alias, and changes nothing else.
func SetAlias(index int, alias string) Request {
	return newRequest(unix.RTM_SETLINK, 0, linkMsg(index, 0, 0), func(ae *netlink.AttributeEncoder) {
		ae.String(unix.IFLA_IFALIAS, alias)
	})
}

// DelLink deletes the device of an index.
func DelLink(index int) Request {
	return newRequest(unix.RTM_DELLINK, 0, linkMsg(index, 0, 0), nil)
}
