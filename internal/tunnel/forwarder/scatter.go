package forwarder

import (
	"github.com/flannel-ng/flannel-ng/internal/tunnel"
	"github.com/flannel-ng/flannel-ng/internal/tunnel/batch"
	"github.com/flannel-ng/flannel-ng/internal/tunnel/segment"
)

// receiveMessages is how many messages are taken with one system call. One may
// be as large as 64 kB.
const receiveMessages = 8

// scatterer is the fast form of inbound: it joins the packets of a flow, and
// writes them as one.
type scatterer struct {
	f      *Forwarder
	v      *view // of this batch
	merger *segment.Merger
	writer writer
}

// scatter moves packets from a socket until it fails or is closed.
func (f *Forwarder) scatter(s *socket) error {
	hurry()
	fd, err := s.Enter()
	if err != nil {
		return err
	}
	defer s.Leave()
	r := receiver{Receiver: batch.NewReceiver(receiveMessages), s: s}
	c := &scatterer{f: f, merger: segment.NewMerger(), writer: writer{frame: [][]byte{make([]byte, headroom), nil}}}
	for {
		n, err := r.next(fd)
		if err != nil {
			return err
		}
		if n > 0 {
			c.batch(&r, n)
		}
	}
}

// batch delivers the last n messages.
func (c *scatterer) batch(r *receiver, n int) {
	c.v = c.f.now.Load()
	c.merger.Datagrams = c.v.ends.device.takesDatagrams()
	for i := range n {
		each(r.message(i), c.take)
	}
	if err := c.v.ends.device.Control(c.deliver); err != nil {
		c.lost()
	}
	c.merger.Reset()
}

func (c *scatterer) take(a arrival) {
	h, why := c.v.in(a)
	if why != "" {
		c.f.counters.drop(why)
		return
	}
	c.merger.Add(a.b, h)
}

// deliver writes all frames to the device.
func (c *scatterer) deliver(fd int) error {
	for i := range c.merger.Len() {
		frame := c.merger.Frame(i)
		switch err := c.writer.Write(fd, frame.Parts); {
		case err == nil:
			c.f.counters.received.add(frame.Packets, frame.Bytes)
		case frame.Packets == 1:
			c.f.counters.drop(tunnel.NotDelivered)
		default: // a kernel that does not take it
			c.merger.Packets(i, c.alone)
		}
	}
	return nil
}

// lost counts what came when the device was closed.
func (c *scatterer) lost() {
	for i := range c.merger.Len() {
		c.merger.Packets(i, func([]byte) { c.f.counters.drop(tunnel.NotDelivered) })
	}
}

// alone writes one packet.
func (c *scatterer) alone(b []byte) {
	if why := c.writer.single(c.v.ends.device, b); why != "" {
		c.f.counters.drop(why)
		return
	}
	c.f.counters.received.add(1, len(b))
}
