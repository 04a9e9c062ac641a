package bench

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/lab"
)

// Convergence is how one host follows many peers.
type Convergence struct {
	Backend string `json:"backend"`
	Peers   int    `json:"peers"`

	// Cold starts, each beside the floor of the same round.
	Env   Series `json:"env"`   // s until subnet.env
	Last  Series `json:"last"`  // s until the last peer's route
	Floor Series `json:"floor"` // s of `ip -batch` for the same objects
	Start Series `json:"start"` // CPU s until the last peer's route
	Slab  Series `json:"slab"`  // KB of kernel memory for each peer

	Bytes   int     `json:"bytes"`   // of one lease in the store, key and value
	Alone   float64 `json:"alone"`   // MB at rest without peers
	RSS     float64 `json:"rss"`     // MB at rest
	RSSMost float64 `json:"rssMost"` // MB at most
	Lines   int     `json:"lines"`   // of the log of one start
	Idle    float64 `json:"idle"`    // share of one CPU at rest, full readings included
	Reading Seconds `json:"reading"` // CPU s of one of those

	Changes   int     `json:"changes"`   // single ones, of which the next three are
	Change50  float64 `json:"change50"`  // ms from the store's answer to the route, median
	Change99  float64 `json:"change99"`  // ms, 99th percentile
	ChangeCPU float64 `json:"changeCPU"` // ms of CPU for each

	Burst50  float64 `json:"burst50"`  // ms from the store's answer to the route in a burst, median
	Burst99  float64 `json:"burst99"`  // ms, 99th percentile
	BurstCPU float64 `json:"burstCPU"` // share of one CPU meanwhile

	Down    Seconds `json:"down"`    // that the kernel takes to set the link down
	Repair  Seconds `json:"repair"`  // until all routes are back from then on
	Leaving Seconds `json:"leaving"` // until the last route of half of the peers is gone
	Relist  int     `json:"relist"`  // kernel objects written after a compaction forced a new list
}

// Counts of repetitions.
const (
	coldStarts    = 3
	singleChanges = 100

	bursting   = 30 * time.Second
	burstEvery = 25 * time.Millisecond
	burstGroup = 25 // changes each time: 1,000 a second
	burstStay  = 10 // groups that are there at once
	// guests are all who come besides the peers.
	guests = singleChanges + 1 + int(bursting/burstEvery/2)*burstGroup
)

// crowd is a convergence row at work.
type crowd struct {
	population
	bench  *Bench
	fabric *lab.Fabric
	host   *lab.Host // runs flanneld
	watch  *watch
	all    []netip.Prefix
	grants [2]clientv3.LeaseID // of each half of the peers
	into   *Convergence
}

// convergence measures one row.
func (b *Bench) convergence(ctx context.Context, name string) (err error) {
	if most := maxPeers - guests; b.Peers > most {
		return fmt.Errorf("%d peers: at most %d", b.Peers, most)
	}
	f, err := lab.New(ctx, lab.Options{
		Hosts: 2, Families: []addr.Family{addr.IPv4}, Underlay: lab.L2, Wide: true, Binaries: b.Binaries,
	})
	defer func() { err = errors.Join(err, closeFabric(ctx, f)) }()
	if err != nil {
		return err
	}
	c := &crowd{
		population: population{etcd: f.Etcd, prefix: lab.Prefix, backend: strings.TrimPrefix(name, "peers-")},
		bench:      b, fabric: f, host: f.Hosts[0], all: subnets(0, b.Peers),
	}
	if c.watch, err = newWatch(c.host); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.watch.close()) }()
	c.into = &Convergence{Backend: c.backend, Peers: b.Peers}
	for _, step := range []func(context.Context) error{
		c.populate, c.starts, c.rest, c.changes, c.burst, c.repair, c.relist, c.leaving,
	} {
		if err := step(ctx); err != nil {
			return fmt.Errorf("%s: %w\n%s", name, err, tail(c.host.Log()))
		}
	}
	b.result.Convergence = append(b.result.Convergence, *c.into)
	return nil
}

// tail is the end of a log.
func tail(log string) string {
	lines := strings.Split(strings.TrimSpace(log), "\n")
	return strings.Join(lines[max(0, len(lines)-20):], "\n")
}

