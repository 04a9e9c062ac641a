package route

import (
	"context"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/nl"
	"github.com/flannel-ng/flannel-ng/internal/state"
)

// removeOrTakeOver is the cure for a foreign route in the way.
const removeOrTakeOver = "remove it, or let flanneld replace it with --take-over"

// takeOver puts ours in the place of routes that stand there, if those are on a
// link of ours, mean the same, or Options.TakeOver says so. The others it
// names.
func (w *writer) takeOver(ctx context.Context, routes []pending) {
	if err := w.knowAll(ctx); err != nil {
		for _, p := range routes {
			p.result.Err = err
		}
		return
	}
	s := standing{reader: newReader(w.conn, w.o), lists: map[nl.RouteFilter]map[key]found{}}
	s.reader.nexthops = w.objects
	var taken []swap
	for _, p := range routes {
		_, foreign := w.links.Own(ctx, p.want.Link)
		f, ok, err := s.find(ctx, p, foreign == nil)
		adopt := ok && (foreign == nil && f.raw.Link == p.raw.Link || f.means(p.want))
		if err == nil && !adopt && w.held[keyOf(p.want)] {
			f, adopt, err = s.nameless(ctx, p)
		}
		if err == nil && !adopt {
			f, err = s.obstacle(ctx, p)
		}
		if err != nil {
			p.result.Err = err
			continue
		}
		taken = append(taken, swap{pending: p, old: f.raw, whole: true})
	}
	w.swap(ctx, taken)
}

// standing finds routes in the place of wanted ones.
type standing struct {
	reader *reader
	lists  map[nl.RouteFilter]map[key]found
}

// find looks for the route in the place of p: on a link of ours of any origin,
// elsewhere only plain flannel's.
func (s standing) find(ctx context.Context, p pending, ownLink bool) (found, bool, error) {
	filter := nl.RouteFilter{Family: addr.Of(p.want.Dst.Addr()), Link: p.raw.Link}
	if !ownLink {
		filter.Protocol = nl.ProtocolBoot
	}
	return s.at(ctx, filter, p)
}

// nameless looks for a route in the place of p that nobody put his name on.
func (s standing) nameless(ctx context.Context, p pending) (f found, ok bool, err error) {
	for _, protocol := range []uint8{nl.ProtocolBoot, state.Protocol} {
		f, ok, err = s.at(ctx, nl.RouteFilter{Family: addr.Of(p.want.Dst.Addr()), Protocol: protocol}, p)
		if ok || err != nil {
			break
		}
	}
	return f, ok, err
}

// at looks for the route in the place of p among those of a listing.
func (s standing) at(ctx context.Context, filter nl.RouteFilter, p pending) (found, bool, error) {
	list, read := s.lists[filter]
	if !read {
		raws, err := s.reader.conn.Routes(ctx, filter)
		if err != nil {
			return found{}, false, fmt.Errorf("list routes in the way: %w", err)
		}
		list = make(map[key]found, len(raws))
		for _, raw := range raws {
			f, err := s.reader.describe(ctx, raw)
			if err != nil {
				return found{}, false, err
			}
			list[keyOf(f.Route)] = f
		}
		s.lists[filter] = list
	}
	f, ok := list[keyOf(p.want)]
	return f, ok, nil
}

// obstacle is the foreign route that p met, as far as one lookup tells, if it
// may be taken over; else the error describes it and names the cure.
func (s standing) obstacle(ctx context.Context, p pending) (found, error) {
	const text = "a foreign route has this destination"
	raws, errs := s.reader.conn.RoutesTo(ctx, []nl.Lookup{{To: sample(p.want.Dst)}})
	raw := raws[0]
	if errs[0] != nil || raw.Dst != p.want.Dst {
		return found{}, fmt.Errorf("%w: %s, remove it", unix.EEXIST, text)
	}
	f, err := s.reader.describe(ctx, raw)
	if err != nil {
		return found{}, err
	}
	cure := removeOrTakeOver
	switch {
	case raw.Protocol == nl.ProtocolKernel:
		cure = "it follows from an address of this host, which must go"
	case raw.Protocol == state.Protocol:
		cure = "another flannel-ng on this host wants it"
	case !s.reader.o.covers(p.want.Dst) || keyOf(f.Route) != keyOf(p.want):
		cure = "remove it"
	case s.reader.o.TakeOver:
		return f, nil
	}
	return found{}, fmt.Errorf("%w: %s: %s proto %d: %s", unix.EEXIST, text, f.Route, raw.Protocol, cure)
}

// sample is an address of p that is unlikely to be the host's own, or a
// broadcast address: both would be found in another table.
func sample(p netip.Prefix) netip.Addr {
	if a := addr.Host(p, 2); p.Contains(a) {
		return a
	}
	return p.Addr()
}
