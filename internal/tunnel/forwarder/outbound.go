package forwarder

import (
	"errors"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/tunnel"
	"github.com/flannel-ng/flannel-ng/internal/tunnel/packet"
)

// minIPv6 is what every link must carry (RFC 8200 §5), in bytes. No sender
// makes smaller packets, whatever it is told.
const minIPv6 = 1280

// overhead is the outer IP and UDP headers, in bytes.
func overhead(outer addr.Family) int {
	if outer == addr.IPv4 {
		return 28
	}
	return 48
}

// outbound moves packets from the device until it fails or is closed.
func (f *Forwarder) outbound(d *device) error {
	buffer := make([]byte, bufferSize)
	for {
		frame, err := d.read(buffer)
		if err != nil {
			return err
		}
		if unfinished(frame) {
			f.counters.drop(tunnel.Malformed)
			continue
		}
		f.forward(frame[headroom:])
	}
}

// forward sends one packet to its peer, or says why not.
func (f *Forwarder) forward(b []byte) {
	v := f.now.Load()
	h, to, why := v.out(b)
	if why == tunnel.NoPeer {
		if self, ok := v.self(h.Family); ok {
			f.errors.tell(self, func() (packet.ICMP, bool) { return packet.Unreachable(b, self) })
		}
	}
	if why == "" {
		why = f.transmit(v, parcel{b: b, header: h, to: to})
	}
	if why != "" {
		f.counters.drop(why)
	}
}

// parcel is a packet with what is known of it.
type parcel struct {
	b      []byte
	header packet.Header
	to     netip.AddrPort
}

// transmit sends p whole, or deals with its size.
func (f *Forwarder) transmit(v *view, p parcel) tunnel.Reason {
	s := v.ends.sockets.At(addr.Of(p.to.Addr()))
	if s == nil {
		return tunnel.FamilyNotBound
	}
	err := s.send(p.b, p.to)
	switch {
	case err == nil:
		f.counters.sent.add(len(p.b))
		return ""
	case errors.Is(err, unix.EMSGSIZE):
		return f.fit(v, s, p)
	}
	if next := f.now.Load(); errors.Is(err, net.ErrClosed) && next != v {
		return f.transmit(next, p) // the socket was exchanged meanwhile
	}
	return tunnel.NotSent
}

// fit makes a packet pass that is larger than the path, or tells its sender.
func (f *Forwarder) fit(v *view, s *socket, p parcel) tunnel.Reason {
	path, err := s.pathMTU(p.to)
	if err != nil {
		return tunnel.NotSent
	}
	inner := min(path, maxPacket) - overhead(addr.Of(p.to.Addr()))
	if p.header.Family == addr.IPv6 && inner < minIPv6 {
		if len(p.b) <= minIPv6 { // RFC 2473 §7.1 (b)
			return f.each([][]byte{p.b}, func(b []byte) error { return s.sendSplit(b, p.to) })
		}
		inner = minIPv6
	}
	if p.header.DontFragment && len(p.b) > inner {
		if self, ok := v.self(p.header.Family); ok {
			f.errors.tell(self, func() (packet.ICMP, bool) { return packet.TooBig(p.b, self, inner) })
		}
		return tunnel.TooBig
	}
	// If the path has widened since, this is the packet itself.
	pieces := [][]byte{p.b}
	if len(p.b) > inner {
		if pieces, err = packet.Fragment(p.b, inner); err != nil {
			return tunnel.NotSent
		}
	}
	return f.each(pieces, func(b []byte) error { return s.send(b, p.to) })
}

// each sends the pieces of a packet, all or as far as it goes.
func (f *Forwarder) each(pieces [][]byte, send func([]byte) error) tunnel.Reason {
	for _, b := range pieces {
		if send(b) != nil {
			return tunnel.NotSent
		}
		f.counters.sent.add(len(b))
	}
	return ""
}
