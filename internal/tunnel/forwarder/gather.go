package forwarder

import (
	"errors"
	"time"

	"golang.org/x/sys/unix"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/tunnel"
	"github.com/flannel-ng/flannel-ng/internal/tunnel/batch"
	"github.com/flannel-ng/flannel-ng/internal/tunnel/packet"
	"github.com/flannel-ng/flannel-ng/internal/tunnel/segment"
)

const (
	// gatherBytes is how much is read from the device before it is sent: more
	// calls for fewer packets each, or packets that have left the processor's
	// cache when they are sent.
	gatherBytes = 256 << 10
	headerBytes = 64 << 10 // of segments, of one batch
	align       = 64       // of frames in memory, a line of the cache
)

// gatherer is the fast form of outbound: it reads what is there, cuts it, and
// sends all of it together.
type gatherer struct {
	f       *Forwarder
	d       *device
	v       *view // of this batch
	senders addr.ByFamily[*batch.Sender]

	frames  []byte
	headers []byte
	used    int // of headers
}

// gather moves packets from the device until it fails or is closed.
func (f *Forwarder) gather(d *device) error {
	hurry()
	fd, err := d.Enter()
	if err != nil {
		return err
	}
	defer d.Leave()
	g := &gatherer{f: f, d: d, frames: make([]byte, gatherBytes), headers: make([]byte, headerBytes)}
	for _, family := range addr.Families() {
		g.senders.Put(family, batch.NewSender(family))
	}
	d.Gather()
	for {
		n, err := g.batch(fd)
		if errors.Is(err, unix.EAGAIN) {
			err = d.Wait(n)
		}
		if err != nil {
			return err
		}
	}
}

// batch moves what is there, or as much as has room, and says how many frames
// that were. unix.EAGAIN: that was all.
func (g *gatherer) batch(fd int) (int, error) {
	g.v = g.f.now.Load()
	for _, family := range addr.Families() {
		if s := g.v.ends.sockets.At(family); s != nil {
			g.senders.At(family).Together = s.gso.allowed(time.Now)
		}
	}
	defer g.flush()
	frames := 0
	for at := 0; at+bufferSize <= len(g.frames); frames++ {
		n, err := g.d.read(fd, g.frames[at:at+bufferSize])
		if err != nil {
			return frames, err
		}
		g.take(g.frames[at : at+n])
		at += (n + align - 1) &^ (align - 1)
	}
	return frames, nil
}

// take finds the way of one frame, and cuts it.
func (g *gatherer) take(frame []byte) {
	r, why := g.v.out(frame[headroom:])
	if why == tunnel.Malformed {
		g.f.counters.drop(why)
		return
	}
	s, err := segment.Read(frame, r.header)
	if err != nil {
		g.f.counters.drop(tunnel.Malformed)
		return
	}
	family := addr.Of(r.to.To.Addr())
	if why != "" || g.v.ends.sockets.At(family) == nil {
		g.f.forwardAll(&s) // it finds the same, and tells
		return
	}
	sender := g.senders.At(family)
	if b, ok := s.Whole(); ok {
		g.makeRoom(sender, 0)
		sender.Add(r.to, b, nil)
		return
	}
	for i := range s.Count() {
		g.makeRoom(sender, s.HeaderLength())
		head := g.headers[g.used : g.used+s.HeaderLength()]
		g.used += len(head)
		sender.Add(r.to, head, s.Segment(i, head))
	}
}

// makeRoom sends, if there is no room for another datagram and its headers.
func (g *gatherer) makeRoom(sender *batch.Sender, header int) {
	if !sender.Room() || g.used+header > len(g.headers) {
		g.flush()
	}
}

// flush sends all that was gathered.
func (g *gatherer) flush() {
	for _, family := range addr.Families() {
		if sender := g.senders.At(family); len(sender.Runs()) > 0 {
			g.send(g.v.ends.sockets.At(family), sender)
			sender.Reset()
		}
	}
	g.used = 0
}

func (g *gatherer) send(s *socket, sender *batch.Sender) {
	fd, err := s.Enter()
	if err != nil {
		for i := range sender.Runs() { // the socket was exchanged meanwhile
			sender.Datagrams(i, g.f.forward)
		}
		return
	}
	defer s.Leave()
	runs := sender.Runs()
	for i := 0; i < len(runs); {
		n, err := sender.Send(fd, i)
		g.sent(s, runs[i:i+n])
		if i += n; err == nil || errors.Is(err, unix.EINTR) {
			continue
		}
		if errors.Is(err, unix.EAGAIN) {
			if err = batch.WaitToWrite(fd); err == nil {
				continue
			}
		}
		g.oneByOne(s, sender, i, err)
		i++
	}
}

// sent takes note of runs that went out.
func (g *gatherer) sent(s *socket, runs []batch.Run) {
	for _, r := range runs {
		g.f.counters.sent.add(r.Count, r.Bytes)
		if r.Count > 1 {
			s.gso.worked()
		}
	}
}

// oneByOne sends the datagrams of a run that was refused as the plain loop
// does, which knows what to do about each.
func (g *gatherer) oneByOne(s *socket, sender *batch.Sender, i int, err error) {
	r := sender.Runs()[i]
	if r.Count > 1 && !errors.Is(err, unix.ECONNREFUSED) && !tooLarge(s, r, err) {
		s.gso.failed(err, time.Now())
	}
	sender.Datagrams(i, func(b []byte) {
		h, err := packet.Parse(b)
		why := tunnel.Malformed
		if err == nil {
			why = g.f.transmit(g.v, parcel{b: b, route: route{header: h, to: r.Target}})
		}
		if why != "" {
			g.f.counters.drop(why)
		}
	})
}

// tooLarge says whether a run was refused because its datagrams are larger
// than the path. Kernels before 6.2 say EINVAL for that too.
func tooLarge(s *socket, r batch.Run, err error) bool {
	if !errors.Is(err, unix.EINVAL) {
		return errors.Is(err, unix.EMSGSIZE)
	}
	path, err := s.pathMTU(r.To)
	return err == nil && r.Size+overhead(addr.Of(r.To.Addr())) > path
}
