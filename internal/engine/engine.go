package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/backend"
	"github.com/flannel-ng/flannel-ng/internal/backend/transit"
	"github.com/flannel-ng/flannel-ng/internal/config"
	"github.com/flannel-ng/flannel-ng/internal/facts"
	"github.com/flannel-ng/flannel-ng/internal/lease"
	"github.com/flannel-ng/flannel-ng/internal/reconcile"
	"github.com/flannel-ng/flannel-ng/internal/report"
	"github.com/flannel-ng/flannel-ng/internal/state"
)

// Config is what an engine is made from.
type Config struct {
	World World
	// NewDrivers makes the drivers in the order of kinds, all but files, for
	// the cluster networks given.
	NewDrivers func(networks []netip.Prefix) []reconcile.Driver
	// Files writes subnet.env once everything of our own is in place.
	Files      reconcile.Driver
	NewBackend func(backend.Setup) (backend.Backend, []string, error)
	// Wire is what a backend with these options puts on the wire.
	Wire   func(config.Backend) (backend.Wire, error)
	Owner  state.Owner
	Policy Policy
	// Previous are the subnets of the subnet.env found at start; zero: none.
	Previous addr.ByFamily[netip.Prefix]
	// Resync is the time between passes when nothing rings.
	Resync time.Duration
	Log    *slog.Logger
	// Event records what happened, for flannelctl events.
	Event func(kind, text string)
	// Ready is told when readiness changes, from the engine's goroutine.
	Ready func(bool)
	// Conditions names what does not stop traffic now but may surprise. It may
	// be slow and is asked seldom.
	Conditions func(ctx context.Context, want *state.Set) []string
	// Base is the part of the status that never changes.
	Base report.Status
}

// Engine runs passes, one at a time.
type Engine struct {
	cfg   Config
	bell  chan struct{}
	why   atomic.Uint32 // what rang: a set of wake
	plans chan chan<- planAnswer

	// network is that of the first valid config. Only its backend and kind of
	// firewall follow later ones: addresses of running containers cannot.
	network  *config.Network
	seen     []byte // config bytes last looked at
	carriers carriers
	phase    transit.State // last told of
	drivers  []reconcile.Driver
	warnings []string // on the config

	table  *table // what is wanted for peers
	large  bool   // a large fabric was read, and the memory for it not returned since
	mirror mirror // what is known of the kernel
	pace   pace   // when the next pass may be, and must
	doubts doubts // what bells said
	fights fights // what is undone again and again
	repair repair // what is known for telling repairs from what was asked for

	conditions []string // from cfg.Conditions, found at lookedAt
	lookedAt   time.Time
	uplink     []string // what is wrong with the facts of this host

	failing  map[state.Key]reconcile.Result // already logged, to be retried
	unread   map[state.Kind]string          // kinds that could not be read
	scoped   map[state.Kind]bool            // kinds whose driver knows scopes
	refused  map[string]string              // keys of the store already told of
	rejected []report.Rejected
	had      bool // a lease was held since the start
	staged   bool // the host's own objects were made once, before any peer's
	base     report.Status
	status   atomic.Pointer[report.Status] // without peers
	beat     atomic.Int64                  // unix nanoseconds of the last sign of life
}

type planAnswer struct {
	changes []report.Change
	err     error
}

// New makes an engine; Run starts it.
func New(cfg Config) *Engine {
	e := &Engine{
		cfg: cfg, bell: make(chan struct{}, 1), plans: make(chan chan<- planAnswer), table: newTable(),
		failing: map[state.Key]reconcile.Result{}, refused: map[string]string{}, base: cfg.Base,
		fights: fights{}, repair: repair{owed: map[state.Key]time.Time{}},
	}
	e.base.Pass.Changes, e.base.Pass.Repairs = map[string]int64{}, map[string]report.Repairs{}
	e.carriers = newCarriers(transit.Kit{Wire: cfg.Wire, New: cfg.NewBackend})
	first := e.base // World is not asked before Run
	first.NotReady = []string{"starting"}
	first.Pass.Changes, first.Pass.Repairs = nil, nil
	e.status.Store(&first)
	e.beat.Store(time.Now().UnixNano())
	return e
}

