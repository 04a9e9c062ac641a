// Package tunnel is the seam between flanneld and its forwarder process: what
// one tells the other over a Unix socket.
//
// The forwarder carries packets of the udp backend. It is flanneld's own
// binary, executed again (`flanneld forward`), so that it outlives flanneld:
// a restart, an upgrade or a crash of flanneld loses no packet. It knows no
// lease and no store, and answers one socket that only root can open.
//
// Values and the conversation only. Packets are parsed in tunnel/packet, looked
// up in tunnel/table and moved in tunnel/forwarder. Called by driver/tunnel and
// the forwarder.
package tunnel

import (
	"net/netip"
	"strings"
)

// Version is that of the conversation. Hello, Handover and Quit never change,
// so that any flanneld can replace any forwarder.
const Version = 1

// Hello is how a forwarder introduces itself.
type Hello struct {
	Version int    `json:"version"`
	Build   string `json:"build"` // of the binary; another one is replaced
	PID     int    `json:"pid"`
}

// Config is what a forwarder works on.
type Config struct {
	Link   string         `json:"link"`   // an existing persistent TUN device
	Port   uint16         `json:"port"`   // UDP, here and at every peer
	Source []netip.Addr   `json:"source"` // bound, at most one of each family, IPv4 first
	Local  []netip.Prefix `json:"local"`  // own subnets: where packets from peers may go
	// Plain is one system call for each packet, and no offload.
	Plain bool `json:"plain,omitempty"`
}

// Peer is the far end for one subnet.
type Peer struct {
	Subnet netip.Prefix `json:"subnet"` // inner destinations, and inner sources of what comes back
	Dst    netip.Addr   `json:"dst"`    // outer
	// ECN is whether the peer tells its containers of congestion that routers
	// have marked on the way (RFC 6040). Plain flannel does not.
	ECN bool `json:"ecn,omitempty"`
}

// Change is what a forwarder is told. Peers are put before others are removed.
type Change struct {
	Config *Config        `json:"config,omitempty"`
	Put    []Peer         `json:"put,omitempty"`
	Remove []netip.Prefix `json:"remove,omitempty"`
}

// Status is the forwarder's own account of itself.
type Status struct {
	Hello
	// Config is nil before the first Change.
	Config   *Config  `json:"config,omitempty"`
	Peers    []Peer   `json:"peers"` // sorted by subnet
	Counters Counters `json:"counters"`
	// Offload is nil before the first Config, and from older forwarders.
	Offload *Offload `json:"offload,omitempty"`
}

// Offload says how packets are moved.
type Offload struct {
	Plain bool `json:"plain,omitempty"` // as Config asks
	// On are the parts that work: csum, tso4, tso6, uso of the device, gso and
	// gro of the sockets with their family.
	On []string `json:"on,omitempty"`
	// Off are those that do not, each with the reason.
	Off []string `json:"off,omitempty"`
}

// String is "on", "on, but" what is missing, or "off" and why.
func (o *Offload) String() string {
	switch {
	case o == nil:
		return ""
	case o.Plain:
		return "off: in the network config"
	case len(o.Off) > 0:
		return "on, but " + strings.Join(o.Off, "; ")
	default:
		return "on"
	}
}

// Counters count since the start of the forwarder; a successor goes on
// counting.
type Counters struct {
	SentPackets     uint64 `json:"sentPackets"` // inner packets to peers
	SentBytes       uint64 `json:"sentBytes"`
	ReceivedPackets uint64 `json:"receivedPackets"` // inner packets from peers
	ReceivedBytes   uint64 `json:"receivedBytes"`
	// Dropped counts what went no further, by reason.
	Dropped map[Reason]uint64 `json:"dropped"`
}

// Reason is why a packet was dropped.
type Reason string

// The reasons. The first ones are for datagrams from the underlay.
const (
	FromStranger   Reason = "stranger"       // no live peer has the outer source
	FromElsewhere  Reason = "inner-source"   // not inside a subnet of that peer
	NotForUs       Reason = "inner-dest"     // not inside an own subnet
	Congested      Reason = "congestion"     // marked on the way, and the sender knows no marks (RFC 6040)
	Malformed      Reason = "malformed"      // not one whole IP packet
	NoPeer         Reason = "no-peer"        // no peer has the destination; ICMP told the sender
	TooBig         Reason = "too-big"        // path MTU; ICMP told the sender
	NotSent        Reason = "send-error"     // the kernel refused the datagram
	NotDelivered   Reason = "deliver-error"  // the kernel refused the packet
	FamilyNotBound Reason = "no-such-family" // no own address of the peer's family
)

// Reasons lists all of this version: those of datagrams from the underlay, in
// the order of the checks, and then the others.
func Reasons() []Reason {
	return []Reason{
		FromStranger, Malformed, FromElsewhere, NotForUs, Congested,
		NoPeer, TooBig, NotSent, NotDelivered, FamilyNotBound,
	}
}
