package forwarder

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/flannel-ng/flannel-ng/internal/tunnel"
	"github.com/flannel-ng/flannel-ng/internal/tunnel/batch"
	"github.com/flannel-ng/flannel-ng/internal/tunnel/packet"
)

// failuresInARow is how often reading may fail before the socket counts as
// broken: the kernel may tell of earlier datagrams, but not without end.
const failuresInARow = 100

// receiver reads messages from a socket.
type receiver struct {
	*batch.Receiver
	s        *socket
	failures int
	found    int // messages since the last wait
}

// next waits for messages and says how many there are, perhaps none.
func (r *receiver) next(fd int) (int, error) {
	n, err := r.Receive(fd)
	switch {
	case errors.Is(err, unix.EAGAIN):
		err = r.s.Wait(r.found)
		r.found = 0
		return 0, err
	case err != nil:
		if r.failures++; r.failures == failuresInARow {
			return 0, fmt.Errorf("receive on UDP %s: %w", r.s.local, err)
		}
		return 0, nil
	}
	r.failures = 0
	r.found += n
	return n, nil
}

// message is message i of the last call. Each inner packet says where it ends.
func (r *receiver) message(i int) batch.Message {
	m := r.Message(i)
	if m.Size == 0 && r.s.unsized.Load() {
		if n := packet.Length(m.Bytes); n > 0 && n < len(m.Bytes) {
			m.Size = n
		}
	}
	return m
}

// inbound moves packets from a socket until it fails or is closed.
func (f *Forwarder) inbound(s *socket) error {
	fd, err := s.Enter()
	if err != nil {
		return err
	}
	defer s.Leave()
	r := receiver{Receiver: batch.NewReceiver(1), s: s}
	w := &writer{frame: [][]byte{make([]byte, headroom), nil}}
	for {
		n, err := r.next(fd)
		if err != nil {
			return err
		}
		r.found = 0
		for i := range n {
			each(r.message(i), func(a arrival) { f.deliver(w, a) })
		}
	}
}

// each calls yield with the datagrams of a message, one of which may be empty.
func each(m batch.Message, yield func(a arrival)) {
	for rest := m.Bytes; ; {
		n := len(rest)
		if m.Size > 0 {
			n = min(n, m.Size)
		}
		yield(arrival{from: m.From, class: m.Class, b: rest[:n]})
		if rest = rest[n:]; len(rest) == 0 {
			return
		}
	}
}

// deliver gives the packet to the device, or counts why not.
func (f *Forwarder) deliver(w *writer, a arrival) {
	v := f.now.Load()
	_, why := v.in(a)
	if why == "" {
		why = w.single(v.ends.device, a.b)
	}
	if why != "" {
		f.counters.drop(why)
		return
	}
	f.counters.received.add(1, len(a.b))
}

// writer writes single packets.
type writer struct {
	batch.Writer
	frame [][]byte // header and packet
}

func (w *writer) single(d *device, b []byte) tunnel.Reason {
	w.frame[1] = b
	if d.Control(func(fd int) error { return w.Write(fd, w.frame) }) != nil {
		return tunnel.NotDelivered
	}
	return ""
}
