package fastpath_test

import (
	"encoding/binary"
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// frame sends an Ethernet frame, header and all, on eth0.
func (h *host) frame(tb testing.TB, b []byte) {
	tb.Helper()
	h.do(tb, func() error {
		dev, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer func() { _ = unix.Close(fd) }()
		return unix.Sendto(fd, b, 0, &unix.SockaddrLinklayer{Ifindex: dev.Index, Halen: 6})
	})
}

func (h *host) mac(tb testing.TB) (mac net.HardwareAddr) {
	tb.Helper()
	h.do(tb, func() error {
		dev, err := net.InterfaceByName("eth0")
		if err == nil {
			mac = dev.HardwareAddr
		}
		return err
	})
	return mac
}

// What came over the wire with a damaged outer header is no datagram of
// anybody's: the kernel would drop it, and the program must not mend it.
func TestDamagedOuterHeader(t *testing.T) {
	a, b := pair(t)
	inside := b.container(t)
	const ethernet = 14
	outer := func(payload string) []byte {
		inner := datagram(a.inner(), b.inner(), payload)
		f := append(append([]byte{}, b.mac(t)...), a.mac(t)...)
		f = append(f, 8, 0)
		ip := make([]byte, 28)
		ip[0], ip[8], ip[9] = 0x45, 64, unix.IPPROTO_UDP
		binary.BigEndian.PutUint16(ip[2:], uint16(28+len(inner)))
		copy(ip[12:], a.outer().AsSlice())
		copy(ip[16:], b.outer().AsSlice())
		binary.BigEndian.PutUint16(ip[10:], checksum(ip[:20]))
		binary.BigEndian.PutUint16(ip[20:], port)
		binary.BigEndian.PutUint16(ip[22:], port)
		binary.BigEndian.PutUint16(ip[24:], uint16(8+len(inner)))
		return append(append(f, ip...), inner...)
	}
	damaged := outer("damaged")
	damaged[ethernet+8]++ // hops left
	a.frame(t, damaged)
	a.frame(t, outer("whole"))
	buffer := make([]byte, 100)
	_ = inside.SetReadDeadline(time.Now().Add(timeout))
	if n, _, err := inside.ReadFromUDP(buffer); err != nil || string(buffer[:n]) != "whole" {
		t.Errorf("%q inside, %v; want the whole one only", buffer[:n], err)
	}
}
