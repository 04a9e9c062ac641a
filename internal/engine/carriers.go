package engine

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/flannel-ng/flannel-ng/internal/backend"
	"github.com/flannel-ng/flannel-ng/internal/backend/transit"
	"github.com/flannel-ng/flannel-ng/internal/config"
	"github.com/flannel-ng/flannel-ng/internal/facts"
	"github.com/flannel-ng/flannel-ng/internal/lease"
	"github.com/flannel-ng/flannel-ng/internal/reconcile"
	"github.com/flannel-ng/flannel-ng/internal/report"
	"github.com/flannel-ng/flannel-ng/internal/state"
)

// Carrier is a backend that may have several ways to a peer.
type Carrier interface {
	backend.Backend
	// Send is Peer, and names the way that packets take.
	Send(self lease.Lease, n facts.Node, p lease.Lease) (state.Set, string, error)
	// Key says in one text what Send depends on beside its arguments.
	Key() string
}

// carriers is what is known of the carriers of this host: where a change of the
// network config stands. Other hosts' part is in the store, and so is what must
// outlive this process.
type carriers struct {
	kit    transit.Kit
	census *transit.Census
	config transit.Carrier // of the config that is followed
	first  string          // wire of the first config
	plan   transit.Plan
	at     *transit.Backend // made from plan
	cannot map[string]error // carriers that cannot be made here, by wire

	asked  *lease.Offer
	placed map[string]bool
	using  map[string]bool // nil: not known
	ways   map[string]int  // peers by the wire that packets to them take
	wake   time.Time       // when a timer rings
	told   transit.State
}

func newCarriers(kit transit.Kit) carriers {
	return carriers{kit: kit, census: transit.NewCensus(kit)}
}

// next makes the plan for what is known now, and its backend.
func (c *carriers) next(in Inputs, setup backend.Setup) {
	self := lease.Self{HostID: in.Node.HostID, Public: in.Own.Lease.Public, Subnets: in.Own.Lease.Subnets}
	c.census.Update(in.Snapshot.Leases, in.Network, self)
	s := transit.Situation{
		Config: c.config, Fresh: c.first == c.config.Wire.Name, Others: c.census, Trusted: trusted(in.Snapshot),
		Shown: shown(in), Asked: c.asked, Placed: c.placed, Using: c.using,
		Last: c.plan.Receive, Idle: c.plan.Idle, Now: time.Now(),
	}
	if hasLease(in.Own) {
		s.Held = &in.Own.Lease.Offer
	}
	plan := transit.Next(s)
	if c.at == nil || !sameWay(c.plan, plan) {
		c.make(plan, setup)
	}
	c.plan = plan
}

// shown is the offer of this host in the picture, or nil.
func shown(in Inputs) *lease.Offer {
	ours := func(l *lease.Lease) bool { return l.Owner == in.Node.HostID && l.Owner != "" }
	leases := in.Snapshot.Leases // sorted; there may be many
	i, ok := slices.BinarySearchFunc(leases, &in.Own.Lease.Lease, lease.Compare)
	if hasLease(in.Own) && ok && ours(leases[i]) {
		return &leases[i].Offer
	}
	if hasLease(in.Own) {
		return nil
	}
	if i = slices.IndexFunc(leases, ours); i < 0 {
		return nil
	}
	return &leases[i].Offer
}

// sameWay says whether both plans have one backend.
func sameWay(a, b transit.Plan) bool {
	a.Idle, b.Idle, a.Wake, b.Wake, a.State, b.State = nil, nil, time.Time{}, time.Time{}, transit.State{}, transit.State{}
	return reflect.DeepEqual(a, b)
}

// make makes the backend of a plan.
func (c *carriers) make(plan transit.Plan, setup backend.Setup) {
	var members []transit.Member
	c.cannot = map[string]error{}
	for _, k := range plan.Receive {
		setup.Options, setup.Beside = k.Backend, nil
		for _, o := range plan.Receive {
			if o.Wire != k.Wire {
				setup.Beside = append(setup.Beside, o.Wire)
			}
		}
		b, _, err := c.kit.New(setup)
		if err != nil {
			c.cannot[k.Wire.Name] = err
			continue
		}
		members = append(members, transit.Member{Carrier: k, Backend: b})
	}
	c.at = transit.New(plan, members)
}

// backends are the options of the carriers at work.
func (c *carriers) backends() []config.Backend {
	var out []config.Backend
	for _, k := range c.plan.Receive {
		out = append(out, k.Backend)
	}
	return out
}

