package route

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/flannel-ng/flannel-ng/internal/driver/kernel"
	"github.com/flannel-ng/flannel-ng/internal/nl"
)

// swap is a route that goes to the place of an old one.
type swap struct {
	pending
	old nl.Route
	// whole: of an IPv6 multipath route, all of it is to go, whosever the
	// further hops are.
	whole bool
}

// swap puts new routes in the place of old ones, so that packets find one of
// the two at any time, and leaves alone what others have for the same
// destination and metric.
//
// The kernel's own replacing takes the first match: of IPv4 the first of all,
// of IPv6 the first that is like the new one in being able to share a multipath
// route. Where that is not surely the old route, the new one is appended, and
// then exactly the old one deleted.
func (w *writer) swap(ctx context.Context, swaps []swap) {
	lookups := make([]nl.Lookup, len(swaps))
	for i, s := range swaps {
		lookups[i].To = sample(s.want.Dst)
	}
	first, errs := w.conn.RoutesTo(ctx, lookups)
	var replace, move []swap
	for i, s := range swaps {
		if s.entangled() && s.whole || errs[i] == nil && s.isOld(first[i]) && s.alike() {
			replace = append(replace, s)
		} else {
			move = append(move, s)
		}
	}
	w.each(ctx, replace, func(s swap) nl.Request { return nl.ReplaceRoute(s.raw) })
	w.each(ctx, move, func(s swap) nl.Request { return nl.AppendRoute(s.raw) })
	var behind, same []swap
	for _, s := range move {
		switch {
		case s.result.Err == nil:
			behind = append(behind, s)
		case !errors.Is(s.result.Err, unix.EEXIST):
		case s.entangled():
			s.result.Err = fmt.Errorf("%w: the kernel made one multipath route of it and foreign ones: %s", s.result.Err, removeOrTakeOver)
		default:
			same = append(same, s)
		}
	}
	w.deleteOld(ctx, behind)
	// The old one leads the same way but is not as it should be: both at once
	// do not fit.
	w.deleteOld(ctx, same)
	w.each(ctx, same, func(s swap) nl.Request { return nl.AppendRoute(s.raw) })
}

func (w *writer) deleteOld(ctx context.Context, swaps []swap) {
	w.each(ctx, swaps, func(s swap) nl.Request { return nl.DelRoute(s.old) })
	for _, s := range swaps {
		if kernel.Gone(s.result.Err) {
			s.result.Err = nil
		}
	}
}

// each sends one request for each swap and notes the errors.
func (w *writer) each(ctx context.Context, swaps []swap, request func(swap) nl.Request) {
	reqs := make([]nl.Request, len(swaps))
	for i, s := range swaps {
		reqs[i] = request(s)
	}
	for i, err := range w.conn.Do(ctx, reqs) {
		swaps[i].result.Err = err
	}
}

// isOld says whether r, from a lookup, is the old route.
func (s swap) isOld(r nl.Route) bool {
	o := s.old
	if r.Dst != o.Dst || r.Metric != o.Metric || r.Protocol != o.Protocol || r.Type != o.Type || r.Nexthop != o.Nexthop {
		return false
	}
	return r.Nexthop != 0 || r.Link == o.Link && r.Via == o.Via
}

// alike says whether replacing the first match replaces the old route, given
// that it is the first, and nothing else.
func (s swap) alike() bool {
	if s.raw.Dst.Addr().Is4() {
		return true
	}
	return shares(s.raw) == shares(s.old) && !s.old.Multiple
}

// entangled says whether the old route has become part of a multipath route of
// IPv6, whose further hops may be foreign.
func (s swap) entangled() bool { return s.old.Multiple && s.raw.Dst.Addr().Is6() }

// shares says whether an IPv6 route can be part of a multipath route.
func shares(r nl.Route) bool { return r.Type == nl.Unicast && r.Nexthop == 0 && r.Via.IsValid() }
