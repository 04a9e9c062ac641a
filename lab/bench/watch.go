package bench

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/flannel-ng/flannel-ng/lab"
)

// watch hears of every route that a host's kernel gets, at the moment when it
// gets it. Asking instead, again and again, would take the lock that whoever
// programs routes needs, and disturb what is measured. It speaks netlink by
// itself, so that it is no part of what it judges.
type watch struct {
	fd      int
	closing atomic.Bool
	done    chan struct{}

	mu      sync.Mutex
	pending map[netip.Prefix]bool
	came    map[netip.Prefix]time.Time
	last    time.Time     // when the last of them came
	all     chan struct{} // closed when none is pending
	lost    error         // the kernel's queue for us was full
}

// Sizes and places of rtnetlink(7).
const (
	headerLength = 16 // struct nlmsghdr
	routeLength  = 12 // struct rtmsg
	heardRoom    = 256 << 20
)

func newWatch(h *lab.Host) (*watch, error) {
	w := &watch{done: make(chan struct{})}
	err := h.Inside(func() (err error) {
		w.fd, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		patience := unix.NsecToTimeval(int64(50 * time.Millisecond))
		return errors.Join(
			unix.SetsockoptInt(w.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, heardRoom),
			unix.SetsockoptTimeval(w.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &patience),
			unix.Bind(w.fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1 << (unix.RTNLGRP_IPV4_ROUTE - 1)}))
	})
	if err != nil {
		return nil, fmt.Errorf("hear of routes on %s: %w", h.Name, err)
	}
	go w.listen()
	return w, nil
}

func (w *watch) close() error {
	w.closing.Store(true)
	<-w.done
	return unix.Close(w.fd)
}

func (w *watch) listen() {
	defer close(w.done)
	buf := make([]byte, 1<<16)
	for !w.closing.Load() {
		n, _, err := unix.Recvfrom(w.fd, buf, 0)
		switch {
		case err == nil:
			w.heard(buf[:n])
		case errors.Is(err, unix.ENOBUFS):
			w.mu.Lock()
			w.lost = fmt.Errorf("hear of routes: %w", err)
			w.mu.Unlock()
		}
	}
}

func (w *watch) heard(messages []byte) {
	now := time.Now()
	w.mu.Lock()
	defer w.mu.Unlock()
	for len(messages) >= headerLength {
		length := int(binary.NativeEndian.Uint32(messages))
		if length < headerLength || length > len(messages) {
			return
		}
		if subnet, ok := newRoute(messages[:length]); ok && w.pending[subnet] {
			delete(w.pending, subnet)
			w.last, w.came[subnet] = now, now
			if len(w.pending) == 0 {
				close(w.all)
			}
		}
		messages = messages[min(align(length), len(messages)):]
	}
}

func align(n int) int { return (n + 3) &^ 3 }

// newRoute is the destination of a new IPv4 route.
func newRoute(msg []byte) (netip.Prefix, bool) {
	if binary.NativeEndian.Uint16(msg[4:]) != unix.RTM_NEWROUTE || len(msg) < headerLength+routeLength {
		return netip.Prefix{}, false
	}
	bits := int(msg[headerLength+1])
	for rest := msg[headerLength+routeLength:]; len(rest) >= 4; {
		length := int(binary.NativeEndian.Uint16(rest))
		if length < 4 || length > len(rest) {
			break
		}
		if binary.NativeEndian.Uint16(rest[2:]) == unix.RTA_DST && length == 8 && bits <= 32 {
			return netip.PrefixFrom(netip.AddrFrom4([4]byte(rest[4:])), bits), true
		}
		rest = rest[min(align(length), len(rest)):]
	}
	return netip.Prefix{}, false
}

// expect starts waiting for routes to these subnets, from now on.
func (w *watch) expect(subnets []netip.Prefix) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.pending, w.came, w.all = map[netip.Prefix]bool{}, map[netip.Prefix]time.Time{}, make(chan struct{})
	for _, s := range subnets {
		w.pending[s] = true
	}
}

// times says when each of the expected routes came.
func (w *watch) times() map[netip.Prefix]time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return maps.Clone(w.came)
}

// await returns when the last of the expected routes came.
func (w *watch) await(ctx context.Context) (time.Time, error) {
	w.mu.Lock()
	all := w.all
	w.mu.Unlock()
	var err error
	select {
	case <-all:
	case <-ctx.Done():
		err = ctx.Err()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if err != nil {
		for one := range w.pending {
			return w.last, errors.Join(w.lost, fmt.Errorf("%d routes, that to %s among them, did not come: %w", len(w.pending), one, err))
		}
	}
	return w.last, nil
}