// wake is a set of reasons for a pass.
type wake uint32

const (
	// wakePicture: there is another picture of the store. What else there is
	// has not changed.
	wakePicture wake = 1 << iota
	// wakeFacts: facts of this host, the holding, or what drivers without a
	// scope look after may have changed.
	wakeFacts
	// wakeDoubt: the kernel may not be as the last pass left it.
	wakeDoubt
	// wakeSuspect: single objects may not be as the last pass left them.
	wakeSuspect
	// wakeTick: it is time to look after what no notification tells of.
	wakeTick
)

// Ring asks for a pass soon: facts, the holding, or something that no
// notification tells of may have changed. Rings merge; the bell carries no
// data.
func (e *Engine) Ring() { e.ring(wakeFacts) }

// RingBy is Ring for what was changed from outside, rules for example: it says for
// people who did it, "" if that is not known.
func (e *Engine) RingBy(by string) {
	e.doubts.tell(by, time.Now())
	e.Ring()
}

// NewPicture asks for a pass soon, because of a new picture of the store alone.
func (e *Engine) NewPicture() { e.ring(wakePicture) }

// Doubt asks for a pass soon that believes nothing of what it knew of the
// kernel.
func (e *Engine) Doubt() { e.DoubtBy("") }

// DoubtBy is Doubt, and says for people who changed something: "process ip (pid
// 4711)", "protocol zebra"; "" if that is not known. How long a repair took is
// counted from the first ring.
func (e *Engine) DoubtBy(by string) {
	e.doubts.ring(by, time.Now())
	e.ring(wakeDoubt)
}

// DoubtOf is DoubtBy about a single object, of ours or where none of ours may be:
// what else there is costs nothing then.
func (e *Engine) DoubtOf(k state.Key, by string) {
	if e.doubts.suspect(k, by, time.Now()) {
		e.ring(wakeSuspect)
	} else {
		e.ring(wakeDoubt)
	}
}

func (e *Engine) ring(why wake) {
	e.why.Or(uint32(why))
	select {
	case e.bell <- struct{}{}:
	default:
	}
}

// Wants says whether there is to be a route of ours to p. It is safe for
// concurrent use.
func (e *Engine) Wants(p netip.Prefix) bool { return e.table.wants(state.Route{Dst: p}.Key()) }

// Summary is the report of the last pass, without the list of peers: it costs
// the same in a fabric of any size.
func (e *Engine) Summary() report.Status { return *e.status.Load() }

// Peers lists the peers, made when asked for.
func (e *Engine) Peers() []report.Peer { return e.table.report() }

// Status is the report of the last pass.
func (e *Engine) Status() report.Status {
	s := e.Summary()
	s.Peers = e.Peers()
	return s
}

// Beat is when the loop last showed life, for /healthz.
func (e *Engine) Beat() time.Time { return time.Unix(0, e.beat.Load()) }

// heartbeat is how often an idle loop shows life; a pass shows none before it
// ends.
const heartbeat = 30 * time.Second

// conditionsEvery is how often conditions are looked for.
const conditionsEvery = time.Minute

// Run makes passes until ctx ends, or until the host cannot take part in the
// fabric at all. What the drivers made stays.
func (e *Engine) Run(ctx context.Context) error {
	err := e.loop(ctx)
	return errors.Join(err, reconcile.Close(e.drivers))
}

func (e *Engine) loop(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	life := time.NewTicker(heartbeat)
	defer life.Stop()
	for {
		e.beat.Store(time.Now().UnixNano())
		select {
		case <-ctx.Done():
			return nil
		case <-life.C:
			continue
		case answer := <-e.plans:
			changes, err := e.Preview(ctx)
			answer <- planAnswer{changes, err}
			continue
		case <-e.bell:
		case <-timer.C:
		}
		rest := spacing
		if why := e.pace.take(&e.why, time.Now()); why != 0 {
			start := time.Now()
			if err := e.pass(ctx, why); err != nil {
				return err
			}
			rest = e.pace.passed(why, start, time.Now(), e.cfg.Resync)
		}
		timer.Reset(time.Until(e.pace.next()))
		if !pause(ctx, rest) {
			return nil
		}
	}
}

