package tunnel

import (
	"context"
	"errors"
	"fmt"

	"github.com/flannel-ng/flannel-ng/internal/driver/kernel"
	"github.com/flannel-ng/flannel-ng/internal/nl"
	"github.com/flannel-ng/flannel-ng/internal/reconcile"
	"github.com/flannel-ng/flannel-ng/internal/state"
	"github.com/flannel-ng/flannel-ng/internal/tunnel"
)

var (
	errOneTunnel = errors.New("a forwarder has one device")
	errOtherLink = errors.New("the forwarder has another device")
)

// batch is one Apply.
type batch struct {
	d       *Driver
	results []reconcile.Result
}

// Apply implements reconcile.Driver: one message for all that is put, and then
// one for all that is removed.
func (d *Driver) Apply(ctx context.Context, changes []reconcile.Change) []reconcile.Result {
	b := &batch{d: d, results: make([]reconcile.Result, len(changes))}
	var puts, removes []int
	for i, ch := range changes {
		b.results[i].Change = ch
		if ch.Op == reconcile.Remove {
			removes = append(removes, i)
		} else {
			puts = append(puts, i)
		}
	}
	if len(puts) > 0 {
		b.put(ctx, puts)
	}
	if len(removes) > 0 {
		b.remove(ctx, removes)
	}
	return b.results
}

func (b *batch) fail(at []int, err error) {
	for _, i := range at {
		b.results[i].Err = err
	}
}

// block fails the tunnel among the changes, and with it what stands on it.
func (b *batch) block(at []int, err error) {
	for _, i := range at {
		b.results[i].Err = err
		if _, ok := b.results[i].Object.(state.TunnelEnd); ok {
			b.results[i].Err = fmt.Errorf("no forwarder to tell: %w: %w", reconcile.ErrBlocked, err)
		}
	}
}

// item is a part of a message.
type item struct {
	at     int // in results
	config *tunnel.Config
	put    tunnel.Peer
	remove bool
}

// put makes sure that there is a forwarder, and tells it what is to be added
// or changed.
func (b *batch) put(ctx context.Context, at []int) {
	c, link, err := b.prepare(ctx, at)
	if err != nil {
		b.block(at, err)
		return
	}
	items := make([]item, 0, len(at))
	for _, i := range at {
		switch o := b.results[i].Object.(type) {
		case state.Tunnel:
			if o.Link == link {
				items = append(items, item{at: i, config: configOf(o)})
			} else {
				b.results[i].Err = fmt.Errorf("link %s: %w, %s", o.Link, errOneTunnel, link)
			}
		case state.TunnelEnd:
			if o.Link == link {
				items = append(items, item{at: i, put: tunnel.Peer{Subnet: o.Subnet, Dst: o.Dst, ECN: o.ECN}})
			} else {
				b.results[i].Err = fmt.Errorf("link %s: %w, %s", o.Link, errOtherLink, link)
			}
		default:
			b.results[i].Err = fmt.Errorf("tunnel driver got %T", o)
		}
	}
	b.tell(ctx, c, items)
}

// prepare gives the forwarder to tell, and its device. A tunnel among the
// changes starts or replaces one; peers alone need one that works.
func (b *batch) prepare(ctx context.Context, at []int) (*conversation, string, error) {
	for _, i := range at {
		t, ok := b.results[i].Object.(state.Tunnel)
		if !ok {
			continue
		}
		if err := b.d.own(ctx, t.Link); err != nil {
			return nil, "", err
		}
		c, err := b.d.start(ctx)
		return c, t.Link, err
	}
	st, err := b.d.status(ctx)
	if err != nil {
		return nil, "", err
	}
	c, err := b.d.meet(ctx)
	if err == nil && st.Config == nil {
		err = fmt.Errorf("forwarder %d has no device yet: %w", st.PID, reconcile.ErrBlocked)
	}
	if err != nil {
		return nil, "", err
	}
	return c, st.Config.Link, nil
}

// own refuses a device that is not this daemon's: to read it would take the
// packets of another.
func (d *Driver) own(ctx context.Context, link string) error {
	c, err := nl.Dial()
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	_, err = kernel.NewIndexes(c, d.o.Owner).Own(ctx, link)
	return err
}

// remove takes away what the forwarder has too much, or all of it.
func (b *batch) remove(ctx context.Context, at []int) {
	st, err := b.d.status(ctx)
	if errors.Is(err, tunnel.ErrNoForwarder) {
		return // and what it had
	}
	link := ""
	if st.Config != nil {
		link = st.Config.Link
	}
	var items []item
	for _, i := range at {
		switch o := b.results[i].Object.(type) {
		case found:
			// One that has got another device since is not what was to go.
			if err != nil || o.Link == link {
				b.fail(at, b.d.stop(ctx))
				return
			}
		case state.TunnelEnd:
			if o.Link == link {
				items = append(items, item{at: i, put: tunnel.Peer{Subnet: o.Subnet}, remove: true})
			}
		default:
			b.results[i].Err = fmt.Errorf("tunnel driver got %T", o)
		}
	}
	var c *conversation
	if err == nil {
		c, err = b.d.meet(ctx)
	}
	if err != nil {
		b.fail(at, err)
		return
	}
	b.tell(ctx, c, items)
}

// tell sends items in one message. A forwarder does all or nothing, so a
// refusal is looked for by halves: one bad peer harms only itself.
func (b *batch) tell(ctx context.Context, c *conversation, items []item) {
	if len(items) == 0 {
		return
	}
	var ch tunnel.Change
	for _, it := range items {
		switch {
		case it.config != nil:
			ch.Config = it.config
		case it.remove:
			ch.Remove = append(ch.Remove, it.put.Subnet)
		default:
			ch.Put = append(ch.Put, it.put)
		}
	}
	err := b.d.change(ctx, c, ch)
	if err == nil {
		return
	}
	if len(items) == 1 || ended(c) {
		for _, it := range items {
			b.results[it.at].Err = err
		}
		return
	}
	half := len(items) / 2
	if ch.Config != nil {
		half = 1 // it comes first, and is the likely one
	}
	b.tell(ctx, c, items[:half])
	b.tell(ctx, c, items[half:])
}

func (d *Driver) change(ctx context.Context, c *conversation, ch tunnel.Change) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return c.Change(ctx, ch)
}

func ended(c *conversation) bool {
	select {
	case <-c.Done():
		return true
	default:
		return false
	}
}
