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

// drain waits for notifications and gives take the length of each datagram in
// buf, until none is left. It returns ErrOverrun when some were lost, and the
// context's error when it ends.
func drain(ctx context.Context, sock *netlink.Conn, raw syscall.RawConn, take func(n int) error, buf []byte) error {
	stop := context.AfterFunc(ctx, func() { _ = sock.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	taken := 0
	var err error
	waitErr := raw.Read(func(fd uintptr) bool {
		for err = nil; err == nil && taken < drainAtMost; {
			var n int
			if n, err = receive(int(fd), buf); err == nil {
				taken++
				err = take(n)
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
