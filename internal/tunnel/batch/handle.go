// Package batch moves many packets with one system call, and waits for them
// without the Go runtime's poller.
//
// It owns the layout of messages in memory and the life of descriptors. It
// never looks into a packet and decides nothing. Called by the forwarder.
package batch

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Handle is an open descriptor that does not block. The runtime's poller does
// not know it: there each packet would wake a thread that has nothing to do.
// One goroutine reads from it; any may write.
type Handle struct {
	fd, wake int
	users    atomic.Int64 // plus closing, once Close was called
	unused   chan struct{}
	stopped  atomic.Bool
	check    atomic.Pointer[emptiness]
	crowd    *crowd // only the reader knows; nil: it waits for each packet
}

// closing is more than there ever are users.
const closing = 1 << 32

// emptiness is a question whether there is nothing to read.
type emptiness struct {
	looked bool // only the reader knows
	found  chan struct{}
}

// Take makes a Handle of what conn shares. The caller still closes conn.
func Take(conn syscall.Conn) (*Handle, error) {
	fd, err := duplicate(conn)
	if err != nil {
		return nil, err
	}
	return New(fd)
}

func duplicate(conn syscall.Conn) (int, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return -1, err
	}
	fd, cause := -1, error(nil)
	if err := raw.Control(func(from uintptr) { fd, cause = copyOf(int(from)) }); err != nil {
		return -1, err
	}
	return fd, cause
}

func copyOf(fd int) (int, error) {
	made, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("duplicate descriptor: %w", err)
	}
	return made, nil
}

// New makes a Handle of fd and owns it, even if there is an error.
func New(fd int) (*Handle, error) {
	err := unix.SetNonblock(fd, true)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("make descriptor non-blocking: %w", err), unix.Close(fd))
	}
	wake, err := unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("make event descriptor: %w", err), unix.Close(fd))
	}
	return &Handle{fd: fd, wake: wake, unused: make(chan struct{})}, nil
}

// Enter gives the descriptor until Leave, which must be called. net.ErrClosed:
// it is closed, and must not.
func (h *Handle) Enter() (int, error) {
	for {
		n := h.users.Load()
		if n >= closing {
			return -1, net.ErrClosed
		}
		if h.users.CompareAndSwap(n, n+1) {
			return h.fd, nil
		}
	}
}

// Leave ends what Enter began.
func (h *Handle) Leave() {
	if h.users.Add(-1) == closing {
		close(h.unused)
	}
}

// Control calls f with the descriptor. Errors: net.ErrClosed, or that of f.
func (h *Handle) Control(f func(fd int) error) error {
	fd, err := h.Enter()
	if err != nil {
		return err
	}
	defer h.Leave()
	return f(fd)
}

// Duplicate is for another process, or another Handle.
func (h *Handle) Duplicate() (*os.File, error) {
	made := -1
	if err := h.Control(func(fd int) (err error) {
		made, err = copyOf(fd)
		return err
	}); err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(made), "duplicate"), nil
}

// Interrupt ends the reader's next Wait, and all that follow.
func (h *Handle) Interrupt() {
	h.stopped.Store(true)
	h.rouse()
}

// rouse makes the reader look again.
func (h *Handle) rouse() {
	var one [8]byte
	binary.NativeEndian.PutUint64(one[:], 1)
	_, _ = unix.Write(h.wake, one[:]) // fails if it is awake for long
}

// Close ends the reader, waits until nobody uses the descriptor, and closes it.
func (h *Handle) Close() error {
	h.Interrupt()
	if n := h.users.Add(closing); n > closing {
		<-h.unused
	}
	return errors.Join(unix.Close(h.fd), unix.Close(h.wake))
}

// Empty waits until the reader finds nothing to read, at most for patience.
// False: there always was something, or there is no reader.
func (h *Handle) Empty(patience time.Duration) bool {
	e := &emptiness{found: make(chan struct{})}
	h.check.Store(e)
	h.rouse()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-e.found:
		return true
	case <-timer.C:
		h.check.CompareAndSwap(e, nil)
		return false
	}
}

const (
	// alert is how long the reader waits in a way that lets it go on at once
	// when something comes. It keeps its place in the Go scheduler, which may
	// have to wait for it before it can collect garbage.
	alert = 4 * time.Millisecond
	// attention is for how long it does so after there was something.
	attention = 8 * time.Millisecond
)

// Wait returns when there may be something to read, after the reader has found
// nothing. os.ErrDeadlineExceeded: it is to end. found is how much it did find
// since the last Wait.
func (h *Handle) Wait(found int) error {
	if e := h.check.Load(); e != nil {
		if !e.looked {
			e.looked = true
			return h.ended()
		}
		h.check.CompareAndSwap(e, nil)
		close(e.found)
	}
	if h.stopped.Load() {
		return os.ErrDeadlineExceeded
	}
	if h.crowd.gathers(found) {
		return nil
	}
	fds := [2]unix.PollFd{{Fd: int32(h.fd), Events: unix.POLLIN}, {Fd: int32(h.wake), Events: unix.POLLIN}} //nolint:gosec // descriptors are small
	if found > 0 && pollAlert(&fds) {
		return h.roused(&fds)
	}
	for {
		_, err := unix.Ppoll(fds[:], nil, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return fmt.Errorf("wait for packets: %w", err)
		}
		return h.roused(&fds)
	}
}

func (h *Handle) roused(fds *[2]unix.PollFd) error {
	if fds[1].Revents != 0 {
		var count [8]byte
		_, _ = unix.Read(h.wake, count[:])
	}
	return h.ended()
}

func (h *Handle) ended() error {
	if h.stopped.Load() {
		return os.ErrDeadlineExceeded
	}
	return nil
}

// pollAlert says whether something came soon.
func pollAlert(fds *[2]unix.PollFd) bool {
	for range attention / alert {
		timeout := unix.NsecToTimespec(alert.Nanoseconds())
		n, _, errno := unix.RawSyscall6(unix.SYS_PPOLL, uintptr(unsafe.Pointer(fds)), 2, uintptr(unsafe.Pointer(&timeout)), 0, 0, 0)
		if errno == 0 && n > 0 {
			return true
		}
	}
	return false
}

// WaitToWrite returns when there may be room.
func WaitToWrite(fd int) error {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}} //nolint:gosec // descriptors are small
	if _, err := unix.Ppoll(fds, nil, nil); err != nil && !errors.Is(err, unix.EINTR) {
		return fmt.Errorf("wait for room: %w", err)
	}
	return nil
}
