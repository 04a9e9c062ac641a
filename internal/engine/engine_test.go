package engine_test

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/backend/all"
	"github.com/flannel-ng/flannel-ng/internal/engine"
	"github.com/flannel-ng/flannel-ng/internal/facts"
	"github.com/flannel-ng/flannel-ng/internal/lease"
	"github.com/flannel-ng/flannel-ng/internal/reconcile"
	"github.com/flannel-ng/flannel-ng/internal/reconcile/reconciletest"
	"github.com/flannel-ng/flannel-ng/internal/report"
	"github.com/flannel-ng/flannel-ng/internal/state"
	"github.com/flannel-ng/flannel-ng/internal/traffic"
)

const netConf = `{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}`

// world is a host with a keeper that grants what is asked for at once.
type world struct {
	mu   sync.Mutex
	snap *lease.Snapshot
	node facts.Node
	err  error
	own  lease.Holding
	deny bool
}

func (w *world) Snapshot() (lease.Snapshot, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.snap == nil {
		return lease.Snapshot{}, false
	}
	return *w.snap, true
}

func (w *world) Node(context.Context, engine.Need, engine.Depth) (facts.Node, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.node, w.err
}

func (w *world) Ask(a lease.Ask) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.deny || w.own.State != lease.Pending {
		return
	}
	w.own.State = lease.Owned
	w.own.Lease.Lease = lease.Lease{
		Key: "10.5.1.0-24", Subnets: subnets("10.5.1.0/24"), Public: a.Public, Offer: a.Offer, Owner: w.node.HostID,
	}
}

func (w *world) Own() lease.Holding {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.own
}

func (w *world) set(change func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	change()
}

func subnets(s string) (out addr.ByFamily[netip.Prefix]) {
	out.Put(addr.IPv4, netip.MustParsePrefix(s))
	return out
}

func digit(n byte) string { return string(rune('0' + n)) }

func peer(n byte) lease.Lease {
	l := lease.Lease{Key: "10.5." + digit(n) + ".0-24", Owner: "h" + digit(n), Created: int64(n)}
	l.Subnets = subnets(netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 5, n, 0}), 24).String())
	l.Public.Put(addr.IPv4, netip.AddrFrom4([4]byte{198, 51, 100, n}))
	l.Offer.Backend = "vxlan"
	l.Offer.Data.Put(addr.IPv4, `{"VNI":1,"VtepMAC":"02:00:00:00:00:0`+digit(n)+`"}`)
	return l
}

func picture(peers ...byte) *lease.Snapshot {
	s := &lease.Snapshot{Cluster: "c", Rev: 1, Synced: true, Config: []byte(netConf)}
	for _, n := range peers {
		s.Leases = append(s.Leases, new(peer(n)))
	}
	return s
}

// rig is an engine on memory drivers.
type rig struct {
	*engine.Engine
	config engine.Config
	world  *world
	mem    map[state.Kind]*reconciletest.Memory
	events []string
	ready  []bool
}

func newRig(t *testing.T, every time.Duration) *rig {
	t.Helper()
	uplink := facts.Link{Name: "eth0", MTU: 1500}
	r := &rig{world: &world{node: facts.Node{HostID: "h1", Uplink: uplink}}, mem: map[state.Kind]*reconciletest.Memory{}}
	me := netip.MustParseAddr("198.51.100.1")
	r.world.node.Source.Put(addr.IPv4, me)
	r.world.node.Public.Put(addr.IPv4, me)
	var drivers []reconcile.Driver
	for _, k := range []state.Kind{
		state.KindLink, state.KindSysctl, state.KindAddress, state.KindNeighbour, state.KindFDB, state.KindRoute, state.KindFilter,
	} {
		r.mem[k] = &reconciletest.Memory{Of: k}
		drivers = append(drivers, r.mem[k])
	}
	r.mem[state.KindFile] = &reconciletest.Memory{Of: state.KindFile}
	r.config = engine.Config{
		World: r.world, Files: r.mem[state.KindFile], NewBackend: all.New, Wire: all.Wire,
		NewDrivers: func([]netip.Prefix) []reconcile.Driver { return drivers },
		Conditions: func(context.Context, *state.Set) []string { return nil },
		Ready:      func(ready bool) { r.ready = append(r.ready, ready) },
		Policy:     engine.Policy{SubnetFile: "/run/flannel/subnet.env", Traffic: traffic.Options{Masquerade: true, Forward: true}},
		Resync:     every, Log: slog.New(slog.DiscardHandler), Base: report.Status{HostID: "h1"},
		Event: func(_, text string) { r.events = append(r.events, text) },
	}
	r.rebuild(func(*addr.ByFamily[netip.Prefix]) {})
	return r
}

