// Package vxlan carries packets in VXLAN (RFC 7348) between VTEPs that all
// hosts know: no multicast, and no need to learn.
//
// A packet for a peer's subnet P meets three objects of ours. The route
// "P via base(P) onlink" sends it to the VXLAN device towards P's first
// address; the permanent neighbour entry gives that address the peer's VTEP
// MAC; the FDB entry gives that MAC the peer's underlay address. Each family
// has its own device, carried over its own family.
//
// It produces wanted state only; called by the engine.
package vxlan

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/backend"
	"github.com/flannel-ng/flannel-ng/internal/config"
	"github.com/flannel-ng/flannel-ng/internal/facts"
	"github.com/flannel-ng/flannel-ng/internal/lease"
	"github.com/flannel-ng/flannel-ng/internal/state"
)

// Type is the Backend.Type of this backend.
const Type = "vxlan"

// kernelPort is the Linux default, older than the IANA assignment 4789
// (drivers/net/vxlan); flannel leaves it to the kernel.
const kernelPort = 8472

// minimumMTU is what every IPv6 link must carry, in bytes (RFC 8200 §5). The
// kernel takes IPv6 off a device with less.
const minimumMTU = 1280

// ErrMTU says that the underlay's packets are too small for a tunnel.
var ErrMTU = errors.New("underlay MTU too small")

// Overhead is what the tunnel adds to an inner packet, in bytes: inner
// Ethernet 14, VXLAN 8, UDP 8 and the outer IP header. Packet marks (GBP) cost
// nothing: they stand in reserved bits of the VXLAN header.
func Overhead(outer addr.Family) int {
	if outer == addr.IPv4 {
		return 14 + 8 + 8 + 20
	}
	return 14 + 8 + 8 + 40
}

// data is the BackendData of one family (reference §5): field names and order
// are the wire format.
type data struct {
	VNI     uint32
	VtepMAC string
}

type vxlan struct {
	opts     Options
	owner    state.Owner
	families []addr.Family
	names    addr.ByFamily[string] // of devices, as flannel names them
	usual    string                // how backend data of this fabric begins, as flannel writes it
	// twin: this host has another wire of the same VNI, whose devices have, or
	// want, the same names.
	twin bool
}

// New makes the backend from its options.
func New(s backend.Setup) (backend.Backend, []string, error) {
	v := &vxlan{owner: s.Owner, families: s.Families}
	warnings, err := s.Options.Decode(&v.opts)
	if err != nil {
		return nil, warnings, err
	}
	v.opts.Port = cmp.Or(v.opts.Port, kernelPort)
	for _, w := range s.Beside {
		v.twin = v.twin || w.Type == Type && w.VNI == v.opts.VNI && w.Port != v.opts.Port
	}
	v.names = addr.Pair(fmt.Sprintf("flannel.%d", v.opts.VNI), fmt.Sprintf("flannel-v6.%d", v.opts.VNI))
	v.usual = fmt.Sprintf(`{"VNI":%d,"VtepMAC":"`, v.opts.VNI)
	return v, warnings, nil
}

// Adjacency is backend.Entry.Adjacency: direct routes alone need to know.
func Adjacency(b config.Backend) bool {
	var o Options
	_, err := b.Decode(&o)
	return err == nil && o.DirectRouting
}

// Wire is backend.Entry.Wire. The kernel has one socket for each port and use of
// the header's reserved bits, and tells networks on it by their VNI.
func Wire(b config.Backend) (backend.Wire, error) {
	var o Options
	_, err := b.Decode(&o)
	w := backend.Wire{Type: Type, VNI: o.VNI, Port: cmp.Or(o.Port, kernelPort), Socket: Type}
	w.Name = fmt.Sprintf("vxlan vni %d port %d", w.VNI, w.Port)
	if o.GBP {
		w.Name, w.Socket = w.Name+" gbp", Type+" gbp"
	}
	return w, err
}

