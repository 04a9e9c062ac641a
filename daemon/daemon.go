// Package daemon wires flanneld together: store, keeper, engine, drivers, and
// what they show. It owns the order of start and stop and decides nothing.
//
// It is the one package outside internal, so that another program can embed a
// daemon. Called by cmd/flanneld.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"time"

	systemd "github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sync/errgroup"

	"github.com/flannel-ng/flannel-ng/internal/control"
	"github.com/flannel-ng/flannel-ng/internal/driver/hook"
	"github.com/flannel-ng/flannel-ng/internal/engine"
	"github.com/flannel-ng/flannel-ng/internal/events"
	"github.com/flannel-ng/flannel-ng/internal/identity"
	"github.com/flannel-ng/flannel-ng/internal/keeper"
	"github.com/flannel-ng/flannel-ng/internal/lease"
	"github.com/flannel-ng/flannel-ng/internal/metrics"
	"github.com/flannel-ng/flannel-ng/internal/options"
	"github.com/flannel-ng/flannel-ng/internal/probe"
	"github.com/flannel-ng/flannel-ng/internal/report"
	"github.com/flannel-ng/flannel-ng/internal/web"
)

// Config is a daemon's setup.
type Config struct {
	Options options.Options
	Log     *slog.Logger
	Version string
	Out     io.Writer // the plan of a dry run goes here
}

// resubscribe is the wait before kernel notifications are tried again.
const resubscribe = time.Second

// closing is how long an orderly stop may take to end the session.
const closing = 3 * time.Second

// Run runs a daemon until ctx ends, and then stops it in order: what is in the
// kernel and the lease stay, the session ends; with --cleanup-on-exit nothing
// stays.
func Run(ctx context.Context, c Config) error {
	for _, w := range c.Options.Warnings {
		c.Log.Warn("option", "text", w)
	}
	c.Log.Info("flanneld starts", "version", c.Version, "options", c.Options)
	if c.Options.DryRun {
		return dryRun(ctx, c)
	}
	// The health port first: a start that hangs must be visible.
	health, err := web.Listen(ctx, c.Options.Healthz)
	if err != nil {
		return err
	}
	alone, err := identity.Lock(c.Options.SubnetFile)
	if errors.Is(err, fs.ErrPermission) && os.Geteuid() != 0 {
		return fmt.Errorf("%w: flanneld must run as root", err)
	}
	if err != nil {
		return err
	}
	id, err := identity.Open(c.Options.StateDir)
	if err != nil {
		return errors.Join(err, alone.Close())
	}
	socket, err := control.Listen(ctx, c.Options.ControlSocket)
	var left parting
	if err == nil {
		left, err = run(ctx, c, id, ports{health, socket})
	}
	if err == nil && left.cleans {
		err = cleanUp(ctx, c, left)
	}
	return errors.Join(err, id.Close(), alone.Close())
}

// ports are where people and probes ask.
type ports struct {
	health *web.Server
	socket net.Listener
}

func run(ctx context.Context, c Config, id *identity.Identity, at ports) (parting, error) {
	ring := events.New(events.DefaultLimit, time.Now)
	stores, err := openStore(ctx, c, id, ring)
	if err != nil {
		return parting{}, errors.Join(err, at.socket.Close())
	}
	asked := ctx // to stop
	p := newParts(c, id, stores, ring)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		return at.health.Serve(ctx, web.Handler(web.Answers{
			Stuck: p.stuck, Status: p.summary, Metrics: metrics.Handler(metrics.New(p.brief, time.Now)),
		}), c.Log)
	})
	g.Go(func() error { return control.Serve(ctx, at.socket, p, c.Log) })
	g.Go(func() error { return stores.waitMember(ctx) })
	g.Go(func() error { return stopped(stores.watched.Watch(ctx, p.picture)) })
	g.Go(func() error { return stopped(p.world.keeper.Run(ctx)) })
	g.Go(func() error { return stopped(p.world.startup.Run(ctx)) })
	g.Go(func() error { return p.watchKernel(ctx) })
	g.Go(func() error { return p.watchRules(ctx) })
	g.Go(func() error { return stopped(p.engine.Run(ctx)) })
	err = g.Wait()
	_, _ = systemd.SdNotify(false, systemd.SdNotifyStopping)
	p.hooks.Wait() // a command is not cut short at once
	var left parting
	if c.Options.CleanupOnExit && err == nil && asked.Err() != nil {
		left = p.leave(asked)
	} else {
		c.Log.Info("flanneld stops; lease, devices and rules stay")
	}
	if err := stores.close(context.WithoutCancel(ctx)); err != nil {
		// A session expires by itself; a stop is orderly without its end.
		c.Log.Warn("the store could not be left in order", "err", err)
	}
	return left, err
}

