package route

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/driver/kernel"
	"github.com/flannel-ng/flannel-ng/internal/nl"
	"github.com/flannel-ng/flannel-ng/internal/reconcile"
	"github.com/flannel-ng/flannel-ng/internal/state"
)

// writer makes changes.
type writer struct {
	conn    *nl.Conn
	o       Options
	links   *kernel.Indexes
	objects nexthops
	byHop   map[nl.Hop]uint32 // of objects; nil: not made yet
	held    map[key]bool      // of Driver
}

// pending is a route on its way into the kernel.
type pending struct {
	result *reconcile.Result
	want   state.Route
	raw    nl.Route
}

// portion is how many routes are on their way at a time.
const portion = 2048

// put adds and updates: first the nexthop objects that are missing, then the
// routes.
func (w *writer) put(ctx context.Context, results []reconcile.Result) {
	if len(results) > probeLimit {
		if err := w.knowAll(ctx); err != nil {
			for i := range results {
				if results[i].Op != reconcile.Remove {
					results[i].Err = err
				}
			}
			return
		}
	}
	for some := range slices.Chunk(results, portion) {
		w.putSome(ctx, some)
	}
}

func (w *writer) putSome(ctx context.Context, results []reconcile.Result) {
	routes := make([]pending, 0, len(results))
	for i := range results {
		r := &results[i]
		if r.Op == reconcile.Remove {
			continue
		}
		want, ok := r.Object.(state.Route)
		if !ok {
			r.Err = fmt.Errorf("route driver got %T", r.Object)
			continue
		}
		p := pending{result: r, want: want}
		if p.raw, r.Err = w.encode(ctx, want); r.Err == nil {
			routes = append(routes, p)
		}
	}
	w.attempt(ctx, routes)
	w.guide(ctx, routes)
}

func (w *writer) attempt(ctx context.Context, routes []pending) {
	if !w.o.Classic {
		routes = w.giveNexthops(ctx, routes)
	}
	w.install(ctx, routes)
}

// guide tries again the IPv6 routes whose gateway was refused. The kernel looks
// even an onlink gateway up, and our gateways lie inside their destination: a
// route to it over another link (that of a peer which was reached directly
// until now) makes it refuse, instead of replacing that route. With a host
// route to the gateway it agrees, and no packet finds a gap.
func (w *writer) guide(ctx context.Context, routes []pending) {
	var refused []pending
	var guides []nl.Route
	for _, p := range routes {
		host := addr.Single(p.want.Via)
		if !errors.Is(p.result.Err, unix.EINVAL) || !p.want.Onlink || !p.want.Via.Is6() || p.want.Dst == host {
			continue
		}
		p.raw.Nexthop = 0
		refused = append(refused, p)
		guides = append(guides, nl.Route{Dst: host, Type: nl.Unicast, Protocol: state.Protocol, Link: p.raw.Link})
	}
	if len(refused) == 0 {
		return
	}
	// A host route that is there already stays, whosever it is.
	put, made := requests(guides, nl.AddRoute), make([]nl.Route, 0, len(guides))
	for i, err := range w.conn.Do(ctx, put) {
		if err == nil {
			made = append(made, guides[i])
		}
	}
	w.attempt(ctx, refused)
	// One that cannot be removed now is a leftover for the next pass.
	w.conn.Do(ctx, requests(made, nl.DelRoute))
}

func requests(routes []nl.Route, request func(nl.Route) nl.Request) []nl.Request {
	reqs := make([]nl.Request, len(routes))
	for i, r := range routes {
		reqs[i] = request(r)
	}
	return reqs
}