// Offer publishes the VTEP of each family. The MAC that peers already know
// wins, then the one of a device found (a flannel before us), then one derived
// from the host id: so it survives restarts, reboots and a lost lease.
func (v *vxlan) Offer(n facts.Node, prev *lease.Lease) (lease.Offer, error) {
	o := lease.Offer{Backend: Type}
	for _, f := range v.families {
		if !n.Public.At(f).IsValid() {
			return lease.Offer{}, fmt.Errorf("vxlan: no public %s address to offer", f)
		}
		text, err := json.Marshal(data{VNI: v.opts.VNI, VtepMAC: v.mac(f, n, prev).String()})
		if err != nil {
			return lease.Offer{}, fmt.Errorf("vxlan: encode %s backend data: %w", f, err)
		}
		o.Data.Put(f, string(text))
	}
	return o, nil
}

func (v *vxlan) mac(f addr.Family, n facts.Node, prev *lease.Lease) addr.MAC {
	if prev != nil && prev.Offer.Backend == Type {
		if m, err := v.parse(prev.Offer.Data.At(f)); err == nil {
			return m
		}
	}
	name := v.device(f, n)
	if l, ok := n.LinkNamed(name); ok && v.fits(l) && l.MAC.IsUnicast() {
		return l.MAC
	}
	return backend.DeriveMAC(n.HostID, name)
}

// Local is the VXLAN device of each family with the base address of our
// subnet, which is also the next hop that peers route to.
func (v *vxlan) Local(self lease.Lease, n facts.Node) (state.Set, error) {
	var s state.Set
	for _, f := range v.families {
		mtu := v.underlayMTU(n) - Overhead(f)
		if f == addr.IPv6 && mtu < minimumMTU {
			return state.Set{}, fmt.Errorf("vxlan: %w: the tunnel would have %d bytes, %d of the underlay (uplink %s) "+
				"less %d, and IPv6 needs %d", ErrMTU, mtu, v.underlayMTU(n), n.Uplink.Name, Overhead(f), minimumMTU)
		}
		m, err := v.parse(self.Offer.Data.At(f))
		if err != nil {
			return state.Set{}, fmt.Errorf("vxlan: own %s backend data: %w", f, err)
		}
		dev := v.device(f, n)
		s.Links = append(s.Links, state.Link{
			Name: dev, Type: state.LinkVXLAN, MTU: mtu, MAC: m,
			VXLAN: state.VXLAN{
				VNI: v.opts.VNI, Port: v.opts.Port, Source: n.Source.At(f), Parent: n.Uplink.Name,
				GBP: v.opts.GBP, Learning: v.opts.Learning,
			},
			TxChecksum: v.checksum(),
		})
		s.Addresses = append(s.Addresses, state.Address{
			Link: dev, Prefix: addr.Single(self.Subnets.At(f).Addr()),
		})
		s.Sysctls = append(s.Sysctls, backend.Switches(dev, f)...)
		// The smallest family rules: containers have one MTU for both.
		if s.MTU == 0 || mtu < s.MTU {
			s.MTU = mtu
		}
	}
	return s, nil
}

// Peer sends to p through its VTEP, or, with DirectRouting and p on a link of
// ours, straight to p.
func (v *vxlan) Peer(_ lease.Lease, n facts.Node, p lease.Lease, o lease.Offer) (state.Set, error) {
	var s state.Set
	var errs []error
	for _, f := range v.families {
		if !p.Subnets.At(f).IsValid() {
			continue
		}
		if err := v.send(&s, f, n, target{p.Subnets.At(f), p.Public.At(f), o.Data.At(f)}); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", f, err))
		}
	}
	return s, errors.Join(errs...)
}

type target struct {
	subnet netip.Prefix
	public netip.Addr
	data   string
}

