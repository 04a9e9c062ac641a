package forwarder

import (
	"maps"
	"sync/atomic"

	"github.com/flannel-ng/flannel-ng/internal/tunnel"
)

// counters are those of tunnel.Counters while they run.
type counters struct {
	sent, received traffic
	dropped        map[tunnel.Reason]*atomic.Uint64 // no key comes or goes
	before         *atomic.Pointer[tunnel.Counters] // of predecessors
}

type traffic struct{ packets, bytes *atomic.Uint64 }

func (t traffic) add(packets, bytes int) {
	t.packets.Add(uint64(packets)) //nolint:gosec // both are counts
	t.bytes.Add(uint64(bytes))     //nolint:gosec // both are counts
}

func newTraffic() traffic { return traffic{packets: new(atomic.Uint64), bytes: new(atomic.Uint64)} }

func newCounters() counters {
	c := counters{
		sent: newTraffic(), received: newTraffic(),
		dropped: map[tunnel.Reason]*atomic.Uint64{}, before: new(atomic.Pointer[tunnel.Counters]),
	}
	for _, r := range tunnel.Reasons() {
		c.dropped[r] = new(atomic.Uint64)
	}
	c.goOn(tunnel.Counters{})
	return c
}

func (c *counters) drop(why tunnel.Reason) { c.dropped[why].Add(1) }

func (c *counters) goOn(from tunnel.Counters) { c.before.Store(&from) }

// read adds up. Reasons that only a predecessor knew are kept.
func (c *counters) read() tunnel.Counters {
	before := c.before.Load()
	all := tunnel.Counters{
		SentPackets:     before.SentPackets + c.sent.packets.Load(),
		SentBytes:       before.SentBytes + c.sent.bytes.Load(),
		ReceivedPackets: before.ReceivedPackets + c.received.packets.Load(),
		ReceivedBytes:   before.ReceivedBytes + c.received.bytes.Load(),
		Dropped:         map[tunnel.Reason]uint64{},
	}
	maps.Copy(all.Dropped, before.Dropped)
	for r, n := range c.dropped {
		all.Dropped[r] += n.Load()
	}
	return all
}
