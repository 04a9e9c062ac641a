package chaos

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/flannel-ng/flannel-ng/lab"
	"github.com/flannel-ng/flannel-ng/lab/bench"
)

// Soak is how a long time of faults at random went.
type Soak struct {
	Seed    uint64        `json:"seed"`
	Took    bench.Seconds `json:"took"`
	Fabrics []string      `json:"fabrics"`
	Steps   int           `json:"steps"`
	CPU     bench.Seconds `json:"cpu"`
	Lines   int           `json:"lines"`
	Kinds   []*Kind       `json:"kinds"`
	Growth  []Growth      `json:"growth"`
	Fails   []Fail        `json:"fails,omitempty"`
}

// Kind is what happened, and how often.
type Kind struct {
	Name string    `json:"name"`
	Took []float64 `json:"ms"` // from the end of the hazard to the repair
	Lost []float64 `json:"lost"`
}

// Growth is what a daemon that was never restarted used in the beginning and in
// the end.
type Growth struct {
	Fabric  string     `json:"fabric"`
	RSS     [2]float64 `json:"rss"` // MB
	Files   [2]int     `json:"files"`
	Threads [2]int     `json:"threads"`
}

// hazard is something that lasts while a fault happens.
type hazard struct {
	name       string
	begin, end func(context.Context, *trial) error
	// host is one that packets to and from the host do not survive.
	host bool
}

func hazards() []hazard {
	none := func(context.Context, *trial) error { return nil }
	start := func(ctx context.Context, t *trial) error {
		return t.host.Start(context.WithoutCancel(ctx), "--ip-masq")
	}
	return []hazard{
		{name: "", begin: none, end: none},
		{name: "etcd stopped", begin: etcdSignal(syscall.SIGSTOP), end: etcdSignal(syscall.SIGCONT)},
		{
			name:  "etcd cut off",
			begin: func(ctx context.Context, t *trial) error { return t.fabric.Cut(ctx, t.fabric.Etcd.Node) },
			end:   func(ctx context.Context, t *trial) error { return t.fabric.Heal(ctx, t.fabric.Etcd.Node) },
		},
		{
			name: "host cut off", host: true,
			begin: func(ctx context.Context, t *trial) error { return t.fabric.Cut(ctx, t.host.Node) },
			end:   func(ctx context.Context, t *trial) error { return t.fabric.Heal(ctx, t.host.Node) },
		},
		{name: "flanneld killed", begin: func(ctx context.Context, t *trial) error { return t.host.Kill(ctx) }, end: start},
		{name: "flanneld stopped", begin: func(ctx context.Context, t *trial) error { return t.host.Stop(ctx) }, end: start},
	}
}

func etcdSignal(sig syscall.Signal) func(context.Context, *trial) error {
	return func(_ context.Context, t *trial) error { return t.fabric.Etcd.Signal(sig) }
}

// restarts says whether the hazard ends a daemon.
func (h hazard) restarts() bool { return strings.HasPrefix(h.name, "flanneld") }

// soaking is a soak at work.
type soaking struct {
	*arena
	soak  *Soak
	dice  *rand.Rand
	kinds map[string]*Kind
	store []lab.Pair
}

// soak divides its time between the carriers.
func (b *Bench) soak(ctx context.Context) error {
	s := &soaking{soak: &Soak{Seed: b.Seed}, dice: rand.New(rand.NewPCG(b.Seed, 0)), kinds: map[string]*Kind{}}
	b.result.Soak = s.soak
	b.progress("soak of %s with seed %d", b.Soak, b.Seed)
	carriers := []string{vxlan, direct, hostGW, udp}
	if len(b.Carriers) > 0 {
		carriers = b.Carriers
	}
	begin := time.Now()
	for _, carrier := range carriers {
		v := variant{carrier: carrier, family: "dual", firewall: lab.NFTables, peers: real3}
		if len(chosen(v, b.Faults)) == 0 {
			return fmt.Errorf("soak of %s, faults %s: %w", v.name(), b.Faults, errNothing)
		}
		s.arena = &arena{Bench: b, variant: v, meter: &meter{}, faults: chosen(v, b.Faults), into: &Fabric{}}
		if err := errors.Join(s.fabric(ctx, b.Soak/time.Duration(len(carriers))), s.leave(ctx)); err != nil {
			return err
		}
		s.soak.CPU += bench.Seconds(s.meter.used.Seconds())
		s.soak.Lines += s.meter.lines
	}
	s.soak.Took = bench.Seconds(time.Since(begin).Seconds())
	for _, name := range slices.Sorted(maps.Keys(s.kinds)) {
		s.soak.Kinds = append(s.soak.Kinds, s.kinds[name])
	}
	return nil
}

