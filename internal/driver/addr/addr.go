// Package addr gives our links their addresses.
//
// Ours is every address on a wanted link that package kernel lets us touch,
// except IPv6 link-local ones, which the kernel makes by itself; IPv4 link-local
// addresses (169.254/16) come from a DHCP client gone astray and are removed.
// A wanted address that has a lifetime is made permanent. Addresses on other
// links are never read. Called by the engine through reconcile.
package addr

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

// Driver sets addresses.
type Driver struct{ owner state.Owner }

// New makes a driver of one owner.
func New(owner state.Owner) *Driver { return &Driver{owner: owner} }

// Kind implements reconcile.Driver.
func (*Driver) Kind() state.Kind { return state.KindAddress }

type key struct {
	link   string
	prefix netip.Prefix
}

// found is an address as read.
type found struct {
	state.Address
	permanent bool
}

func (f found) String() string {
	if f.permanent {
		return f.Address.String()
	}
	return f.Address.String() + " with a lifetime"
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
	wanted := make(map[key]state.Address, len(want.Addresses))
	for _, a := range want.Addresses {
		wanted[key{a.Link, a.Prefix}] = a
	}
	return reconcile.Diff(wanted, have, func(_ state.Address, h found) bool { return h.permanent }), nil
}

func (d *Driver) read(ctx context.Context, c *nl.Conn, want *state.Set) (map[key]found, error) {
	links, err := kernel.Links(ctx, c, d.owner, want.Links)
	if err != nil {
		return nil, err
	}
	have := map[key]found{}
	for index, name := range links {
		for _, f := range addr.Families() {
			list, err := c.Addresses(ctx, f, index)
			if err != nil {
				return nil, fmt.Errorf("list %s addresses of %s: %w", f, name, err)
			}
			for _, a := range list {
				if ip := a.Prefix.Addr(); ip.Is6() && ip.IsLinkLocalUnicast() {
					continue
				}
				have[key{name, a.Prefix}] = found{state.Address{Link: name, Prefix: a.Prefix}, a.Permanent}
			}
		}
	}
	return have, nil
}

// Apply implements reconcile.Driver.
func (d *Driver) Apply(ctx context.Context, changes []reconcile.Change) []reconcile.Result {
	return kernel.ApplyOnLinks(ctx, d.owner, changes, func(ch reconcile.Change, x *kernel.Indexes) (nl.Request, error) {
		a, err := object(ch.Object)
		if err != nil {
			return nl.Request{}, err
		}
		index, err := x.Own(ctx, a.Link)
		to := nl.Address{Link: index, Prefix: a.Prefix}
		if ch.Op == reconcile.Remove {
			return nl.DelAddress(to), err
		}
		return nl.PutAddress(to), err
	})
}

func object(o state.Object) (state.Address, error) {
	switch o := o.(type) {
	case state.Address:
		return o, nil
	case found:
		return o.Address, nil
	default:
		return state.Address{}, fmt.Errorf("address driver got %T", o)
	}
}
