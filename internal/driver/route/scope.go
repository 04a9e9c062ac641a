package route

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/flannel-ng/flannel-ng/internal/driver/kernel"
	"github.com/flannel-ng/flannel-ng/internal/nl"
	"github.com/flannel-ng/flannel-ng/internal/reconcile"
	"github.com/flannel-ng/flannel-ng/internal/state"
)

// PlanScope implements reconcile.Scoped. The kernel can be asked for the route
// that an address takes, not for that of a destination and metric; where
// another one hides what is asked for, there is doubt.
//
// Surplus routes and unused nexthop objects are in no scope. They do no harm
// until all is read.
func (d *Driver) PlanScope(ctx context.Context, s reconcile.Scope) ([]reconcile.Change, error) {
	c, err := nl.Dial()
	if err != nil {
		return nil, err
	}
	defer func() { _ = c.Close() }()
	r := newReader(c, d.o)
	if r.own, err = kernel.Links(ctx, c, d.o.Owner, s.Want.Links); err != nil {
		return nil, err
	}
	wanted := make(map[key]state.Route, len(s.Want.Routes))
	look := make([]state.Route, 0, len(s.Want.Routes))
	for _, w := range s.Want.Routes {
		wanted[keyOf(w)] = w
		look = append(look, w)
	}
	for _, o := range s.Gone {
		if g, ok := o.(state.Route); ok {
			look = append(look, g)
		}
	}
	have, err := r.readAt(ctx, look)
	if err != nil {
		return nil, err
	}
	return reconcile.Diff(wanted, have, same), nil
}

// readAt reads the routes of ours that stand where these do.
func (r *reader) readAt(ctx context.Context, at []state.Route) (map[key]found, error) {
	lookups := make([]nl.Lookup, len(at))
	for i, w := range at {
		lookups[i].To = sample(w.Dst)
	}
	raws, errs := r.conn.RoutesTo(ctx, lookups)
	var there []nl.Route
	for i, w := range at {
		hit, err := hits(w, raws[i], errs[i])
		if err != nil {
			return nil, err
		}
		if hit {
			there = append(there, raws[i])
		}
	}
	if err := r.readNexthopsOf(ctx, there); err != nil {
		return nil, err
	}
	have := make(map[key]found, len(there))
	for _, raw := range there {
		f, err := r.describe(ctx, raw)
		if err != nil {
			return nil, err
		}
		ours, err := r.ours(ctx, f)
		if err != nil {
			return nil, err
		}
		if !ours {
			return nil, reconcile.Doubt("a foreign route has the destination %s", raw.Dst)
		}
		have[keyOf(f.Route)] = f
	}
	return have, nil
}

// hits says whether raw, which a packet to w takes, stands where w does; false:
// nothing stands there.
func hits(w state.Route, raw nl.Route, err error) (bool, error) {
	switch {
	case errors.Is(err, unix.ENETUNREACH):
		return false, nil
	case err != nil && (errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)):
		return false, err
	case err != nil:
		return false, reconcile.Doubt("look up the route to %s: %v", w.Dst, err)
	case raw.OtherTable:
		return false, reconcile.Doubt("another table has a route to %s", w.Dst)
	case raw.Dst.Bits() < w.Dst.Bits():
		return false, nil
	case raw.Dst != w.Dst:
		return false, reconcile.Doubt("route %s hides %s", raw.Dst, w.Dst)
	case raw.Metric < effectiveMetric(w):
		return false, reconcile.Doubt("metric %d hides another of %s", raw.Metric, w.Dst)
	default:
		return raw.Metric == effectiveMetric(w), nil
	}
}

// readNexthopsOf reads the objects of these routes.
func (r *reader) readNexthopsOf(ctx context.Context, routes []nl.Route) error {
	r.nexthops = nexthops{supported: true, byID: map[uint32]nl.Nexthop{}}
	var ids []uint32
	for _, raw := range routes {
		if raw.Nexthop != 0 {
			ids = append(ids, raw.Nexthop)
		}
	}
	list, there, err := r.conn.NexthopsAt(ctx, ids)
	if err != nil {
		return fmt.Errorf("read nexthop objects: %w", err)
	}
	for i, h := range list {
		if there[i] {
			r.nexthops.byID[h.ID] = h
		}
	}
	return nil
}
