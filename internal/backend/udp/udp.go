// Package udp carries each packet as the payload of a UDP datagram, by a
// process of its own: the carrier for kernels and networks without VXLAN
// (docs/udp.md).
//
// A packet for another host's subnet takes the one route to the cluster network
// into the TUN device; the forwarder reads it there and sends it to the peer.
// One device and one process serve both families.
//
// It produces wanted state only; called by the engine.
package udp

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/backend"
	"github.com/flannel-ng/flannel-ng/internal/config"
	"github.com/flannel-ng/flannel-ng/internal/facts"
	"github.com/flannel-ng/flannel-ng/internal/lease"
	"github.com/flannel-ng/flannel-ng/internal/state"
)

// Type is the Backend.Type of this backend.
const Type = "udp"

// device is flannel's name for it.
const device = "flannel0"

// minimumMTU is what every IPv6 link must carry, in bytes (RFC 8200 §5). The
// kernel takes IPv6 off a device with less.
const minimumMTU = 1280

var (
	// ErrMTU says that the underlay's packets are too small for a tunnel.
	ErrMTU = errors.New("underlay MTU too small")
	// ErrLinkLocal says that an address means nothing without a link.
	ErrLinkLocal = errors.New("link-local address")
	// ErrPlain says why a peer is not reached over IPv6.
	ErrPlain = errors.New("plain flannel carries no IPv6 by udp")
)

// Overhead is what the tunnel adds to an inner packet, in bytes: UDP 8 and the
// outer IP header, which is of the inner packet's family.
func Overhead(f addr.Family) int {
	if f == addr.IPv4 {
		return 8 + 20
	}
	return 8 + 40
}

type udp struct {
	port     uint16
	bpf      mode
	plain    bool
	owner    state.Owner
	families []addr.Family
	networks addr.ByFamily[netip.Prefix]
}

// New makes the backend from its options.
func New(s backend.Setup) (backend.Backend, []string, error) {
	var o Options
	warnings, err := s.Options.Decode(&o)
	if err != nil {
		return nil, warnings, err
	}
	plain, err := isPlain(o.Offload)
	if err := errors.Join(err, mode(o.BPF).check()); err != nil {
		return nil, warnings, err
	}
	u := &udp{port: o.Port, bpf: mode(o.BPF), plain: plain, owner: s.Owner, families: s.Families, networks: s.Networks}
	return u, warnings, nil
}

func isPlain(offload string) (bool, error) {
	switch offload {
	case "auto":
		return false, nil
	case "off":
		return true, nil
	default:
		return false, fmt.Errorf("Backend.Offload %q: must be auto or off", offload)
	}
}

// Wire is backend.Entry.Wire. A host has one forwarder, which has one port.
func Wire(b config.Backend) (backend.Wire, error) {
	var o Options
	_, err := b.Decode(&o)
	return backend.Wire{Name: fmt.Sprintf("udp port %d", o.Port), Type: Type, Port: o.Port, Socket: Type, Single: "forwarder"}, err
}

// Offer has no data: peers need no more than the public address, and the port
// is the fabric's. Hosts of ours see whether this one's kernel takes datagrams.
func (u *udp) Offer(n facts.Node, _ *lease.Lease) (lease.Offer, error) {
	for _, f := range u.families {
		if !n.Public.At(f).IsValid() {
			return lease.Offer{}, fmt.Errorf("udp: no public %s address to offer", f)
		}
		if err := reachable(n.Public.At(f), n); err != nil {
			return lease.Offer{}, err
		}
	}
	return u.announce(n, lease.Offer{Backend: Type})
}

