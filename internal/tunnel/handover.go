package tunnel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Role says what a descriptor is for.
type Role string

// The roles. They are of the prelude: their meaning never changes.
const (
	RoleTUN Role = "tun" // the TUN device of Config.Link, with virtio headers
	RoleUDP Role = "udp" // bound to one of Config.Source
)

// Descriptor is an open file that one forwarder leaves to the next.
type Descriptor struct {
	Role Role
	File *os.File
}

// maxDescriptors is what fits into one message (SCM_MAX_FD).
const maxDescriptors = 253

const (
	// farewell is how long a forwarder may take from SIGTERM to its end.
	farewell = time.Second
	// burial is how long the kernel may take from SIGKILL to the end, which is
	// certain: a TUN device is let go only when no CPU can still see it, and on a
	// busy host that takes seconds.
	burial = 10 * time.Second
	// glance is enough to see an end that has been already.
	glance = 10 * time.Millisecond
)

// Predecessor is a forwarder that has handed over and still works, so that
// somebody always does. It goes on for good unless it is told to Quit.
type Predecessor struct {
	Status Status // as of the handover
	// Descriptors belong to whoever called Succeed.
	Descriptors []Descriptor

	conn *net.UnixConn
	log  *slog.Logger
}

// Succeed asks the forwarder on socket to hand over. ErrNoForwarder: there is
// none, or there was one that did not speak, and it has been killed.
func Succeed(ctx context.Context, socket string, log *slog.Logger) (*Predecessor, error) {
	conn, err := connect(ctx, socket)
	if err != nil {
		return nil, err
	}
	p := &Predecessor{conn: conn, log: log}
	if err := p.take(); err != nil {
		log.Warn("forwarder does not hand over and is ended", "socket", socket, "err", err)
		if err := p.kill(); err != nil {
			return nil, err
		}
		return nil, fmt.Errorf("%w on %s any more", ErrNoForwarder, socket)
	}
	return p, nil
}

func (p *Predecessor) take() error {
	if err := p.conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	if err := writeFrame(p.conn, request{Do: doHandover}); err != nil {
		return err
	}
	a, files, err := receive(p.conn)
	if err == nil {
		err = complete(a, files)
	}
	if err != nil {
		return errors.Join(err, closeAll(files))
	}
	p.Status = *a.Status
	for i, f := range files {
		p.Descriptors = append(p.Descriptors, Descriptor{Role: a.Roles[i], File: f})
	}
	return nil
}

func complete(a answer, files []*os.File) error {
	switch {
	case a.Error != "":
		return errors.New(a.Error)
	case a.Status == nil:
		return fmt.Errorf("%w: no status in the answer", ErrFrame)
	case len(files) != len(a.Roles):
		return fmt.Errorf("%w: %d descriptors for %d roles", ErrFrame, len(files), len(a.Roles))
	}
	return nil
}

// Quit ends the predecessor, by force if need be, and returns its counters at
// the end.
func (p *Predecessor) Quit() (Counters, error) {
	counters, err := p.sayQuit()
	if err == nil {
		return counters, p.conn.Close()
	}
	p.log.Warn("forwarder does not quit and is ended", "err", err)
	return p.Status.Counters, p.kill()
}

// Abandon lets the predecessor go on: the successor cannot.
func (p *Predecessor) Abandon() error { return p.conn.Close() }

func (p *Predecessor) sayQuit() (Counters, error) {
	if err := p.conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return Counters{}, err
	}
	if err := writeFrame(p.conn, request{Do: doQuit}); err != nil {
		return Counters{}, err
	}
	var a answer
	if err := readFrame(p.conn, &a); err != nil {
		return Counters{}, err
	}
	if a.Status == nil {
		return Counters{}, fmt.Errorf("%w: no status in the answer to quit: %s", ErrFrame, a.Error)
	}
	return a.Status.Counters, p.gone(patience)
}

