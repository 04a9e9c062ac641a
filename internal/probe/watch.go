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

// Watcher is who is told of changes, and asked which of them matter. All of its
// functions must be safe for concurrent use, and must not block for long.
type Watcher struct {
	// Tell says that something changed that this host's facts depend on. With
	// doubt, objects of ours may have changed, too, or gone.
	Tell func(doubt bool)
	// Wants says whether there is to be a route of ours to p.
	Wants func(p netip.Prefix) bool
	// Carries says whether objects of ours stand on the link, or lead over it.
	Carries func(link string) bool
}

// Watch tells w whenever links, addresses, nexthop objects or routes that matter
// are changed, by anybody but this process, until ctx ends or notifications
// cannot be had. Lost notifications are a doubt, too: nobody knows what they
// said.
//
// Routes that matter are default routes, those inside a network that this host
// has an address in, those without a gateway, and those where one of ours is
// wanted. All others, a routing daemon's thousands, are left to the periodic
// pass.
//
// After an overrun the subscription is made anew: until its queue is drained,
// the kernel drops further notifications without another word.
func Watch(ctx context.Context, w Watcher) error {
	for {
		s, err := nl.Subscribe()
		if err != nil {
			return err
		}
		w.Tell(true) // of what happened before this subscription, nothing is known
		err = listen(ctx, s, w)
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
func listen(ctx context.Context, s *nl.Subscription, w Watcher) error {
	c, err := nl.Dial()
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	in := interest{Watcher: w, names: map[int]string{}, stale: true}
	if err := in.readNames(ctx, c); err != nil {
		return err
	}
	for {
		if in.stale {
			if err := in.readNetworks(ctx, c); err != nil {
				return err
			}
		}
		news, doubt := false, false
		err := s.Receive(ctx, func(e nl.Event) {
			changed, doubtful := in.concerns(e)
			news, doubt = news || changed, doubt || doubtful
		})
		if err != nil {
			return err
		}
		if news || doubt {
			w.Tell(doubt)
		}
	}
}

// interest is what tells the changes that matter from the others.
type interest struct {
	Watcher
	names    map[int]string // of links, by index
	networks []netip.Prefix // that this host has an address in
	stale    bool           // networks are to be read anew
}

func (in *interest) readNames(ctx context.Context, c *nl.Conn) error {
	links, err := c.Links(ctx, "")
	if err != nil {
		return fmt.Errorf("list links: %w", err)
	}
	for _, l := range links {
		in.names[l.Index] = l.Name
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

// concerns says whether e is about facts of this host, and whether it leaves
// doubt about what is ours.
func (in *interest) concerns(e nl.Event) (facts, doubt bool) {
	switch e.Subject {
	case nl.SubjectLink:
		// Under either name: a renamed link has lost nothing, but is another's.
		doubt = in.Carries(in.names[e.Link]) || in.Carries(e.Name)
		in.names[e.Link] = e.Name
		if e.Gone {
			delete(in.names, e.Link)
		}
		return true, doubt
	case nl.SubjectAddress:
		in.stale = true
		return true, e.Gone && in.Carries(in.names[e.Link])
	case nl.SubjectNexthop:
		return false, e.Protocol == state.Protocol
	default:
		return in.route(e.Route)
	}
}

func (in *interest) route(r nl.Route) (facts, doubt bool) {
	if in.Wants(r.Dst) {
		return true, true
	}
	if r.Protocol == state.Protocol {
		return false, false // another instance's
	}
	onLink := r.Type == nl.Unicast && !r.Via.IsValid() && r.Nexthop == 0
	return onLink || r.Dst.Bits() <= 0 || slices.ContainsFunc(in.networks, func(n netip.Prefix) bool {
		return n.Bits() <= r.Dst.Bits() && n.Contains(r.Dst.Addr())
	}), false
}
