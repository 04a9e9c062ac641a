package explorer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"sync"
	"time"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/keeper"
	"github.com/flannel-ng/flannel-ng/internal/lease"
	"github.com/flannel-ng/flannel-ng/internal/store/etcd"
	"github.com/flannel-ng/flannel-ng/internal/store/etcd/fake"
	"github.com/flannel-ng/flannel-ng/internal/store/etcd/kv"
)

// machine is a host of ours with its disk and its clock; daemons on it come
// and go.
type machine struct {
	world  *world
	name   string
	id     string // of the state directory
	public addr.ByFamily[netip.Addr]
	boot   int
	began  time.Time
	rate   float64 // of its clock: within one percent of true
	seed   uint64
	starts int
	run    *daemon // nil: down; guarded by world.mu

	// The disk, guarded by world.mu.
	previous addr.ByFamily[netip.Prefix] // subnet.env
	stored   lease.Snapshot              // last known good
}

// daemon is one run of our code on a machine.
type daemon struct {
	name    string // as the server knows it
	id      string // of the host, when it started
	machine *machine
	conn    *fake.Client
	store   *etcd.Store
	keeper  *keeper.Keeper
	cancel  context.CancelFunc
	done    chan struct{}
	ask     lease.Ask     // guarded by world.mu
	last    lease.Holding // as of the last change; guarded by world.mu
	// robbed says that somebody entitled took the lease away and the daemon
	// cannot know yet; guarded by world.mu.
	robbed bool
}

// now is the machine's clock. Steps of its wall clock do not exist here: the
// code under test reads only differences.
func (m *machine) now() time.Time {
	return m.began.Add(time.Duration(float64(time.Since(m.began)) * m.rate))
}

// start boots a daemon on m. fromDisk hands it the last known good picture.
func (m *machine) start(ctx context.Context, fromDisk bool) {
	w := m.world
	m.starts++
	d := &daemon{name: fmt.Sprintf("%s#%d", m.name, m.starts), id: m.id, machine: m, done: make(chan struct{})}
	d.conn = w.server.Client(d.name)
	var conn kv.Conn = d.conn
	if w.Tamper != nil {
		conn = w.Tamper(conn)
	}
	log := slog.New(w.Log).With("host", d.name)
	d.store = etcd.New(etcd.NewClient(conn, prefix), etcd.Options{
		HostID: m.id, BootID: fmt.Sprintf("%s-%d", m.name, m.boot), LeaseTTL: leaseTTL, SessionTTL: sessionTTL,
		Rand: rand.New(rand.NewPCG(m.seed, uint64(m.starts))), Log: log, //nolint:gosec // a simulation must be repeatable
	})
	d.keeper = keeper.New(clocked{d.store, m}, keeper.Options{
		HostID: m.id, RenewMargin: w.plan.Margin, Grace: grace, Seed: m.seed, Log: log, Now: m.now,
		Changed: func() { w.changed(d) },
	})
	ctx, d.cancel = context.WithCancel(ctx)
	w.mu.Lock()
	m.run, w.daemons[d.name] = d, d
	w.note(d.name, "starts as %s boot %d", m.id, m.boot)
	d.ask = lease.Ask{
		Network: w.network, Public: m.public, Previous: m.previous,
		Offer: lease.Offer{Backend: "host-gw", Extra: extraOf(d)},
	}
	ask, picture := d.ask, m.stored
	w.mu.Unlock()
	d.keeper.Ask(ask)
	if fromDisk && picture.Synced {
		picture.Origin = lease.Origin{LastKnownGood: true}
		d.keeper.Snapshot(picture)
	}
	d.spawn(ctx)
}

func (d *daemon) spawn(ctx context.Context) {
	w := d.machine.world
	var g sync.WaitGroup
	g.Go(func() {
		err := d.store.Watch(ctx, func(s lease.Snapshot) {
			w.mu.Lock()
			d.machine.stored = s
			w.extras(d, s)
			w.mu.Unlock()
			d.keeper.Snapshot(s)
		})
		if !errors.Is(err, context.Canceled) {
			w.mu.Lock()
			w.fail("%s: the watch ended: %v", d.name, err)
			w.mu.Unlock()
		}
	})
	g.Go(func() { _ = d.keeper.Run(ctx) })
	w.running.Go(func() {
		g.Wait()
		close(d.done)
	})
}

// daemonOf is the daemon that runs on m, or nil.
func (m *machine) daemonOf() *daemon {
	m.world.mu.Lock()
	defer m.world.mu.Unlock()
	return m.run
}

func (m *machine) down(how string) *daemon {
	m.world.mu.Lock()
	defer m.world.mu.Unlock()
	d := m.run
	if d != nil {
		m.run = nil
		m.world.note(d.name, "%s", how)
	}
	return d
}

// crash ends a daemon as SIGKILL does: what it sent may still arrive.
func (m *machine) crash() {
	if d := m.down("crashes"); d != nil {
		d.conn.Cut()
		d.cancel()
	}
}

// stop ends a daemon in good order.
func (m *machine) stop(ctx context.Context) {
	if d := m.down("stops"); d != nil {
		d.cancel()
		<-d.done
		_ = d.store.Close(ctx)
	}
}

// clocked is the store as a host with another clock sees it.
type clocked struct {
	*etcd.Store
	machine *machine
}

// Claim translates the expiry: the store counted it from a moment after now.
func (c clocked) Claim(ctx context.Context, claim lease.Claim) (lease.Held, error) {
	mine, real := c.machine.now(), time.Now()
	h, err := c.Store.Claim(ctx, claim)
	if !h.Expires.IsZero() {
		h.Expires = mine.Add(h.Expires.Sub(real))
	}
	return h, err //nolint:wrapcheck // a decorator
}
