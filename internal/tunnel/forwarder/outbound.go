package forwarder

import (
	"errors"
	"net"

	"golang.org/x/sys/unix"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/tunnel"
	"github.com/flannel-ng/flannel-ng/internal/tunnel/packet"
	"github.com/flannel-ng/flannel-ng/internal/tunnel/segment"
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
	fd, err := d.Enter()
	if err != nil {
		return err
	}
	defer d.Leave()
	buffer := make([]byte, bufferSize)
	for {
		n, err := d.read(fd, buffer)
		switch {
		case errors.Is(err, unix.EAGAIN):
			if err := d.Wait(0); err != nil {
				return err
			}
		case err != nil:
			return err
		case segment.Whole(buffer):
			f.forward(buffer[headroom:n])
		default:
			f.forwardParts(buffer[:n])
		}
	}
}

// forwardParts sends what a frame is to be cut into: it comes from the time of
// another loop, which had switched offloads on.
func (f *Forwarder) forwardParts(frame []byte) {
	h, err := packet.Parse(frame[headroom:])
	if err != nil {
		f.counters.drop(tunnel.Malformed)
		return
	}
	s, err := segment.Read(frame, h)
	if err != nil {
		f.counters.drop(tunnel.Malformed)
		return
	}
	f.forwardAll(&s)
}

func (f *Forwarder) forwardAll(s *segment.Super) {
	if b, ok := s.Whole(); ok {
		f.forward(b)
		return
	}
	head := make([]byte, s.HeaderLength(), bufferSize)
	for i := range s.Count() {
		rest := s.Segment(i, head)
		f.forward(append(head, rest...))
	}
}

// forward sends one packet to its peer, or says why not.
func (f *Forwarder) forward(b []byte) {
	v := f.now.Load()
	r, why := v.out(b)
	if why == tunnel.NoPeer {
		if self, ok := v.self(r.header.Family); ok {
			f.errors.tell(self, func() (packet.ICMP, bool) { return packet.Unreachable(b, self) })
		}
	}
	if why == "" {
		why = f.transmit(v, parcel{b: b, route: r})
	}
	if why != "" {
		f.counters.drop(why)
	}
}

// parcel is a packet with what is known of it.
type parcel struct {
	b []byte
	route
}

// transmit sends p whole, or deals with its size.
func (f *Forwarder) transmit(v *view, p parcel) tunnel.Reason {
	s := v.ends.sockets.At(addr.Of(p.to.To.Addr()))
	if s == nil {
		return tunnel.FamilyNotBound
	}
	err := s.send(p.b, p.to)
	switch {
	case err == nil:
		f.counters.sent.add(1, len(p.b))
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
	path, err := s.pathMTU(p.to.To)
	if err != nil {
		return tunnel.NotSent
	}
	inner := min(path, maxPacket) - overhead(addr.Of(p.to.To.Addr()))
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
		f.counters.sent.add(1, len(b))
	}
	return ""
}
