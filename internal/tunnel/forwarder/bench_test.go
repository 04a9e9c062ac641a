package forwarder_test

import (
	"testing"
	"time"

	"github.com/flannel-ng/flannel-ng/internal/addr"
)

// BenchmarkForward sends small packets as fast as one sender can, through both
// forwarders, and reports how many come out. What is lost is lost on purpose:
// the sender does not wait.
func BenchmarkForward(b *testing.B) {
	one, two := hosts(b)
	one.start(b, 2)
	c := two.start(b, 1)
	for _, f := range addr.Families() {
		b.Run(f.String(), func(b *testing.B) {
			client, server := one.udp(b, at(one.inner(f), 0)), two.udp(b, at(two.inner(f), 7000))
			payload, to := make([]byte, 64), localOf(server)
			before := status(b, c).Counters.ReceivedPackets
			b.SetBytes(int64(len(payload)))
			b.ResetTimer()
			for b.Loop() {
				transmit(b, client, payload, to)
			}
			received := settled(b, func() uint64 { return status(b, c).Counters.ReceivedPackets }) - before
			b.ReportMetric(float64(received)/b.Elapsed().Seconds(), "received/s")
			b.ReportMetric(100*(1-float64(received)/float64(b.N)), "%lost")
		})
	}
}

// settled is what n returns when it has not changed for a while.
func settled(b *testing.B, n func() uint64) uint64 {
	b.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for last := n(); ; {
		<-tick.C
		now := n()
		if now == last {
			return now
		}
		last = now
	}
}
