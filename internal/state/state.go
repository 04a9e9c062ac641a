// Package state describes what one host should look like: values only, one
// type per kind of object. Backends and traffic produce them, drivers make
// them true.
//
// It owns no kernel object, never does I/O, and names links by name: only
// drivers know interface indexes.
package state

import (
	"fmt"
	"net/netip"

	"github.com/flannel-ng/flannel-ng/internal/addr"
)

// Kind names a kind of object; one driver serves one kind.
type Kind string

// The kinds, in the order in which they are applied. Removal runs backwards.
const (
	KindLink      Kind = "link"
	KindSysctl    Kind = "sysctl"
	KindAddress   Kind = "address"
	KindNeighbour Kind = "neighbour"
	KindFDB       Kind = "fdb"
	KindTunnel    Kind = "tunnel"
	KindFastPath  Kind = "fastpath"
	KindRoute     Kind = "route"
	KindFilter    Kind = "filter"
	KindHook      Kind = "hook"
	KindFile      Kind = "file"
)

// Key identifies an object among all of a host. Comparable and free of
// allocation, because a large fabric has 100,000 of them.
type Key struct {
	Kind   Kind
	Name   string       // link, sysctl path, filter name, hook name or file path
	Prefix netip.Prefix // address, neighbour (host prefix), route, peer of a tunnel
	MAC    addr.MAC     // FDB
}

// Object is one thing that we want on a host.
type Object interface {
	Key() Key
	// String is one line in the words of iproute2, for plans and logs.
	String() string
}

// Set is everything wanted by one producer, or the sum of all producers.
type Set struct {
	Links      []Link
	Sysctls    []Sysctl
	Addresses  []Address
	Neighbours []Neighbour
	FDB        []FDBEntry
	Tunnels    []Tunnel
	Ends       []TunnelEnd
	FastPaths  []FastPath
	FastPeers  []FastPeer
	Routes     []Route
	Filters    []Filter
	Hooks      []Hook
	Files      []File

	// MTU is the largest packet in bytes that a container may send; zero is
	// "no opinion". A sum of sets has the smallest.
	MTU int
}

// LinkType is the kind of device, in the kernel's word (IFLA_INFO_KIND).
type LinkType string

// The link types.
const (
	LinkVXLAN LinkType = "vxlan"
	// LinkTUN is a persistent TUN device without packet information: it and
	// what stands on it outlive the process that reads it.
	LinkTUN LinkType = "tun"
)

// Offload says who decides on a feature of a device.
type Offload uint8

// The decisions. OffloadAsFound leaves the feature as somebody set it, with
// ethtool for example.
const (
	OffloadAsFound Offload = iota
	OffloadOn
	OffloadOff
)

// String is "on", "off", or "as found".
func (o Offload) String() string {
	switch o {
	case OffloadOn:
		return "on"
	case OffloadOff:
		return "off"
	default:
		return "as found"
	}
}

// Link is a virtual device of ours. It is always wanted up.
type Link struct {
	Name  string
	Type  LinkType
	MTU   int      // bytes
	MAC   addr.MAC // set at creation, kept for life; zero for LinkTUN, which has none
	VXLAN VXLAN    // if Type is LinkVXLAN
	// TxChecksum is tx-checksumming of ethtool(8): whether transport checksums
	// are left to hardware below.
	TxChecksum Offload
}

// VXLAN holds the parameters of a VXLAN device (RFC 7348, ip-link(8)).
type VXLAN struct {
	VNI    uint32     // 24 bits
	Port   uint16     // UDP destination; never zero here
	Source netip.Addr // outer source: an address of Parent
	Parent string     // underlay link
	// GBP carries packet marks in the group policy extension
	// (draft-smith-vxlan-group-policy); fixed at creation.
	GBP      bool
	Learning bool // learn remote MACs from received packets
}

// Key implements Object.
func (l Link) Key() Key { return Key{Kind: KindLink, Name: l.Name} }

func (l Link) String() string {
	if l.Type == LinkTUN {
		return fmt.Sprintf("link %s type tun mtu %d", l.Name, l.MTU)
	}
	s := fmt.Sprintf("link %s type %s mtu %d address %s id %d dstport %d local %s",
		l.Name, l.Type, l.MTU, l.MAC, l.VXLAN.VNI, l.VXLAN.Port, l.VXLAN.Source)
	if l.VXLAN.Parent != "" {
		s += " dev " + l.VXLAN.Parent
	}
	if l.VXLAN.GBP {
		s += " gbp"
	}
	if l.VXLAN.Learning {
		s += " learning"
	}
	if l.TxChecksum != OffloadAsFound {
		s += " tx-checksumming " + l.TxChecksum.String()
	}
	return s
}

