package bench

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"regexp"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/flannel-ng/flannel-ng/lab"
)

// settle is how long a host is left alone before it is measured at rest: longer
// than its period of five seconds, at whose end it tidies up. resting is how long
// that takes.
const (
	settle  = 7 * time.Second
	resting = 11 * time.Second
	read    = 6 * time.Second // for a full reading, and tidying up after it
)

// Single changes of a slow daemon are cut short, so that the run has an end.
const (
	fewChanges = 10
	changing   = 15 * time.Second
)

// rest measures the host when nothing happens.
func (c *crowd) rest(ctx context.Context) error {
	c.bench.progress("%s: at rest", c.backend)
	if err := pause(ctx, settle); err != nil {
		return err
	}
	pid := c.host.DaemonPID()
	before, err := ThreadTime(pid)
	if err != nil {
		return err
	}
	if err := pause(ctx, resting); err != nil {
		return err
	}
	after, err := ThreadTime(pid)
	if err != nil {
		return err
	}
	c.into.Idle = (after - before).Seconds() / resting.Seconds()
	c.into.Lines = strings.Count(c.host.Log(), "\n")
	if c.into.RSS, c.into.RSSMost, err = Memory(pid); err != nil {
		return err
	}
	c.into.Reading, err = c.reading(ctx)
	c.into.Idle += float64(c.into.Reading) / between.Seconds()
	return err
}

// between is how far apart the full readings of 20,000 peers are: 4,000 times
// what a quiet host takes for one. None falls into the rest that is measured.
const between = 280 * time.Second

// reading makes the host doubt what it knows of its kernel, by an event of a link
// that its routes depend on, and returns the CPU time of reading all.
func (c *crowd) reading(ctx context.Context) (Seconds, error) {
	link := "eth0"
	if c.backend == "vxlan" {
		link = "flannel.1"
	}
	before, err := ThreadTime(c.host.DaemonPID())
	if err != nil {
		return 0, err
	}
	if err := c.host.IP(ctx, "link set "+link+" txqueuelen 1001"); err != nil {
		return 0, err
	}
	if err := pause(ctx, read); err != nil {
		return 0, err
	}
	after, err := ThreadTime(c.host.DaemonPID())
	return seconds(after - before), err
}

// changes lets peers join one at a time.
func (c *crowd) changes(ctx context.Context) error {
	c.bench.progress("%s: up to %d single changes", c.backend, singleChanges)
	before, err := ThreadTime(c.host.DaemonPID())
	if err != nil {
		return err
	}
	var took Series
	begin := time.Now()
	for i := range singleChanges {
		if i >= fewChanges && time.Since(begin) > changing {
			break
		}
		d, err := c.change(ctx, c.into.Peers+i)
		if err != nil {
			return err
		}
		took = append(took, Sample{i, d.Seconds() * 1000})
	}
	after, err := ThreadTime(c.host.DaemonPID())
	if err != nil {
		return err
	}
	c.into.Change50, c.into.Change99 = took.Median(), Quantile(took.values(), 0.99)
	c.into.Changes = len(took)
	c.into.ChangeCPU = (after - before).Seconds() * 1000 / float64(len(took))
	return nil
}

// change lets one peer join, and returns how long after the store's answer its
// route was there.
func (c *crowd) change(ctx context.Context, i int) (time.Duration, error) {
	wait, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	c.watch.expect([]netip.Prefix{peerAt(i).subnet})
	key, value := c.lease(i)
	if err := c.etcd.Put(ctx, key, value); err != nil {
		return 0, err
	}
	begin := time.Now()
	at, err := c.watch.await(wait)
	return max(at.Sub(begin), 0), err // the route may be there before the answer is here
}

// burst has peers join and leave by turns, 1,000 a second in all.
func (c *crowd) burst(ctx context.Context) error {
	c.bench.progress("%s: 1,000 changes a second for %s", c.backend, bursting)
	before, err := ThreadTime(c.host.DaemonPID())
	if err != nil {
		return err
	}
	first := c.into.Peers + singleChanges + 1
	c.watch.expect(subnets(first, c.into.Peers+guests))
	tick := time.NewTicker(burstEvery)
	defer tick.Stop()
	asked := map[netip.Prefix]time.Time{}
	groups := (guests - singleChanges - 1) / burstGroup
	for n := range groups + burstStay {
		if n < groups {
			<-tick.C
			if err := c.group(ctx, first+n*burstGroup, asked); err != nil {
				return err
			}
		}
		if n >= burstStay {
			<-tick.C
			if err := c.group(ctx, first+(n-burstStay)*burstGroup, nil); err != nil {
				return err
			}
		}
	}
	wait, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	if _, err := c.watch.await(wait); err != nil {
		return err
	}
	after, err := ThreadTime(c.host.DaemonPID())
	if err != nil {
		return err
	}
	var delays []float64
	for subnet, at := range c.watch.times() {
		delays = append(delays, max(0, at.Sub(asked[subnet]).Seconds()*1000))
	}
	c.into.Burst50, c.into.Burst99 = Quantile(delays, 0.5), Quantile(delays, 0.99)
	c.into.BurstCPU = (after - before).Seconds() / bursting.Seconds()
	return nil
}

// group lets a group of peers join, and notes when the store said so, or leave.
func (c *crowd) group(ctx context.Context, first int, asked map[netip.Prefix]time.Time) error {
	var ops []clientv3.Op
	for i := first; i < first+burstGroup; i++ {
		key, value := c.lease(i)
		if asked != nil {
			ops = append(ops, clientv3.OpPut(key, value))
		} else {
			ops = append(ops, clientv3.OpDelete(key))
		}
	}
	if _, err := c.etcd.Client.Txn(ctx).Then(ops...).Commit(); err != nil {
		return fmt.Errorf("etcd: %w", err)
	}
	for i := first; asked != nil && i < first+burstGroup; i++ {
		asked[peerAt(i).subnet] = time.Now()
	}
	return nil
}

