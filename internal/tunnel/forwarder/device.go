package forwarder

import (
	"errors"
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

const (
	tunPath = "/dev/net/tun"

	// headroom is struct virtio_net_hdr, in bytes: before each packet of the
	// device. With all offloads off it is zero on the way in, and on the way
	// out says at most that a checksum was already verified.
	headroom   = 10
	headFlags  = 0 // one byte
	headGSO    = 1 // one byte
	needsCsum  = 1 // VIRTIO_NET_HDR_F_NEEDS_CSUM
	maxPacket  = 1<<16 - 1
	bufferSize = headroom + maxPacket + 1 // no packet can be cut short unseen
)

// device is an attached TUN device.
type device struct {
	name string
	file *os.File
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
	// Only now does the descriptor know what there is to wait for.
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
	return &device{name: name, file: os.NewFile(uintptr(fd), name)}, nil
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
	raw, err := file.SyscallConn()
	if err == nil {
		var cause error
		err = raw.Control(func(fd uintptr) { cause = isAttached(int(fd), name) })
		err = errors.Join(err, cause)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("inherit TUN device %s: %w", name, err), file.Close())
	}
	return &device{name: name, file: file}, nil
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

// read waits for a packet. The result lies in buffer.
func (d *device) read(buffer []byte) ([]byte, error) {
	for {
		n, err := d.file.Read(buffer)
		switch {
		case errors.Is(err, unix.EBADFD), errors.Is(err, unix.ENODEV):
			return nil, fmt.Errorf("%s: %w", d.name, ErrDeviceGone)
		case err != nil:
			return nil, err
		case n <= headroom:
			continue // no packet
		}
		return buffer[:n], nil
	}
}

// unfinished says that the kernel has left work on a packet to us, which it
// does only if a predecessor had switched offloads on.
func unfinished(frame []byte) bool {
	return frame[headFlags]&needsCsum != 0 || frame[headGSO] != 0
}

// write gives frame, a packet behind room for the header, to the kernel.
func (d *device) write(frame []byte) error {
	clear(frame[:headroom])
	_, err := d.file.Write(frame)
	return err
}
