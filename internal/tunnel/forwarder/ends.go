package forwarder

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/tunnel"
)

// ends are what packets are read from and written to. A nil is missing.
type ends struct {
	device  *device
	sockets addr.ByFamily[*socket]
}

// open makes the ends that c wants, with those of have that fit. After an
// error have is as it was.
func open(ctx context.Context, c tunnel.Config, have ends) (ends, error) {
	var next ends
	for _, a := range c.Source {
		local := netip.AddrPortFrom(a, c.Port)
		s := have.sockets.At(addr.Of(a))
		if s == nil || s.local != local {
			var err error
			if s, err = listen(ctx, local); err != nil {
				return ends{}, errors.Join(err, next.close(have))
			}
		}
		next.sockets.Put(addr.Of(a), s)
	}
	next.device = have.device
	if next.device == nil || next.device.name != c.Link {
		var err error
		if next.device, err = attach(c.Link); err != nil {
			return ends{}, errors.Join(err, next.close(have))
		}
	}
	return next, nil
}

// close closes all that keep does not have.
func (e ends) close(keep ends) error {
	var errs []error
	if e.device != nil && e.device != keep.device {
		errs = append(errs, e.device.file.Close())
	}
	for _, f := range addr.Families() {
		if s := e.sockets.At(f); s != nil && s != keep.sockets.At(f) {
			errs = append(errs, s.conn.Close())
		}
	}
	return errors.Join(errs...)
}

// interrupt ends all reads here, though not those of others that share the
// descriptors.
func (e ends) interrupt() {
	past := time.Unix(1, 0)
	if e.device != nil {
		_ = e.device.file.SetReadDeadline(past) // fails if closed: read does too
	}
	for _, f := range addr.Families() {
		if s := e.sockets.At(f); s != nil {
			_ = s.conn.SetReadDeadline(past) // the same
		}
	}
}

// duplicate copies the descriptors for a successor.
func (e ends) duplicate() ([]tunnel.Descriptor, error) {
	var all []tunnel.Descriptor
	add := func(role tunnel.Role, of syscall.Conn) error {
		file, err := duplicate(of)
		if err == nil {
			all = append(all, tunnel.Descriptor{Role: role, File: file})
		}
		return err
	}
	var errs []error
	if e.device != nil {
		errs = append(errs, add(tunnel.RoleTUN, e.device.file))
	}
	for _, f := range addr.Families() {
		if s := e.sockets.At(f); s != nil {
			errs = append(errs, add(tunnel.RoleUDP, s.conn))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, errors.Join(err, closeAll(all))
	}
	return all, nil
}

func duplicate(of syscall.Conn) (*os.File, error) {
	raw, err := of.SyscallConn()
	if err != nil {
		return nil, err
	}
	fd, cause := -1, error(nil)
	if err := raw.Control(func(from uintptr) {
		fd, cause = unix.FcntlInt(from, unix.F_DUPFD_CLOEXEC, 0)
	}); err != nil {
		return nil, err
	}
	if cause != nil {
		return nil, fmt.Errorf("duplicate descriptor: %w", cause)
	}
	return os.NewFile(uintptr(fd), "duplicate"), nil
}

// inherited sorts the descriptors of a predecessor by what they are for, and
// closes those that this version does not know.
func inherited(s tunnel.Status, ds []tunnel.Descriptor) (ends, error) {
	var have ends
	var errs []error
	for i, d := range ds {
		var err error
		switch {
		case d.Role == tunnel.RoleTUN && s.Config != nil && have.device == nil:
			have.device, err = inheritDevice(d.File, s.Config.Link)
			ds[i].File = nil
		case d.Role == tunnel.RoleUDP:
			err = have.addSocket(d.File)
		}
		errs = append(errs, err)
	}
	errs = append(errs, closeAll(ds))
	if err := errors.Join(errs...); err != nil {
		return ends{}, errors.Join(err, have.close(ends{}))
	}
	return have, nil
}

// addSocket adds a socket that shares its description with file.
func (e *ends) addSocket(file *os.File) error {
	s, err := inheritSocket(file)
	if err != nil {
		return err
	}
	f := addr.Of(s.local.Addr())
	if e.sockets.At(f) != nil {
		return errors.Join(fmt.Errorf("%w: two sockets for %s", ErrConfig, f), s.conn.Close())
	}
	e.sockets.Put(f, s)
	return nil
}

func closeAll(ds []tunnel.Descriptor) error {
	var errs []error
	for _, d := range ds {
		if d.File != nil {
			errs = append(errs, d.File.Close())
		}
	}
	return errors.Join(errs...)
}
