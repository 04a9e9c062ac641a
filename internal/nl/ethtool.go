package nl

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ethtoolValue is struct ethtool_value (linux/ethtool.h).
type ethtoolValue struct{ cmd, data uint32 }

// ethtoolRequest is struct ifreq with ifr_data (netdevice(7)); the union is as
// large as struct ifmap, its largest member.
type ethtoolRequest struct {
	name  [unix.IFNAMSIZ]byte
	value *ethtoolValue
	_     [unsafe.Sizeof(uintptr(0)) + 8]byte
}

// TxChecksum says whether tx-checksumming of ethtool(8) is on: whether
// transport checksums of what the device sends are left to hardware below.
// ENODEV if there is no such device.
func TxChecksum(link string) (on bool, err error) {
	v, err := ethtool(link, ethtoolValue{cmd: unix.ETHTOOL_GTXCSUM})
	return v.data != 0, err
}

// SetTxChecksum turns tx-checksumming on or off. The kernel turns segmentation
// offloads that need it off with it, and back on. The setting stays for the
// life of the device.
func SetTxChecksum(link string, on bool) error {
	_, err := ethtool(link, ethtoolValue{cmd: unix.ETHTOOL_STXCSUM, data: uint32(flag(on))})
	return err
}

// ethtool asks by ioctl: the generic netlink family is younger (Linux 5.7) and
// would need a socket of its own, too. It works in the network namespace of the
// calling thread.
func ethtool(link string, v ethtoolValue) (ethtoolValue, error) {
	r := ethtoolRequest{value: &v}
	if len(link) >= len(r.name) {
		return v, fmt.Errorf("link name %q: %w", link, unix.EINVAL)
	}
	copy(r.name[:], link)
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return v, fmt.Errorf("open socket: %w", err)
	}
	defer func() { _ = unix.Close(fd) }()
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&r)))
	if errno != 0 {
		return v, fmt.Errorf("tx-checksumming of %s: %w", link, errno)
	}
	return v, nil
}
