package forwarder

import (
	"net/netip"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/tunnel"
	"github.com/flannel-ng/flannel-ng/internal/tunnel/batch"
	"github.com/flannel-ng/flannel-ng/internal/tunnel/packet"
	"github.com/flannel-ng/flannel-ng/internal/tunnel/table"
)

// view is all that is needed to judge and move one packet. It never changes; a
// change is another view.
type view struct {
	config *tunnel.Config
	table  *table.Table
	ends   ends
}

// route is what is known of a packet from the device: what it is and where it
// goes.
type route struct {
	header packet.Header
	to     batch.Target
}

// out decides where a packet from the device goes: to a peer, or there is a
// reason to drop it.
func (v *view) out(b []byte) (r route, why tunnel.Reason) {
	var err error
	if r.header, err = packet.Parse(b); err != nil {
		return r, tunnel.Malformed
	}
	peer, ok := v.table.Find(r.header.Dst)
	if !ok {
		return r, tunnel.NoPeer
	}
	r.to.To = netip.AddrPortFrom(peer.Outer, v.config.Port)
	if peer.ECN { // the others would lose the marks (RFC 6040 §4.1)
		r.to.Class = uint8(packet.ECNIn(b))
	}
	return r, ""
}

// arrival is a datagram from the underlay.
type arrival struct {
	from  netip.Addr
	class uint8 // outer TOS or traffic class
	b     []byte
}

// in decides whether a datagram may go to the device: "" if so, and the packet
// has then got the marks of its way. A peer's NAT may change its port, but not
// its address.
func (v *view) in(a arrival) (h packet.Header, why tunnel.Reason) {
	if !v.table.Known(a.from) {
		return h, tunnel.FromStranger
	}
	h, err := packet.Parse(a.b)
	switch {
	case err != nil:
		return h, tunnel.Malformed
	case !v.table.Owns(a.from, h.Src):
		return h, tunnel.FromElsewhere
	case !v.isOwn(h.Dst):
		return h, tunnel.NotForUs
	case !packet.Combine(a.b, packet.ECNOf(a.class)):
		return h, tunnel.Congested
	}
	return h, ""
}

func (v *view) isOwn(a netip.Addr) bool {
	for _, p := range v.config.Local {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// self is the address of the device: the first of the own subnet. False: there
// is none of this family.
func (v *view) self(f addr.Family) (netip.Addr, bool) {
	for _, p := range v.config.Local {
		if addr.Of(p.Addr()) == f {
			return p.Masked().Addr(), true
		}
	}
	return netip.Addr{}, false
}