// fabric soaks one carrier.
func (s *soaking) fabric(ctx context.Context, long time.Duration) error {
	if err := s.enter(ctx); err != nil {
		return err
	}
	s.soak.Fabrics = append(s.soak.Fabrics, s.name())
	growth := Growth{Fabric: s.name()}
	if err := s.weigh(&growth, 0); err != nil {
		return err
	}
	var err error
	if s.store, err = s.scene.owners(ctx); err != nil {
		return err
	}
	for end := time.Now().Add(long); time.Now().Before(end); {
		if err := s.step(ctx); err != nil {
			return err
		}
	}
	s.soak.Growth = append(s.soak.Growth, growth)
	return s.weigh(&s.soak.Growth[len(s.soak.Growth)-1], 1)
}

// weigh measures the first host's daemon, which no hazard ends.
func (s *soaking) weigh(g *Growth, when int) error {
	h := s.scene.fabric.Hosts[0]
	var err error
	if g.RSS[when], _, err = bench.Memory(h.DaemonPID()); err != nil {
		return err
	}
	if g.Files[when], err = entries(h.DaemonPID(), "fd"); err != nil {
		return err
	}
	g.Threads[when], err = entries(h.DaemonPID(), "task")
	return err
}

// throw decides what happens next, and to whom.
func (s *soaking) throw() (f *fault, h hazard, host int) {
	f, host = &s.faults[s.dice.IntN(len(s.faults))], s.dice.IntN(real3)
	if s.dice.IntN(2) == 0 {
		all := hazards()
		h = all[1+s.dice.IntN(len(all)-1)]
	} else {
		h = hazards()[0]
	}
	if h.restarts() && host == 0 {
		host = 1 + s.dice.IntN(real3-1)
	}
	if f.name == leaving && host == 0 {
		host = 1
	}
	// What happens to the store needs it; a host without its cable has enough.
	if h.name != "" && (f.wide || f.mute || f.dark || h.host && strings.Contains(f.name, "uplink") || h.restarts() && f.witnessed || s.dice.IntN(3) == 0) {
		f = nil
	}
	return f, h, host
}

// longest is how long a hazard lasts before, and after, the fault.
const longest = 2 * time.Second

// step is one fault, one hazard, or both.
func (s *soaking) step(ctx context.Context) error {
	f, h, host := s.throw()
	idle := &fault{name: h.name, inject: func(context.Context, *trial) error { return nil }}
	t := s.scene.trial(cmp.Or(f, idle), host, s.dice.IntN(100))
	name := h.name
	switch {
	case f != nil && h.name != "":
		name += ", and a fault meanwhile"
	case f != nil:
		name = f.name
	}
	marks := t.marks()
	o, err := s.happen(ctx, t, h)
	if err != nil {
		o.failure = err
	}
	o.lost = t.lost(marks)
	s.meter.read(s.scene)
	s.soak.Steps++
	if s.kinds[name] == nil {
		s.kinds[name] = &Kind{Name: name}
	}
	kind := s.kinds[name]
	if o.failure == nil {
		kind.Took, kind.Lost = append(kind.Took, float64(o.took.Microseconds())/1000), append(kind.Lost, float64(o.lost))
	}
	return s.recover(ctx, verdict{trial: t, outcome: o, row: &Row{Name: name}})
}

