package etcd_test

import (
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/flannel-ng/flannel-ng/internal/lease"
	"github.com/flannel-ng/flannel-ng/internal/store/etcd"
	"github.com/flannel-ng/flannel-ng/internal/store/etcd/fake"
	"github.com/flannel-ng/flannel-ng/internal/store/etcd/kv"
)

// One renewal in a fabric of 5,000 hosts, from the write to the new picture.
func BenchmarkEvent(b *testing.B) {
	server := fake.NewServer()
	b.Cleanup(server.Close)
	admin := server.Client("")
	put := func(i int) {
		key := fmt.Sprintf("%s/subnets/10.%d.%d.0-24", prefix, 5+i>>8, i&0xff)
		claim := fmt.Sprintf("%s/ng/claims/10.%d.%d.0-24", prefix, 5+i>>8, i&0xff)
		_, err := admin.Txn(b.Context(), kv.Txn{Then: []kv.Op{
			{Action: kv.Put, Span: kv.One(key), Value: someValue},
			{Action: kv.Put, Span: kv.One(claim), Value: `{"host":"h"}`},
		}})
		if err != nil {
			b.Fatal(err)
		}
	}
	const hosts = 5000
	for i := range hosts {
		put(i)
	}
	var rev atomic.Int64
	seen := make(chan struct{}, 1)
	s := etcd.New(etcd.NewClient(server.Client("h1"), prefix), etcd.Options{HostID: "h1"})
	go func() {
		_ = s.Watch(b.Context(), func(p lease.Snapshot) {
			rev.Store(p.Rev)
			seen <- struct{}{}
		})
	}()
	<-seen
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		put(i % hosts)
		<-seen
	}
}
