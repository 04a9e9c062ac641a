package etcd_test

import (
	"fmt"
	"runtime"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/flannel-ng/flannel-ng/internal/lease"
	"github.com/flannel-ng/flannel-ng/internal/store/etcd"
	"github.com/flannel-ng/flannel-ng/internal/store/etcd/fake"
	"github.com/flannel-ng/flannel-ng/internal/store/etcd/kv"
)

// benchHosts is a large fabric.
const benchHosts = 20000

// stand fills a server with leases of so many hosts, each with its claim,
// address and session, and returns how to rewrite one.
func stand(b *testing.B, server *fake.Server) (put func(i int, value string)) {
	b.Helper()
	admin := server.Client("")
	put = func(i int, value string) {
		subnet := fmt.Sprintf("10.%d.%d.0-24", 5+i>>8, i&0xff)
		host := fmt.Sprintf("%032x", i)
		_, err := admin.Txn(b.Context(), kv.Txn{Then: []kv.Op{
			{Action: kv.Put, Span: kv.One(prefix + "/subnets/" + subnet), Value: value},
			{Action: kv.Put, Span: kv.One(prefix + "/ng/claims/" + subnet), Value: `{"host":"` + host + `","public":["192.0.2.7"]}`},
			{Action: kv.Put, Span: kv.One(fmt.Sprintf("%s/ng/addresses/198.18.%d.%d", prefix, i>>8, i&0xff)), Value: `{"host":"` + host + `"}`},
			{Action: kv.Put, Span: kv.One(prefix + "/ng/alive/" + host), Value: `{"boot":"b","run":"r","public":["192.0.2.7"]}`},
		}})
		if err != nil {
			b.Fatal(err)
		}
	}
	for i := range benchHosts {
		put(i, vxlanValue(i))
	}
	return put
}

func vxlanValue(i int) string {
	return fmt.Sprintf(`{"PublicIP":"192.0.2.7","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"0e:0a:79:98:%02x:%02x"}}`,
		i>>8&0xff, i&0xff)
}

// One change in a fabric of 20,000 hosts, from the write to the new picture.
func BenchmarkEvent(b *testing.B) {
	server := fake.NewServer()
	b.Cleanup(server.Close)
	put := stand(b, server)
	var rev atomic.Int64
	seen := make(chan struct{}, 1)
	s := etcd.New(etcd.NewClient(server.Client("h1"), prefix), etcd.Options{HostID: "h1"})
	before := heap()
	go func() {
		_ = s.Watch(b.Context(), func(p lease.Snapshot) {
			rev.Store(p.Rev)
			seen <- struct{}{}
		})
	}()
	<-seen
	grown := heap() - before
	b.ReportAllocs()
	began := processorTime(b)
	for i := 0; b.Loop(); i++ {
		put(i%benchHosts, vxlanValue(i+1))
		<-seen
	}
	b.ReportMetric(float64(grown)/1e6, "MB-picture")
	b.ReportMetric(float64(processorTime(b)-began)/1e6/float64(b.N), "cpu-ms/op")
}

// processorTime is that of this process: pictures of a burst wait for each
// other, which is no work.
func processorTime(b *testing.B) int64 {
	b.Helper()
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return u.Utime.Nano() + u.Stime.Nano()
}

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
