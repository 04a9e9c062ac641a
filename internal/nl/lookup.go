package nl

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/flannel-ng/flannel-ng/internal/addr"
)

// Lookup asks which entry of the routing tables a packet takes.
type Lookup struct {
	To   netip.Addr
	Link int // index: prefer what leaves by it; 0: any
}

// lookupBatch is how many lookups go out in one write: all answers, which the
// kernel makes before we read any, must fit into readBuffer.
const lookupBatch = 128

// RoutesTo answers lookups in order, each with a route or an error. A host asks
// once for every peer in every pass, so that this is written for speed.
func (c *Conn) RoutesTo(ctx context.Context, lookups []Lookup) ([]Route, []error) {
	routes, errs := make([]Route, len(lookups)), make([]error, len(lookups))
	for start := 0; start < len(lookups); start += lookupBatch {
		end := min(start+lookupBatch, len(lookups))
		err := ctx.Err()
		if err == nil {
			err = c.lookUp(lookups[start:end], routes[start:end], errs[start:end])
		}
		if err != nil {
			fill(errs[start:], err)
			break
		}
	}
	return routes, errs
}

// lookUp sends one batch. To each lookup comes one answer: a route or an error.
func (c *Conn) lookUp(lookups []Lookup, routes []Route, errs []error) error {
	first := c.seq + 1
	var b []byte
	for _, l := range lookups {
		c.seq++
		b = l.append(b, c.seq)
	}
	var err error
	if waitErr := c.raw.Write(func(fd uintptr) bool {
		_, err = unix.Write(int(fd), b)
		return !again(err)
	}); waitErr != nil || err != nil {
		return fmt.Errorf("write to netlink: %w", errors.Join(waitErr, err))
	}
	left := len(lookups)
	visit := func(h header, body []byte) error {
		i := h.seq - first
		if i >= uint32(len(lookups)) {
			return nil // left over from a dump that was given up
		}
		left--
		if h.typ == unix.NLMSG_ERROR {
			errs[i] = parseError(h, body)
			return nil
		}
		d, err := decodeRoute(body)
		routes[i] = d.Route
		routes[i].OtherTable = d.table != unix.RT_TABLE_MAIN
		return err
	}
	if waitErr := c.raw.Read(func(fd uintptr) bool {
		for err = nil; left > 0 && err == nil; {
			var n int
			if n, err = unix.Read(int(fd), c.buf); err == nil {
				err = eachMessage(c.buf[:n], visit)
			}
		}
		return !again(err)
	}); waitErr != nil || err != nil {
		return fmt.Errorf("read from netlink: %w", errors.Join(waitErr, err))
	}
	return nil
}

// again says whether a system call is to be made once more.
func again(err error) bool { return errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) }

// append adds the request to b, header and all.
func (l Lookup) append(b []byte, seq uint32) []byte {
	start := len(b)
	b = append(b, make([]byte, headerSize)...)
	route := make([]byte, routeHeader)
	route[0] = fromFamily(addr.Of(l.To))
	route[1] = uint8(l.To.BitLen())
	binary.NativeEndian.PutUint32(route[8:], unix.RTM_F_FIB_MATCH)
	b = append(b, route...)
	b = appendAttribute(b, unix.RTA_DST, l.To.AsSlice())
	if l.Link != 0 {
		b = appendAttribute(b, unix.RTA_OIF, binary.NativeEndian.AppendUint32(nil, uint32(l.Link)))
	}
	h := b[start:]
	binary.NativeEndian.PutUint32(h, uint32(len(h)))
	binary.NativeEndian.PutUint16(h[4:], unix.RTM_GETROUTE)
	binary.NativeEndian.PutUint16(h[6:], unix.NLM_F_REQUEST)
	binary.NativeEndian.PutUint32(h[8:], seq)
	return b
}

// appendAttribute adds a struct rtattr; the length of value is a multiple of
// four, so that no padding is needed.
func appendAttribute(b []byte, typ uint16, value []byte) []byte {
	b = binary.NativeEndian.AppendUint16(b, uint16(unix.SizeofRtAttr+len(value)))
	b = binary.NativeEndian.AppendUint16(b, typ)
	return append(b, value...)
}
