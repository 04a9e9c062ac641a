package forwarder_test

import (
	"net"
	"testing"
	"time"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/tunnel"
)

// Packets to hosts that are down wait in the kernel for an answer of the
// neighbour that never comes. Those to others do not wait with them.
func TestDeadPeersHoldUpNobody(t *testing.T) {
	both(t, func(t *testing.T, plain bool) {
		one, two := hostsThat(t, plain)
		c := one.start(t, 2)
		two.start(t, 1)
		var dead []tunnel.Peer
		for n := 11; n <= 30; n++ {
			dead = append(dead, tunnel.Peer{Subnet: subnetOf(n, addr.IPv4), Dst: outerOf(n, addr.IPv4)})
		}
		if err := c.Change(t.Context(), tunnel.Change{Put: dead}); err != nil {
			t.Fatal(err)
		}
		from, to := one.udp(t, at(one.inner(addr.IPv4), 0)), two.udp(t, at(two.inner(addr.IPv4), 0))
		transmit(t, from, []byte("before"), localOf(to))
		receive(t, to)
		for range 50 {
			for _, d := range dead {
				transmit(t, from, make([]byte, 1200), at(d.Subnet.Addr().Next(), 9))
			}
		}
		mustPass(t, from, to)
	})
}

// mustPass fails if packets do not pass soon. The kernel gives a neighbour
// three seconds.
func mustPass(t *testing.T, from, to *net.UDPConn) {
	t.Helper()
	begin := time.Now()
	eventually(t, "packet", func() error {
		transmit(t, from, []byte("now?"), localOf(to)) // one alone may find the device's queue full
		if err := to.SetReadDeadline(time.Now().Add(10 * time.Millisecond)); err != nil {
			return err
		}
		_, err := to.Read(make([]byte, 10))
		return err
	})
	if waited := time.Since(begin); waited > time.Second {
		t.Errorf("a packet waited for %s", waited)
	}
}
