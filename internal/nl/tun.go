package nl

import (
	"errors"
	"fmt"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// TUN is what sets a device of kind tun apart from those that AddTUN makes: of
// them, it is zero. Kernels before 4.17 tell nothing. With or without packet
// information or virtio headers is not here: each process that attaches
// chooses anew.
type TUN struct {
	Tap        bool // Ethernet frames
	MultiQueue bool
	Transient  bool // it goes with the process that has it open
	// Open: others than root may attach, and so read and forge its packets. A
	// device that names no owner is open to all.
	Open bool
}

// ErrNoTUN says that this host has no TUN driver, or hides it from us.
var ErrNoTUN = errors.New("no /dev/net/tun (modprobe tun; to a container, give the device /dev/net/tun)")

const tunPath = "/dev/net/tun"

// AddTUN creates a persistent TUN device, down, in the network namespace of the
// calling thread, and leaves it without a reader. Processes attach with
// IFF_TUN, IFF_NO_PI and IFF_VNET_HDR; only root can.
func AddTUN(name string) error {
	fd, err := unix.Open(tunPath, unix.O_RDWR|unix.O_CLOEXEC, 0)
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENXIO), errors.Is(err, unix.ENODEV):
		return fmt.Errorf("%w: %w", ErrNoTUN, err)
	case err != nil:
		return fmt.Errorf("open %s: %w", tunPath, err)
	}
	defer func() { _ = unix.Close(fd) }()
	return makeTUN(fd, name)
}

// makeTUN works on an open /dev/net/tun. Without EXCL the kernel would attach
// to a device of that name that somebody else made in between.
func makeTUN(fd int, name string) error {
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		return fmt.Errorf("name %q: %w", name, err)
	}
	ifr.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI | unix.IFF_VNET_HDR | unix.IFF_TUN_EXCL)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr); err != nil {
		return fmt.Errorf("TUNSETIFF: %w", err)
	}
	// The owner comes first: what persists is never open to others.
	if err := unix.IoctlSetInt(fd, unix.TUNSETOWNER, 0); err != nil {
		return fmt.Errorf("TUNSETOWNER: %w", err)
	}
	if err := unix.IoctlSetInt(fd, unix.TUNSETPERSIST, 1); err != nil {
		return fmt.Errorf("TUNSETPERSIST: %w", err)
	}
	return nil
}

const iflaTunTap = 2 // IFLA_TUN_TYPE is IFF_TUN or IFF_TAP (linux/if_tun.h)

// decode reads IFLA_INFO_DATA of a device of kind tun.
func (t *TUN) decode(ad *netlink.AttributeDecoder) error {
	var owned, shared bool
	for ad.Next() {
		switch ad.Type() {
		case unix.IFLA_TUN_TYPE:
			t.Tap = ad.Uint8() == iflaTunTap
		case unix.IFLA_TUN_MULTI_QUEUE:
			t.MultiQueue = ad.Uint8() != 0
		case unix.IFLA_TUN_PERSIST:
			t.Transient = ad.Uint8() == 0
		case unix.IFLA_TUN_OWNER:
			owned = ad.Uint32() == 0
		case unix.IFLA_TUN_GROUP:
			shared = true
		}
	}
	t.Open = shared || !owned
	return nil
}