func (v *vxlan) send(s *state.Set, f addr.Family, n facts.Node, t target) error {
	if !t.public.IsValid() {
		return errors.New("no public address")
	}
	m, err := v.parse(t.data)
	if err != nil {
		return err
	}
	if v.opts.DirectRouting {
		if link, ok := n.Adjacent(t.public); ok {
			s.Routes = append(s.Routes, state.Route{Dst: t.subnet, Via: t.public, Link: link})
			return nil
		}
	}
	dev, base := v.device(f, n), t.subnet.Addr()
	s.Neighbours = append(s.Neighbours, state.Neighbour{Link: dev, IP: base, MAC: m})
	s.FDB = append(s.FDB, state.FDBEntry{Link: dev, MAC: m, Dst: t.public})
	s.Routes = append(s.Routes, state.Route{Dst: t.subnet, Via: base, Link: dev, Onlink: true})
	return nil
}

// parse reads backend data of this fabric: another VNI would be delivered to
// nobody.
func (v *vxlan) parse(text string) (addr.MAC, error) {
	if text == "" || text == "null" {
		return addr.MAC{}, errors.New("no backend data")
	}
	// Nearly all of it is as flannel writes it; a large fabric has much of it.
	if mac, ok := strings.CutPrefix(text, v.usual); ok {
		if mac, ok = strings.CutSuffix(mac, `"}`); ok {
			if m, err := addr.ParseMAC(mac); err == nil && m.IsUnicast() {
				return m, nil
			}
		}
	}
	var d data
	if err := json.Unmarshal([]byte(text), &d); err != nil {
		return addr.MAC{}, fmt.Errorf("backend data %q: %w", clip(text), err)
	}
	if d.VNI != v.opts.VNI {
		return addr.MAC{}, fmt.Errorf("backend data has VNI %d, this network uses %d", d.VNI, v.opts.VNI)
	}
	m, err := addr.ParseMAC(d.VtepMAC)
	if err != nil {
		return addr.MAC{}, fmt.Errorf("backend data VtepMAC: %w", err)
	}
	if !m.IsUnicast() {
		return addr.MAC{}, fmt.Errorf("backend data VtepMAC %s is not a unicast address", m)
	}
	return m, nil
}

// underlayMTU is the largest outer packet: the MTU key names the underlay's. It
// holds for all hosts, so one with a smaller uplink takes its own instead: the
// kernel would not make a device with more (drivers/net/vxlan).
func (v *vxlan) underlayMTU(n facts.Node) int {
	if v.opts.MTU == 0 {
		return n.Uplink.MTU
	}
	return min(v.opts.MTU, n.Uplink.MTU)
}

// checksum is the decision on the offload, which most leave to ethtool:
// flannel's documentation tells people to turn it off by hand.
func (v *vxlan) checksum() state.Offload {
	switch on := v.opts.ChecksumOffload; {
	case on == nil:
		return state.OffloadAsFound
	case *on:
		return state.OffloadOn
	default:
		return state.OffloadOff
	}
}

// device names the VXLAN device of f as flannel does. Beside a twin it is the one
// that there is, or gets a name of its own, which it keeps when the twin is gone.
func (v *vxlan) device(f addr.Family, n facts.Node) string {
	want := v.names.At(f)
	own := backend.OtherName(v.owner, fmt.Sprintf("%s port %d", want, v.opts.Port))
	for _, l := range n.Links {
		if l.Alias == v.owner.Alias() && v.fits(l) && (l.Name == own || v.twin && l.Name == want) {
			return l.Name
		}
	}
	if v.twin {
		return own
	}
	return backend.LinkName(n.Links, v.owner, want, v.fits)
}

// fits says whether a device of no instance can be taken over in place. Whatever
// it is labelled: beside it, the kernel would have no other of this VNI and port.
func (v *vxlan) fits(l facts.Link) bool {
	return l.Type == string(state.LinkVXLAN) && l.VNI == v.opts.VNI && l.Port == v.opts.Port
}

func clip(s string) string {
	if len(s) > 80 {
		return s[:80] + "…"
	}
	return s
}