// gone waits until the other side has closed the conversation, as a process
// does that ends.
func (p *Predecessor) gone(within time.Duration) error {
	if err := p.conn.SetReadDeadline(time.Now().Add(within)); err != nil {
		return err
	}
	if _, err := io.Copy(io.Discard, p.conn); errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("still there after %s: %w", within, err)
	}
	return nil // its end, or a reset because it left things unread
}

// kill ends the process on the other side of the conversation. It is known by
// the socket it listens on, never by a name or a number that was written down.
func (p *Predecessor) kill() error {
	defer p.conn.Close()
	cred, err := peer(p.conn)
	if err != nil {
		return err
	}
	if cred.Pid <= 0 || int(cred.Pid) == os.Getpid() {
		return fmt.Errorf("forwarder is process %d: not one that can be ended from here", cred.Pid)
	}
	process, err := os.FindProcess(int(cred.Pid)) // holds it: the number stays its own
	if err != nil {
		return fmt.Errorf("forwarder %d: %w", cred.Pid, err)
	}
	defer func() { _ = process.Release() }()
	// The number was its own only if it has not ended before we held it.
	if p.gone(glance) == nil {
		return nil
	}
	for _, last := range []struct {
		signal os.Signal
		wait   time.Duration
	}{{unix.SIGTERM, farewell}, {unix.SIGKILL, burial}} {
		if err := process.Signal(last.signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
			return fmt.Errorf("%s to forwarder %d: %w", last.signal, cred.Pid, err)
		}
		if p.dead(process, last.wait) == nil {
			return nil
		}
	}
	return fmt.Errorf("forwarder %d outlives SIGKILL by %s", cred.Pid, burial)
}

// dead waits until the process on the other side has ended: the conversation
// may end before the device is free. Kernels without handles of processes
// (before 5.4) have only that to tell.
func (p *Predecessor) dead(process *os.Process, within time.Duration) error {
	var cause error
	err := process.WithHandle(func(handle uintptr) { cause = awaitInput(int(handle), within) })
	if errors.Is(err, os.ErrNoHandle) {
		return p.gone(within)
	}
	return errors.Join(err, cause)
}

// awaitInput waits until fd can be read: that of a process when it has ended.
func awaitInput(fd int, within time.Duration) error {
	for end := time.Now().Add(within); ; {
		left := time.Until(end)
		if left <= 0 {
			return os.ErrDeadlineExceeded
		}
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}} //nolint:gosec // a descriptor
		n, err := unix.Poll(fds, int(left.Milliseconds())+1)
		switch {
		case err != nil && !errors.Is(err, unix.EINTR):
			return err
		case n > 0:
			return nil
		}
	}
}

// receive reads an answer and the descriptors that come with it. The files
// are the caller's even if there is an error.
func receive(conn *net.UnixConn) (answer, []*os.File, error) {
	var head [frameHeader]byte
	oob := make([]byte, unix.CmsgSpace(maxDescriptors*4))
	var files []*os.File
	for got := 0; got < len(head); {
		n, oobn, flags, _, err := conn.ReadMsgUnix(head[got:], oob)
		if err != nil {
			return answer{}, files, err
		}
		more, err := descriptors(oob[:oobn])
		files = append(files, more...)
		switch {
		case err != nil:
			return answer{}, files, err
		case flags&unix.MSG_CTRUNC != 0:
			return answer{}, files, fmt.Errorf("%w: descriptors got lost", ErrFrame)
		case n == 0:
			return answer{}, files, io.ErrUnexpectedEOF
		}
		got += n
	}
	var a answer
	return a, files, decode(head, conn, &a)
}

// descriptors reads those of one message. They are non-blocking: the mode
// belongs to what they share with the process that sent them.
func descriptors(oob []byte) ([]*os.File, error) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, err
	}
	var files []*os.File
	for _, m := range messages {
		fds, err := unix.ParseUnixRights(&m)
		if err != nil {
			return files, err
		}
		for _, fd := range fds {
			files = append(files, os.NewFile(uintptr(fd), "handed over"))
		}
	}
	return files, nil
}

func closeAll(files []*os.File) error {
	var errs []error
	for _, f := range files {
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}
