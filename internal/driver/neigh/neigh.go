// Package neigh keeps the permanent ARP and NDP entries of our links.
//
// Ours is every permanent entry on a wanted link that package kernel lets us
// touch: nothing else belongs on a tunnel device, and plain flannel's entries
// bear no mark. Entries that the kernel learned by itself stay, unless a wanted
// one takes their place. New entries carry state.Protocol, so that people can
// see whose they are; kernels before 5.0 drop it. Called by the engine through
// reconcile.
package neigh

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/driver/kernel"
	"github.com/flannel-ng/flannel-ng/internal/nl"
	"github.com/flannel-ng/flannel-ng/internal/reconcile"
	"github.com/flannel-ng/flannel-ng/internal/state"
)

// Driver sets neighbours.
type Driver struct{ owner state.Owner }

// New makes a driver of one owner.
func New(owner state.Owner) *Driver { return &Driver{owner: owner} }

// Kind implements reconcile.Driver.
func (*Driver) Kind() state.Kind { return state.KindNeighbour }

type key struct {
	link string
	ip   netip.Addr
}

// Plan implements reconcile.Driver.
func (d *Driver) Plan(ctx context.Context, want *state.Set) ([]reconcile.Change, error) {
	c, err := nl.Dial()
	if err != nil {
		return nil, err
	}
	defer func() { _ = c.Close() }()
	have, err := d.read(ctx, c, want)
	if err != nil {
		return nil, err
	}
	wanted := make(map[key]state.Neighbour, len(want.Neighbours))
	for _, n := range want.Neighbours {
		wanted[key{n.Link, n.IP}] = n
	}
	return reconcile.Diff(wanted, have, func(w, h state.Neighbour) bool { return w == h }), nil
}

// PlanScope implements reconcile.Scoped.
func (d *Driver) PlanScope(ctx context.Context, s reconcile.Scope) ([]reconcile.Change, error) {
	c, err := nl.Dial()
	if err != nil {
		return nil, err
	}
	defer func() { _ = c.Close() }()
	links, err := kernel.Named(ctx, c, d.owner, s.Want.Links)
	if err != nil {
		return nil, err
	}
	wanted := make(map[key]state.Neighbour, len(s.Want.Neighbours))
	var keys []key
	var at []nl.Neighbour
	look := func(n state.Neighbour) {
		if index, ok := links[n.Link]; ok {
			keys, at = append(keys, key{n.Link, n.IP}), append(at, nl.Neighbour{Link: index, IP: n.IP})
		}
	}
	for _, n := range s.Want.Neighbours {
		wanted[key{n.Link, n.IP}] = n
		look(n)
	}
	for _, o := range s.Gone {
		if n, ok := o.(state.Neighbour); ok {
			look(n)
		}
	}
	list, there, err := c.NeighboursAt(ctx, at)
	if err != nil {
		return nil, kernel.Unlisted("neighbours", err)
	}
	have := map[key]state.Neighbour{}
	for i, n := range list {
		if there[i] {
			have[keys[i]] = state.Neighbour{Link: keys[i].link, IP: n.IP, MAC: n.MAC}
		}
	}
	return reconcile.Diff(wanted, have, func(w, h state.Neighbour) bool { return w == h }), nil
}

func (d *Driver) read(ctx context.Context, c *nl.Conn, want *state.Set) (map[key]state.Neighbour, error) {
	links, err := kernel.Links(ctx, c, d.owner, want.Links)
	if err != nil {
		return nil, err
	}
	have := make(map[key]state.Neighbour, len(want.Neighbours))
	for index, name := range links {
		for _, f := range addr.Families() {
			list, err := c.Neighbours(ctx, f, index)
			if err != nil {
				return nil, fmt.Errorf("list %s neighbours of %s: %w", f, name, err)
			}
			for _, n := range list {
				have[key{name, n.IP}] = state.Neighbour{Link: name, IP: n.IP, MAC: n.MAC}
			}
		}
	}
	return have, nil
}

// Apply implements reconcile.Driver.
func (d *Driver) Apply(ctx context.Context, changes []reconcile.Change) []reconcile.Result {
	return kernel.ApplyOnLinks(ctx, d.owner, changes, func(ch reconcile.Change, x *kernel.Indexes) (nl.Request, error) {
		n, ok := ch.Object.(state.Neighbour)
		if !ok {
			return nl.Request{}, fmt.Errorf("neighbour driver got %T", ch.Object)
		}
		index, err := x.Own(ctx, n.Link)
		to := nl.Neighbour{Link: index, IP: n.IP, MAC: n.MAC}
		if ch.Op == reconcile.Remove {
			return nl.DelNeighbour(to), err
		}
		return nl.PutNeighbour(to, state.Protocol), err
	})
}
