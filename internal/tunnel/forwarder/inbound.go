package forwarder

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"github.com/flannel-ng/flannel-ng/internal/tunnel"
)

// failuresInARow is how often reading may fail before the socket counts as
// broken: the kernel may tell of earlier datagrams, but not without end.
const failuresInARow = 100

// inbound moves packets from a socket until it fails or is closed.
func (f *Forwarder) inbound(s *socket) error {
	buffer := make([]byte, bufferSize)
	for failures := 0; ; {
		n, from, err := s.conn.ReadFromUDPAddrPort(buffer[headroom:])
		switch {
		case errors.Is(err, net.ErrClosed), errors.Is(err, os.ErrDeadlineExceeded):
			return err
		case err != nil:
			if failures++; failures == failuresInARow {
				return fmt.Errorf("receive on UDP %s: %w", s.local, err)
			}
			continue
		}
		failures = 0
		f.deliver(from.Addr(), buffer[:headroom+n])
	}
}

// deliver gives the packet in frame to the device, or counts why not.
func (f *Forwarder) deliver(from netip.Addr, frame []byte) {
	v := f.now.Load()
	why := v.in(from.Unmap().WithZone(""), frame[headroom:])
	if why == "" && v.ends.device.write(frame) != nil {
		why = tunnel.NotDelivered
	}
	if why != "" {
		f.counters.drop(why)
		return
	}
	f.counters.received.add(len(frame) - headroom)
}
