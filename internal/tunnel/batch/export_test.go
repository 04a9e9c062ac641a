package batch

import (
	"net/netip"

	"github.com/flannel-ng/flannel-ng/internal/addr"
)

// Roundtrip writes control messages and reads them as a receiver would.
func Roundtrip(f addr.Family, size int, tos uint8) (length, gotSize int, gotTOS uint8) {
	var c control
	n := c.describe(f, size, tos)
	gotSize, gotTOS = c.read(n)
	return n, gotSize, gotTOS
}

// ReadControl reads any bytes.
func ReadControl(b []byte) (size int, tos uint8) {
	var c control
	n := copy(c.bytes()[:], b)
	return c.read(n)
}

// Name is to as it goes to the kernel and comes back.
func Name(to netip.AddrPort) netip.Addr {
	var n name
	n.set(to)
	return n.addr()
}