func (c *crowd) populate(ctx context.Context) error {
	if err := c.etcd.Put(ctx, c.prefix+"/config", c.config()); err != nil {
		return err
	}
	if err := c.alone(ctx); err != nil {
		return err
	}
	c.bench.progress("%s: %d leases into etcd", c.backend, c.into.Peers)
	key, value := c.lease(0)
	c.into.Bytes = len(key) + len(value)
	half := c.into.Peers / 2
	var err1, err2 error
	c.grants[0], err1 = c.join(ctx, 0, half)
	c.grants[1], err2 = c.join(ctx, half, c.into.Peers)
	return errors.Join(err1, err2)
}

// alone runs the daemon once without any peer.
func (c *crowd) alone(ctx context.Context) error {
	c.bench.progress("%s: without peers", c.backend)
	wait, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	if err := c.host.Start(ctx, "--ip-masq"); err != nil {
		return err
	}
	if err := c.host.WaitReady(wait); err != nil {
		return err
	}
	if err := pause(ctx, settle); err != nil {
		return err
	}
	var err error
	c.into.Alone, _, err = Memory(c.host.DaemonPID())
	return err
}

// limit bounds each step: far above what any step should take.
const limit = 2 * time.Minute

// starts measures cold starts, and the floor beside each.
func (c *crowd) starts(ctx context.Context) error {
	for round := range coldStarts {
		c.bench.progress("%s: cold start %d of %d", c.backend, round+1, coldStarts)
		least, err := floor(ctx, c.fabric.Hosts[1], c.backend, c.into.Peers)
		if err != nil {
			return err
		}
		c.into.Floor = append(c.into.Floor, Sample{round, least.took.Seconds()})
		c.into.Slab = append(c.into.Slab, Sample{round, least.memory / float64(c.into.Peers)})
		if err := c.clear(ctx); err != nil {
			return err
		}
		if err := c.start(ctx, round); err != nil {
			return err
		}
	}
	return c.verify(ctx)
}

// clear leaves nothing of the last start.
func (c *crowd) clear(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	if err := c.host.Stop(ctx); err != nil {
		return err
	}
	if err := sweep(ctx, c.host, c.backend); err != nil {
		return err
	}
	return errors.Join(os.RemoveAll(c.host.Path("/run/flannel")), os.RemoveAll(c.host.Path("/var/lib/flannel")),
		os.Truncate(c.host.Path(c.host.LogFile()), 0))
}

func (c *crowd) start(ctx context.Context, round int) error {
	wait, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	c.watch.expect(c.all)
	begin := time.Now()
	if err := c.host.Start(ctx, "--ip-masq"); err != nil {
		return err
	}
	env := make(chan time.Duration, 1)
	go func() { env <- c.appears(wait, begin) }()
	last, err := c.watch.await(wait)
	if err != nil {
		return err
	}
	used, err := ThreadTime(c.host.DaemonPID())
	if err != nil {
		return err
	}
	c.into.Last = append(c.into.Last, Sample{round, last.Sub(begin).Seconds()})
	c.into.Env = append(c.into.Env, Sample{round, (<-env).Seconds()})
	c.into.Start = append(c.into.Start, Sample{round, used.Seconds()})
	return c.host.WaitReady(wait)
}

// appears waits for subnet.env.
func (c *crowd) appears(ctx context.Context, begin time.Time) time.Duration {
	path := c.host.Path(c.host.SubnetFile())
	for pause(ctx, lookEvery) == nil {
		if _, err := os.Stat(path); err == nil {
			break
		}
	}
	return time.Since(begin)
}

// lookEvery is the pause between two looks at what has not come yet.
const lookEvery = 2 * time.Millisecond

// verify counts everything once: only routes were heard of above.
func (c *crowd) verify(ctx context.Context) error {
	wait, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	lists := map[string][]string{"routes": {"ip", "-o", "route", "show", "proto", "70"}}
	if c.backend == "vxlan" {
		lists["neighbours"] = []string{"ip", "-o", "neigh", "show", "dev", "flannel.1", "nud", "permanent"}
		lists["FDB entries"] = []string{"bridge", "fdb", "show", "dev", "flannel.1"}
	}
	return lab.Eventually(wait, func(ctx context.Context) error {
		for what, command := range lists {
			out, err := c.host.Run(ctx, command...)
			if err != nil {
				return err
			}
			if n := strings.Count(out, "\n"); n < c.into.Peers {
				return fmt.Errorf("%d %s for %d peers", n, what, c.into.Peers)
			}
		}
		return nil
	})
}