// seen takes in what a pass has done, and says whether another one is to act
// upon it at once.
func (c *carriers) seen(p *passed, failing map[state.Key]reconcile.Result, t *table) bool {
	placed, using := map[string]bool{}, map[string]bool{}
	for _, k := range c.plan.Receive {
		keys := c.at.Keys(k.Wire.Name, p.in.Own.Lease.Lease, p.in.Node)
		fails := func(k state.Key) bool { r, ok := failing[k]; return ok && !state.Dispensable(r.Object) }
		placed[k.Wire.Name] = keys != nil && len(p.out.Unread) == 0 && !slices.ContainsFunc(keys, fails)
	}
	c.ways = nil
	switch clean := p.clean(failing, t); {
	case len(c.plan.Receive) == 1:
		using[c.plan.Receive[0].Wire.Name] = true // there may be many peers, and no other way
	case !clean && c.using == nil:
		c.ways, using = t.ways(), nil
	default:
		c.ways = t.ways()
		for wire := range c.ways {
			using[wire] = true
		}
		if !clean {
			maps.Copy(using, c.using)
		}
	}
	changed := !maps.Equal(placed, c.placed) || !maps.Equal(using, c.using)
	c.placed, c.using = placed, using
	return changed && c.plan.State.Phase != transit.Steady
}

// clean says whether packets go as the pass wanted them to, and no other way.
func (p *passed) clean(failing map[state.Key]reconcile.Result, t *table) bool {
	undone := func(r reconcile.Result) bool { return r.Op == reconcile.Remove }
	return len(p.out.Unread) == 0 && len(t.failed) == 0 && trusted(p.in.Snapshot) &&
		!slices.ContainsFunc(slices.Collect(maps.Values(failing)), undone)
}

// ways counts the peers by the wire that packets to them take.
func (t *table) ways() map[string]int {
	out := map[string]int{}
	for _, e := range t.entries {
		if e.by != "" {
			out[e.by]++
		}
	}
	return out
}

// follow takes in what came of a pass.
func (e *Engine) follow(p *passed) {
	c := &e.carriers
	if c.seen(p, e.failing, e.table) {
		e.NewPicture() // to tell others, or to leave a carrier
	}
	if w := c.plan.Wake; !w.IsZero() && !w.Equal(c.wake) {
		c.wake = w
		time.AfterFunc(time.Until(w)+time.Millisecond, e.NewPicture)
	}
	e.base.Change = c.report(p.in)
	if now := c.told; now.Phase != e.phase.Phase || now.Config != e.phase.Config || now.Carrier != e.phase.Carrier {
		first := e.phase == (transit.State{})
		e.phase, e.lookedAt = now, time.Time{} // other conditions hold
		if !first && now.Phase == transit.Steady {
			e.Doubt() // what nothing needs any more is in no part
		}
		if !first || now.Phase != transit.Steady {
			e.cfg.Log.Info("change of the network config", "phase", now.Phase, "carrier", now.Carrier, "config", now.Config, "why", now.Why)
			e.cfg.Event("config", e.base.Change.String())
		}
	}
}

// report tells people how far a change is.
func (c *carriers) report(in Inputs) report.Transit {
	s := c.plan.State
	out := report.Transit{Phase: string(s.Phase), Carrier: s.Carrier, Config: s.Config}
	for _, k := range c.plan.Receive {
		out.Receives = append(out.Receives, k.Wire.Name)
	}
	var why []string
	if s.Why != "" {
		why = append(why, s.Why)
	}
	if s.Phase != transit.Steady && len(c.ways) > 0 {
		why = append(why, sendsBy(c.ways))
	}
	trouble := maps.Clone(c.cannot)
	if s.Phase != transit.Steady {
		maps.Copy(trouble, c.at.Trouble(in.Own.Lease.Lease, in.Node))
	}
	for _, wire := range slices.Sorted(maps.Keys(trouble)) {
		why = append(why, wire+" cannot be had here: "+trouble[wire].Error())
	}
	out.Why = strings.Join(why, "; ")
	s.Why = out.Why
	c.told = s
	return out
}

// sendsBy tells how many peers are sent to by what.
func sendsBy(ways map[string]int) string {
	total := 0
	var out []string
	for _, wire := range slices.Sorted(maps.Keys(ways)) {
		total += ways[wire]
		out = append(out, fmt.Sprintf("%d by %s", ways[wire], wire))
	}
	return fmt.Sprintf("of %d peers %s", total, strings.Join(out, ", "))
}
