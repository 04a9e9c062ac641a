// Package nl speaks rtnetlink: the only importer of a netlink library. What
// netlink has no words for goes by ioctl: making a TUN device.
//
// It owns no kernel object and decides nothing. It knows how links, addresses,
// neighbours, forwarding entries, nexthop objects and routes look on the wire
// (rtnetlink(7), linux/rtnetlink.h, linux/neighbour.h, linux/nexthop.h), sends
// requests in batches, and refuses to pass on a dump that the kernel marked as
// interrupted. Called by drivers and the probe.
//
// A Conn works in the network namespace of the thread that dials it.
package nl

import (
	"context"
	"errors"
	"fmt"
	"syscall"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// ErrInterrupted says that the objects changed during a dump, several times in
// a row: the answer may lack some, so there is none.
var ErrInterrupted = errors.New("dump interrupted by concurrent changes")

const (
	// batchSize is how many requests go out in one write. More than 512 gains
	// nothing, and all answers of a batch must fit into readBuffer.
	batchSize = 256
	// readBuffer in bytes. The kernel answers a batch before we read at all,
	// and drops answers that do not fit: one costs it about 1 KiB.
	readBuffer = 1 << 20
	// datagramSize is above the largest datagram of a dump (32 KiB), answerSize
	// above that of any other answer.
	datagramSize = 64 << 10
	answerSize   = 16 << 10
	// dumpAttempts is how often an interrupted dump is tried.
	dumpAttempts = 5
)

// Conn is a connection to rtnetlink. It serves one goroutine at a time.
type Conn struct {
	sock *netlink.Conn
	raw  syscall.RawConn
	seq  uint32
	buf  []byte
}

// Dial opens a connection in the network namespace of the calling thread.
func Dial() (*Conn, error) {
	sock, err := dialOwn(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open netlink socket: %w", err)
	}
	raw, err := sock.SyscallConn()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open netlink socket: %w", err), sock.Close())
	}
	if err := sock.SetReadBuffer(readBuffer); err != nil {
		return nil, errors.Join(fmt.Errorf("size netlink buffer: %w", err), sock.Close())
	}
	// All three only save work or explain errors; kernels before 4.20 lack
	// some, and every dump is filtered again after reading.
	for _, o := range []netlink.ConnOption{
		netlink.GetStrictCheck, netlink.ExtendedAcknowledge, netlink.CapAcknowledge,
	} {
		_ = sock.SetOption(o, true)
	}
	return &Conn{sock: sock, raw: raw, buf: make([]byte, answerSize)}, nil
}

// Close ends the connection.
func (c *Conn) Close() error { return c.sock.Close() }

// Request is one message to the kernel, made by the functions of this package.
type Request struct {
	typ   uint16
	flags netlink.HeaderFlags
	body  []byte
	err   error
}

// newRequest appends attributes to a fixed header.
func newRequest(typ uint16, flags netlink.HeaderFlags, header []byte, attrs func(*netlink.AttributeEncoder)) Request {
	ae := netlink.NewAttributeEncoder()
	if attrs != nil {
		attrs(ae)
	}
	b, err := ae.Encode()
	return Request{typ: typ, flags: flags, body: append(header, b...), err: err}
}

// Do sends requests in order, in batches, and returns one error for each: nil
// is success. One failure never stops the others. Errors of the kernel are
// *Error and unwrap to an errno.
func (c *Conn) Do(ctx context.Context, reqs []Request) []error {
	errs := make([]error, len(reqs))
	for start := 0; start < len(reqs); start += batchSize {
		end := min(start+batchSize, len(reqs))
		if err := ctx.Err(); err != nil {
			fill(errs[start:], err)
			break
		}
		c.batch(reqs[start:end], errs[start:end])
	}
	return errs
}

// batch sends up to batchSize requests in one write. Only the last asks for an
// acknowledgement: the kernel works through a write in order, so when that
// answer is there, all errors are.
func (c *Conn) batch(reqs []Request, errs []error) {
	msgs := make([]netlink.Message, 0, len(reqs))
	at := make([]int, 0, len(reqs)) // message → request
	first := c.seq + 1
	for i, r := range reqs {
		if r.err != nil {
			errs[i] = fmt.Errorf("encode netlink request: %w", r.err)
			continue
		}
		msgs = append(msgs, c.message(r))
		at = append(at, i)
	}
	if len(msgs) == 0 {
		return
	}
	msgs[len(msgs)-1].Header.Flags |= netlink.Acknowledge
	var err error
	if _, err = c.sock.SendMessages(msgs); err == nil {
		err = c.collect(first, func(n uint32, err error) { errs[at[n]] = err })
	}
	if err != nil {
		// Whether the rest took effect is unknown; the next pass reads it.
		fill(errs, err)
	}
}