// encode puts a wanted route into the kernel's terms.
func (w *writer) encode(ctx context.Context, r state.Route) (nl.Route, error) {
	raw := nl.Route{Dst: r.Dst, Type: nl.Unicast, Protocol: state.Protocol, Metric: r.Metric}
	if r.Blackhole {
		raw.Type = nl.Blackhole
		return raw, nil
	}
	l, err := w.links.Any(ctx, r.Link)
	switch {
	case err != nil:
		return raw, err
	case otherInstance(l.Alias, w.o.Owner):
		return raw, fmt.Errorf("link %s has the alias %q: %w", l.Name, l.Alias, kernel.ErrForeign)
	}
	raw.Link, raw.Via, raw.Onlink = l.Index, r.Via, r.Onlink
	return raw, nil
}

// know learns of the nexthop objects that these routes need, or all.
func (w *writer) know(ctx context.Context, routes []pending) error {
	var hops []nl.Hop
	for _, p := range routes {
		if hop, ok := hopOf(p.raw); ok {
			hops = append(hops, hop)
		}
	}
	if len(hops) > probeLimit {
		return w.knowAll(ctx)
	}
	return w.objects.probe(ctx, w.conn, idsOf(w.o.Owner), hops)
}

func (w *writer) knowAll(ctx context.Context) error {
	if w.objects.all {
		return nil
	}
	var err error
	w.objects, err = readNexthops(ctx, w.conn)
	return err
}

// hopOf is where a route with a gateway leads.
func hopOf(r nl.Route) (nl.Hop, bool) {
	return nl.Hop{Link: r.Link, Via: r.Via, Onlink: r.Onlink}, r.Type == nl.Unicast && r.Via.IsValid()
}

// giveNexthops assigns each route with a gateway its object, making those that
// are missing. Routes whose object cannot be made fail with its error.
func (w *writer) giveNexthops(ctx context.Context, routes []pending) []pending {
	if err := w.know(ctx, routes); err != nil {
		for _, p := range routes {
			p.result.Err = err
		}
		return nil
	}
	if !w.objects.supported {
		return routes
	}
	r := idsOf(w.o.Owner)
	if w.byHop == nil || !w.objects.all {
		w.byHop = w.objects.byHop(r)
	}
	var made []nl.Nexthop
	failed := map[uint32]error{}
	for i := range routes {
		hop, ok := hopOf(routes[i].raw)
		if !ok {
			continue
		}
		id, ok := w.byHop[hop]
		if !ok {
			var err error
			if id, err = w.newID(ctx, r, hop); err != nil {
				failed[0] = err // routes without an id share this fate
				continue
			}
			made = append(made, nl.Nexthop{ID: id, Protocol: state.Protocol, Hop: hop})
			w.byHop[hop], w.objects.byID[id] = id, made[len(made)-1] // or another hop would get it
		}
		routes[i].raw.Nexthop = id
	}
	w.makeNexthops(ctx, made, failed)
	return withoutFailed(routes, failed)
}

func (w *writer) makeNexthops(ctx context.Context, made []nl.Nexthop, failed map[uint32]error) {
	reqs := make([]nl.Request, len(made))
	for i, n := range made {
		reqs[i] = nl.AddNexthop(n)
	}
	for i, err := range w.conn.Do(ctx, reqs) {
		if err != nil {
			failed[made[i].ID] = fmt.Errorf("create nexthop object: %w", err)
			delete(w.objects.byID, made[i].ID)
			delete(w.byHop, made[i].Hop)
		}
	}
}

// newID finds a free id for the object of a hop.
func (w *writer) newID(ctx context.Context, r ids, hop nl.Hop) (uint32, error) {
	_, id, ok := w.objects.slot(r, hop)
	if !ok && id != 0 { // another hop of this batch has taken the one asked for
		if err := w.objects.probe(ctx, w.conn, r, []nl.Hop{hop}); err != nil {
			return 0, err
		}
		_, id, ok = w.objects.slot(r, hop)
	}
	if !ok || id == 0 {
		return 0, errNoID
	}
	return id, nil
}

func withoutFailed(routes []pending, failed map[uint32]error) []pending {
	kept := make([]pending, 0, len(routes))
	for _, p := range routes {
		if err, bad := failed[p.raw.Nexthop]; bad && p.raw.Via.IsValid() {
			p.result.Err = err
			continue
		}
		kept = append(kept, p)
	}
	return kept
}

