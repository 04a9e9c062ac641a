package forwarder

import (
	"net/netip"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/tunnel"
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

// out decides where a packet from the device goes: to is a peer, or there is a
// reason to drop it.
func (v *view) out(b []byte) (h packet.Header, to netip.AddrPort, why tunnel.Reason) {
	h, err := packet.Parse(b)
	if err != nil {
		return h, to, tunnel.Malformed
	}
	outer, ok := v.table.Route(h.Dst)
	if !ok {
		return h, to, tunnel.NoPeer
	}
	return h, netip.AddrPortFrom(outer, v.config.Port), ""
}

// in decides whether a datagram from outer may go to the device: "" if so. A
// peer's NAT may change its port, but not its address.
func (v *view) in(outer netip.Addr, b []byte) tunnel.Reason {
	if !v.table.Known(outer) {
		return tunnel.FromStranger
	}
	h, err := packet.Parse(b)
	switch {
	case err != nil:
		return tunnel.Malformed
	case !v.table.Owns(outer, h.Src):
		return tunnel.FromElsewhere
	case !v.isOwn(h.Dst):
		return tunnel.NotForUs
	}
	return ""
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
