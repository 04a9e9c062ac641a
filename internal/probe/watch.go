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

// Change is what a notification amounts to.
type Change struct {
	// Facts of this host, or rules beside ours, may be others.
	Facts bool
	// Doubt: objects of ours may have been changed, or be gone.
	Doubt bool
	// Of is the one object that the doubt is about; zero: it is about all.
	Of state.Key
	// By is whoever did it, for people: a program with its process number,
	// "the kernel"; "" where that is not known. It has no control characters.
	By string
}

// add merges two changes. Whoever left doubt is named, and a program rather
// than the kernel, which may only have followed.
func (c *Change) add(o Change) {
	if o.By != "" && (c.By == "" || o.Doubt && !c.Doubt || o.Doubt == c.Doubt && c.By == theKernel) {
		c.By = o.By
	}
	switch {
	case !c.Doubt:
		c.Of = o.Of
	case o.Doubt && o.Of != c.Of:
		c.Of = state.Key{}
	}
	c.Facts, c.Doubt = c.Facts || o.Facts, c.Doubt || o.Doubt
}

// about is a doubt about the object of that key, if there is one.
func about(k state.Key, doubt bool) Change {
	if !doubt {
		return Change{}
	}
	return Change{Doubt: true, Of: k}
}

func (c Change) matters() bool { return c.Facts || c.Doubt }

// Watcher is who is told of changes, and asked which of them matter. All of its
// functions must be safe for concurrent use, and must not block for long.
type Watcher struct {
	Tell func(Change)
	// Wants says whether there is to be a route of ours to p.
	Wants func(p netip.Prefix) bool
	// Wanted is the neighbour or forwarding entry that there is to be under a
	// key; nil: none.
	Wanted func(state.Key) state.Object
	// Nexthop says whether a nexthop object of that id can only be ours.
	Nexthop func(id uint32) bool
	// Device says whether a link of that name and alias is a device of ours.
	Device func(name, alias string) bool
	// Carries says whether objects of ours stand on the link, or lead over it.
	Carries func(link string) bool
}

