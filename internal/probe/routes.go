package probe

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/facts"
	"github.com/flannel-ng/flannel-ng/internal/nl"
	"github.com/flannel-ng/flannel-ng/internal/state"
)

// Routes reads the unicast routes of the main table that no flannel-ng made,
// except those over links that skip names. links is what Links returned. That
// is the whole table, so it is for the selection of an uplink only: a pass that
// keeps its uplink asks RoutesTo.
func Routes(ctx context.Context, skip func(facts.Link) bool, links []facts.Link) ([]facts.Route, error) {
	c, err := nl.Dial()
	if err != nil {
		return nil, err
	}
	defer func() { _ = c.Close() }()
	o := others{links: byIndex(links), skip: skip}
	var out []facts.Route
	for _, f := range addr.Families() {
		list, err := c.Routes(ctx, nl.RouteFilter{Family: f})
		if err != nil {
			return nil, fmt.Errorf("list %s routes: %w", f, err)
		}
		if err := resolve(ctx, c, list); err != nil {
			return nil, err
		}
		for _, r := range list {
			if route, ok := o.route(r); ok {
				out = append(out, route)
			}
		}
	}
	return out, nil
}

// resolve fills in next hops that the kernel shows by number only
// (net.ipv4.nexthop_compat_mode = 0).
func resolve(ctx context.Context, c *nl.Conn, routes []nl.Route) error {
	byNumber := func(r nl.Route) bool { return r.Nexthop != 0 && r.Link == 0 }
	if !slices.ContainsFunc(routes, byNumber) {
		return nil
	}
	list, err := c.Nexthops(ctx)
	if err != nil {
		return fmt.Errorf("list nexthop objects: %w", err)
	}
	objects := make(map[uint32]nl.Nexthop, len(list))
	for _, h := range list {
		objects[h.ID] = h
	}
	for i := range routes {
		r := &routes[i]
		if !byNumber(*r) {
			continue
		}
		h := objects[r.Nexthop]
		if h.Group != 0 {
			r.Multiple = h.Several
			h = objects[h.Group]
		}
		r.Link, r.Via, r.Onlink = h.Hop.Link, h.Hop.Via, h.Hop.Onlink
	}
	return nil
}

// Lookup is a question about adjacency.
type Lookup struct {
	Links   []facts.Link          // what Links returned
	Skip    func(facts.Link) bool // links whose routes say nothing
	Uplink  string
	Targets []netip.Addr
}

// RoutesTo reads the routes that packets to the targets take, each once: what
// decides adjacency, at the cost of a lookup for every target however large
// the tables are. Since they are the kernel's own longest matches, the longest
// match among them is right for every target. A target without a usable route
// gets one that leads nowhere, if a shorter one would count for it else. Where
// a target is on another link than the uplink, the uplink's own route to that
// network, if there is one, is among them, too. Link-local targets are left
// out (facts.Node.Adjacent).
func RoutesTo(ctx context.Context, l Lookup) ([]facts.Route, error) {
	targets := slices.DeleteFunc(slices.Clone(l.Targets), facts.LinkLocal)
	if len(targets) == 0 {
		return nil, nil
	}
	c, err := nl.Dial()
	if err != nil {
		return nil, err
	}
	defer func() { _ = c.Close() }()
	a := adjacency{conn: c, others: others{links: byIndex(l.Links), skip: l.Skip}, seen: map[facts.Route]bool{}}
	for _, link := range l.Links {
		if link.Name == l.Uplink {
			a.uplink = link
		}
	}
	if err := a.read(ctx, targets); err != nil {
		return nil, err
	}
	if err := a.readUplink(ctx); err != nil {
		return nil, err
	}
	return a.routes, nil
}

// adjacency is one answer on its way.
type adjacency struct {
	conn   *nl.Conn
	others others
	uplink facts.Link // the zero Link: not there

	routes []facts.Route
	seen   map[facts.Route]bool
	beside []netip.Addr // a target for each network that is on another link
}

func (a *adjacency) read(ctx context.Context, targets []netip.Addr) error {
	found, err := a.lookUp(ctx, targets, 0)
	if err != nil {
		return err
	}
	var lost []netip.Addr
	for i, r := range found {
		route, ok := a.others.route(r)
		switch {
		case !ok:
			lost = append(lost, targets[i])
		case a.add(route) && route.Direct() && route.Link != a.uplink.Name:
			a.beside = append(a.beside, targets[i])
		}
	}
	// With the uplink down, every target is lost, and none needs this.
	known := a.routes
	for _, target := range lost {
		if _, covered := facts.Lookup(known, target); covered {
			a.add(facts.Route{Dst: addr.Single(target)})
		}
	}
	return nil
}

// readUplink adds the routes over the uplink to networks on other links.
func (a *adjacency) readUplink(ctx context.Context) error {
	if a.uplink.Index == 0 {
		return nil
	}
	found, err := a.lookUp(ctx, a.beside, a.uplink.Index)
	if err != nil {
		return err
	}
	for _, r := range found {
		if route, ok := a.others.route(r); ok && route.Direct() && route.Link == a.uplink.Name {
			a.add(route)
		}
	}
	return nil
}

// add keeps a route unless it is known already.
func (a *adjacency) add(r facts.Route) bool {
	if a.seen[r] {
		return false
	}
	a.seen[r] = true
	a.routes = append(a.routes, r)
	return true
}

// lookUp gives the zero Route for a target that no route leads to.
func (a *adjacency) lookUp(ctx context.Context, targets []netip.Addr, link int) ([]nl.Route, error) {
	lookups := make([]nl.Lookup, len(targets))
	for i, target := range targets {
		lookups[i] = nl.Lookup{To: target, Link: link}
	}
	found, errs := a.conn.RoutesTo(ctx, lookups)
	for i, err := range errs {
		if err != nil && !isNoRoute(err) {
			return nil, fmt.Errorf("look up the route to %s: %w", targets[i], err)
		}
	}
	return found, resolve(ctx, a.conn, found)
}

// isNoRoute says whether err is the kernel's answer to a lookup that ends
// nowhere: no route, unreachable, prohibit, blackhole (ip-route(8)), or a
// family that is off.
func isNoRoute(err error) bool {
	return slices.ContainsFunc([]error{
		unix.ENETUNREACH, unix.EHOSTUNREACH, unix.EACCES, unix.EINVAL, unix.ENOENT, unix.ESRCH, unix.EAFNOSUPPORT,
	}, func(e error) bool { return errors.Is(err, e) })
}

// others are the routes that no flannel-ng made.
type others struct {
	links map[int]facts.Link
	skip  func(facts.Link) bool
}

func byIndex(links []facts.Link) map[int]facts.Link {
	m := make(map[int]facts.Link, len(links))
	for _, l := range links {
		m[l.Index] = l
	}
	return m
}

func (o others) route(r nl.Route) (facts.Route, bool) {
	// A route over a link that came after Links was called is seen by the next
	// reading: its link wakes us.
	l, known := o.links[r.Link]
	if r.Type != nl.Unicast || r.Protocol == state.Protocol || !known || o.skip(l) {
		return facts.Route{}, false
	}
	return facts.Route{
		Dst: r.Dst, Via: r.Via, Link: l.Name, Source: r.Source, Metric: r.Metric, Multiple: r.Multiple,
	}, true
}
