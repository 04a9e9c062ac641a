package route

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/driver/kernel"
	"github.com/flannel-ng/flannel-ng/internal/nl"
	"github.com/flannel-ng/flannel-ng/internal/reconcile"
	"github.com/flannel-ng/flannel-ng/internal/state"
)

// reader is one reading of the kernel.
type reader struct {
	conn     *nl.Conn
	o        Options
	ids      ids
	own      map[int]string  // wanted links that are there: index → name
	links    map[int]nl.Link // other links met, by index
	nexthops nexthops
	surplus  []reconcile.Change
	spoiled  map[uint32]bool // objects that a route of ours is on and that others altered
}

func newReader(c *nl.Conn, o Options) *reader {
	return &reader{conn: c, o: o, ids: idsOf(o.Owner), links: map[int]nl.Link{}, spoiled: map[uint32]bool{}}
}

// read lists our routes. It asks for routes of our protocol, wherever they
// lead, and for those of protocol boot on our links: never for the whole
// table, which may hold the Internet.
//
// Of several routes of one destination and metric (IPv4 tells them apart by
// type of service, IPv6 by gateway) one of our protocol counts; the others are
// surplus.
func (r *reader) read(ctx context.Context, want *state.Set) (map[key]found, error) {
	var err error
	if r.own, err = kernel.Links(ctx, r.conn, r.o.Owner, want.Links); err != nil {
		return nil, err
	}
	if r.nexthops, err = readNexthops(ctx, r.conn); err != nil {
		return nil, err
	}
	have := make(map[key]found, len(want.Routes))
	for _, f := range addr.Families() {
		filters := []nl.RouteFilter{{Family: f, Protocol: state.Protocol}}
		for index := range r.own {
			filters = append(filters, nl.RouteFilter{Family: f, Protocol: nl.ProtocolBoot, Link: index})
		}
		for _, filter := range filters {
			list, err := r.conn.Routes(ctx, filter)
			if err != nil {
				return nil, fmt.Errorf("list %s routes of protocol %d: %w", f, filter.Protocol, err)
			}
			if err := r.collect(ctx, list, have); err != nil {
				return nil, err
			}
		}
	}
	return have, nil
}

func (r *reader) collect(ctx context.Context, list []nl.Route, have map[key]found) error {
	for _, raw := range list {
		f, err := r.describe(ctx, raw)
		if err != nil {
			return err
		}
		ours, err := r.ours(ctx, f)
		if err != nil {
			return err
		}
		if !ours {
			continue
		}
		k := keyOf(f.Route)
		if old, twice := have[k]; twice {
			if old.raw.Protocol != state.Protocol {
				old, f = f, old
				have[k] = old
			}
			r.surplus = append(r.surplus, reconcile.Change{Op: reconcile.Remove, Object: f})
			continue
		}
		have[k] = f
	}
	return nil
}

// describe puts a route into our terms.
func (r *reader) describe(ctx context.Context, raw nl.Route) (found, error) {
	hop := nl.Hop{Link: raw.Link, Via: raw.Via, Onlink: raw.Onlink}
	f := found{raw: raw, altered: raw.Special || raw.Multiple || raw.Source.IsValid()}
	if raw.Nexthop != 0 {
		h, ok := r.nexthops.byID[raw.Nexthop]
		hop = h.Hop
		// A foreign object works until its owner changes it: not ours to use.
		f.altered = f.altered || !ok || !usable(h, r.ids) || r.o.Classic
		if ok && raw.Protocol == state.Protocol && r.ids.contains(h.ID) && !usable(h, r.ids) {
			r.spoiled[h.ID] = true
		}
	}
	f.raw.Link = hop.Link
	f.Route = state.Route{Dst: raw.Dst, Via: hop.Via, Onlink: hop.Onlink, Metric: raw.Metric}
	switch raw.Type {
	case nl.Blackhole:
		f.Blackhole = true // IPv6 shows the loopback device
	case nl.Unicast:
		l, err := r.link(ctx, hop.Link)
		if err != nil {
			return f, err
		}
		f.Link = l.Name
	default:
		f.altered = true
	}
	return f, nil
}

