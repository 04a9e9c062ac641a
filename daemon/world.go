package daemon

import (
	"context"
	"fmt"
	"sync/atomic"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/facts"
	"github.com/flannel-ng/flannel-ng/internal/keeper"
	"github.com/flannel-ng/flannel-ng/internal/lease"
	"github.com/flannel-ng/flannel-ng/internal/options"
	"github.com/flannel-ng/flannel-ng/internal/probe"
	"github.com/flannel-ng/flannel-ng/internal/state"
)

// world is what the engine sees: the latest picture of the store, the facts
// of this host, the keeper.
type world struct {
	opts   options.Options
	owner  state.Owner
	hostID string
	keeper *keeper.Keeper

	snapshot atomic.Pointer[lease.Snapshot]
}

func newWorld(c Config, hostID string) *world {
	return &world{opts: c.Options, owner: state.OwnerOf(c.Options.SubnetFile), hostID: hostID}
}

// Snapshot implements engine.World.
func (w *world) Snapshot() (lease.Snapshot, bool) {
	s := w.snapshot.Load()
	if s == nil {
		return lease.Snapshot{}, false
	}
	return *s, true
}

// Ask implements engine.World.
func (w *world) Ask(a lease.Ask) { w.keeper.Ask(a) }

// Own implements engine.World.
func (w *world) Own() lease.Holding { return w.keeper.Holding() }

// Node implements engine.World.
func (w *world) Node(ctx context.Context, families []addr.Family) (facts.Node, error) {
	links, err := probe.Links(ctx)
	if err != nil {
		return facts.Node{}, fmt.Errorf("read links: %w", err)
	}
	forwards, err := probe.Forwarding(links)
	if err != nil {
		return facts.Node{}, err
	}
	routes, err := probe.Routes(ctx, w.ours, links)
	if err != nil {
		return facts.Node{}, fmt.Errorf("read routes: %w", err)
	}
	n, err := facts.Select(links, routes, facts.Wish{
		Families: families, Iface: w.opts.Iface, IfaceRegex: w.opts.IfaceRegex,
		CanReach: w.opts.IfaceCanReach, Public: w.opts.Public,
	})
	if err != nil {
		return facts.Node{}, err
	}
	n.Forwards = forwards
	n.HostID = w.hostID
	return n, nil
}

// ours are the links whose routes say nothing about the underlay.
func (w *world) ours(l facts.Link) bool { return l.Alias == w.owner.Alias() }
