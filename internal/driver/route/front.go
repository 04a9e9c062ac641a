package route

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/nl"
	"github.com/flannel-ng/flannel-ng/internal/reconcile"
	"github.com/flannel-ng/flannel-ng/internal/state"
)

// hidden is a route of ours that packets do not take.
type hidden struct {
	state.Route
	front string // what they take
}

func (h hidden) String() string { return h.Route.String() + " behind " + h.front }

func (h hidden) err() error {
	return fmt.Errorf("%w: a foreign route stands in front: %s, remove it", unix.EEXIST, h.front)
}

// hidden finds wanted routes that are in place, and in vain: of two routes to
// one destination that of the lower metric counts, and the first of equals
// (IPv4). Asked for are routes that people and addresses make; those of a routing
// daemon may be the Internet's.
func (r *reader) hidden(ctx context.Context, wanted map[key]state.Route, have map[key]found) ([]reconcile.Change, error) {
	var out []reconcile.Change
	for _, f := range addr.Families() {
		for _, protocol := range []uint8{nl.ProtocolBoot, unix.RTPROT_STATIC, nl.ProtocolKernel} {
			list, err := r.conn.Routes(ctx, nl.RouteFilter{Family: f, Protocol: protocol})
			if err != nil {
				return nil, fmt.Errorf("list %s routes of protocol %d: %w", f, protocol, err)
			}
			changes, err := r.inVain(ctx, r.behind(list, wanted, have))
			if err != nil {
				return nil, err
			}
			out = append(out, changes...)
		}
	}
	return out, nil
}

// inVain are those of routes that packets do not take.
func (r *reader) inVain(ctx context.Context, routes []state.Route) ([]reconcile.Change, error) {
	var out []reconcile.Change
	for _, w := range routes {
		front, err := r.front(ctx, w)
		if err != nil {
			return nil, err
		}
		if front != "" {
			h := hidden{w, front}
			out = append(out, reconcile.Change{Op: reconcile.Update, Object: w, Was: h.String(), Found: h})
		}
	}
	return out, nil
}

// behind finds the wanted routes that stand as they should, maybe behind one of
// list.
func (r *reader) behind(list []nl.Route, wanted map[key]state.Route, have map[key]found) []state.Route {
	var out []state.Route
	for _, raw := range list {
		k := key{dst: raw.Dst}
		if raw.Dst.Addr().Is6() {
			k.metric = defaultMetric6
		}
		w, ok := wanted[k]
		f, there := have[k]
		if ok && there && raw.Metric <= k.metric && !w.Blackhole && same(w, f) {
			out = append(out, w)
		}
	}
	return out
}

// front says what packets to w take, unless that is w.
func (r *reader) front(ctx context.Context, w state.Route) (string, error) {
	raws, errs := r.conn.RoutesTo(ctx, []nl.Lookup{{To: sample(w.Dst)}})
	raw, err := raws[0], errs[0]
	switch {
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.EHOSTUNREACH), errors.Is(err, unix.EACCES):
		return fmt.Sprintf("%s refuses all packets", w.Dst), nil
	case err != nil, raw.OtherTable, raw.Dst != w.Dst, raw.Protocol == state.Protocol:
		return "", ctx.Err()
	}
	f, err := r.describe(ctx, raw)
	return fmt.Sprintf("%s proto %d", f.Route, raw.Protocol), err
}
