package forwarder_test

import (
	"encoding/binary"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"
)

// inner is a whole IP packet with payload in UDP, as a container would send
// it. Its UDP checksum is right, so that a kernel delivers it.
func inner(src, dst netip.AddrPort, payload []byte) []byte {
	udp := binary.BigEndian.AppendUint16(nil, src.Port())
	udp = binary.BigEndian.AppendUint16(udp, dst.Port())
	udp = binary.BigEndian.AppendUint16(udp, uint16(8+len(payload)))
	udp = append(append(udp, 0, 0), payload...)
	pseudo := append(src.Addr().AsSlice(), dst.Addr().AsSlice()...)
	pseudo = binary.BigEndian.AppendUint32(pseudo, uint32(len(udp)))
	pseudo = binary.BigEndian.AppendUint32(pseudo, unix.IPPROTO_UDP)
	binary.BigEndian.PutUint16(udp[6:], checksum(append(pseudo, udp...)))
	if src.Addr().Is6() {
		head := binary.BigEndian.AppendUint32(nil, 6<<28)
		head = binary.BigEndian.AppendUint16(head, uint16(len(udp)))
		head = append(head, unix.IPPROTO_UDP, 64)
		return append(append(append(head, src.Addr().AsSlice()...), dst.Addr().AsSlice()...), udp...)
	}
	head := []byte{0x45, 0}
	head = binary.BigEndian.AppendUint16(head, uint16(20+len(udp)))
	head = append(head, 0, 1, 0, 0, 64, unix.IPPROTO_UDP, 0, 0)
	head = append(append(head, src.Addr().AsSlice()...), dst.Addr().AsSlice()...)
	binary.BigEndian.PutUint16(head[10:], checksum(head))
	return append(head, udp...)
}

// checksum is that of RFC 1071.
func checksum(b []byte) uint16 {
	var sum uint32
	for i, x := range b {
		sum += uint32(x) << (8 * (1 - i%2))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// hasTSO asks a device whether it takes super-packets of TCP.
func hasTSO(socket int, device string) (bool, error) {
	value := struct{ command, data uint32 }{command: unix.ETHTOOL_GTSO}
	request := struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [8]byte
	}{data: unsafe.Pointer(&value)}
	copy(request.name[:], device)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(socket), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&request)))
	if errno != 0 {
		return false, errno
	}
	return value.data != 0, nil
}
