package probe

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/nl"
	"github.com/flannel-ng/flannel-ng/internal/state"
)

// Watch calls wake whenever links, addresses or routes that matter change,
// until ctx ends or notifications cannot be had; wake must not block for long.
// Lost notifications wake, too: nobody knows what they said.
//
// Routes that matter are default routes, those inside a network that this host
// has an address in, those without a gateway, and those that take the place of
// one of ours. A route of ours wakes when it vanishes, not when it is added. All
// others, a routing daemon's thousands, are left to the periodic pass.
//
// After an overrun the subscription is made anew: until its queue is drained,
// the kernel drops further notifications without another word.
func Watch(ctx context.Context, wake func()) error {
	for {
		s, err := nl.Subscribe()
		if err != nil {
			return err
		}
		wake() // of what happened before this subscription, nothing is known
		err = listen(ctx, s, wake)
		_ = s.Close()
		switch {
		case errors.Is(err, nl.ErrOverrun), errors.Is(err, nl.ErrInterrupted):
		case errors.Is(err, ctx.Err()):
			return nil
		default:
			return err
		}
	}
}

// listen passes on notifications until an error.
func listen(ctx context.Context, s *nl.Subscription, wake func()) error {
	c, err := nl.Dial()
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	in := interest{ours: map[netip.Prefix]bool{}}
	if err := in.readRoutes(ctx, c); err != nil {
		return err
	}
	in.stale = true
	for {
		if in.stale {
			if err := in.readNetworks(ctx, c); err != nil {
				return err
			}
		}
		news := false
		err := s.Receive(ctx, func(e nl.Event) { news = in.concerns(e) || news })
		if err != nil {
			return err
		}
		if news {
			wake()
		}
	}
}

// interest is what tells the routes that matter from the others.
type interest struct {
	networks []netip.Prefix // that this host has an address in
	stale    bool           // networks are to be read anew
	ours     map[netip.Prefix]bool
}

// readRoutes finds the routes of ours that are older than the subscription.
func (in *interest) readRoutes(ctx context.Context, c *nl.Conn) error {
	for _, f := range addr.Families() {
		list, err := c.Routes(ctx, nl.RouteFilter{Family: f, Protocol: state.Protocol})
		if err != nil {
			return fmt.Errorf("list own %s routes: %w", f, err)
		}
		for _, r := range list {
			in.ours[r.Dst] = true
		}
	}
	return nil
}

func (in *interest) readNetworks(ctx context.Context, c *nl.Conn) error {
	in.networks, in.stale = nil, false
	for _, f := range addr.Families() {
		list, err := c.Addresses(ctx, f, 0)
		if err != nil {
			return fmt.Errorf("list %s addresses: %w", f, err)
		}
		for _, a := range list {
			if p := a.Prefix.Masked(); !slices.Contains(in.networks, p) {
				in.networks = append(in.networks, p)
			}
		}
	}
	return nil
}

func (in *interest) concerns(e nl.Event) bool {
	if e.Subject == nl.SubjectAddress {
		in.stale = true
	}
	if e.Subject != nl.SubjectRoute {
		return true
	}
	r := e.Route
	if r.Protocol == state.Protocol {
		in.ours[r.Dst] = true // for good: another of ours may stand there still
		return e.Gone
	}
	onLink := r.Type == nl.Unicast && !r.Via.IsValid() && r.Nexthop == 0
	return onLink || r.Dst.Bits() <= 0 || in.ours[r.Dst] || slices.ContainsFunc(in.networks, func(n netip.Prefix) bool {
		return n.Bits() <= r.Dst.Bits() && n.Contains(r.Dst.Addr())
	})
}