// collect reads answers from sequence number first to the newest one.
func (c *Conn) collect(first uint32, failed func(n uint32, err error)) error {
	for done := false; !done; {
		err := c.receive(func(h header, body []byte) error {
			if h.typ != unix.NLMSG_ERROR || h.seq-first > c.seq-first {
				return nil // left over from a dump that was given up
			}
			if err := parseError(h, body); err != nil {
				failed(h.seq-first, err)
			}
			done = done || h.seq == c.seq
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (c *Conn) message(r Request) netlink.Message {
	c.seq++
	if c.seq == 0 { // zero would make the library choose a number
		c.seq++
	}
	return netlink.Message{
		Header: netlink.Header{
			Type:     netlink.HeaderType(r.typ),
			Flags:    netlink.Request | r.flags,
			Sequence: c.seq,
		},
		Data: r.body,
	}
}

// fill sets the error of every request that has none yet.
func fill(errs []error, err error) {
	for i := range errs {
		if errs[i] == nil {
			errs[i] = err
		}
	}
}

// dump asks for all objects of a kind and decodes them. keep says which belong
// to the answer.
func dump[T any](ctx context.Context, c *Conn, r Request, decode func([]byte) (v T, keep bool, err error)) ([]T, error) {
	r.flags |= netlink.Dump
	for range dumpAttempts {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		var out []T
		err := c.dumpOnce(r, func(body []byte) error {
			v, keep, err := decode(body)
			if err == nil && keep {
				out = append(out, v)
			}
			return err
		})
		if !errors.Is(err, ErrInterrupted) {
			return out, err
		}
	}
	return nil, ErrInterrupted
}

// dumpOnce reads one dump to its end. The mark of an interrupted dump may be
// on any message, the final one included: if only objects at the end were
// skipped, no other message has it.
func (c *Conn) dumpOnce(r Request, visit func([]byte) error) error {
	if r.err != nil {
		return fmt.Errorf("encode netlink request: %w", r.err)
	}
	if len(c.buf) < datagramSize {
		c.buf = make([]byte, datagramSize)
	}
	if _, err := c.sock.SendMessages([]netlink.Message{c.message(r)}); err != nil {
		return err
	}
	a := answer{seq: c.seq, visit: visit}
	for !a.done {
		if err := c.receive(a.message); err != nil {
			return err
		}
	}
	return a.result()
}

// answer is a dump on its way in.
type answer struct {
	seq               uint32
	visit             func([]byte) error
	done, interrupted bool
	bad               error // the first object that could not be decoded
}

func (a *answer) message(h header, body []byte) error {
	if h.seq != a.seq {
		return nil // left over from a dump that was given up
	}
	a.interrupted = a.interrupted || h.flags&unix.NLM_F_DUMP_INTR != 0
	if h.typ == unix.NLMSG_DONE || h.typ == unix.NLMSG_ERROR {
		a.done = true
		return parseError(h, body)
	}
	if a.bad == nil {
		a.bad = a.visit(body)
	}
	return nil
}

func (a *answer) result() error {
	if a.interrupted {
		return ErrInterrupted
	}
	return a.bad
}

// receive reads one datagram and visits its messages.
func (c *Conn) receive(visit func(h header, body []byte) error) error {
	n, err := read(c.raw, c.buf)
	if err != nil {
		return err
	}
	return eachMessage(c.buf[:n], visit)
}

// read waits for one datagram.
func read(raw syscall.RawConn, buf []byte) (int, error) {
	var n int
	var err error
	waitErr := raw.Read(func(fd uintptr) bool {
		n, err = receive(int(fd), buf)
		return !again(err)
	})
	if waitErr != nil || err != nil {
		return 0, fmt.Errorf("read from netlink: %w", errors.Join(waitErr, err))
	}
	return n, nil
}