// install writes the routes. An addition that meets a route of the same
// destination and metric is looked at again: it may be one to take over.
func (w *writer) install(ctx context.Context, routes []pending) {
	var added []pending
	var updated []swap
	for _, p := range routes {
		if p.result.Op == reconcile.Add {
			added = append(added, p)
			continue
		}
		if h, ok := p.result.Found.(hidden); ok {
			p.result.Err = h.err()
			continue
		}
		old, ok := p.result.Found.(found)
		if !ok {
			p.result.Err = fmt.Errorf("route driver got %T as found", p.result.Found)
			continue
		}
		updated = append(updated, swap{pending: p, old: old.raw, whole: w.o.TakeOver && w.o.covers(p.want.Dst)})
	}
	w.swap(ctx, updated)
	var met []pending
	reqs := make([]nl.Request, len(added))
	for i, p := range added {
		reqs[i] = nl.AddRoute(p.raw)
	}
	for i, err := range w.conn.Do(ctx, reqs) {
		added[i].result.Err = err
		if errors.Is(err, unix.EEXIST) {
			met = append(met, added[i])
		}
	}
	if len(met) > 0 {
		w.takeOver(ctx, met)
	}
}

// remove deletes routes, then nexthop objects. Deleting an object deletes its
// routes, so one stays while a route that could not be replaced is on it.
func (w *writer) remove(ctx context.Context, results []reconcile.Result) {
	w.removeAll(ctx, results, func(o state.Object) (nl.Request, error) {
		f, ok := o.(found)
		if !ok {
			return nl.Request{}, errOther
		}
		return nl.DelRoute(f.raw), nil
	})
	isNexthop := func(r reconcile.Result) bool { _, ok := r.Object.(nexthop); return ok && r.Op == reconcile.Remove }
	if !slices.ContainsFunc(results, isNexthop) {
		return
	}
	var busy map[uint32]bool
	busyErr := w.knowAll(ctx)
	w.removeAll(ctx, results, func(o state.Object) (nl.Request, error) {
		n, ok := o.(nexthop)
		switch {
		case !ok, busyErr == nil && w.objects.byID[n.ID] != n.Nexthop:
			return nl.Request{}, errOther // gone, or its id was given anew since the plan
		case busyErr == nil && busy == nil:
			busy, busyErr = w.busy(ctx)
		}
		switch {
		case busyErr != nil:
			return nl.Request{}, busyErr
		case busy[n.ID]:
			return nl.Request{}, fmt.Errorf("%w: a route is still on it", reconcile.ErrBlocked)
		}
		return nl.DelNexthop(n.ID), nil
	})
}

// busy lists the objects that routes of ours are on now.
func (w *writer) busy(ctx context.Context) (map[uint32]bool, error) {
	ids := map[uint32]bool{}
	for _, f := range addr.Families() {
		list, err := w.conn.Routes(ctx, nl.RouteFilter{Family: f, Protocol: state.Protocol})
		if err != nil {
			return ids, fmt.Errorf("list %s routes on nexthop objects: %w", f, err)
		}
		for _, r := range list {
			ids[r.Nexthop] = true
		}
	}
	return ids, nil
}

// errOther says that an object is none of those to remove now.
var errOther = errors.New("not to be removed now")

func (w *writer) removeAll(
	ctx context.Context, results []reconcile.Result, request func(state.Object) (nl.Request, error),
) {
	var reqs []nl.Request
	var at []int
	for i, r := range results {
		if r.Op != reconcile.Remove {
			continue
		}
		req, err := request(r.Object)
		switch {
		case err == nil:
			reqs, at = append(reqs, req), append(at, i)
		case !errors.Is(err, errOther):
			results[i].Err = err
		}
	}
	for i, err := range w.conn.Do(ctx, reqs) {
		if !kernel.Gone(err) {
			results[at[i]].Err = err
		}
	}
}
