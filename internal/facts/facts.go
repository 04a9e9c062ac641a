// Package facts holds what is true of this host before we change anything:
// identity, uplink, addresses, links and the routes that decide adjacency.
//
// Values only, and pure functions on them. The probe reads them from Linux;
// backends, traffic and the engine only look.
package facts

import (
	"net/netip"

	"github.com/flannel-ng/flannel-ng/internal/addr"
)

// Node is one reading of a host.
type Node struct {
	HostID string // random, kept in the state directory; seeds derived MACs
	Uplink Link   // the link that carries traffic between hosts
	// Source is the uplink's own address per family: what tunnels send from.
	Source addr.ByFamily[netip.Addr]
	// Public is the address per family that peers send to. It differs from
	// Source behind NAT (--public-ip).
	Public addr.ByFamily[netip.Addr]
	// Fixed: the user or a route chose this Source, so that another address of
	// the uplink is no substitute.
	Fixed addr.ByFamily[bool]
	// Warnings are for people: what is known is not what it should be.
	Warnings []string
	// Forwards says that net.ipv6.conf.all.forwarding is on. IPv4 has a switch
	// for every link.
	Forwards bool
	Links    []Link // every link, the uplink included, by name
	// Routes are those that are not ours and that peers are reached by, as far
	// as the backend asks for Adjacent.
	Routes []Route
	// Startup is what the backend's startup command printed, trimmed; it is run
	// once for each start of the daemon (backend.Entry.Startup).
	Startup string
	// StartupPending says why Startup is not there yet; "": it is, or there is
	// no such command.
	StartupPending string
	// FastPath says whether the kernel takes the programs that carry packets of
	// the udp backend. It is asked for that backend only.
	FastPath Ability
}

// Ability is whether this host can do something.
type Ability struct {
	OK  bool
	Why string // it cannot
}

// Link is an existing device.
type Link struct {
	Name  string
	Index int
	Type  string // IFLA_INFO_KIND, "" for a plain device
	MTU   int
	MAC   addr.MAC
	Alias string
	Up    bool
	VNI   uint32 // VXLAN only
	Port  uint16 // VXLAN only
	Addrs []Addr
	// AcceptRA is net.ipv6 accept_ra: 0 ignores router advertisements, 1 obeys
	// them unless forwarding, 2 always obeys them. It is known only while the
	// host does not forward IPv6; nobody needs it afterwards.
	AcceptRA int
	// DefaultByRA says that an IPv6 default route learnt from a router
	// advertisement leaves by this link; known when AcceptRA is.
	DefaultByRA bool
}

// Addr is an address of a link with what selection needs to rank it.
type Addr struct {
	Prefix     netip.Prefix // address with its length, not masked
	Deprecated bool
	Dynamic    bool // not IFA_F_PERMANENT
	Temporary  bool // RFC 8981
}

// Route is a unicast route with one or more next hops.
type Route struct {
	Dst      netip.Prefix
	Via      netip.Addr // zero: on-link
	Link     string     // of the first next hop; empty: it leads nowhere
	Source   netip.Addr // preferred source, may be zero
	Metric   uint32
	Multiple bool // more than one next hop
}

// LinkNamed finds a link.
func (n Node) LinkNamed(name string) (Link, bool) {
	for _, l := range n.Links {
		if l.Name == name {
			return l, true
		}
	}
	return Link{}, false
}

// Adjacent says through which link a is reached without a router: the longest
// matching route decides, the lowest metric among equals, as in the kernel's
// main table (ip-route(8)). Of two links to one network it is the uplink,
// whatever the metrics: the user may have chosen it for this. A link-local
// address of IPv6, which every link has a route to, is on the uplink.
func (n Node) Adjacent(a netip.Addr) (link string, ok bool) {
	if LinkLocal(a) {
		return n.Uplink.Name, n.Uplink.Name != ""
	}
	r, ok := Lookup(n.Routes, a)
	if !ok || !r.Direct() {
		return "", false
	}
	for _, other := range n.Routes {
		if other.Dst == r.Dst && other.Link == n.Uplink.Name && other.Direct() {
			return other.Link, true
		}
	}
	return r.Link, true
}

// LinkLocal says whether a says nothing without its link.
func LinkLocal(a netip.Addr) bool { return a.Is6() && a.IsLinkLocalUnicast() }

// Direct says whether r leads to a link, without a router and with no choice.
func (r Route) Direct() bool { return r.Link != "" && !r.Via.IsValid() && !r.Multiple }

// Lookup returns the route that a packet to a would take.
func Lookup(routes []Route, a netip.Addr) (Route, bool) {
	var best Route
	found := false
	for _, r := range routes {
		if r.Dst.Addr().Is4() != a.Is4() || !r.Dst.Contains(a) {
			continue
		}
		if !found || r.Dst.Bits() > best.Dst.Bits() ||
			r.Dst.Bits() == best.Dst.Bits() && r.Metric < best.Metric {
			best, found = r, true
		}
	}
	return best, found
}