// link finds a link by index; the zero Link if it has just gone.
func (r *reader) link(ctx context.Context, index int) (nl.Link, error) {
	if name, ok := r.own[index]; ok {
		return nl.Link{Index: index, Name: name, Alias: r.o.Owner.Alias()}, nil
	}
	if l, ok := r.links[index]; ok || index == 0 {
		return l, nil
	}
	l, err := r.conn.LinkAt(ctx, index)
	if err != nil && !errors.Is(err, unix.ENODEV) {
		return l, fmt.Errorf("find link of index %d: %w", index, err)
	}
	r.links[index] = l
	return l, nil
}

// ours decides for routes of our protocol, and of protocol boot on our links.
func (r *reader) ours(ctx context.Context, f found) (bool, error) {
	if _, own := r.own[f.raw.Link]; own {
		return true, nil
	}
	if f.raw.Protocol != state.Protocol {
		return false, nil
	}
	l, err := r.link(ctx, f.raw.Link)
	switch {
	case err != nil:
		return false, err
	case f.raw.Type == nl.Unicast && otherInstance(l.Alias, r.o.Owner):
		return false, nil
	case f.raw.Nexthop != 0:
		return r.ids.contains(f.raw.Nexthop), nil
	case f.raw.Type == nl.Blackhole:
		return f.Metric == r.o.Owner.BlackholeMetric() && r.o.covers(f.Dst), nil
	default:
		return r.o.covers(f.Dst), nil
	}
}

// otherInstance says whether an alias is that of another daemon of ours.
func otherInstance(alias string, owner state.Owner) bool {
	return alias != owner.Alias() && strings.HasPrefix(alias, state.Owner{}.Alias())
}

// covers says whether p is inside the cluster networks.
func (o Options) covers(p netip.Prefix) bool {
	return slices.ContainsFunc(o.Networks, func(n netip.Prefix) bool {
		return n.Bits() <= p.Bits() && n.Contains(p.Addr())
	})
}

// unused finds objects of ours that neither a route in place nor a wanted one
// needs. One that a route of ours is on was ours, whatever it has become.
func (r *reader) unused(ctx context.Context, want map[key]state.Route, have map[key]found) ([]reconcile.Change, error) {
	used, err := r.used(ctx, want, have)
	if err != nil {
		return nil, err
	}
	var left []uint32
	for id, h := range r.nexthops.byID {
		if r.ids.contains(id) && (h.Protocol == state.Protocol || r.spoiled[id]) && !used[id] {
			left = append(left, id)
		}
	}
	slices.Sort(left)
	var out []reconcile.Change
	for _, id := range left {
		h := r.nexthops.byID[id]
		l, err := r.link(ctx, h.Hop.Link)
		if err != nil {
			return nil, err
		}
		if !otherInstance(l.Alias, r.o.Owner) {
			out = append(out, reconcile.Change{Op: reconcile.Remove, Object: nexthop{h, l.Name}})
		}
	}
	return out, nil
}

// named is a hop as wanted routes have it.
type named struct {
	link   string
	via    netip.Addr
	onlink bool
}

func (r *reader) used(ctx context.Context, want map[key]state.Route, have map[key]found) (map[uint32]bool, error) {
	byHop := map[named]uint32{}
	for hop, id := range r.nexthops.byHop(r.ids) {
		l, err := r.link(ctx, hop.Link)
		if err != nil {
			return nil, err
		}
		byHop[named{l.Name, hop.Via, hop.Onlink}] = id
	}
	used := make(map[uint32]bool, len(byHop))
	for k, w := range want {
		if f, ok := have[k]; ok && same(w, f) {
			used[f.raw.Nexthop] = true
		} else if id, ok := byHop[named{w.Link, w.Via, w.Onlink}]; ok && !r.o.Classic {
			used[id] = true // the writer will take the object of this hop
		}
	}
	return used, nil
}
