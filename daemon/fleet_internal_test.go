package daemon

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/lease"
)

// fleet is a store in memory with a fabric of many hosts.
type fleet struct {
	backend  string
	families []addr.Family
	peers    int
	pictures chan lease.Snapshot

	host string // id of the host under test

	mu  sync.Mutex
	now lease.Snapshot
}

// newFleet has peers 1 to n; 0 is the host under test.
func newFleet(backend string, families []addr.Family, n int) *fleet {
	f := &fleet{backend: backend, families: families, peers: n, pictures: make(chan lease.Snapshot, 1)}
	f.now = lease.Snapshot{Cluster: "bench", Epoch: 1, Rev: int64(n) + 1, Synced: true, Config: []byte(f.config())}
	for i := 1; i <= n; i++ {
		f.now.Leases = append(f.now.Leases, f.lease(i, 1))
	}
	slices.SortFunc(f.now.Leases, lease.Compare)
	f.pictures <- f.now
	return f
}

func (f *fleet) config() string {
	ipv4, ipv6 := `"EnableIPv4":false`, `"EnableIPv6":false`
	if slices.Contains(f.families, addr.IPv4) {
		ipv4 = `"Network":"10.0.0.0/8","SubnetMin":"10.200.0.0"`
	}
	if slices.Contains(f.families, addr.IPv6) {
		ipv6 = `"EnableIPv6":true,"IPv6Network":"fd00::/48","IPv6SubnetMin":"fd00:0:0:c800::"`
	}
	return fmt.Sprintf(`{%s,%s,"EnableNFTables":true,"Backend":{"Type":%q}}`, ipv4, ipv6, f.backend)
}

// subnet and public are those of host i.
func (f *fleet) subnet(family addr.Family, i int) netip.Prefix {
	if family == addr.IPv4 {
		var b [4]byte
		binary.BigEndian.PutUint32(b[:], 10<<24+uint32(i+256)<<8)
		return netip.PrefixFrom(netip.AddrFrom4(b), 24)
	}
	b := [16]byte{0xfd}
	binary.BigEndian.PutUint16(b[6:], uint16(i+256))
	return netip.PrefixFrom(netip.AddrFrom16(b), 64)
}

func (*fleet) public(family addr.Family, i int) netip.Addr {
	if family == addr.IPv4 {
		var b [4]byte
		binary.BigEndian.PutUint32(b[:], 198<<24+18<<16+uint32(i)+1) // RFC 2544
		return netip.AddrFrom4(b)
	}
	b := [16]byte{0x20, 0x01, 0x0d, 0xb8}
	binary.BigEndian.PutUint32(b[12:], uint32(i)+1)
	return netip.AddrFrom16(b)
}

// lease is that of host i; another version has other VTEPs, or for host-gw
// another modification.
func (f *fleet) lease(i, version int) *lease.Lease {
	l := &lease.Lease{Owner: fmt.Sprintf("%032x", i), Created: int64(i), Modified: int64(version)}
	for _, family := range f.families {
		s := f.subnet(family, i)
		l.Subnets.Put(family, s)
		l.Public.Put(family, f.public(family, i))
		if l.Key != "" {
			l.Key += "&"
		}
		l.Key += fmt.Sprintf("%s-%d", s.Addr(), s.Bits())
		if f.backend == "vxlan" {
			mac := addr.MAC{2, byte(version), byte(family), byte(i >> 16), byte(i >> 8), byte(i)}
			l.Offer.Data.Put(family, fmt.Sprintf(`{"VNI":1,"VtepMAC":%q}`, mac))
		}
	}
	l.Offer.Backend = f.backend
	return l
}

// put publishes the leases as they are after change. The newest picture
// replaces one that nobody took.
func (f *fleet) put(change func([]*lease.Lease) []*lease.Lease) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.publish(change(slices.Clone(f.now.Leases)))
}

// publish needs f.mu.
func (f *fleet) publish(leases []*lease.Lease) {
	f.now.Leases = leases
	f.now.Rev++
	select {
	case <-f.pictures:
	default:
	}
	f.pictures <- f.now
}

// Watch implements lease.Store.
func (f *fleet) Watch(ctx context.Context, put func(lease.Snapshot)) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case s := <-f.pictures:
			put(s)
		}
	}
}

// Claim implements lease.Store: whatever is asked for is granted.
func (f *fleet) Claim(_ context.Context, c lease.Claim) (lease.Held, error) {
	l := &lease.Lease{Key: "own", Subnets: c.Subnets, Public: c.Public, Offer: c.Offer, Owner: f.host, Created: 1 << 40, Modified: 1 << 40}
	f.put(func(all []*lease.Lease) []*lease.Lease {
		i, _ := slices.BinarySearchFunc(all, l, lease.Compare)
		return slices.Insert(all, i, l)
	})
	return lease.Held{Lease: *l, Token: lease.Token(l.Modified), Expires: time.Now().Add(24 * time.Hour)}, nil
}

// Release implements lease.Store.
func (*fleet) Release(context.Context, lease.Held) error { return nil }
