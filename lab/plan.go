package lab

import (
	"fmt"
	"net/netip"

	"github.com/flannel-ng/flannel-ng/internal/addr"
)

// Underlay is how the hosts are wired.
type Underlay string

// The underlays.
const (
	L2     Underlay = "l2"     // one segment behind a switch
	Routed Underlay = "routed" // a segment for each host behind a router
)

// Places on the underlay that are not hosts.
const (
	placeEtcd    = -1
	placeOutside = -2
)

// plan gives every place its underlay address. Documentation and benchmark
// ranges only (RFC 5737, 3849, 2544).
type plan struct {
	underlay Underlay
	hosts    int
	wide     bool // as many hosts as there may be, whatever there are
}

// maxSmall is how many hosts fit 198.51.100.0/24 beside etcd and outside.
const (
	maxSmall  = 250
	maxRouted = 60
	maxHosts  = 1 << 16
)

func (p plan) check() error {
	limit := maxHosts
	if p.underlay == Routed {
		limit = maxRouted
	}
	if p.hosts < 1 || p.hosts > limit {
		return fmt.Errorf("%d hosts on underlay %q: want 1 to %d", p.hosts, p.underlay, limit)
	}
	return nil
}

// place is one interface on the underlay.
type place struct {
	prefix  netip.Prefix // address with its length
	gateway netip.Addr   // default router
}

// at returns the place with index i (1 is the first host) in family f.
func (p plan) at(f addr.Family, i int) place {
	if p.underlay == Routed {
		return p.routed(f, i)
	}
	base, bits, number := p.segment(f), p.segmentBits(f), p.number(i)
	return place{
		prefix:  netip.PrefixFrom(offset(base, number), bits),
		gateway: offset(base, p.number(placeOutside)),
	}
}

// router is the address of the router on the segment of place i.
func (p plan) router(f addr.Family, i int) netip.Prefix {
	at := p.routed(f, i)
	return netip.PrefixFrom(at.gateway, at.prefix.Bits())
}

func (p plan) routed(f addr.Family, i int) place {
	segment := i
	switch i {
	case placeEtcd:
		segment = maxRouted + 1
	case placeOutside:
		segment = maxRouted + 2
	}
	if f == addr.IPv4 {
		base := offset(netip.MustParseAddr("198.51.100.0"), 4*segment)
		return place{prefix: netip.PrefixFrom(offset(base, 2), 30), gateway: offset(base, 1)}
	}
	bytes := netip.MustParseAddr("2001:db8::").As16()
	bytes[7] = byte(segment)
	base := netip.AddrFrom16(bytes)
	return place{prefix: netip.PrefixFrom(offset(base, 2), 64), gateway: offset(base, 1)}
}

func (p plan) large() bool { return p.wide || p.hosts > maxSmall }

func (p plan) segment(f addr.Family) netip.Addr {
	switch {
	case f == addr.IPv6:
		return netip.MustParseAddr("2001:db8::")
	case p.large():
		return netip.MustParseAddr("198.18.0.0")
	default:
		return netip.MustParseAddr("198.51.100.0")
	}
}

func (p plan) segmentBits(f addr.Family) int {
	switch {
	case f == addr.IPv6:
		return 64
	case p.large():
		return 15
	default:
		return 24
	}
}

// number is the host part of the address of place i.
func (p plan) number(i int) int {
	if i > 0 {
		return i
	}
	if p.large() {
		return maxHosts + 1 - i // beyond every host
	}
	return 252 - i // .253 and .254
}

// World is an address beyond the underlay: it stands for the internet.
func World(f addr.Family) netip.Addr {
	if f == addr.IPv4 {
		return netip.MustParseAddr("203.0.113.1")
	}
	return netip.MustParseAddr("2001:db8:ffff::1")
}

// offset adds n to the low 32 bits of a.
func offset(a netip.Addr, n int) netip.Addr {
	bytes := a.As16()
	for i := 15; i >= 12; i-- {
		n += int(bytes[i])
		bytes[i] = byte(n)
		n >>= 8
	}
	return netip.AddrFrom16(bytes).Unmap()
}
