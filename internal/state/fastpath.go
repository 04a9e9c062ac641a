package state

import (
	"fmt"
	"net/netip"
)

// FastPath lets the kernel carry the IPv4 packets of a Tunnel between this host
// and the peers that have a FastPeer. What it does not carry, the forwarder
// does: they share the link and the port.
type FastPath struct {
	Link   string       // a TUN link of ours
	Uplink string       // where datagrams leave and come in
	Decap  string       // name for a device of the fast path's own
	Port   uint16       // UDP, here and at every peer
	Source netip.Addr   // own IPv4 address on the underlay
	Local  netip.Prefix // own IPv4 subnet: where packets from peers may go
	// Optional: a host where it cannot be had is as good.
	Optional bool
}

// FastPathAlias marks the devices of the fast path's own. It is not that of
// other links, which have another driver.
func FastPathAlias(o Owner) string { return o.Alias() + " fast path" }

// Key implements Object.
func (p FastPath) Key() Key { return Key{Kind: KindFastPath, Name: p.Link} }

func (p FastPath) String() string {
	return fmt.Sprintf("fastpath %s dev %s decap %s port %d local %s for %s", p.Link, p.Uplink, p.Decap, p.Port, p.Source, p.Local)
}

// FastPeer is the far end of a FastPath for one subnet. It stands beside the
// TunnelEnd of the same subnet. Without the FastPath it is nothing to be made.
type FastPeer struct {
	Link   string
	Subnet netip.Prefix
	Dst    netip.Addr // underlay address
}

// Key implements Object.
func (p FastPeer) Key() Key { return Key{Kind: KindFastPath, Name: p.Link, Prefix: p.Subnet} }

func (p FastPeer) String() string {
	return fmt.Sprintf("fastpath %s to %s dst %s", p.Link, p.Subnet, p.Dst)
}

// Dispensable says whether a host without o does its work as well: a failure to
// make it is told, and nobody waits for it.
func Dispensable(o Object) bool {
	switch o := o.(type) {
	case FastPath:
		return o.Optional
	case FastPeer:
		return true
	default:
		return false
	}
}
