package chaos

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/flannel-ng/flannel-ng/lab"
)

// scene is a fabric at work: three real hosts with a container each, flows
// between all of them, and things of strangers on every host.
type scene struct {
	variant
	fabric  *lab.Fabric
	eyes    []*eye
	flows   []*lab.Flow
	before  []picture       // of every host, when all is well
	foreign map[string]bool // lines of the strangers
	deaf    bool
	prefix  string
}

// Times.
const (
	// Budget is how long a repair may take before it counts as none.
	budget = 15 * time.Second
	// patience bounds what a healthy fabric does in a fraction of it.
	patience = time.Minute
	closing  = 30 * time.Second
	// rate is that of each flow, in packets a second each way.
	rate = 200
)

// build makes the fabric and waits until everything stands.
func build(ctx context.Context, v variant, b lab.Binaries) (*scene, error) {
	s := &scene{variant: v, foreign: map[string]bool{}, prefix: lab.Prefix}
	o := lab.Options{
		Hosts: real3, Families: v.families(), Firewall: v.firewall, Underlay: lab.L2, Binaries: b, Backend: v.backend(),
	}
	if v.peers > real3 {
		o.Wide, o.NetConf = true, crowdConfig(v)
	}
	var err error
	if s.fabric, err = lab.New(ctx, o); err != nil {
		return s, err
	}
	wait, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for _, h := range s.fabric.Hosts {
		if err := h.Start(ctx, "--ip-masq"); err != nil {
			return s, err
		}
		e, err := newEye(h)
		if err != nil {
			return s, err
		}
		s.eyes = append(s.eyes, e)
	}
	for _, step := range []func(context.Context) error{s.attach, s.crowd, s.strangers, s.flow} {
		if err := step(wait); err != nil {
			return s, fmt.Errorf("%s: %w", v.name(), err)
		}
	}
	return s, nil
}

func (s *scene) attach(ctx context.Context) error {
	for _, h := range s.fabric.Hosts {
		if err := h.WaitReady(ctx); err != nil {
			return err
		}
		if _, err := s.fabric.Attach(ctx, h, fmt.Sprintf("c%d", h.Index)); err != nil {
			return err
		}
	}
	return lab.Each(ctx, s.fabric.Ways(), lab.PingWay)
}

// flow starts a flow between each two containers in every family. It outlives
// ctx.
func (s *scene) flow(ctx context.Context) error {
	all := s.fabric.Containers()
	for _, w := range s.fabric.Ways() {
		if slices.Index(all, w.From) > slices.Index(all, w.To) {
			continue // flows go both ways
		}
		f, err := lab.StartFlow(context.WithoutCancel(ctx), w, rate)
		if err != nil {
			return err
		}
		s.flows = append(s.flows, f)
	}
	return s.carries(ctx, s.marks())
}

func (s *scene) close(ctx context.Context) error {
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), closing)
	defer cancel()
	var errs []error
	for _, f := range s.flows {
		_, err := f.Stop(end)
		errs = append(errs, err)
	}
	for _, e := range s.eyes {
		errs = append(errs, e.close())
	}
	if s.fabric != nil {
		errs = append(errs, s.fabric.Close(end))
	}
	return errors.Join(errs...)
}

// marks is now, in all flows.
func (s *scene) marks() []lab.FlowMark {
	out := make([]lab.FlowMark, len(s.flows))
	for i, f := range s.flows {
		out[i] = f.Mark()
	}
	return out
}

// carries waits until every pair has heard of each other what was sent after
// these marks.
func (s *scene) carries(ctx context.Context, since []lab.FlowMark) error {
	return poll(ctx, func(context.Context) error {
		for i, f := range s.flows {
			if err := f.Passes(since[i]); err != nil {
				return err
			}
		}
		return nil
	})
}

// lost counts what all flows lost since these marks.
func (s *scene) lost(since []lab.FlowMark) (sum uint64) {
	for i, f := range s.flows {
		sum += f.LostSince(since[i])
	}
	return sum
}

// look reads all hosts.
func (s *scene) look(ctx context.Context) ([]picture, error) {
	var all []picture
	for _, e := range s.eyes {
		p, err := e.look(ctx)
		if err != nil {
			return nil, err
		}
		all = append(all, p)
	}
	return all, nil
}

// ours leaves out what strangers have.
func (s *scene) ours(p picture) picture {
	return p.without(func(line string) bool { return s.foreign[line] })
}

// whole waits until all hosts are what they were before the first fault, with
// what is foreign. The error names what is not.
func (s *scene) whole(ctx context.Context) error {
	for i, e := range s.eyes {
		err := poll(ctx, func(ctx context.Context) error {
			now, err := e.look(ctx)
			if err != nil {
				return err
			}
			if diff := s.before[i].difference(now); len(diff) > 0 {
				return fmt.Errorf("%s is not as it was:\n%s", e.host.Name, tell(diff))
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// Pauses between two looks: fine, but no more than a third of the time is spent
// on looking.
const (
	lookEvery = 8 * time.Millisecond
	lookShare = 2
)

// poll looks until it finds nothing wrong or ctx ends; then it returns what was
// wrong last.
func poll(ctx context.Context, look func(context.Context) error) error {
	for {
		begin := time.Now()
		// A look that has begun is finished: half of one says nothing.
		err := look(context.WithoutCancel(ctx))
		if err == nil {
			return nil
		}
		timer := time.NewTimer(max(lookEvery, lookShare*time.Since(begin)))
		select {
		case <-ctx.Done():
			timer.Stop()
			return err
		case <-timer.C:
		}
	}
}

func patiently(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, patience)
}
