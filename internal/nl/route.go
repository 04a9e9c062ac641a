package nl

import (
	"context"
	"encoding/binary"
	"errors"
	"net/netip"
	"slices"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/flannel-ng/flannel-ng/internal/addr"
)

// Values of Route.Protocol that others use (rtnetlink(7)).
const (
	ProtocolBoot   = unix.RTPROT_BOOT   // ip-route(8) and plain flannel
	ProtocolKernel = unix.RTPROT_KERNEL // follows from an address
)

// RouteType is rtm_type.
type RouteType uint8

// The types that matter here.
const (
	Unicast   RouteType = unix.RTN_UNICAST
	Blackhole RouteType = unix.RTN_BLACKHOLE
)

// Route is a route of the main table. With a Nexthop, the kernel may leave out
// the gateway: resolve it by Nexthops.
type Route struct {
	Dst      netip.Prefix
	Type     RouteType
	Protocol uint8
	Metric   uint32
	Link     int        // index, of the first next hop
	Via      netip.Addr // of the first next hop; zero: link scope
	Onlink   bool
	Source   netip.Addr // preferred source
	Nexthop  uint32     // nexthop object, 0: none
	Multiple bool       // several next hops
	// Special: it has metrics, an encapsulation, a type of service or another
	// attribute that changes what happens to packets.
	Special bool
	// OtherTable: a lookup found it in another table than main.
	OtherTable bool
}

// RouteFilter restricts a listing; zero fields are "any".
type RouteFilter struct {
	Family   addr.Family // required
	Protocol uint8
	Link     int // some next hop leaves by it
}

const (
	routeHeader   = 12
	rtaNexthop    = 30 // RTA_NH_ID
	nexthopHeader = 8  // struct rtnexthop
)

func routeMsg(dst netip.Prefix, f addr.Family) []byte {
	b := make([]byte, routeHeader)
	b[0] = fromFamily(f)
	if dst.IsValid() {
		b[1] = uint8(dst.Bits())
	}
	b[4] = unix.RT_TABLE_MAIN
	return b
}

// Routes lists routes of the main table. Only what the filter asks for crosses
// the socket: a host may carry a full BGP table.
func (c *Conn) Routes(ctx context.Context, f RouteFilter) ([]Route, error) {
	h := routeMsg(netip.Prefix{}, f.Family)
	h[5] = f.Protocol
	r := newRequest(unix.RTM_GETROUTE, 0, h, func(ae *netlink.AttributeEncoder) {
		ae.Uint32(unix.RTA_TABLE, unix.RT_TABLE_MAIN)
		if f.Link != 0 {
			ae.Uint32(unix.RTA_OIF, uint32(f.Link))
		}
	})
	routes, err := dump(ctx, c, r, func(b []byte) (Route, bool, error) {
		d, err := decodeRoute(b)
		keep := err == nil && d.table == unix.RT_TABLE_MAIN && d.family == f.Family && !d.cloned &&
			(f.Protocol == 0 || d.Protocol == f.Protocol) && (f.Link == 0 || d.uses(f.Link))
		return d.Route, keep, err
	})
	if errors.Is(err, unix.ENOENT) {
		return nil, nil // the kernel makes a table with its first route
	}
	return routes, err
}

// decodedRoute adds what only the filter needs.
type decodedRoute struct {
	Route
	family addr.Family
	table  uint32
	cloned bool
	links  []int // of the further next hops
}

// uses says whether a packet can leave by link. With a nexthop object that the
// kernel does not spell out, its own filter decided.
func (d decodedRoute) uses(link int) bool {
	if d.Link == 0 && d.Nexthop != 0 {
		return true
	}
	return d.Link == link || slices.Contains(d.links, link)
}

func decodeRoute(b []byte) (decodedRoute, error) {
	var d decodedRoute
	if err := attributes(b, routeHeader, func(ad *netlink.AttributeDecoder) { d.attribute(ad) }); err != nil {
		return d, err
	}
	d.family, _ = toFamily(b[0])
	if d.table == 0 {
		d.table = uint32(b[4])
	}
	d.Protocol = b[5]
	d.Type = RouteType(b[7])
	flags := binary.NativeEndian.Uint32(b[8:])
	d.cloned = flags&unix.RTM_F_CLONED != 0
	d.Onlink = d.Onlink || flags&unix.RTNH_F_ONLINK != 0
	d.Special = d.Special || b[2] != 0 || b[3] != 0 // source prefix, type of service
	a := d.Dst.Addr()
	if !a.IsValid() { // a default route has no RTA_DST
		a = netip.IPv6Unspecified()
		if d.family == addr.IPv4 {
			a = netip.IPv4Unspecified()
		}
	}
	d.Dst = netip.PrefixFrom(a, int(b[1]))
	return d, nil
}

func (d *decodedRoute) attribute(ad *netlink.AttributeDecoder) {
	switch ad.Type() {
	case unix.RTA_DST:
		d.Dst = netip.PrefixFrom(toAddr(ad.Bytes()), 0)
	case unix.RTA_OIF:
		d.Link = int(ad.Uint32())
	case unix.RTA_GATEWAY:
		d.Via = toAddr(ad.Bytes())
	case unix.RTA_VIA:
		d.Via = via(ad.Bytes())
	case unix.RTA_PRIORITY:
		d.Metric = ad.Uint32()
	case unix.RTA_PREFSRC:
		d.Source = toAddr(ad.Bytes())
	case unix.RTA_TABLE:
		d.table = ad.Uint32()
	case rtaNexthop:
		d.Nexthop = ad.Uint32()
	case unix.RTA_MULTIPATH:
		ad.Do(d.multipath)
	case unix.RTA_METRICS, unix.RTA_ENCAP, unix.RTA_FLOW:
		d.Special = true
	}
}

