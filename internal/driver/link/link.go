// Package link makes virtual devices.
//
// Ours is a link whose alias is exactly state.Owner.Alias(); one that is not
// wanted any more is deleted. A link without an alias that has the wanted name
// and type is taken over in place, with its MAC if that is the wanted one:
// that is how a running plain flannel hands over. A link of the wanted name
// that is anything else is an error and stays as it is; so does a TUN device
// that goes with its process, which is how a running plain flannel has one.
//
// A difference is mended in place where the kernel can (MTU, MAC, up, alias,
// source, parent, TTL, learning, checksum offload), because everything on the device survives;
// else the device is made anew. A TUN device is never attached to: its one
// reader is another process. Called by the engine through reconcile.
package link

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/driver/kernel"
	"github.com/flannel-ng/flannel-ng/internal/nl"
	"github.com/flannel-ng/flannel-ng/internal/reconcile"
	"github.com/flannel-ng/flannel-ng/internal/state"
)

// Driver makes links.
type Driver struct{ owner state.Owner }

// New makes a driver of one owner.
func New(owner state.Owner) *Driver { return &Driver{owner: owner} }

// Kind implements reconcile.Driver.
func (*Driver) Kind() state.Kind { return state.KindLink }

// Plan implements reconcile.Driver.
func (d *Driver) Plan(ctx context.Context, want *state.Set) ([]reconcile.Change, error) {
	c, err := nl.Dial()
	if err != nil {
		return nil, err
	}
	defer func() { _ = c.Close() }()
	links, err := c.Links(ctx, "")
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	byName := make(map[string]nl.Link, len(links))
	for _, l := range links {
		byName[l.Name] = l
	}
	var out []reconcile.Change
	wanted := make(map[string]bool, len(want.Links))
	for _, w := range want.Links {
		wanted[w.Name] = true
		have, ok := byName[w.Name]
		if !ok {
			out = append(out, reconcile.Change{Op: reconcile.Add, Object: w})
			continue
		}
		diff, err := compare(have, d.target(w, byName[w.VXLAN.Parent].Index))
		if err != nil {
			return nil, fmt.Errorf("read link %s: %w", w.Name, err)
		}
		// That a link is foreign is said when the change is applied.
		if diff.need > nothing {
			out = append(out, reconcile.Change{Op: reconcile.Update, Object: w, Was: diff.String()})
		}
	}
	for _, l := range links {
		if l.Alias == d.owner.Alias() && !wanted[l.Name] {
			out = append(out, reconcile.Change{Op: reconcile.Remove, Object: describe(l)})
		}
	}
	reconcile.Sort(out)
	return out, nil
}

// target is a wanted link in the kernel's terms.
type target struct {
	nl.Link
	checksum state.Offload
}

func (d *Driver) target(w state.Link, parent int) target {
	return target{
		Link: nl.Link{
			Name: w.Name, Kind: string(w.Type), Alias: d.owner.Alias(), MTU: w.MTU, MAC: w.MAC, Up: true,
			VXLAN: nl.VXLAN{
				VNI: w.VXLAN.VNI, Port: w.VXLAN.Port, Source: w.VXLAN.Source, Parent: parent, UDPCsum: true,
				GBP: w.VXLAN.GBP, Learning: w.VXLAN.Learning,
			},
		},
		checksum: w.TxChecksum,
	}
}

// describe is a found link as state. The parent stays unnamed: it is only
// shown, and not worth another reading.
func describe(l nl.Link) state.Link {
	return state.Link{
		Name: l.Name, Type: state.LinkType(l.Kind), MTU: l.MTU, MAC: l.MAC,
		VXLAN: state.VXLAN{
			VNI: l.VXLAN.VNI, Port: l.VXLAN.Port, Source: l.VXLAN.Source, GBP: l.VXLAN.GBP, Learning: l.VXLAN.Learning,
		},
	}
}

// Apply implements reconcile.Driver. There are few links, so each is read
// again and mended by itself.
func (d *Driver) Apply(ctx context.Context, changes []reconcile.Change) []reconcile.Result {
	c, err := nl.Dial()
	if err != nil {
		return kernel.Fail(changes, err)
	}
	defer func() { _ = c.Close() }()
	results := make([]reconcile.Result, len(changes))
	for i, ch := range changes {
		results[i].Change = ch
		w, ok := ch.Object.(state.Link)
		switch {
		case !ok:
			results[i].Err = fmt.Errorf("link driver got %T", ch.Object)
		case ch.Op == reconcile.Remove:
			results[i].Err = d.remove(ctx, c, w.Name)
		default:
			results[i].Err = d.put(ctx, c, w)
		}
	}
	return results
}

