package forwarder

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/tunnel"
	"github.com/flannel-ng/flannel-ng/internal/tunnel/batch"
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
		errs = append(errs, e.device.Close())
	}
	for _, f := range addr.Families() {
		if s := e.sockets.At(f); s != nil && s != keep.sockets.At(f) {
			errs = append(errs, s.Close())
		}
	}
	return errors.Join(errs...)
}

// interrupt ends all reads here, though not those of others that share the
// descriptors.
func (e ends) interrupt() {
	if e.device != nil {
		e.device.Interrupt()
	}
	for _, f := range addr.Families() {
		if s := e.sockets.At(f); s != nil {
			s.Interrupt()
		}
	}
}

// again is the same ends by other descriptors, for other loops to read from.
func (e ends) again() (ends, error) {
	var next ends
	var errs []error
	if e.device != nil {
		d, err := e.device.again()
		next.device, errs = d, append(errs, err)
	}
	for _, f := range addr.Families() {
		if s := e.sockets.At(f); s != nil {
			s, err := s.again()
			next.sockets.Put(f, s)
			errs = append(errs, err)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return ends{}, errors.Join(err, next.close(e))
	}
	return next, nil
}

// duplicate copies the descriptors for a successor.
func (e ends) duplicate() ([]tunnel.Descriptor, error) {
	var all []tunnel.Descriptor
	add := func(role tunnel.Role, of *batch.Handle) error {
		file, err := of.Duplicate()
		if err == nil {
			all = append(all, tunnel.Descriptor{Role: role, File: file})
		}
		return err
	}
	var errs []error
	if e.device != nil {
		errs = append(errs, add(tunnel.RoleTUN, e.device.Handle))
	}
	for _, f := range addr.Families() {
		if s := e.sockets.At(f); s != nil {
			errs = append(errs, add(tunnel.RoleUDP, s.Handle))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, errors.Join(err, closeAll(all))
	}
	return all, nil
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
		return errors.Join(fmt.Errorf("%w: two sockets for %s", ErrConfig, f), s.Close())
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