// via reads struct rtvia: family, address.
func via(b []byte) netip.Addr {
	if len(b) < 2 {
		return netip.Addr{}
	}
	return toAddr(b[2:])
}

// multipath reads a list of struct rtnexthop, each with attributes.
func (d *decodedRoute) multipath(b []byte) error {
	for n := 0; len(b) >= nexthopHeader; n++ {
		size := int(binary.NativeEndian.Uint16(b))
		if size < nexthopHeader || size > len(b) {
			return unix.EBADMSG
		}
		link := int(binary.NativeEndian.Uint32(b[4:]))
		if n > 0 {
			d.Multiple = true
			d.links = append(d.links, link)
		} else if err := d.firstHop(b[:size], link); err != nil {
			return err
		}
		b = b[min(align(size), len(b)):]
	}
	return nil
}

func (d *decodedRoute) firstHop(b []byte, link int) error {
	d.Link = link
	d.Onlink = b[2]&unix.RTNH_F_ONLINK != 0
	return attributes(b, nexthopHeader, func(ad *netlink.AttributeDecoder) {
		switch ad.Type() {
		case unix.RTA_GATEWAY:
			d.Via = toAddr(ad.Bytes())
		case unix.RTA_VIA:
			d.Via = via(ad.Bytes())
		}
	})
}

// AddRoute installs a route; EEXIST if any of the same destination and metric
// is there, whoever made it.
func AddRoute(r Route) Request { return putRoute(r, netlink.Create|netlink.Excl) }

// ReplaceRoute installs a route in place of one of the same destination and
// metric: packets find either the old or the new one.
func ReplaceRoute(r Route) Request { return putRoute(r, netlink.Create|netlink.Replace) }

// AppendRoute installs a route behind those of the same destination and metric.
// EEXIST: one of them leads the same way. IPv6 makes one multipath route of
// classic routes with gateways.
func AppendRoute(r Route) Request { return putRoute(r, netlink.Create|netlink.Append) }

func putRoute(r Route, flags netlink.HeaderFlags) Request {
	h := routeMsg(r.Dst, addr.Of(r.Dst.Addr()))
	h[5] = r.Protocol
	h[6] = scope(r)
	h[7] = uint8(r.Type)
	if r.Onlink && r.Nexthop == 0 {
		binary.NativeEndian.PutUint32(h[8:], unix.RTNH_F_ONLINK)
	}
	return newRequest(unix.RTM_NEWROUTE, flags, h, func(ae *netlink.AttributeEncoder) {
		routeKey(ae, r)
		switch {
		case r.Type == Blackhole:
		case r.Nexthop != 0:
			ae.Uint32(rtaNexthop, r.Nexthop)
		default:
			ae.Uint32(unix.RTA_OIF, uint32(r.Link))
			if r.Via.IsValid() {
				ae.Bytes(unix.RTA_GATEWAY, r.Via.AsSlice())
			}
		}
	})
}

// scope is what ip-route(8) would choose; IPv6 has none.
func scope(r Route) uint8 {
	if r.Dst.Addr().Is4() && r.Type == Unicast && r.Nexthop == 0 && !r.Via.IsValid() {
		return unix.RT_SCOPE_LINK
	}
	return unix.RT_SCOPE_UNIVERSE
}

func routeKey(ae *netlink.AttributeEncoder, r Route) {
	ae.Bytes(unix.RTA_DST, r.Dst.Addr().AsSlice())
	if r.Metric != 0 {
		ae.Uint32(unix.RTA_PRIORITY, r.Metric)
	}
}

// DelRoute removes exactly r: the same destination, metric, protocol, type and
// next hop. ESRCH if there is none. Of an IPv6 multipath route, which is one
// of several routes, the first is removed: the one that Protocol speaks of.
func DelRoute(r Route) Request {
	h := routeMsg(r.Dst, addr.Of(r.Dst.Addr()))
	h[5] = r.Protocol
	h[6] = unix.RT_SCOPE_NOWHERE // any
	h[7] = uint8(r.Type)
	if r.Nexthop != 0 {
		h[7] = unix.RTN_UNSPEC // any: of an object that drops, IPv4 shows the type as that of the route
	}
	return newRequest(unix.RTM_DELROUTE, 0, h, func(ae *netlink.AttributeEncoder) {
		routeKey(ae, r)
		switch {
		case r.Nexthop != 0:
			ae.Uint32(rtaNexthop, r.Nexthop)
		case r.Type == Unicast && (!r.Multiple || r.Dst.Addr().Is6()):
			ae.Uint32(unix.RTA_OIF, uint32(r.Link))
			// Without it, IPv6 takes what others have in a multipath route along.
			if r.Via.IsValid() && addr.Of(r.Via) == addr.Of(r.Dst.Addr()) {
				ae.Bytes(unix.RTA_GATEWAY, r.Via.AsSlice())
			}
		}
	})
}