// Local is the device with the base address of each own subnet, the forwarder
// behind it, and the routes that lead all of the cluster into it: they stand
// before any peer is known, so that packets to nobody are answered here instead
// of leaving by the default route.
func (u *udp) Local(self lease.Lease, n facts.Node) (state.Set, error) {
	mtu, err := u.mtu(n)
	if err != nil {
		return state.Set{}, err
	}
	dev := u.device(n)
	s := state.Set{
		MTU:     mtu,
		Links:   []state.Link{{Name: dev, Type: state.LinkTUN, MTU: mtu}},
		Sysctls: backend.Switches(dev, u.families...),
	}
	t := state.Tunnel{Link: dev, Port: u.port, Plain: u.plain}
	for _, f := range u.families {
		if err := reachable(source(f, n), n); err != nil {
			return state.Set{}, err
		}
		subnet := self.Subnets.At(f)
		s.Addresses = append(s.Addresses, state.Address{Link: dev, Prefix: addr.Single(subnet.Addr())})
		s.Routes = append(s.Routes, state.Route{Dst: u.networks.At(f), Link: dev})
		t.Source.Put(f, source(f, n))
		t.Local.Put(f, subnet)
	}
	s.Tunnels = []state.Tunnel{t}
	s.FastPaths, err = u.fastPath(t, n)
	return s, err
}

// reachable refuses an address that our forwarder cannot bind and that those of
// peers cannot send to.
func reachable(a netip.Addr, n facts.Node) error {
	if !facts.LinkLocal(a) {
		return nil
	}
	return fmt.Errorf("udp: %w: the uplink %s has no IPv6 address but %s: give it another, or set EnableIPv6 to false", ErrLinkLocal, n.Uplink.Name, a)
}

// mtu is the largest packet that every enabled family carries: containers have
// one MTU for both, and so has the device.
func (u *udp) mtu(n facts.Node) (int, error) {
	mtu := n.Uplink.MTU
	for _, f := range u.families {
		mtu = min(mtu, n.Uplink.MTU-Overhead(f))
	}
	if slices.Contains(u.families, addr.IPv6) && mtu < minimumMTU {
		return 0, fmt.Errorf("udp: %w: the tunnel would have %d bytes, %d of the uplink %s less %d, and IPv6 needs %d",
			ErrMTU, mtu, n.Uplink.MTU, n.Uplink.Name, Overhead(addr.IPv6), minimumMTU)
	}
	return mtu, nil
}

// source is the address that datagrams leave from. Peers send to the public
// address and believe no other; where it is behind a NAT, which translates,
// it is the uplink's own.
func source(f addr.Family, n facts.Node) netip.Addr {
	public := n.Public.At(f)
	for _, l := range n.Links {
		if slices.ContainsFunc(l.Addrs, func(a facts.Addr) bool { return a.Prefix.Addr() == public }) {
			return public
		}
	}
	return n.Source.At(f)
}

// Peer sends the packets of each family over the same family.
func (u *udp) Peer(_ lease.Lease, n facts.Node, p lease.Lease, _ lease.Offer) (state.Set, error) {
	var s state.Set
	var errs []error
	dev := u.device(n)
	for _, f := range u.families {
		subnet, public := p.Subnets.At(f), p.Public.At(f)
		switch {
		case !subnet.IsValid():
		case !public.IsValid():
			errs = append(errs, fmt.Errorf("%s: no public address", f))
		case f == addr.IPv6 && p.Owner == "":
			// Its forwarder would take the datagram for an IPv4 packet.
			errs = append(errs, fmt.Errorf("%s: %w", f, ErrPlain))
		default:
			end := state.TunnelEnd{Link: dev, Subnet: subnet, Dst: public, ECN: p.Owner != ""}
			s.Ends = append(s.Ends, end)
			s.FastPeers = append(s.FastPeers, u.fastPeer(n, end, p)...)
		}
	}
	return s, errors.Join(errs...)
}

// Admit implements backend.Admitter: the forwarder and the kernel drop what
// comes from a host that they do not know. One that has not offered udp so far
// may come to send by all of it, whoever runs there now.
func (u *udp) Admit(self lease.Lease, n facts.Node, p lease.Lease) state.Set {
	if p.Offer.Backend != Type {
		p.Owner, p.Offer.Extra = cmp.Or(p.Owner, "not known"), everything
	}
	// What is refused is refused to a host that does not send by udp so far.
	s, _ := u.Peer(self, n, p, p.Offer)
	return s
}

func (u *udp) device(n facts.Node) string {
	return backend.LinkName(n.Links, u.owner, device, func(l facts.Link) bool {
		return l.Type == string(state.LinkTUN) && l.Alias == ""
	})
}
