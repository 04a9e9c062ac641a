// Package route keeps routes in the main table, with nexthop objects where the
// kernel has them (Linux 5.3): routes over one device with different gateways
// cost the kernel n² without.
//
// A route is ours if its protocol is state.Protocol and
//   - it leaves by a wanted link that package kernel lets us touch, or
//   - it uses a nexthop object of ours, or
//   - it is on a link that no flannel-ng instance owns (the uplink), or drops
//     packets and has the owner's metric for that, and its destination lies
//     inside Options.Networks.
//
// Also ours are routes of protocol boot on a wanted link: plain flannel left
// them. A nexthop object is ours if its protocol is state.Protocol, its id is
// in the range of the owner (see ids) and it is not on a link of another
// instance.
//
// A route that somebody else has for a wanted destination and metric is taken
// over, in place, if it is on a link of ours or means the same (plain flannel's
// host-gw routes). Else it stays, and the wanted one fails with its
// description, unless Options.TakeOver is set and the destination is inside
// Options.Networks; routes that follow from an address of the host stay even
// then. But a route in the place of one that this driver has seen as wanted is
// no obstacle: it is ours, altered, and is put right, if nobody put his name on
// it: protocol boot, which is what "ip route replace" makes of a route and which
// says "purge me" to daemons (ip-route(8)), or our own. One of protocol static
// stays: that is how an administrator overrides us.
//
// Foreign routes that stand beside one of ours stay in any case; one that stands
// in front, so that packets take it, fails the wanted one with its description.
// So stay those of peers that left before we came: nothing but a new lease of
// their subnet tells them from an administrator's. Called by the engine through
// reconcile.
package route

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	"github.com/flannel-ng/flannel-ng/internal/driver/kernel"
	"github.com/flannel-ng/flannel-ng/internal/nl"
	"github.com/flannel-ng/flannel-ng/internal/reconcile"
	"github.com/flannel-ng/flannel-ng/internal/state"
)

// Options are the settings of a Driver.
type Options struct {
	Owner state.Owner
	// Networks are the cluster networks: what tells our routes on the uplink
	// from those of another instance.
	Networks []netip.Prefix
	// Classic forgoes nexthop objects, as on kernels that have none.
	Classic bool
	// TakeOver replaces what stands in the way of wanted routes inside Networks.
	TakeOver bool
}

// Driver sets routes. It is not safe for concurrent use.
type Driver struct {
	o Options
	// held are the places where a wanted route was seen. It decides nothing but
	// whose a route without a name is that stands there instead.
	held map[key]bool
}

// New makes a driver.
func New(o Options) *Driver { return &Driver{o: o, held: map[key]bool{}} }

// Kind implements reconcile.Driver.
func (*Driver) Kind() state.Kind { return state.KindRoute }

// key tells routes apart as the kernel does: one destination may have several
// routes of different metrics.
type key struct {
	dst    netip.Prefix
	metric uint32
}

func keyOf(r state.Route) key { return key{r.Dst, effectiveMetric(r)} }

// defaultMetric6 is what the kernel makes of metric 0 for IPv6
// (IP6_RT_PRIO_USER).
const defaultMetric6 = 1024

func effectiveMetric(r state.Route) uint32 {
	if r.Metric == 0 && r.Dst.Addr().Is6() {
		return defaultMetric6
	}
	return r.Metric
}

// found is a route as read.
type found struct {
	state.Route
	raw nl.Route
	// altered: it is not one that we would have made, whatever its gateway.
	altered bool
}

func (f found) String() string {
	s := f.Route.String()
	if f.raw.Protocol != state.Protocol {
		s += fmt.Sprintf(" proto %d", f.raw.Protocol)
	}
	if f.altered {
		s += " (altered)"
	}
	return s
}

// means says whether a packet fares with f as with w.
func (f found) means(w state.Route) bool {
	w.Metric = effectiveMetric(w)
	return !f.altered && f.Route == w
}

func same(w state.Route, f found) bool { return f.raw.Protocol == state.Protocol && f.means(w) }

// Plan implements reconcile.Driver.
func (d *Driver) Plan(ctx context.Context, want *state.Set) ([]reconcile.Change, error) {
	c, err := nl.Dial()
	if err != nil {
		return nil, err
	}
	defer func() { _ = c.Close() }()
	r := newReader(c, d.o)
	have, err := r.read(ctx, want)
	if err != nil {
		return nil, err
	}
	wanted := make(map[key]state.Route, len(want.Routes))
	for _, w := range want.Routes {
		wanted[keyOf(w)] = w
	}
	changes := reconcile.Diff(wanted, have, same)
	for k, w := range wanted {
		if f, ok := have[k]; ok && same(w, f) {
			d.held[k] = true
		}
	}
	hidden, err := r.hidden(ctx, wanted, have)
	if err != nil {
		return nil, err
	}
	unused, err := r.unused(ctx, wanted, have)
	return slices.Concat(changes, hidden, r.surplus, unused), err
}

// note remembers what is ours from now on.
func (d *Driver) note(results []reconcile.Result) {
	for _, r := range results {
		switch o := r.Object.(type) {
		case state.Route:
			if r.Err == nil {
				d.held[keyOf(o)] = true
			}
		case found:
			delete(d.held, keyOf(o.Route))
		}
	}
}

// Apply implements reconcile.Driver.
func (d *Driver) Apply(ctx context.Context, changes []reconcile.Change) []reconcile.Result {
	if len(changes) == 0 {
		return nil
	}
	c, err := nl.Dial()
	if err != nil {
		return kernel.Fail(changes, err)
	}
	defer func() { _ = c.Close() }()
	w := &writer{conn: c, o: d.o, links: kernel.NewIndexes(c, d.o.Owner), held: d.held}
	results := make([]reconcile.Result, len(changes))
	for i, ch := range changes {
		results[i].Change = ch
	}
	w.put(ctx, results)
	w.remove(ctx, results)
	d.note(results)
	return results
}
