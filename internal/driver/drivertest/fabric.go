package drivertest

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/state"
)

// DirectVia is the router, on the uplink, of the one peer of a fabric that is
// reached without a tunnel.
func DirectVia() netip.Addr { return netip.AddrFrom4([4]byte{198, 51, 100, 200}) }

// Fabric is a cluster network as one host sees it.
type Fabric struct {
	ID    uint8 // 1 or 2: VNI and address range
	Owner state.Owner
	// TUN is a fabric on one TUN device with a forwarder behind it, instead of
	// a VXLAN device for each family.
	TUN bool
}

// FabricOf makes the fabric of a number; each has another owner.
func FabricOf(id uint8) Fabric {
	f := Fabric{ID: id}
	if id != 1 {
		f.Owner = state.OwnerOf(fmt.Sprintf("/run/flannel/%d.env", id))
	}
	return f
}

// Link names the device of a family.
func (f Fabric) Link(family addr.Family) string {
	if f.TUN {
		return fmt.Sprintf("flannel%d", f.ID)
	}
	if family == addr.IPv4 {
		return fmt.Sprintf("flannel.%d", f.ID)
	}
	return fmt.Sprintf("flannel-v6.%d", f.ID)
}

// Networks are the cluster networks.
func (f Fabric) Networks() []netip.Prefix {
	return []netip.Prefix{
		netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 16 * f.ID}), 12),
		netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfd, 0, 0, f.ID}), 32),
	}
}

// Subnet is that of host i; host 0 is ourselves.
func (f Fabric) Subnet(family addr.Family, i int) netip.Prefix {
	if family == addr.IPv4 {
		var b [4]byte
		binary.BigEndian.PutUint32(b[:], 10<<24+uint32(16*f.ID)<<16+uint32(i)<<4)
		return netip.PrefixFrom(netip.AddrFrom4(b), 28)
	}
	b := [16]byte{0xfd, 0, 0, f.ID}
	binary.BigEndian.PutUint32(b[4:], uint32(i))
	return netip.PrefixFrom(netip.AddrFrom16(b), 64)
}

// MAC is that of the device of host i.
func (f Fabric) MAC(family addr.Family, i int) addr.MAC {
	return addr.MAC{0x0e, f.ID, uint8(family), uint8(i >> 16), uint8(i >> 8), uint8(i)}
}

// Public is the address of host i on the underlay.
func Public(family addr.Family, i int) netip.Addr {
	if family == addr.IPv4 {
		return netip.AddrFrom4([4]byte{198, 51, 100, uint8(1 + i%199)})
	}
	b := [16]byte{0x20, 0x01, 0x0d, 0xb8}
	binary.BigEndian.PutUint32(b[12:], uint32(1+i))
	return netip.AddrFrom16(b)
}

// Local is what the host has of itself: devices, addresses, and a blackhole
// for its own subnet.
func (f Fabric) Local() *state.Set {
	if f.TUN {
		return f.localTUN()
	}
	var s state.Set
	for _, family := range addr.Families() {
		l := state.Link{
			Name: f.Link(family), Type: state.LinkVXLAN, MTU: 1400, MAC: f.MAC(family, 0),
			VXLAN: state.VXLAN{VNI: uint32(f.ID), Port: 8472, Source: Public(family, 0), Parent: Uplink},
		}
		s.Links = append(s.Links, l)
		s.Addresses = append(s.Addresses, state.Address{Link: l.Name, Prefix: addr.Single(f.Subnet(family, 0).Addr())})
		s.Routes = append(s.Routes, state.Route{Dst: f.Subnet(family, 0), Blackhole: true, Metric: f.Owner.BlackholeMetric()})
	}
	return &s
}

// localTUN is Local for a fabric on a TUN device.
func (f Fabric) localTUN() *state.Set {
	t := state.Tunnel{Link: f.Link(addr.IPv4), Port: 8285 + uint16(f.ID)}
	s := state.Set{Links: []state.Link{{Name: t.Link, Type: state.LinkTUN, MTU: 1400}}}
	for i, family := range addr.Families() {
		t.Source.Put(family, Public(family, 0))
		t.Local.Put(family, f.Subnet(family, 0))
		s.Addresses = append(s.Addresses, state.Address{Link: t.Link, Prefix: addr.Single(f.Subnet(family, 0).Addr())})
		s.Routes = append(s.Routes, state.Route{Dst: f.Networks()[i], Link: t.Link})
	}
	s.Tunnels = []state.Tunnel{t}
	return &s
}

// With is the local set and peers 1 to n, in both families, and a further
// peer that is reached over the uplink.
func (f Fabric) With(n int) *state.Set {
	s := f.Local()
	for _, family := range addr.Families() {
		for i := 1; i <= n; i++ {
			s.Append(f.Peer(family, i))
		}
	}
	s.Routes = append(s.Routes, state.Route{Dst: f.Subnet(addr.IPv4, n+1), Via: DirectVia(), Link: Uplink})
	return s
}

// Peer is what the host has for peer i.
func (f Fabric) Peer(family addr.Family, i int) state.Set {
	link, mac, subnet := f.Link(family), f.MAC(family, i), f.Subnet(family, i)
	if f.TUN {
		return state.Set{Ends: []state.TunnelEnd{{Link: link, Subnet: subnet, Dst: Public(family, i)}}}
	}
	return state.Set{
		Neighbours: []state.Neighbour{{Link: link, IP: subnet.Addr(), MAC: mac}},
		FDB:        []state.FDBEntry{{Link: link, MAC: mac, Dst: Public(family, i)}},
		Routes:     []state.Route{{Dst: subnet, Via: subnet.Addr(), Link: link, Onlink: true}},
	}
}
