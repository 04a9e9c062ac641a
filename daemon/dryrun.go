package daemon

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/flannel-ng/flannel-ng/internal/events"
	"github.com/flannel-ng/flannel-ng/internal/identity"
	"github.com/flannel-ng/flannel-ng/internal/lease"
	"github.com/flannel-ng/flannel-ng/internal/report"
)

// patience is how long a dry run waits for the store.
const patience = 15 * time.Second

// dryRun prints what a start would change, and changes nothing: no claim, no
// session, no file, no kernel object.
func dryRun(ctx context.Context, c Config) error {
	host, err := identity.Peek(c.Options.StateDir)
	if err != nil {
		return err
	}
	client, err := dial(ctx, c.Options)
	if err != nil {
		return err
	}
	defer func() { _ = client.Close() }()
	reading, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	snap, err := client.Snapshot(reading)
	if err != nil {
		return fmt.Errorf("etcd: %w", silent(c.Options, err))
	}
	p := &parts{log: c.Log, ring: events.New(1, time.Now)}
	p.world = newWorld(c, host)
	p.world.snapshot.Store(&snap)
	guess := &supposed{world: p.world}
	eng := newEngine(c, p, guess)
	// The first look asks for a lease, the second has the supposed one.
	changes, err := eng.Preview(ctx)
	if err != nil {
		changes, err = eng.Preview(ctx)
	}
	if err != nil {
		return err
	}
	return show(c, guess, changes)
}

func show(c Config, guess *supposed, changes []report.Change) error {
	var out strings.Builder
	if guess.claim != "" {
		fmt.Fprintln(&out, guess.claim)
	}
	for _, ch := range changes {
		fmt.Fprintf(&out, "%-6s %s\n", ch.Op, ch.Object)
		if ch.Was != "" {
			fmt.Fprintf(&out, "       was %s\n", ch.Was)
		}
	}
	if out.Len() == 0 {
		fmt.Fprintln(&out, "in sync: nothing to change")
	}
	_, err := fmt.Fprint(c.Out, out.String())
	return err
}

// supposed is the world of a dry run: what would be claimed is taken as held.
type supposed struct {
	*world
	holding lease.Holding
	claim   string // what a start would do in the store, for people
}

// Ask decides as the keeper would, and stops there.
func (s *supposed) Ask(a lease.Ask) {
	if s.holding.State == lease.Owned {
		return
	}
	snap, _ := s.Snapshot()
	d := lease.Decide(lease.Situation{HostID: s.hostID, Ask: a, Snapshot: snap, Now: time.Now()})
	if d.Action.Act != lease.ActClaim {
		s.holding.Reason = d.Holding.Reason
		return
	}
	c := d.Action.Claim
	s.holding = lease.Holding{State: lease.Owned}
	s.holding.Lease.Lease = lease.Lease{Subnets: c.Subnets, Public: c.Public, Offer: c.Offer, Owner: s.hostID}
	s.claim = fmt.Sprintf("claim  lease %v (%s)", s.holding.Lease.Prefixes(), d.Action.Why)
}

// Own implements engine.World.
func (s *supposed) Own() lease.Holding { return s.holding }
