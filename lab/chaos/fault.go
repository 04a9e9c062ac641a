package chaos

import (
	"context"
	"fmt"
	"time"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/lab"
)

// fault is a row of the table: something that happens to a host.
type fault struct {
	name string
	// applies says where there is such a thing to break; nil is everywhere.
	applies func(variant) bool
	// inject breaks it.
	inject func(context.Context, *trial) error
	// gone says whether it is repaired: nil, or what is wrong. Without it, all
	// that is flannel-ng's on the host must be what it was before.
	gone func(context.Context, *trial) error
	// undo takes back what was not a fault of the daemon's to repair (foreign
	// rules, an MTU); then all hosts must be what they were before.
	undo func(context.Context, *trial) error
	// slow is what the kernel or the store tells nobody of: the next full pass
	// finds it.
	slow bool
	// dark is what no packet survives until undo, by nature.
	dark bool
	// wide concerns more than its own host, so nothing else happens meanwhile.
	wide bool
	// crowd is done in a large fabric too: faults of peers' objects and devices.
	crowd bool
	// mute is heard of from the store or from processes, not from the kernel:
	// it is the same without notifications.
	mute bool
	// witnessed: only a daemon that had its own there knows that this took its
	// place. To one that starts it is the administrator's.
	witnessed bool
}

// trial is one fault on one host.
type trial struct {
	*scene
	fault *fault
	eye   *eye
	host  *lab.Host
	round int
	begin time.Time
	keep  map[string]string // what inject notes for gone and undo
}

// outcome is how a trial went.
type outcome struct {
	state time.Duration // until all is in place
	took  time.Duration // until packets pass, too
	lost  uint64
	// failure is why it counts as not repaired, or what was changed that is
	// not flannel-ng's.
	failure error
}

func (s *scene) trial(f *fault, host, round int) *trial {
	return &trial{scene: s, fault: f, eye: s.eyes[host], host: s.fabric.Hosts[host], round: round, keep: map[string]string{}}
}

// family is the one whose turn it is.
func (t *trial) family() addr.Family {
	all := t.families()
	return all[t.round/real3%len(all)]
}

// peer is the other host whose turn it is.
func (t *trial) peer() *lab.Host {
	return t.fabric.Hosts[(t.host.Index+t.round/(real3*2)%2)%real3]
}

// now starts the clock: what inject did before prepared the fault.
func (t *trial) now() { t.begin = time.Now() }

// run does the fault and waits until it is repaired. The error is of the bench,
// not of what is judged.
func (t *trial) run(ctx context.Context) (o outcome, err error) {
	marks := t.marks()
	t.now()
	if err := t.fault.inject(ctx, t); err != nil {
		return o, fmt.Errorf("%s on %s: %w", t.fault.name, t.host.Name, err)
	}
	wait, cancel := context.WithDeadline(ctx, t.begin.Add(budget))
	defer cancel()
	o.failure = poll(wait, t.gone)
	o.state = time.Since(t.begin)
	if o.failure == nil && !t.fault.dark && !t.deaf {
		o.failure = t.carries(wait, t.marks())
	}
	o.took = time.Since(t.begin)
	o.lost = t.lost(marks)
	return o, ctx.Err()
}

// gone is the fault's own check, or the whole host's.
func (t *trial) gone(ctx context.Context) error {
	if t.fault.gone != nil {
		return t.fault.gone(ctx, t)
	}
	return t.asBefore(ctx, func(string) bool { return false })
}

// asBefore compares what is flannel-ng's with what it was, but for some lines.
func (t *trial) asBefore(ctx context.Context, except func(string) bool) error {
	now, err := t.eye.look(ctx)
	if err != nil {
		return err
	}
	drop := func(line string) bool { return t.foreign[line] || except(line) }
	if diff := t.before[t.host.Index-1].without(drop).difference(now.without(drop)); len(diff) > 0 {
		return fmt.Errorf("%s is not repaired:\n%s", t.host.Name, tell(diff))
	}
	return nil
}

// after takes back what is to be taken back, and demands that nothing is left.
func (t *trial) after(ctx context.Context) error {
	if t.fault.undo == nil {
		return nil
	}
	if err := t.fault.undo(ctx, t); err != nil {
		return fmt.Errorf("undo %s on %s: %w", t.fault.name, t.host.Name, err)
	}
	return nil
}

// everywhere demands that all hosts look as before with some words changed.
func (t *trial) everywhere(ctx context.Context, oldNew ...string) error {
	for i, e := range t.eyes {
		now, err := e.look(ctx)
		if err != nil {
			return err
		}
		want := t.ours(t.before[i]).with(oldNew...)
		if diff := want.difference(t.ours(now)); len(diff) > 0 {
			return fmt.Errorf("%s does not follow:\n%s", e.host.Name, tell(diff))
		}
	}
	return nil
}
