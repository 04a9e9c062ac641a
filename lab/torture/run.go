package torture

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/lab"
)

// Options say how thorough to be.
type Options struct {
	Binaries lab.Binaries
	Full     bool     // every size, all subjects, jumbo
	Paths    []string // names of carriers; none is all
	Groups   string   // regular expression; "" is all
	Progress io.Writer
}

// Tally is what came of one combination.
type Tally struct {
	Name       string
	Uplink     int    // MTU of the underlay
	Left       string // why it was left out
	Sent       int    // packets and super-packets
	Compared   int    // packets that arrived as they should, or not at all as they should
	Answers    int    // ICMP errors that came back as they should
	Wire       int    // datagrams of the tunnel looked at on the underlay
	Kernel     uint64 // packets that the sending host's kernel carried by itself
	Mismatches int
	Details    []string // of the first mismatches of each group
}

// outcome is the line of progress after the combination's name.
func (t Tally) outcome(took time.Duration) string {
	if t.Left != "" {
		return "not run: " + t.Left
	}
	return fmt.Sprintf("%d sent, %d mismatches, %.1f s", t.Sent, t.Mismatches, took.Seconds())
}

// details is how many mismatches of a group are told.
const details = 3

var errNoSuch = errors.New("no such thing to run")

// check refuses what would run nothing, and so find no mismatch.
func (o Options) check() error {
	var names []string
	for _, c := range carriers() {
		names = append(names, c.name)
	}
	for _, n := range o.Paths {
		if !slices.Contains(names, n) {
			return fmt.Errorf("path %q: %w; there are %s", n, errNoSuch, strings.Join(names, ", "))
		}
	}
	some, err := matching(o.Groups)
	if err != nil || len(some) > 0 {
		return err
	}
	names = nil
	for _, g := range groups() {
		names = append(names, g.name)
	}
	return fmt.Errorf("groups %q: %w; there are %s", o.Groups, errNoSuch, strings.Join(names, ", "))
}

// Run sends everything through all combinations.
func Run(ctx context.Context, o Options) ([]Tally, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	var all []Tally
	for _, s := range stages(o) {
		t := Tally{Name: s.String(), Uplink: s.uplink}
		begin := time.Now()
		err := s.torture(ctx, o, &t)
		if errors.Is(err, errUnknown) {
			t.Left, err = err.Error(), nil
		}
		_, _ = fmt.Fprintf(o.Progress, "%-26s uplink %d: %s\n", t.Name, t.Uplink, t.outcome(time.Since(begin)))
		all = append(all, t)
		if err != nil {
			return all, fmt.Errorf("%s: %w", t.Name, err)
		}
	}
	return all, nil
}

// stages are all combinations: VXLAN only with itself, on a jumbo underlay only
// in a full run and only each carrier with itself.
func stages(o Options) []*stage {
	var all []*stage
	for _, from := range chosen(o.Paths) {
		for _, to := range chosen(o.Paths) {
			if from.tunnel.port == to.tunnel.port {
				all = append(all, &stage{combination: combination{from, to}, uplink: 1500})
			}
		}
	}
	if o.Full {
		for _, c := range chosen(o.Paths) {
			all = append(all, &stage{combination: combination{c, c}, uplink: 9000})
		}
	}
	return all
}

func chosen(names []string) []carrier {
	if len(names) == 0 {
		return carriers()
	}
	var some []carrier
	for _, c := range carriers() {
		for _, n := range names {
			if c.name == n {
				some = append(some, c)
			}
		}
	}
	return some
}

// torture builds the stage, runs all groups, and closes it.
func (s *stage) torture(ctx context.Context, o Options, t *Tally) (err error) {
	defer func() { err = errors.Join(err, s.close(ctx)) }()
	if err := s.build(ctx, o.Binaries); err != nil {
		return err
	}
	chosen, err := matching(o.Groups)
	if err != nil {
		return err
	}
	r := &runner{stage: s, tally: t}
	for _, f := range addr.Families() {
		k, err := s.kit(f, o.Full)
		if err != nil {
			return err
		}
		for _, g := range chosen {
			if g.need != nil && !g.need(*s) {
				continue
			}
			if err := r.run(ctx, g, k); err != nil {
				return fmt.Errorf("%s, %s: %w", g.name, f, err)
			}
		}
	}
	return s.carried(ctx, t)
}

// carried asks how many packets the kernel's path took. None at all between two
// hosts that have it would make the whole test say nothing of it.
func (s *stage) carried(ctx context.Context, t *Tally) error {
	if s.from.tunnel.header > 0 {
		return nil
	}
	path, err := s.hosts[0].FastPath(ctx)
	if err != nil {
		return err
	}
	t.Kernel = path.Sent
	if both := s.from.option == optionBPF && s.to.option == optionBPF; both != (path.Sent > 0) {
		t.Mismatches++
		t.Details = append(t.Details, fmt.Sprintf("the kernel's path carried %d packets", path.Sent))
	}
	return nil
}

// kit makes packets for this stage.
func (s *stage) kit(f addr.Family, full bool) (*kit, error) {
	k := &kit{family: f, ends: s.ends.At(f), mtu: s.from.tunnel.mtu(s.uplink, f), full: full, tunnel: s.from.tunnel, dice: rand.New(rand.NewPCG(1, uint64(f)))}
	for i, h := range s.hosts {
		gateway, err := h.Gateway(f)
		if err != nil {
			return nil, err
		}
		k.homes[i] = gateway.Masked()
	}
	k.nobody = outsider(k.homes)
	return k, nil
}