func (d *Driver) remove(ctx context.Context, c *nl.Conn, name string) error {
	have, err := c.LinkNamed(ctx, name)
	if err == nil && have.Alias != d.owner.Alias() {
		return fmt.Errorf("link %s has the alias %q: %w", name, have.Alias, kernel.ErrForeign)
	}
	if err == nil {
		err = do(ctx, c, nl.DelLink(have.Index))
	}
	if kernel.Gone(err) {
		return nil
	}
	return err
}

func (d *Driver) put(ctx context.Context, c *nl.Conn, w state.Link) error {
	t, err := d.targetNow(ctx, c, w)
	if err != nil {
		return err
	}
	have, err := c.LinkNamed(ctx, w.Name)
	switch {
	case errors.Is(err, unix.ENODEV):
		return create(ctx, c, t)
	case err != nil:
		return fmt.Errorf("read link %s: %w", w.Name, err)
	}
	if err := kernel.Adoptable(have, w, d.owner); err != nil {
		return err
	}
	return mend(ctx, c, have, t)
}

// targetNow is target with the parent as it is found now.
func (d *Driver) targetNow(ctx context.Context, c *nl.Conn, w state.Link) (target, error) {
	switch w.Type {
	case state.LinkTUN:
		return d.target(w, 0), nil
	case state.LinkVXLAN:
		parent, err := c.LinkNamed(ctx, w.VXLAN.Parent)
		if err != nil {
			return target{}, fmt.Errorf("find parent link %s: %w", w.VXLAN.Parent, err)
		}
		return d.target(w, parent.Index), nil
	default:
		return target{}, fmt.Errorf("link type %q: %w", w.Type, errors.ErrUnsupported)
	}
}

// mend turns have into t.
func mend(ctx context.Context, c *nl.Conn, have nl.Link, t target) error {
	diff, err := compare(have, t)
	if err != nil {
		return fmt.Errorf("read link %s: %w", t.Name, err)
	}
	if diff.need == move {
		err := do(ctx, c, nl.MoveVXLAN(have.Index, t.VXLAN))
		switch {
		case errors.Is(err, unix.EOPNOTSUPP): // another family, or an old kernel
			diff.need = remake
		case err != nil:
			return fmt.Errorf("change link %s: %w", t.Name, err)
		}
	}
	if diff.need == remake {
		if err := do(ctx, c, nl.DelLink(have.Index)); err != nil {
			return fmt.Errorf("delete link %s to make it anew: %w", t.Name, err)
		}
		return create(ctx, c, t)
	}
	return finish(ctx, c, have, t)
}

// create makes t.
func create(ctx context.Context, c *nl.Conn, t target) error {
	var err error
	if state.LinkType(t.Kind) == state.LinkTUN {
		err = nl.AddTUN(t.Name)
	} else {
		err = addVXLAN(ctx, c, t.Link)
	}
	if err != nil {
		return fmt.Errorf("create link %s: %w", t.Name, err)
	}
	have, err := c.LinkNamed(ctx, t.Name)
	if err != nil {
		return fmt.Errorf("read link %s: %w", t.Name, err)
	}
	return finish(ctx, c, have, t)
}

// finish marks the link as ours and brings it up with the wanted MTU, MAC and
// offload. Whether the alias can be given at creation differs between kernels.
//
// A MAC that is right is not set again: the kernel would forget all neighbours on
// the link, permanent ones too, and packets with them until the next pass.
func finish(ctx context.Context, c *nl.Conn, have nl.Link, t target) error {
	t.Index = have.Index
	l := t.Link
	if have.MAC == l.MAC {
		l.MAC = addr.MAC{}
	}
	if err := do(ctx, c, nl.SetLink(l)); err != nil {
		return fmt.Errorf("set link %s up with mtu %d and address %s: %w", t.Name, t.MTU, t.MAC, err)
	}
	differs, err := checksumDiffers(t)
	if err == nil && differs {
		err = nl.SetTxChecksum(t.Name, t.checksum == state.OffloadOn)
	}
	if err != nil {
		return fmt.Errorf("set offload of link %s: %w", t.Name, err)
	}
	return nil
}

func do(ctx context.Context, c *nl.Conn, r nl.Request) error {
	return c.Do(ctx, []nl.Request{r})[0]
}