// stopped turns the end of a context into success: it is how a daemon stops.
func stopped(err error) error {
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// parts are the things that the loops share.
type parts struct {
	log    *slog.Logger
	world  *world
	engine *engine.Engine
	ring   *events.Ring
	stores *stores
	hooks  *hook.Driver
	// children are the programs that changed firewall rules for us.
	children probe.Children
}

func newParts(c Config, id *identity.Identity, st *stores, ring *events.Ring) *parts {
	p := &parts{log: c.Log, ring: ring, stores: st}
	p.world = newWorld(c, id.Host)
	if st.client != nil {
		p.world.moved = st.client.Moved
	}
	p.world.startup = newStartup(c.Log, func() { p.engine.Ring() })
	p.engine = newEngine(c, p, p.world)
	p.world.keeper = keeper.New(st.watched, keeper.Options{
		HostID: id.Host, RenewMargin: c.Options.RenewMargin, Grace: c.Options.LostLeaseGrace,
		Seed: seed(id.Host), Log: c.Log, Changed: p.engine.Ring,
	})
	return p
}

// picture takes a new picture of the store. While it settles the keeper may
// claim by it, and the kernel loses nothing by it.
func (p *parts) picture(s lease.Snapshot) {
	shown := s
	shown.Synced = s.Synced && !s.Settling
	p.world.snapshot.Store(&shown)
	p.world.keeper.Snapshot(s)
	p.engine.NewPicture()
}

// ready tells the supervisor, once there is something to depend on.
func (p *parts) ready(ready bool) {
	if !ready {
		return
	}
	if _, err := systemd.SdNotify(false, systemd.SdNotifyReady); err != nil {
		p.log.Warn("the supervisor cannot be told that we are ready", "err", err)
	}
}

// summary is the last report with the store's health, without the list of
// peers.
func (p *parts) summary() report.Status {
	s := p.engine.Summary()
	s.Store.Kind = "etcd"
	if h := p.stores.inner.Health(); h.Err != nil {
		s.Store.Error = silent(p.world.opts, h.Err).Error()
		s.Store.Age = max(s.Store.Age, time.Since(h.Since))
	}
	p.stores.describe(&s)
	return s
}

// Plan implements control.Source.
func (p *parts) Plan(ctx context.Context) ([]report.Change, error) { return p.engine.Plan(ctx) }

// Events implements control.Source.
func (p *parts) Events() []report.Event { return p.ring.List(time.Time{}) }

// silence is how long a loop may show no life. A pass may run slow tools, but
// never this long.
const silence = 2 * time.Minute

func (p *parts) stuck() []string {
	if quiet := time.Since(p.engine.Beat()); quiet > silence {
		return []string{fmt.Sprintf("the reconcile loop has shown no life for %s", quiet.Round(time.Second))}
	}
	return nil
}

func base(c Config, w *world) report.Status {
	name, err := os.Hostname()
	if err != nil {
		name = "?"
	}
	return report.Status{Version: c.Version, Instance: w.owner.Instance, HostID: w.hostID, Hostname: name, Started: time.Now()}
}
