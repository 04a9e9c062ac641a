package nl

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// drainAtMost is how many datagrams one drain takes: who waits for the result of
// a flood is not kept waiting for its end.
const drainAtMost = 256

// feed is a socket that notifications come from.
type feed struct {
	sock *netlink.Conn
	raw  syscall.RawConn
	buf  []byte
}

// newFeed takes a socket over, and gives it a buffer of some bytes in the kernel.
func newFeed(sock *netlink.Conn, buffer int) (*feed, error) {
	raw, err := sock.SyscallConn()
	if err == nil {
		err = sock.SetReadBuffer(buffer)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("prepare netlink socket: %w", err), sock.Close())
	}
	return &feed{sock: sock, raw: raw, buf: make([]byte, datagramSize)}, nil
}

// join subscribes to a group, or closes the socket.
func (f *feed) join(group uint32) error {
	if err := f.sock.JoinGroup(group); err != nil {
		return errors.Join(fmt.Errorf("join netlink group %d: %w", group, err), f.sock.Close())
	}
	return nil
}

// drain waits for notifications and passes on each datagram until none is left.
// It returns ErrOverrun when some were lost, and the context's error when it
// ends.
func (f *feed) drain(ctx context.Context, take func(datagram []byte) error) error {
	stop := context.AfterFunc(ctx, func() { _ = f.sock.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	taken := 0
	var err error
	waitErr := f.raw.Read(func(fd uintptr) bool {
		for err = nil; err == nil && taken < drainAtMost; {
			var n int
			if n, err = receive(int(fd), f.buf); err == nil {
				taken++
				err = take(f.buf[:n])
			}
		}
		return taken > 0 || !again(err)
	})
	if taken > 0 && again(err) {
		err = nil
	}
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, unix.ENOBUFS):
		return ErrOverrun
	case waitErr != nil || err != nil:
		return fmt.Errorf("read from netlink: %w", errors.Join(waitErr, err))
	default:
		return nil
	}
}

// receive takes one datagram, if there is one.
func receive(fd int, buf []byte) (int, error) {
	n, _, flags, _, err := unix.Recvmsg(fd, buf, nil, 0)
	if err == nil && flags&unix.MSG_TRUNC != 0 {
		err = unix.EMSGSIZE
	}
	return n, err
}
