package nl

import (
	"context"
	"errors"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/flannel-ng/flannel-ng/internal/addr"
)

// ask sends requests for one object each, in batches, and visits the answers. It
// returns one error for each request: the kernel's, or that of visit.
func (c *Conn) ask(ctx context.Context, reqs []Request, visit func(i int, body []byte) error) []error {
	errs := make([]error, len(reqs))
	for start := 0; start < len(reqs); start += lookupBatch {
		end := min(start+lookupBatch, len(reqs))
		err := ctx.Err()
		if err == nil {
			err = c.askBatch(reqs[start:end], errs[start:end], func(i int, body []byte) error { return visit(start+i, body) })
		}
		if err != nil {
			fill(errs[start:], err)
			break
		}
	}
	return errs
}

// askBatch sends one batch. To each request comes one answer: an object or an
// error.
func (c *Conn) askBatch(reqs []Request, errs []error, visit func(i int, body []byte) error) error {
	first := c.seq + 1
	msgs := make([]netlink.Message, len(reqs))
	for i, r := range reqs {
		if r.err != nil {
			return r.err
		}
		msgs[i] = c.message(r)
	}
	if _, err := c.sock.SendMessages(msgs); err != nil {
		return err
	}
	for left := len(reqs); left > 0; {
		err := c.receive(func(h header, body []byte) error {
			i := h.seq - first
			if i >= uint32(len(reqs)) {
				return nil // left over from a dump that was given up
			}
			left--
			if h.typ == unix.NLMSG_ERROR {
				errs[i] = parseError(h, body)
			} else {
				errs[i] = visit(int(i), body)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// ErrUnknown says that the kernel cannot be asked for a single object of that
// kind (before Linux 5.0).
var ErrUnknown = errors.New("the kernel lists such objects only")

// found turns the errors of ask into which objects are there. Any error but
// absence is returned.
func found(errs []error) ([]bool, error) {
	there := make([]bool, len(errs))
	for i, err := range errs {
		switch {
		case err == nil:
			there[i] = true
		case errors.Is(err, unix.ENOENT):
		case errors.Is(err, unix.EOPNOTSUPP):
			return nil, ErrUnknown
		default:
			return nil, err
		}
	}
	return there, nil
}

// NeighboursAt reads the neighbours of these links and addresses. Those that are
// not there, or are not permanent, are false.
func (c *Conn) NeighboursAt(ctx context.Context, at []Neighbour) ([]Neighbour, []bool, error) {
	reqs := make([]Request, len(at))
	for i, n := range at {
		reqs[i] = newRequest(unix.RTM_GETNEIGH, 0, neighbourMsg(fromFamily(addr.Of(n.IP)), n.Link, 0, 0),
			func(ae *netlink.AttributeEncoder) { ae.Bytes(unix.NDA_DST, n.IP.AsSlice()) })
	}
	out, keep := make([]Neighbour, len(at)), make([]bool, len(at))
	there, err := found(c.ask(ctx, reqs, func(i int, b []byte) (err error) {
		out[i], keep[i], err = decodeNeighbour(b, addr.Of(at[i].IP), at[i].Link)
		return err
	}))
	return out, both(there, keep), err
}

// FDBAt reads the permanent entries of these links and MAC addresses, each with
// its first destination: the kernel shows no other.
func (c *Conn) FDBAt(ctx context.Context, at []FDB) ([]FDB, []bool, error) {
	reqs := make([]Request, len(at))
	for i, e := range at {
		reqs[i] = newRequest(unix.RTM_GETNEIGH, 0, neighbourMsg(unix.AF_BRIDGE, e.Link, 0, unix.NTF_SELF),
			func(ae *netlink.AttributeEncoder) { ae.Bytes(unix.NDA_LLADDR, e.MAC[:]) })
	}
	out, keep := make([]FDB, len(at)), make([]bool, len(at))
	there, err := found(c.ask(ctx, reqs, func(i int, b []byte) (err error) {
		out[i], keep[i], err = decodeFDB(b, at[i].Link)
		return err
	}))
	return out, both(there, keep), err
}

// NexthopsAt reads the nexthop objects of these ids.
func (c *Conn) NexthopsAt(ctx context.Context, ids []uint32) ([]Nexthop, []bool, error) {
	reqs := make([]Request, len(ids))
	for i, id := range ids {
		reqs[i] = newRequest(unix.RTM_GETNEXTHOP, 0, nexthopMsg(unix.AF_UNSPEC, 0, 0),
			func(ae *netlink.AttributeEncoder) { ae.Uint32(unix.NHA_ID, id) })
	}
	out := make([]Nexthop, len(ids))
	there, err := found(c.ask(ctx, reqs, func(i int, b []byte) (err error) {
		out[i], err = decodeNexthop(b)
		return err
	}))
	return out, there, err
}

func both(a, b []bool) []bool {
	for i := range a {
		a[i] = a[i] && b[i]
	}
	return a
}