func isDone(ctx context.Context) bool { return ctx.Err() != nil }

func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// Plan says what a pass would change now. It waits for the loop.
func (e *Engine) Plan(ctx context.Context) ([]report.Change, error) {
	answer := make(chan planAnswer, 1)
	select {
	case e.plans <- answer:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	select {
	case a := <-answer:
		return a.changes, a.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Preview is a pass that changes nothing. It must not be called while Run runs:
// that is what Plan is for.
func (e *Engine) Preview(ctx context.Context) ([]report.Change, error) {
	in, reason, err := e.look(ctx, All)
	if err != nil {
		return nil, err
	}
	if reason != "" {
		return nil, fmt.Errorf("no plan yet: %s", reason)
	}
	want, err := Desire(in)
	if err != nil {
		return nil, err
	}
	want.Set.Files = append(want.Set.Files, want.File)
	changes, err := reconcile.Plan(ctx, append(slices.Clone(e.drivers), e.cfg.Files), &want.Set)
	var out []report.Change
	for _, c := range changes {
		out = append(out, report.Change{Op: string(c.Op), Object: c.Object.String(), Was: c.Was})
	}
	return out, err
}

// ErrNode wraps the reason why this host cannot be part of the fabric, found
// before it ever was.
var ErrNode = errors.New("this host cannot join")

// trusted says whether what is absent from the picture may be removed. A store
// without a config was wiped, or is being put together: its silence about peers
// means nothing.
func trusted(s lease.Snapshot) bool {
	return s.Synced && !s.Origin.LastKnownGood && s.Config != nil
}

// look gathers the inputs of a pass. reason says what is still missing; what is
// known by then is in the inputs.
func (e *Engine) look(ctx context.Context, depth Depth) (in Inputs, reason string, err error) {
	snap, ok := e.cfg.World.Snapshot()
	if !ok {
		return in, "waiting for the store", nil
	}
	in.Snapshot, in.Own, in.Policy, in.Owner = snap, e.cfg.World.Own(), e.cfg.Policy, e.cfg.Owner
	in.Node.HostID = e.cfg.Base.HostID // all that is known of the host if the config cannot be used
	if reason := e.configure(snap.Config); reason != "" {
		return in, reason, nil
	}
	in.Network = *e.network
	e.carriers.next(in, e.setup(*e.network))
	in.Backend, in.Network.Backend = e.carriers.at, e.carriers.plan.Receive[0].Backend
	node, err := e.cfg.World.Node(ctx, Need{e.network.Families(), e.carriers.backends()}, depth)
	switch {
	case err == nil:
	case e.base.Pass.Passes == 0:
		return in, "", fmt.Errorf("%w: %w", ErrNode, err)
	default:
		return in, err.Error(), nil // not fatal: an uplink may come back
	}
	in.Node = node
	return in, e.ask(in), nil
}

// ask tells the keeper what to hold a lease for, and says what is missing.
func (e *Engine) ask(in Inputs) (reason string) {
	offer, err := in.Backend.Offer(in.Node, previous(in.Snapshot, in.Own, in.Node))
	if err != nil {
		return err.Error()
	}
	e.carriers.asked = &offer
	e.cfg.World.Ask(lease.Ask{
		Network: in.Network, Public: in.Node.Public, Offer: offer, Previous: e.cfg.Previous,
	})
	if !hasLease(in.Own) {
		return "no lease yet: " + in.Own.Reason
	}
	return ""
}

// configure follows the config: all of the first valid one, and of later ones
// what a running fabric can follow.
func (e *Engine) configure(raw []byte) (reason string) {
	if raw == nil && e.network != nil {
		e.warn("the network config is gone from the store, the running one stays: put it back with `flannelctl config set FILE`")
		return ""
	}
	if raw == nil {
		return "no network config in the store: put one there with `flannelctl config set FILE`"
	}
	if e.network != nil && string(raw) == string(e.seen) {
		return ""
	}
	network, carrier, warnings, err := e.understand(raw)
	if e.network != nil {
		e.seen, e.warnings = slices.Clone(raw), nil
		if err = e.change(network, err); err != nil {
			e.warn(err.Error())
			return ""
		}
	} else if err != nil {
		return err.Error()
	} else {
		e.network, e.seen = &network, slices.Clone(raw)
		e.carriers.config, e.carriers.first = carrier, carrier.Wire.Name
		e.drive()
	}
	for _, w := range warnings {
		e.warn("network config: " + w)
	}
	return ""
}

// understand reads a config, and tries whether its backend can be made.
func (e *Engine) understand(raw []byte) (config.Network, transit.Carrier, []string, error) {
	network, err := config.Parse(raw)
	if err != nil {
		return network, transit.Carrier{}, nil, fmt.Errorf("error parsing subnet config: %w", err)
	}
	_, warnings, err := e.cfg.NewBackend(e.setup(network))
	if err != nil {
		return network, transit.Carrier{}, nil, fmt.Errorf("network config: %w", err)
	}
	carrier, err := e.carriers.kit.Of(network.Backend)
	if err != nil {
		err = fmt.Errorf("network config: %w", err)
	}
	return network, carrier, append(network.Warnings, warnings...), err
}

func (e *Engine) setup(n config.Network) backend.Setup {
	return backend.Setup{Options: n.Backend, Owner: e.cfg.Owner, Families: n.Families(), Networks: networksOf(n)}
}

// change follows a later config, or says why not. That two carriers cannot stand
// beside each other is seen when they should.
func (e *Engine) change(n config.Network, err error) error {
	if err != nil {
		return fmt.Errorf("the network config in the store is now invalid, the running one stays: %w", err)
	}
	was, is, err := e.carriers.kit.Follow(*e.network, n)
	if err != nil && !errors.Is(err, backend.ErrBeside) {
		return fmt.Errorf("the network config in the store changed: restart flanneld to use it: %w", err)
	}
	if was.Wire != is.Wire {
		e.cfg.Event("config", "the network config now says "+is.Wire.Name+", was "+was.Wire.Name)
	}
	e.network, e.carriers.config = &n, is
	return nil
}

// drive makes the drivers.
func (e *Engine) drive() {
	var networks []netip.Prefix
	for _, f := range e.network.Families() {
		networks = append(networks, e.network.Pools.At(f).Network)
	}
	e.drivers, e.scoped = e.cfg.NewDrivers(networks), map[state.Kind]bool{}
	for _, d := range e.drivers {
		if _, ok := d.(reconcile.Scoped); ok {
			e.scoped[d.Kind()] = true
		}
	}
}

func networksOf(n config.Network) addr.ByFamily[netip.Prefix] {
	var out addr.ByFamily[netip.Prefix]
	for _, f := range n.Families() {
		out.Put(f, n.Pools.At(f).Network)
	}
	return out
}

func (e *Engine) warn(text string) {
	if slices.Contains(e.warnings, text) {
		return
	}
	e.warnings = append(e.warnings, text)
	e.cfg.Log.Warn("condition", "text", text)
	e.cfg.Event("config", text)
}

// previous is the lease that peers know us by: the held one, else one of our
// host id, else one with our public address and no owner (a flannel before us).
func previous(snap lease.Snapshot, own lease.Holding, n facts.Node) *lease.Lease {
	if hasLease(own) {
		return &own.Lease.Lease
	}
	var byAddress *lease.Lease
	for _, l := range snap.Leases {
		if l.Owner == n.HostID && n.HostID != "" {
			return l
		}
		if l.Owner == "" && sharesAddress(l.Public, n.Public) {
			byAddress = l
		}
	}
	return byAddress
}

func sharesAddress(a, b addr.ByFamily[netip.Addr]) bool {
	for _, f := range addr.Families() {
		if x := a.At(f); x.IsValid() && x == b.At(f) {
			return true
		}
	}
	return false
}
