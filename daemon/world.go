package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"reflect"
	"slices"
	"sync/atomic"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/backend"
	backends "github.com/flannel-ng/flannel-ng/internal/backend/all"
	"github.com/flannel-ng/flannel-ng/internal/backend/udp"
	"github.com/flannel-ng/flannel-ng/internal/config"
	"github.com/flannel-ng/flannel-ng/internal/driver/fastpath"
	"github.com/flannel-ng/flannel-ng/internal/engine"
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
	// startup runs the backend's startup command; nil in a dry run.
	startup *startup

	log *slog.Logger
	// moved is told which addresses this host has; nil: nobody asks.
	moved func(have []netip.Addr)

	snapshot atomic.Pointer[lease.Snapshot]
	node     *facts.Node              // the last that Node returned
	asked    []*lease.Lease           // whose adjacency node tells
	carriers atomic.Pointer[[]string] // links that routes of ours may lead over
	need     engine.Need              // that of node
	// fastPath is the kernel's answer, asked once; nil: not yet.
	fastPath *facts.Ability
	shown    atomic.Pointer[facts.Node] // node, for those who only tell
}

func newWorld(c Config, hostID string) *world {
	return &world{opts: c.Options, owner: state.OwnerOf(c.Options.SubnetFile), hostID: hostID, log: c.Log}
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

// Node implements engine.World. One goroutine at a time calls it.
func (w *world) Node(ctx context.Context, need engine.Need, depth engine.Depth) (facts.Node, error) {
	if !reflect.DeepEqual(need, w.need) {
		w.need, depth = need, engine.All
	}
	if w.node != nil && depth == engine.Known {
		if n, ok, err := w.known(ctx); err != nil || ok {
			return n, err
		}
	}
	n, err := w.host(ctx, need.Families)
	if err != nil {
		return facts.Node{}, err
	}
	if w.node != nil && depth == engine.Host {
		n.Routes = w.node.Routes
		n.Startup, n.StartupPending = w.node.Startup, w.node.StartupPending
		if reflect.DeepEqual(n, *w.node) {
			if n, ok, err := w.known(ctx); err != nil || ok {
				return n, err
			}
		}
	}
	return w.survey(ctx, n)
}

// known is the last node, if it tells all about the peers of the picture.
func (w *world) known(ctx context.Context) (facts.Node, bool, error) {
	n := *w.node
	n.Startup, n.StartupPending = w.printed()
	peers := w.peers()
	_, come := lease.Differ(w.asked, peers)
	fresh := publics(come)
	if len(fresh) == 0 {
		w.asked = peers
		return n, true, nil
	}
	routes, err := probe.RoutesTo(ctx, w.adjacency(n.Links, n.Uplink, fresh))
	if err != nil {
		return n, false, fmt.Errorf("read routes to peers: %w", err)
	}
	// What the kernel says of the new ones must follow from what is known.
	for _, a := range fresh {
		now, reached := facts.Lookup(routes, a)
		known, before := facts.Lookup(n.Routes, a)
		if reached != before || now != known {
			return n, false, nil
		}
	}
	w.asked = peers
	return n, true, nil
}

func (w *world) adjacency(links []facts.Link, uplink facts.Link, targets []netip.Addr) probe.Lookup {
	return probe.Lookup{Links: links, Skip: w.ours, Uplink: uplink.Name, Targets: targets}
}

// host reads all facts but the routes to peers.
func (w *world) host(ctx context.Context, families []addr.Family) (facts.Node, error) {
	links, err := probe.Links(ctx)
	if err != nil {
		return facts.Node{}, fmt.Errorf("read links: %w", err)
	}
	if w.moved != nil {
		w.moved(addressesOf(links))
	}
	forwards, err := probe.Forwarding(ctx, links)
	if err != nil {
		return facts.Node{}, err
	}
	n, err := w.uplink(ctx, links, families)
	n.HostID, n.Forwards, n.FastPath = w.hostID, forwards, w.ability()
	return n, err
}

func addressesOf(links []facts.Link) []netip.Addr {
	var out []netip.Addr
	for _, l := range links {
		for _, a := range l.Addrs {
			out = append(out, a.Prefix.Addr())
		}
	}
	return out
}

// survey reads the routes to all peers, and makes n the last node.
func (w *world) survey(ctx context.Context, n facts.Node) (facts.Node, error) {
	peers := w.peers()
	var err error
	if n.Routes, err = probe.RoutesTo(ctx, w.adjacency(n.Links, n.Uplink, publics(peers))); err != nil {
		return facts.Node{}, fmt.Errorf("read routes to peers: %w", err)
	}
	n.Startup, n.StartupPending = w.printed()
	w.tell(n)
	w.carry(n)
	w.node, w.asked = &n, peers
	w.shown.Store(&n)
	return n, nil
}

// carry notes which links objects of ours may depend on.
func (w *world) carry(n facts.Node) {
	names := []string{n.Uplink.Name}
	for _, r := range n.Routes {
		if !slices.Contains(names, r.Link) {
			names = append(names, r.Link)
		}
	}
	w.carriers.Store(&names)
}

// carries says whether a change of that link may have cost objects of ours. Our
// own devices are told by their names: the alias is gone with the device.
func (w *world) carries(link string) bool {
	names := w.carriers.Load()
	return names == nil || slices.Contains(*names, link) || len(backend.Related([]facts.Link{{Name: link}})) > 0
}

// device says whether a link is a device of ours, or is to become one. One of
// another instance has its name in the alias.
func (w *world) device(name, alias string) bool {
	return (alias == "" || alias == w.owner.Alias()) && len(backend.Related([]facts.Link{{Name: name}})) > 0
}

// uplink keeps the uplink there was, selects one, or holds on to the last.
func (w *world) uplink(ctx context.Context, links []facts.Link, families []addr.Family) (facts.Node, error) {
	wish := facts.Wish{
		Families: families, Iface: w.opts.Iface, IfaceRegex: w.opts.IfaceRegex,
		CanReach: w.opts.IfaceCanReach, Public: w.opts.Public,
	}
	if w.node != nil {
		if n, ok := facts.Keep(*w.node, links, wish); ok {
			return n, nil
		}
		for _, f := range families {
			a := w.node.Source.At(f)
			wish.Global.Put(f, a.IsValid() && !a.IsLinkLocalUnicast())
		}
	}
	routes, err := probe.Routes(ctx, w.ours, links)
	if err != nil {
		return facts.Node{}, fmt.Errorf("read routes: %w", err)
	}
	n, err := facts.Select(links, routes, wish)
	if err == nil || w.node == nil {
		return n, err
	}
	if held, ok := facts.Hold(*w.node, links, wish, err); ok {
		return held, nil
	}
	return n, err
}

// ability says whether the kernel can carry the udp backend's packets. Others
// do not ask.
func (w *world) ability() facts.Ability {
	if !slices.ContainsFunc(w.need.Carriers, func(b config.Backend) bool { return b.Type == udp.Type }) {
		return facts.Ability{}
	}
	if w.fastPath == nil {
		a := probe.FastPath(fastpath.Root)
		w.fastPath = &a
	}
	return *w.fastPath
}

// printed is what the startup command printed, or why that is not known yet. It
// gets the command going.
func (w *world) printed() (output, pending string) {
	if w.startup == nil || !w.opts.AllowExtension {
		return "", ""
	}
	for _, b := range w.need.Carriers {
		c, err := backends.Startup(b)
		if err != nil {
			return "", err.Error()
		}
		if len(c.Words) > 0 {
			return w.startup.ask(c)
		}
	}
	return "", ""
}

// peers are the leases whose adjacency a carrier will ask for.
func (w *world) peers() []*lease.Lease {
	if !slices.ContainsFunc(w.need.Carriers, backends.Adjacency) {
		return nil
	}
	snap, _ := w.Snapshot()
	return snap.Leases
}

func publics(leases []*lease.Lease) []netip.Addr {
	var out []netip.Addr
	for _, l := range leases {
		for _, f := range addr.Families() {
			if a := l.Public.At(f); a.IsValid() {
				out = append(out, a)
			}
		}
	}
	return out
}

// tell logs what became of the uplink.
func (w *world) tell(n facts.Node) {
	if w.node == nil {
		w.log.Info("uplink selected", "link", n.Uplink.Name, "source", n.Source, "public", n.Public)
		return
	}
	switch prev := *w.node; {
	case prev.Uplink.Name != n.Uplink.Name:
		w.log.Warn("uplink changed", "from", prev.Uplink.Name, "to", n.Uplink.Name, "source", n.Source)
	case prev.Source != n.Source:
		w.log.Info("uplink address changed", "link", n.Uplink.Name, "from", prev.Source, "to", n.Source)
	case len(n.Warnings) > 0 && len(prev.Warnings) == 0:
		w.log.Warn("uplink is held", "reason", n.Warnings[0])
	}
}

// ours are the links whose routes say nothing about the underlay.
func (w *world) ours(l facts.Link) bool { return l.Alias == w.owner.Alias() }