// Watch tells w whenever links, addresses, nexthop objects, neighbours,
// forwarding entries or routes that matter are changed, by anybody but this
// process, until ctx ends or notifications cannot be had. Lost notifications are
// a doubt, too: nobody knows what they said.
//
// Routes that matter are default routes, those inside a network that this host
// has an address in, those without a gateway, and those where one of ours is
// wanted. All others, a routing daemon's thousands, are left to the periodic
// pass. Neighbours and forwarding entries matter on devices of ours.
//
// Links are an exception: the kernel does not tell who changed one, so that our
// own changes are told, too. That is wanted: the kernel may have dropped what
// stood on the link, without a word.
//
// After an overrun the subscription is made anew: until its queue is drained,
// the kernel drops further notifications without another word.
func Watch(ctx context.Context, w Watcher) error {
	for {
		s, err := nl.Subscribe()
		if err != nil {
			return err
		}
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
	in := interest{Watcher: w, links: map[int]device{}, moved: true, stale: true}
	if err := in.readLinks(ctx, c); err != nil {
		return err
	}
	// Of what happened before, nothing is known.
	for change := (Change{Facts: true, Doubt: true}); ; {
		if err := in.prepare(ctx, s, c); err != nil {
			return err
		}
		// Not before: what happens on a device of ours that the filter does not
		// know yet is found by whoever looks after this.
		if change.matters() {
			w.Tell(change)
		}
		change = Change{}
		if err := s.Receive(ctx, func(e nl.Event) { change.add(in.concerns(e)) }); err != nil {
			return err
		}
	}
}

// interest is what tells the changes that matter from the others.
type interest struct {
	Watcher
	links    map[int]device
	devices  []int          // of ours, as the subscription knows them
	moved    bool           // there may be others
	networks []netip.Prefix // that this host has an address in
	stale    bool           // networks are to be read anew
}

type device struct{ name, alias string }

func (in *interest) readLinks(ctx context.Context, c *nl.Conn) error {
	links, err := c.Links(ctx, "")
	if err != nil {
		return fmt.Errorf("list links: %w", err)
	}
	for _, l := range links {
		in.links[l.Index] = device{l.Name, l.Alias}
	}
	return nil
}

// prepare brings up to date what the next notifications are judged by.
func (in *interest) prepare(ctx context.Context, s *nl.Subscription, c *nl.Conn) error {
	if in.stale {
		if err := in.readNetworks(ctx, c); err != nil {
			return err
		}
	}
	if !in.moved {
		return nil
	}
	in.moved = false
	var devices []int
	for index, l := range in.links {
		if in.Device(l.name, l.alias) {
			devices = append(devices, index)
		}
	}
	slices.Sort(devices)
	if slices.Equal(devices, in.devices) {
		return nil
	}
	in.devices = devices
	return s.Attend(devices)
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

// concerns says whether e is about facts of this host, whether it leaves doubt
// about what is ours, and if so, who did it.
func (in *interest) concerns(e nl.Event) Change {
	c := in.judge(e)
	if c.matters() {
		c.By = who(e)
	}
	return c
}

func (in *interest) judge(e nl.Event) Change {
	switch e.Subject {
	case nl.SubjectLink:
		return Change{Facts: true, Doubt: in.link(e)}
	case nl.SubjectAddress:
		in.stale = true
		return Change{Facts: true, Doubt: in.address(e)}
	case nl.SubjectNexthop:
		return Change{Doubt: in.Nexthop(e.ID)}
	case nl.SubjectNeighbour:
		return in.neighbour(e)
	case nl.SubjectFDB:
		return in.forwarding(e)
	default:
		return in.route(e.Route)
	}
}

// link takes in that a link changed. It leaves doubt under either name: a
// renamed link has lost nothing, but is another's.
func (in *interest) link(e nl.Event) bool {
	doubt := in.Carries(in.links[e.Link].name) || in.Carries(e.Name)
	in.links[e.Link] = device{e.Name, e.Alias}
	if e.Gone {
		delete(in.links, e.Link)
	}
	in.moved = true
	return doubt
}

// address says whether an address leaves doubt: one that is gone may have taken
// routes along, and one that came does not belong on a device of ours. The
// kernel itself makes IPv6 link-local ones.
func (in *interest) address(e nl.Event) bool {
	l := in.links[e.Link]
	if e.Gone {
		return in.Carries(l.name)
	}
	a := e.Addr.Addr()
	return in.Device(l.name, l.alias) && (a.Is4() || !a.IsLinkLocalUnicast())
}

// neighbour leaves doubt if it is not as wanted, or a permanent one where none is
// wanted. The kernel says twice that one was deleted on request: as failed, with
// the port of the requester, and as gone, without. So the latter counts only for
// those that went with their link. What the kernel learns by itself is no affair
// of ours unless it takes the place of a wanted one.
func (in *interest) neighbour(e nl.Event) Change {
	n := state.Neighbour{Link: in.links[e.Link].name, IP: e.Neighbour.IP, MAC: e.Neighbour.MAC}
	if !n.IP.IsValid() {
		return Change{Doubt: true}
	}
	switch want := in.Wanted(n.Key()); {
	case want == nil:
		return Change{Doubt: e.Permanent && !e.Gone}
	case e.Gone:
		return about(n.Key(), e.Permanent)
	default:
		return about(n.Key(), !e.Permanent || want != state.Object(n))
	}
}

// forwarding is the same for forwarding entries. The kernel tells nobody's port
// here, so that our own are among them: they are as wanted.
func (in *interest) forwarding(e nl.Event) Change {
	f := state.FDBEntry{Link: in.links[e.Link].name, MAC: e.FDB.MAC, Dst: e.FDB.Dst}
	switch want := in.Wanted(f.Key()); {
	case want == nil:
		return Change{Doubt: e.Permanent && !e.Gone}
	case e.Gone:
		return about(f.Key(), true)
	default:
		return about(f.Key(), !e.Permanent || e.FDB.Special || want != state.Object(f))
	}
}

func (in *interest) route(r nl.Route) Change {
	if in.Wants(r.Dst) {
		// What becomes of our own route is no fact of this host.
		return Change{Facts: r.Protocol != state.Protocol, Doubt: true, Of: state.Route{Dst: r.Dst}.Key()}
	}
	if r.Protocol == state.Protocol {
		return Change{} // another instance's
	}
	onLink := r.Type == nl.Unicast && !r.Via.IsValid() && r.Nexthop == 0
	return Change{Facts: onLink || r.Dst.Bits() <= 0 || slices.ContainsFunc(in.networks, func(n netip.Prefix) bool {
		return n.Bits() <= r.Dst.Bits() && n.Contains(r.Dst.Addr())
	})}
}
