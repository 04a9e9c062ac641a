package state

import (
	"fmt"
	"net/netip"

	"github.com/flannel-ng/flannel-ng/internal/addr"
)

// Tunnel is a forwarder process: the IP packets of a TUN link are the payload
// of UDP datagrams, without a header between (reference §5.4).
type Tunnel struct {
	Link string // a TUN link of ours
	Port uint16 // UDP, here and at every peer
	// Source is bound for sending and receiving; a zero slot: no datagrams of
	// that family.
	Source addr.ByFamily[netip.Addr]
	// Local are the own subnets: where packets from peers may go.
	Local addr.ByFamily[netip.Prefix]
	// Plain is without offloads: one system call for each packet.
	Plain bool
}

// Key implements Object.
func (t Tunnel) Key() Key { return Key{Kind: KindTunnel, Name: t.Link} }

func (t Tunnel) String() string {
	return fmt.Sprintf("tunnel %s port %d local %s for %s", t.Link, t.Port, t.Source, t.Local)
}

// TunnelEnd is the far end of a Tunnel for one subnet: packets to it go there,
// and packets from there must come from it.
type TunnelEnd struct {
	Link   string
	Subnet netip.Prefix
	Dst    netip.Addr // underlay address
	// ECN is whether the far end heeds congestion marks of the underlay
	// (RFC 6040). Plain flannel loses them.
	ECN bool
}

// Key implements Object.
func (e TunnelEnd) Key() Key { return Key{Kind: KindTunnel, Name: e.Link, Prefix: e.Subnet} }

func (e TunnelEnd) String() string {
	return fmt.Sprintf("tunnel %s to %s dst %s", e.Link, e.Subnet, e.Dst)
}
