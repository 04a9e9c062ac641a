package bench

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/lab"
)

// gigabit is so many bytes.
const gigabit = 1e9 / 8

// paths measures all rows of data paths.
func (b *Bench) paths(ctx context.Context, rows []row) (err error) {
	f, err := lab.New(ctx, lab.Options{
		Hosts: 2 * len(rows), Families: []addr.Family{addr.IPv4}, Underlay: lab.L2, Binaries: b.Binaries,
	})
	defer func() { err = errors.Join(err, closeFabric(ctx, f)) }()
	if err != nil {
		return err
	}
	pairs := b.pairs(ctx, f, rows)
	m, err := meterOf(f)
	if err != nil {
		return err
	}
	for round := range b.Rounds {
		for _, mode := range []Mode{Whole, Cut} {
			b.progress("round %d of %d, large packets %s on the uplink", round+1, b.Rounds, mode)
			if err := (turn{b, m, round, mode}).run(ctx, pairs); err != nil {
				return err
			}
		}
	}
	return nil
}

// pairs builds the rows. One that cannot be had is told in the table, with why.
func (b *Bench) pairs(ctx context.Context, f *lab.Fabric, rows []row) []*pair {
	var pairs []*pair
	for i, r := range rows {
		p := &pair{row: r}
		path := Path{Name: r.name, Title: r.title, Yardstick: r.yardstick}
		if err := p.build(ctx, f, i); err != nil {
			b.progress("%s: left out: %v", r.name, err)
			path.Missing = err.Error()
		} else {
			pairs = append(pairs, p)
		}
		b.result.Paths = append(b.result.Paths, path)
	}
	return pairs
}

func meterOf(f *lab.Fabric) (*meter, error) {
	var pids []int
	for _, h := range f.Hosts {
		pids = append(pids, h.PID())
	}
	for _, c := range f.Containers() {
		pids = append(pids, c.PID())
	}
	return newMeter(append(pids, f.Etcd.PID(), f.Switch.PID(), f.Outside.PID()))
}

// measurement is one kind of traffic and the figures that come of it.
type measurement struct {
	kind  []string
	modes []Mode
	read  func(counted) map[Figure]float64
}

func measurements() []measurement {
	both := []Mode{Whole, Cut}
	return []measurement{
		{[]string{"streams", "1"}, both, func(c counted) map[Figure]float64 {
			gbit := c.bytes / gigabit
			figures := map[Figure]float64{TCP1: gbit}
			if gbit > 0 { // else the stream stood still, which is a figure, too
				figures[CPU] = c.lab.Seconds() / (gbit * c.wall.Seconds())
			}
			return figures
		}},
		{[]string{"streams", "4"}, both, func(c counted) map[Figure]float64 {
			return map[Figure]float64{TCP4: c.bytes / gigabit}
		}},
		{[]string{"flood"}, both, func(c counted) map[Figure]float64 {
			return map[Figure]float64{Rate: c.datagrams / 1000}
		}},
		{[]string{"ask"}, []Mode{Whole}, func(c counted) map[Figure]float64 {
			return map[Figure]float64{RTT: c.trips.P50.Seconds() * 1e6, RTTT: c.trips.P99.Seconds() * 1e6}
		}},
	}
}

// turn is a round in one mode.
type turn struct {
	*Bench
	meter *meter
	round int
	mode  Mode
}

// run measures everything once. The rows take turns with each kind of traffic,
// and start with another one in every round.
func (t turn) run(ctx context.Context, pairs []*pair) error {
	first := t.round % max(len(pairs), 1)
	turns := append(slices.Clone(pairs[first:]), pairs[:first]...)
	turns = slices.DeleteFunc(turns, func(p *pair) bool { return t.mode == Cut && !p.tunnel })
	for _, p := range turns {
		if err := p.mode(ctx, t.mode); err != nil {
			return err
		}
	}
	for _, kind := range measurements() {
		if !slices.Contains(kind.modes, t.mode) {
			continue
		}
		for _, p := range turns {
			c, err := t.quietly(ctx, p, kind.kind)
			if err != nil {
				return fmt.Errorf("%s: %w", p.name, err)
			}
			t.keep(p.name, kind.read(c))
			t.result.Others = append(t.result.Others, Sample{Round: t.round, Value: t.share(c)})
		}
	}
	return nil
}

// A measurement is disturbed if others use more than this share of the machine.
// It is then made again, so often, while the time for that lasts, and the least
// disturbed one counts.
const (
	disturbed = 0.1
	again     = 2
	forAgain  = 2 * time.Minute
)

// quietly measures when others let it, or else as it goes.
func (t turn) quietly(ctx context.Context, p *pair, kind []string) (counted, error) {
	best, err := p.run(ctx, t.meter, kind...)
	for range again {
		if err != nil || t.share(best) <= disturbed || t.spent > forAgain {
			break
		}
		begin := time.Now()
		var c counted
		if c, err = p.run(ctx, t.meter, kind...); err == nil && t.share(c) < t.share(best) {
			best = c
		}
		t.spent += time.Since(begin)
	}
	return best, err
}

// share is how much of the machine others used.
func (t turn) share(c counted) float64 {
	return c.others.Seconds() / (c.wall.Seconds() * float64(t.result.Machine.Cores))
}

func (t turn) keep(name string, figures map[Figure]float64) {
	for i := range t.result.Paths {
		if t.result.Paths[i].Name != name {
			continue
		}
		for figure, value := range figures {
			t.result.Paths[i].add(t.mode, figure, Sample{Round: t.round, Value: value})
		}
	}
}
