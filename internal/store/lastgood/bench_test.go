package lastgood_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"testing"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/lease"
	"github.com/flannel-ng/flannel-ng/internal/store/lastgood"
)

// once is a store with one picture.
type once struct {
	*script
	picture lease.Snapshot
	shown   chan struct{}
}

func (o once) Watch(ctx context.Context, put func(lease.Snapshot)) error {
	put(o.picture)
	close(o.shown)
	<-ctx.Done()
	return ctx.Err()
}

// What it costs to write the picture of 20,000 hosts, and to start beside it.
func BenchmarkSave(b *testing.B) {
	p := live("c1/net", 9)
	p.Leases = nil
	for i := range 20000 {
		l := lease.Lease{
			Key: fmt.Sprintf("10.%d.%d.0-24", i>>8, i&0xff), Owner: fmt.Sprintf("%032x", i), Created: int64(i), Modified: int64(i),
			Offer: lease.Offer{Backend: "vxlan", Data: addr.Pair(`{"VNI":1,"VtepMAC":"0e:0a:79:98:7f:30"}`, "")},
		}
		l.Subnets.Put(addr.IPv4, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 0}), 24))
		l.Public.Put(addr.IPv4, netip.AddrFrom4([4]byte{198, 18, byte(i >> 8), byte(i)}))
		p.Leases = append(p.Leases, &l)
	}
	o := lastgood.Options{Path: filepath.Join(b.TempDir(), "picture"), Identity: "x"}
	b.ReportAllocs()
	for b.Loop() {
		ctx, cancel := context.WithCancel(b.Context())
		inner := once{newScript(), p, make(chan struct{})}
		done := make(chan error)
		go func() { done <- lastgood.New(inner, o).Watch(ctx, func(lease.Snapshot) {}) }()
		<-inner.shown
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			b.Fatal(err)
		}
	}
}
