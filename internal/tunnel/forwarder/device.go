package forwarder

import (
	"errors"
	"fmt"
	"net"
	"os"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/flannel-ng/flannel-ng/internal/tunnel/batch"
	"github.com/flannel-ng/flannel-ng/internal/tunnel/segment"
)

const (
	tunPath = "/dev/net/tun"

	// headroom is before each packet of the device.
	headroom   = segment.HeaderSize
	maxPacket  = 1<<16 - 1
	bufferSize = headroom + maxPacket + 1 // no packet can be cut short unseen
)

// device is an attached TUN device.
type device struct {
	*batch.Handle
	name string
	// offload is the set of unix.TUN_F_ that is on.
	offload atomic.Uint32
}

// attach opens an existing TUN device. It never makes one: that is the link
// driver's affair, and one made here would end with us. The error names the
// cure.
func attach(name string) (*device, error) {
	before, err := net.InterfaceByName(name)
	if err != nil {
		return nil, fmt.Errorf("TUN device %s: %w", name, err)
	}
	fd, err := unix.Open(tunPath, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, openError(err)
	}
	if err := attachTo(fd, name); err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	after, err := net.InterfaceByName(name)
	if err == nil && after.Index != before.Index {
		err = unix.ENODEV // it went, and the kernel made another for us
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("TUN device %s: %w", name, err), unix.Close(fd))
	}
	handle, err := batch.New(fd)
	if err != nil {
		return nil, fmt.Errorf("TUN device %s: %w", name, err)
	}
	return &device{Handle: handle, name: name}, nil
}

func openError(err error) error {
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO):
		return fmt.Errorf("open %s: %w: load the kernel module (modprobe tun), and in a container pass --device %s", tunPath, err, tunPath)
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		return fmt.Errorf("open %s: %w: needs root, and in a container --device %s", tunPath, err, tunPath)
	default:
		return fmt.Errorf("open %s: %w", tunPath, err)
	}
}

func attachTo(fd int, name string) error {
	request, err := unix.NewIfreq(name)
	if err != nil {
		return fmt.Errorf("TUN device %q: %w", name, err)
	}
	request.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	switch err := unix.IoctlIfreq(fd, unix.TUNSETIFF, request); {
	case errors.Is(err, unix.EBUSY):
		return fmt.Errorf("attach to %s: %w: another process, perhaps plain flannel, holds it: end that one", name, err)
	case errors.Is(err, unix.EINVAL):
		return fmt.Errorf("attach to %s: %w: it is no TUN device: move it away", name, err)
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("attach to %s: %w: needs CAP_NET_ADMIN", name, err)
	case err != nil:
		return fmt.Errorf("attach to %s: %w", name, err)
	}
	return plain(fd)
}

// plain sets the header's length and switches all offloads off: packets come
// whole, with their checksums.
func plain(fd int) error {
	if err := unix.IoctlSetPointerInt(fd, unix.TUNSETVNETHDRSZ, headroom); err != nil {
		return fmt.Errorf("set header length of TUN device: %w", err)
	}
	if err := unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, 0); err != nil {
		return fmt.Errorf("switch offloads of TUN device off: %w", err)
	}
	return nil
}

// inheritDevice takes file, which a predecessor has attached to name.
func inheritDevice(file *os.File, name string) (*device, error) {
	handle, err := batch.Take(file)
	if err = errors.Join(err, file.Close()); err != nil {
		return nil, fmt.Errorf("inherit TUN device %s: %w", name, err)
	}
	if err := handle.Control(func(fd int) error { return isAttached(fd, name) }); err != nil {
		return nil, errors.Join(fmt.Errorf("inherit TUN device %s: %w", name, err), handle.Close())
	}
	return &device{Handle: handle, name: name}, nil
}

func isAttached(fd int, name string) error {
	request, err := unix.NewIfreq("")
	if err != nil {
		return err
	}
	if err := unix.IoctlIfreq(fd, unix.TUNGETIFF, request); err != nil {
		return err
	}
	if request.Name() != name {
		return fmt.Errorf("%w: attached to %s", ErrConfig, request.Name())
	}
	return plain(fd)
}

// again is another descriptor of the same device.
func (d *device) again() (*device, error) {
	file, err := d.Duplicate()
	if err != nil {
		return nil, err
	}
	return inheritDevice(file, d.name)
}

// read takes a packet into buffer. unix.EAGAIN: there is none. The header is
// before it.
func (d *device) read(fd int, buffer []byte) (int, error) {
	for {
		n, err := batch.Read(fd, buffer)
		switch {
		case errors.Is(err, unix.EBADFD), errors.Is(err, unix.ENODEV):
			return 0, fmt.Errorf("%s: %w", d.name, ErrDeviceGone)
		case err != nil:
			return 0, err
		case n <= headroom:
			continue // no packet
		}
		return n, nil
	}
}

// The offloads of the device, and what they are called.
type offload struct {
	bits uint32
	name string
}

// offloads are in the order in which they go, the last first, where a kernel
// does not know them: USO is of Linux 6.2 and takes both families together.
func offloads() []offload {
	return []offload{
		{unix.TUN_F_CSUM, "csum"},
		{unix.TUN_F_TSO4, "tso4"},
		{unix.TUN_F_TSO6, "tso6"},
		{unix.TUN_F_USO4 | unix.TUN_F_USO6, "uso"},
	}
}

// boost switches on as many offloads as the kernel knows.
func (d *device) boost() error {
	return d.Control(func(fd int) error {
		all := offloads()
		for n := len(all); ; n-- {
			var bits uint32
			for _, o := range all[:n] {
				bits |= o.bits
			}
			err := unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, int(bits))
			if err == nil {
				d.offload.Store(bits)
				return nil
			}
			if n == 0 {
				return fmt.Errorf("offloads of TUN device %s: %w", d.name, err)
			}
		}
	})
}

// calm switches them off again.
func (d *device) calm() error {
	d.offload.Store(0)
	return d.Control(plain)
}

// takesDatagrams says whether UDP super-packets may be written.
func (d *device) takesDatagrams() bool { return d.offload.Load()&unix.TUN_F_USO4 != 0 }