// Sysctl is a kernel switch. It has no owner: it is set, and set back by a
// cleanup alone.
type Sysctl struct {
	Path  string // below /proc/sys, with slashes: net/ipv4/conf/flannel.1/forwarding
	Value string
	Link  string // the link that must exist first, or ""
	// Optional: a kernel without this switch is as good.
	Optional bool
}

// Key implements Object.
func (s Sysctl) Key() Key { return Key{Kind: KindSysctl, Name: s.Path} }

func (s Sysctl) String() string { return fmt.Sprintf("sysctl %s = %s", s.Path, s.Value) }

// Address is an IP address on a link of ours.
type Address struct {
	Link   string
	Prefix netip.Prefix // address with its length, not masked
}

// Key implements Object.
func (a Address) Key() Key { return Key{Kind: KindAddress, Name: a.Link, Prefix: a.Prefix} }

func (a Address) String() string { return fmt.Sprintf("address %s dev %s", a.Prefix, a.Link) }

// Neighbour is a permanent ARP or NDP entry on a link of ours.
type Neighbour struct {
	Link string
	IP   netip.Addr
	MAC  addr.MAC
}

// Key implements Object.
func (n Neighbour) Key() Key {
	return Key{Kind: KindNeighbour, Name: n.Link, Prefix: addr.Single(n.IP)}
}

func (n Neighbour) String() string {
	return fmt.Sprintf("neighbour %s lladdr %s dev %s", n.IP, n.MAC, n.Link)
}

// FDBEntry is a permanent forwarding entry of a VXLAN link of ours: frames to
// MAC go to the VTEP at Dst.
type FDBEntry struct {
	Link string
	MAC  addr.MAC
	Dst  netip.Addr
}

// Key implements Object.
func (e FDBEntry) Key() Key { return Key{Kind: KindFDB, Name: e.Link, MAC: e.MAC} }

func (e FDBEntry) String() string {
	return fmt.Sprintf("fdb %s dst %s dev %s", e.MAC, e.Dst, e.Link)
}

// Route is a route of the main table. Whether it is installed with a nexthop
// object or as a classic route is the driver's affair.
type Route struct {
	Dst       netip.Prefix
	Via       netip.Addr // zero: link scope
	Link      string
	Onlink    bool // Via need not be covered by an address of Link
	Blackhole bool // drop instead; Via and Link are zero
	Metric    uint32
}

// Key implements Object.
func (r Route) Key() Key { return Key{Kind: KindRoute, Prefix: r.Dst} }

func (r Route) String() string {
	if r.Blackhole {
		return fmt.Sprintf("route blackhole %s metric %d", r.Dst, r.Metric)
	}
	s := "route " + r.Dst.String()
	if r.Via.IsValid() {
		s += " via " + r.Via.String()
	}
	s += " dev " + r.Link
	if r.Onlink {
		s += " onlink"
	}
	if r.Metric != 0 {
		s += fmt.Sprintf(" metric %d", r.Metric)
	}
	return s
}

// File is a file that we own whole. Parent directories are made (0755). A new
// file gets 0644 whatever the umask; an existing one keeps its mode.
type File struct {
	Path    string
	Content string
	Absent  bool // the file must not exist
}

// Key implements Object.
func (f File) Key() Key { return Key{Kind: KindFile, Name: f.Path} }

func (f File) String() string {
	if f.Absent {
		return "file " + f.Path + " absent"
	}
	return fmt.Sprintf("file %s (%d bytes)", f.Path, len(f.Content))
}

// On names the link that o stands on, or "".
func On(o Object) string {
	switch o := o.(type) {
	case Sysctl:
		return o.Link
	case Address:
		return o.Link
	case Neighbour:
		return o.Link
	case FDBEntry:
		return o.Link
	case Tunnel:
		return o.Link
	case TunnelEnd:
		return o.Link
	case FastPath:
		return o.Link
	case FastPeer:
		return o.Link
	case Route:
		return o.Link
	default:
		return ""
	}
}
