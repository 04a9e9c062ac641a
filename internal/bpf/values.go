package bpf

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
)

// Settings are what the programs work on.
type Settings struct {
	Uplink, Tunnel int          // indexes of devices
	Source         netip.Addr   // own IPv4 address on the underlay
	Local          netip.Prefix // own IPv4 subnet
	Port           uint16       // UDP, here and at every peer
	Decap          uint16       // UDP port of the hidden VXLAN device
}

// Peer is the far end for one subnet.
type Peer struct {
	Subnet netip.Prefix // IPv4, masked
	Dst    netip.Addr   // IPv4
}

// Counters count since the maps were made. Sizes are those of inner packets.
type Counters struct {
	SentPackets, SentBytes         uint64
	ReceivedPackets, ReceivedBytes uint64
	// What was dropped, by reason.
	Malformed    uint64 // no IPv4 packet came out of the tunnel
	InnerSource  uint64 // not inside a subnet of the peer that sent it
	InnerDest    uint64 // not inside the own subnet
	SendError    uint64 // the kernel refused the datagram
	DeliverError uint64 // the kernel refused the packet
}

// Addresses and ports are in the order of the wire, in memory.

func wire32(a netip.Addr) uint32 {
	b := a.As4()
	return binary.NativeEndian.Uint32(b[:])
}

func wire16(n uint16) uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, n))
}

func host16(n uint16) uint16 {
	return binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, n))
}

func addrOf(wire uint32) netip.Addr {
	return netip.AddrFrom4([4]byte(binary.NativeEndian.AppendUint32(nil, wire)))
}

func maskOf(p netip.Prefix) uint32 {
	return binary.NativeEndian.Uint32(net.CIDRMask(p.Bits(), 32))
}

func bitsOf(mask uint32) int {
	ones, _ := net.IPMask(binary.NativeEndian.AppendUint32(nil, mask)).Size()
	return ones
}

func (s Settings) encode() (fastpathSettings, error) {
	if !s.Source.Is4() || !s.Local.Addr().Is4() {
		return fastpathSettings{}, fmt.Errorf("fast path from %s for %s: only IPv4", s.Source, s.Local)
	}
	return fastpathSettings{
		Uplink: uint32(s.Uplink), Tunnel: uint32(s.Tunnel), Source: wire32(s.Source),
		Local: wire32(s.Local.Masked().Addr()), Mask: maskOf(s.Local), Port: wire16(s.Port), Decap: wire16(s.Decap),
	}, nil
}

func decode(s fastpathSettings) Settings {
	return Settings{
		Uplink: int(s.Uplink), Tunnel: int(s.Tunnel), Source: addrOf(s.Source),
		Local: netip.PrefixFrom(addrOf(s.Local), bitsOf(s.Mask)), Port: host16(s.Port), Decap: host16(s.Decap),
	}
}

func subnetKey(p netip.Prefix) fastpathSubnet {
	return fastpathSubnet{Bits: uint32(p.Bits()), Addr: wire32(p.Addr())}
}

func peerOf(k fastpathSubnet, v fastpathPeer) Peer {
	return Peer{Subnet: netip.PrefixFrom(addrOf(k.Addr), int(k.Bits)), Dst: addrOf(v.Dst)}
}

func (c *Counters) add(o fastpathCounters) {
	c.SentPackets += o.SentPackets
	c.SentBytes += o.SentBytes
	c.ReceivedPackets += o.ReceivedPackets
	c.ReceivedBytes += o.ReceivedBytes
	c.Malformed += o.Malformed
	c.InnerSource += o.InnerSource
	c.InnerDest += o.InnerDest
	c.SendError += o.SendError
	c.DeliverError += o.DeliverError
}