// happen begins the hazard, does the fault, ends the hazard, and waits for the
// repair.
func (s *soaking) happen(ctx context.Context, t *trial, h hazard) (o outcome, err error) {
	rest := func() error {
		if h.name == "" {
			return nil
		}
		return lab.Pause(ctx, time.Duration(s.dice.Int64N(int64(longest))))
	}
	if err := errors.Join(h.begin(ctx, t), rest()); err != nil {
		return o, err
	}
	t.now()
	vain := t.fault.inject(ctx, t)
	if h.host {
		vain = nil // what hung on the cable is gone, and cannot be broken
	}
	err = errors.Join(vain, rest(), h.end(ctx, t))
	if err != nil {
		return o, fmt.Errorf("%s, %s on %s: %w", h.name, t.fault.name, t.host.Name, err)
	}
	if h.name != "" {
		t.now()
	}
	wait, cancel := context.WithDeadline(ctx, t.begin.Add(budget))
	defer cancel()
	if o.failure = poll(wait, t.gone); o.failure == nil && !t.fault.dark {
		o.failure = t.carries(wait, t.marks())
	}
	o.took = time.Since(t.begin)
	return o, nil
}

// recover takes a step back and demands that all is as in the beginning: every
// host, and who owns what in the store.
func (s *soaking) recover(ctx context.Context, v verdict) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	wait, cancel := context.WithTimeout(ctx, budget)
	defer cancel()
	err := errors.Join(v.failure, v.after(wait), s.scene.whole(wait), s.scene.carries(wait, s.scene.marks()))
	if err == nil {
		err = poll(wait, func(ctx context.Context) error {
			now, err := s.scene.owners(ctx)
			if err == nil && !slices.Equal(now, s.store) {
				err = fmt.Errorf("leases are %v, and were %v", now, s.store)
			}
			return err
		})
	}
	for _, h := range s.scene.fabric.Hosts {
		if err == nil {
			err = h.WaitReady(wait)
		}
	}
	if err == nil {
		return nil
	}
	s.fail(ctx, v, err)
	s.soak.Fails = append(s.soak.Fails, v.row.Fails...)
	if err := s.renew(ctx); err != nil {
		return err
	}
	s.store, err = s.scene.owners(ctx)
	return err
}

// owners are the leases in the store. It is an error if two overlap, or if two
// hosts have one subnet file.
func (s *scene) owners(ctx context.Context) ([]lab.Pair, error) {
	pairs, err := s.fabric.Etcd.List(ctx, s.prefix+"/subnets/")
	if err != nil {
		return nil, err
	}
	for _, f := range s.families() {
		var all []netip.Prefix
		for _, h := range s.fabric.Hosts {
			gateway, err := h.Gateway(f)
			if err != nil {
				continue // it has none just now
			}
			for _, other := range all {
				if other.Overlaps(gateway) {
					return nil, fmt.Errorf("two owners of %s, one is %s", gateway.Masked(), h.Name)
				}
			}
			all = append(all, gateway)
		}
	}
	return pairs, nil
}

// Text is it in Markdown.
func (s *Soak) Text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "### Soak\n\n%d steps in %.0f s (seed %d) on %s; the daemons used %.1f s of CPU and wrote %d log lines.\n\n",
		s.Steps, float64(s.Took), s.Seed, strings.Join(s.Fabrics, ", "), float64(s.CPU), s.Lines)
	b.WriteString("| what happened | times | repaired p50 / max ms | packets lost p50 / max |\n|---|--:|--:|--:|\n")
	for _, k := range s.Kinds {
		fmt.Fprintf(&b, "| %s | %d | %s | %s |\n", k.Name, len(k.Took), pair(k.Took, 1), pair(k.Lost, 1))
	}
	b.WriteString("\n| a daemon that was never restarted | RSS, MB | open files | threads |\n|---|--:|--:|--:|\n")
	for _, g := range s.Growth {
		fmt.Fprintf(&b, "| %s | %.1f → %.1f | %d → %d | %d → %d |\n", g.Fabric, g.RSS[0], g.RSS[1], g.Files[0], g.Files[1], g.Threads[0], g.Threads[1])
	}
	for _, fail := range s.Fails {
		fmt.Fprintf(&b, "\n- on %s: %s %s", fail.Host, strings.ReplaceAll(fail.Why, "\n", " / "), fail.Dump)
	}
	b.WriteString("\n")
	return b.String()
}
