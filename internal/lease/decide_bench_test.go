package lease_test

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/config"
	"github.com/flannel-ng/flannel-ng/internal/lease"
)

// A host that holds its lease looks at a new picture of 20,000.
func BenchmarkDecide(b *testing.B) {
	n, err := config.Parse([]byte(`{"Network":"10.0.0.0/8"}`))
	if err != nil {
		b.Fatal(err)
	}
	s := lease.Situation{HostID: "me", Now: time.Now(), Ask: lease.Ask{Network: n, Public: addrs("192.0.2.1")}}
	s.Snapshot = lease.Snapshot{Synced: true, Epoch: 1, Rev: 1 << 20}
	for i := range 20000 {
		p := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 0}), 24)
		l := lease.Lease{
			Key: fmt.Sprintf("%s-24", p.Addr()), Subnets: addr.Pair(p, netip.Prefix{}), Public: addrs("192.0.2.7"),
			Owner: fmt.Sprint("host", i), Created: int64(i + 1), Modified: int64(i + 1),
		}
		if i == 9999 {
			l.Owner, l.Public = s.HostID, s.Ask.Public
			s.Holding = lease.Holding{State: lease.Owned, Epoch: 1, Lease: lease.Held{Lease: l, Token: lease.Token(l.Modified)}, Asked: lease.Claim{Subnets: l.Subnets, Public: l.Public}}
		}
		s.Snapshot.Leases = append(s.Snapshot.Leases, &l)
	}
	for b.Loop() {
		if d := lease.Decide(s); d.Action.Act != lease.ActNone {
			b.Fatal(d)
		}
	}
}
