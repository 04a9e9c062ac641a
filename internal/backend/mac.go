package backend

import (
	"crypto/sha256"

	"github.com/flannel-ng/flannel-ng/internal/addr"
)

// DeriveMAC makes a locally administered unicast MAC from a host id and a
// device role: the same after a reboot and a lost lease.
func DeriveMAC(hostID, role string) addr.MAC {
	sum := sha256.Sum256([]byte(hostID + "/" + role))
	m := addr.MAC(sum[:6])
	m[0] = m[0]&^1 | 2 // unicast, local (IEEE 802 48-bit address, first octet)
	return m
}