// rebuild makes the engine anew, with other previous subnets.
func (r *rig) rebuild(previous func(*addr.ByFamily[netip.Prefix])) {
	previous(&r.config.Previous)
	r.Engine = engine.New(r.config)
}

// run drives the engine in a bubble of fake time.
func (r *rig) run(t *testing.T, script func()) {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	synctest.Wait()
	script()
	stop()
	if err := <-done; err != nil {
		t.Errorf("engine: %v", err)
	}
}

// settle lets the bell's pass and one resync happen.
func (r *rig) settle() {
	r.Ring()
	wait(resync + time.Second)
}

const resync = 5 * time.Second

// wait lets fake time go by.
func wait(d time.Duration) {
	time.Sleep(d) //nolint:forbidigo // the time of the bubble
	synctest.Wait()
}

func (r *rig) file(t *testing.T) (state.File, bool) {
	t.Helper()
	for _, o := range r.mem[state.KindFile].Have() {
		f, ok := o.(state.File)
		return f, ok
	}
	return state.File{}, false
}

func TestReadyOnlyWhenOwnObjectsStand(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, resync)
		r.world.deny = true
		refuse := true
		r.mem[state.KindAddress].Refuse = func(reconcile.Change) error {
			if refuse {
				return errors.New("no room")
			}
			return nil
		}
		r.run(t, func() {
			wantReason(t, r.Status(), "waiting for the store")
			r.world.set(func() { r.world.snap = picture(); r.world.snap.Config = nil })
			r.settle()
			wantReason(t, r.Status(), "no network config")
			r.world.set(func() {
				r.world.snap.Config = []byte(`{"Network":"10.5.0.0/16","SubnetLen":99,"Backend":{"Type":"vxlan"}}`)
			})
			r.settle()
			wantReason(t, r.Status(), "SubnetLen 99")
			r.world.set(func() { r.world.snap = picture(2, 3) })
			r.settle()
			wantReason(t, r.Status(), "no lease yet")
			r.world.set(func() { r.world.deny = false })
			r.settle()
			wantReason(t, r.Status(), "no room")
			if f, there := r.file(t); there {
				t.Errorf("subnet.env written although the address is missing: %v", f)
			}
			refuse = false
			r.settle()
			if s := r.Status(); !s.Ready || len(s.Peers) != 2 {
				t.Errorf("not ready: %+v", s)
			}
			if !slices.Equal(r.ready, []bool{true}) {
				t.Errorf("readiness told: %v", r.ready)
			}
			f, _ := r.file(t)
			if want := "FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET=10.5.1.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n"; f.Content != want {
				t.Errorf("subnet.env\n%s\nwant\n%s", f.Content, want)
			}
		})
	})
}

func wantReason(t *testing.T, s report.Status, part string) {
	t.Helper()
	if s.Ready || !strings.Contains(strings.Join(s.NotReady, "\n"), part) {
		t.Errorf("ready %v, reasons %q; want one with %q", s.Ready, s.NotReady, part)
	}
}

// A bad peer is named, and neither readiness nor the others care.
func TestBadPeerHarmsOnlyItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, resync)
		r.world.snap = picture(2, 3, 4, 5)
		r.world.snap.Leases[1].Offer.Data.Put(addr.IPv4, `{"VNI":9,"VtepMAC":"02:00:00:00:00:03"}`)
		r.world.snap.Leases[2].Subnets = subnets("192.0.2.0/24")
		r.world.snap.Bad = []lease.Rejected{{Key: "subnets/garbage", Reason: "no subnet key"}}
		r.mem[state.KindFDB].Refuse = func(c reconcile.Change) error {
			if e, ok := c.Object.(state.FDBEntry); ok && e.Dst == netip.MustParseAddr("198.51.100.5") {
				return errors.New("no room")
			}
			return nil
		}
		r.run(t, func() {
			r.settle()
			s := r.Status()
			states := map[string]string{}
			for _, p := range s.Peers {
				states[p.Key] = p.State
			}
			want := map[string]string{"10.5.2.0-24": "programmed", "10.5.3.0-24": "failing", "10.5.5.0-24": "failing"}
			for k, v := range want {
				if states[k] != v {
					t.Errorf("peer %s is %q, want %q", k, states[k], v)
				}
			}
			if !s.Ready || len(s.Rejected) != 2 {
				t.Errorf("ready %v, rejected %v", s.Ready, s.Rejected)
			}
			if got := len(r.mem[state.KindRoute].Have()); got != 2 {
				t.Errorf("%d routes, want those of 2 and 5", got)
			}
		})
	})
}

func TestPeersComeAndGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, resync)
		r.world.snap = picture(2, 3)
		r.run(t, func() {
			r.settle()
			r.world.set(func() { r.world.snap = picture(3, 4) })
			r.settle()
			routes := r.mem[state.KindRoute].Have()
			if _, gone := routes[route(2)]; gone || len(routes) != 2 {
				t.Errorf("routes %v", routes)
			}
			// The last-known-good picture never removes.
			r.world.set(func() { r.world.snap = picture(3); r.world.snap.Origin.LastKnownGood = true })
			r.settle()
			if got := len(r.mem[state.KindRoute].Have()); got != 2 {
				t.Errorf("%d routes after an old picture, want 2", got)
			}
		})
	})
}

func route(n byte) state.Key {
	return state.Route{Dst: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 5, n, 0}), 24)}.Key()
}

func TestLostLeaseWithdrawsTheFileOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, resync)
		r.world.snap = picture(2)
		r.run(t, func() {
			r.settle()
			r.world.set(func() { r.world.own.State, r.world.own.Reason = lease.Lost, "taken by 198.51.100.9" })
			r.settle()
			wantReason(t, r.Status(), "taken by")
			if f, _ := r.file(t); !f.Absent {
				t.Errorf("subnet.env stays: %v", f)
			}
			if got := len(r.mem[state.KindRoute].Have()); got != 1 {
				t.Errorf("%d routes, containers should keep working", got)
			}
		})
	})
}

func TestQuietWhenInSync(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, resync)
		r.world.snap = picture(2, 3)
		r.run(t, func() {
			r.settle()
			before := len(r.events)
			for range 20 {
				r.settle()
			}
			if len(r.events) != before {
				t.Errorf("events while nothing changed: %q", r.events[before:])
			}
			changes, err := r.Plan(t.Context())
			if err != nil || len(changes) != 0 {
				t.Errorf("plan in sync: %v, %v", changes, err)
			}
		})
	})
}

func TestRepeatedFailureIsToldOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, resync)
		r.world.snap = picture(2)
		tries := 0
		r.mem[state.KindRoute].Refuse = func(reconcile.Change) error { tries++; return errors.New("no room") }
		r.run(t, func() {
			for range 10 {
				r.settle()
			}
			told := 0
			for _, e := range r.events {
				if strings.Contains(e, "no room") {
					told++
				}
			}
			if told != 1 || tries < 5 {
				t.Errorf("told %d times, tried %d times", told, tries)
			}
		})
	})
}

func TestConfigChangeWaitsForRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, resync)
		r.world.snap = picture(2)
		r.run(t, func() {
			r.settle()
			r.world.set(func() { r.world.snap.Config = []byte(strings.ReplaceAll(netConf, "10.5", "10.6")) })
			r.settle()
			s := r.Status()
			if !s.Ready || !slices.ContainsFunc(s.Warnings, func(w string) bool { return strings.Contains(w, "restart flanneld") }) {
				t.Errorf("ready %v, warnings %q", s.Ready, s.Warnings)
			}
		})
	})
}

func TestHostThatCannotJoin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, resync)
		r.world.snap = picture()
		r.world.err = errors.New("no default route")
		if err := r.Run(t.Context()); !errors.Is(err, engine.ErrNode) {
			t.Errorf("%v, want ErrNode", err)
		}
	})
}

// Two peers with one VTEP MAC cannot both be served: the older lease keeps it.
func TestPeersThatClash(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, resync)
		r.world.snap = picture(2, 3)
		r.world.snap.Leases[0].Offer = r.world.snap.Leases[1].Offer
		r.world.snap.Leases[0].Created = 9
		r.run(t, func() {
			r.settle()
			s := r.Status()
			if len(s.Peers) != 2 || s.Peers[0].State != "failing" || s.Peers[1].State != "programmed" {
				t.Errorf("peers %+v", s.Peers)
			}
		})
	})
}
