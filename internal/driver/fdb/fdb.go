// Package fdb keeps the forwarding entries of our VXLAN links: which host a
// MAC address is at.
//
// Ours is every permanent entry that a wanted VXLAN link, which package kernel
// lets us touch, has itself ("self" in bridge-fdb(8)): the all-zero entry for
// unknown destinations is a leftover too, because we never flood. A MAC with
// several destinations, or one that overrides port or VNI, is altered. Called
// by the engine through reconcile.
package fdb

import (
	"context"
	"fmt"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/driver/kernel"
	"github.com/flannel-ng/flannel-ng/internal/nl"
	"github.com/flannel-ng/flannel-ng/internal/reconcile"
	"github.com/flannel-ng/flannel-ng/internal/state"
)

// Driver sets forwarding entries.
type Driver struct{ owner state.Owner }

// New makes a driver of one owner.
func New(owner state.Owner) *Driver { return &Driver{owner: owner} }

// Kind implements reconcile.Driver.
func (*Driver) Kind() state.Kind { return state.KindFDB }

type key struct {
	link string
	mac  addr.MAC
}

// found is what is known of one MAC.
type found struct {
	state.FDBEntry      // with its first destination
	altered        bool // several destinations, or special ones
}

func (f found) String() string {
	if f.altered {
		return f.FDBEntry.String() + " (altered)"
	}
	return f.FDBEntry.String()
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
	wanted := make(map[key]state.FDBEntry, len(want.FDB))
	for _, e := range want.FDB {
		wanted[key{e.Link, e.MAC}] = e
	}
	return reconcile.Diff(wanted, have, same), nil
}

func same(w state.FDBEntry, h found) bool { return !h.altered && w == h.FDBEntry }

// PlanScope implements reconcile.Scoped. Further destinations of a MAC are seen
// by Plan alone.
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
	wanted := make(map[key]state.FDBEntry, len(s.Want.FDB))
	var keys []key
	var at []nl.FDB
	look := func(e state.FDBEntry) {
		if index, ok := links[e.Link]; ok {
			keys, at = append(keys, key{e.Link, e.MAC}), append(at, nl.FDB{Link: index, MAC: e.MAC})
		}
	}
	for _, e := range s.Want.FDB {
		wanted[key{e.Link, e.MAC}] = e
		look(e)
	}
	for _, o := range s.Gone {
		if e, ok := o.(state.FDBEntry); ok {
			look(e)
		}
	}
	list, there, err := c.FDBAt(ctx, at)
	if err != nil {
		return nil, kernel.Unlisted("forwarding entries", err)
	}
	have := map[key]found{}
	for i, e := range list {
		if there[i] {
			have[keys[i]] = found{state.FDBEntry{Link: keys[i].link, MAC: e.MAC, Dst: e.Dst}, e.Special}
		}
	}
	return reconcile.Diff(wanted, have, same), nil
}

func (d *Driver) read(ctx context.Context, c *nl.Conn, want *state.Set) (map[key]found, error) {
	links, err := kernel.Links(ctx, c, d.owner, want.Links)
	if err != nil {
		return nil, err
	}
	have := make(map[key]found, len(want.FDB))
	for index, name := range links {
		list, err := c.FDB(ctx, index)
		if err != nil {
			return nil, fmt.Errorf("list forwarding entries of %s: %w", name, err)
		}
		for _, e := range list {
			k := key{name, e.MAC}
			f, again := have[k]
			if !again {
				f.FDBEntry = state.FDBEntry{Link: name, MAC: e.MAC, Dst: e.Dst}
			}
			f.altered = f.altered || again || e.Special
			have[k] = f
		}
	}
	return have, nil
}

// Apply implements reconcile.Driver.
func (d *Driver) Apply(ctx context.Context, changes []reconcile.Change) []reconcile.Result {
	return kernel.ApplyOnLinks(ctx, d.owner, changes, func(ch reconcile.Change, x *kernel.Indexes) (nl.Request, error) {
		e, err := object(ch.Object)
		if err != nil {
			return nl.Request{}, err
		}
		index, err := x.Own(ctx, e.Link)
		to := nl.FDB{Link: index, MAC: e.MAC, Dst: e.Dst}
		if ch.Op == reconcile.Remove {
			return nl.DelFDB(to), err
		}
		return nl.PutFDB(to), err
	})
}

func object(o state.Object) (state.FDBEntry, error) {
	switch o := o.(type) {
	case state.FDBEntry:
		return o, nil
	case found:
		return o.FDBEntry, nil
	default:
		return state.FDBEntry{}, fmt.Errorf("forwarding driver got %T", o)
	}
}