// repair takes the link down under the daemon, which drops all routes without
// telling of each.
func (c *crowd) repair(ctx context.Context) error {
	c.bench.progress("%s: link down", c.backend)
	wait, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	lines := []string{"link set flannel.1 down"}
	if c.backend != "vxlan" {
		var err error
		if lines, err = flap(ctx, c.host); err != nil {
			return err
		}
	}
	c.watch.expect(c.all) // the kernel drops them without a word, and tells of each that is new
	before := time.Now()
	if err := c.host.IP(ctx, lines...); err != nil {
		return err
	}
	begin := time.Now()
	last, err := c.watch.await(wait)
	if err != nil {
		return err
	}
	c.into.Down, c.into.Repair = seconds(begin.Sub(before)), seconds(max(0, last.Sub(begin)))
	return c.verify(ctx)
}

// leaving revokes half of the leases at once.
func (c *crowd) leaving(ctx context.Context) error {
	c.bench.progress("%s: half of the peers leave", c.backend)
	wait, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	begin := time.Now()
	if _, err := c.etcd.Client.Revoke(ctx, c.grants[0]); err != nil {
		return fmt.Errorf("revoke: %w", err)
	}
	// Routes that go with a nexthop are not told of, so they are counted: those
	// who stay, and those who have joined meanwhile.
	stay := c.into.Peers - c.into.Peers/2 + c.into.Changes + 1
	err := lab.Eventually(wait, func(ctx context.Context) error {
		out, err := c.host.Run(ctx, "ip", "-o", "route", "show", "proto", "70")
		if n := strings.Count(out, "\n"); err == nil && n > stay {
			err = fmt.Errorf("%d routes, want %d", n, stay)
		}
		return err
	})
	c.into.Leaving = seconds(time.Since(begin))
	return err
}

// relist makes etcd forget what the host's watch needs, so that it has to read
// everything again, and counts what it then writes to the kernel.
func (c *crowd) relist(ctx context.Context) error {
	c.bench.progress("%s: compaction, the host lists again", c.backend)
	const seen = "/run/monitor.txt"
	monitor, err := c.host.Launch(ctx, "sh", "-c", "exec ip monitor route neigh nexthop link > "+seen)
	if err != nil {
		return err
	}
	before := c.host.Log()
	if err := c.forget(ctx); err != nil {
		return errors.Join(err, monitor.Kill(ctx))
	}
	marker := c.into.Peers + c.into.Changes
	if _, err := c.change(ctx, marker); err != nil {
		return errors.Join(err, monitor.Kill(ctx))
	}
	if err := monitor.Kill(ctx); err != nil {
		return err
	}
	if since := strings.TrimPrefix(c.host.Log(), before); !strings.Contains(since, "lease store is in step") {
		return fmt.Errorf("the host did not list again: %s", since)
	}
	said, err := os.ReadFile(c.host.Path(seen))
	if err != nil {
		return fmt.Errorf("what the kernel told: %w", err)
	}
	c.into.Relist = writes(string(said), peerAt(marker))
	return nil
}

// forget refuses connections from the host to etcd while there are changes and
// a compaction.
func (c *crowd) forget(ctx context.Context) error {
	etcd := c.etcd.Node
	refuse := "table inet bench {\n chain in {\n type filter hook input priority 0;\n" +
		" iif eth0 tcp dport 2379 counter reject with tcp reset\n }\n}\n"
	if err := etcd.Feed(ctx, refuse, "nft", "-f", "-"); err != nil {
		return err
	}
	// This change still arrives, but its acknowledgement meets the reset.
	if err := c.etcd.Put(ctx, c.prefix+"/ng/extra/unrelated", "1"); err != nil {
		return err
	}
	err := lab.Eventually(ctx, func(ctx context.Context) error {
		out, err := etcd.Run(ctx, "nft", "list", "table", "inet", "bench")
		if err == nil && strings.Contains(out, "packets 0 ") {
			err = errors.New("the host has not talked to etcd yet")
		}
		return err
	})
	if err == nil {
		err = c.compact(ctx)
	}
	_, open := etcd.Run(ctx, "nft", "delete", "table", "inet", "bench")
	return errors.Join(err, open)
}

// compact makes changes that nobody hears of, and forgets them.
func (c *crowd) compact(ctx context.Context) error {
	if err := c.etcd.Put(ctx, c.prefix+"/ng/extra/unrelated", "2"); err != nil {
		return err
	}
	resp, err := c.etcd.Client.Delete(ctx, c.prefix+"/ng/extra/unrelated")
	if err != nil {
		return fmt.Errorf("etcd delete: %w", err)
	}
	if _, err := c.etcd.Client.Compact(ctx, resp.Header.Revision); err != nil {
		return fmt.Errorf("etcd compact: %w", err)
	}
	return nil
}

// writes counts what `ip monitor` saw, but for the marker's own objects and
// what the kernel does by itself with neighbours on the underlay.
func writes(said string, marker peer) int {
	own := regexp.MustCompile(`dev eth0 (lladdr \S+ )?(REACHABLE|STALE|DELAY|PROBE|FAILED|INCOMPLETE)`)
	count := 0
	for line := range strings.Lines(said) {
		text := strings.TrimSpace(line)
		mine := strings.Contains(text, marker.subnet.Addr().String()) || strings.Contains(text, marker.public.String()) ||
			strings.Contains(text, marker.mac.String())
		if text != "" && !mine && !own.MatchString(text) {
			count++
		}
	}
	return count
}
