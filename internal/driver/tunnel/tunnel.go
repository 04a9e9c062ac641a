// Package tunnel runs the forwarder process of the udp backend, as other
// drivers run a part of the kernel: it asks for all that the forwarder works
// on, and tells it the difference.
//
// Ours is the forwarder that answers on Process.Socket, with all its peers:
// the path is the daemon's own. Another daemon's forwarder has another path and
// is never spoken to, and a forwarder gets no device that is not ours.
//
// There is one forwarder, with one device, for all subnets. One that does not
// answer is started anew; one of another build is replaced by one that takes
// its device, sockets and peers, so that no packet is lost; one that nobody
// wants any more is told to end. Called by the engine through reconcile.
package tunnel

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"syscall"
	"time"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/reconcile"
	"github.com/flannel-ng/flannel-ng/internal/state"
	"github.com/flannel-ng/flannel-ng/internal/tunnel"
)

const (
	// patience is how long a forwarder may take for one answer. What is slower
	// hangs, and would hold up all other kinds. One that is only slow loses no
	// packet: it hands over to its successor.
	patience = 3 * time.Second
	// effort is how long it may take to end a forwarder that hangs, and to
	// start another.
	effort = 20 * time.Second
)

// Options are the settings of a Driver.
type Options struct {
	Owner state.Owner
	// Process is how a forwarder is started. Its Socket (state.TunnelSocket) is
	// where it answers, its Build that of this program: a forwarder of another
	// build is replaced.
	Process tunnel.Process
	// Wake asks for a pass soon: the forwarder has ended.
	Wake func()
	Log  *slog.Logger
}

// Driver runs the forwarder. It is not safe for concurrent use.
type Driver struct {
	o Options
	// open is kept between passes to notice the forwarder's end, and for
	// nothing else; nil: there was none.
	open *conversation
	// silent: the forwarder of the last plan did not answer. It is not asked
	// twice: each time would hold up the pass.
	silent bool
}

// New makes a driver.
func New(o Options) *Driver { return &Driver{o: o} }

// Kind implements reconcile.Driver.
func (*Driver) Kind() state.Kind { return state.KindTunnel }

// Close ends the conversation. The forwarder goes on.
func (d *Driver) Close() error {
	d.leave()
	return nil
}

// found is a forwarder as it describes itself.
type found struct {
	state.Tunnel
	fault string // why it must be replaced, whatever it works on
}

func (f found) String() string {
	if f.fault != "" {
		return f.Tunnel.String() + " (" + f.fault + ")"
	}
	return f.Tunnel.String()
}

// picture is all that a forwarder has.
type picture struct {
	tunnels map[string]found // at most one
	ends    map[end]state.TunnelEnd
}

type end struct {
	link   string
	subnet netip.Prefix
}

// Plan implements reconcile.Driver.
func (d *Driver) Plan(ctx context.Context, want *state.Set) ([]reconcile.Change, error) {
	have, err := d.read(ctx, want)
	if err != nil {
		return nil, err
	}
	tunnels := make(map[string]state.Tunnel, len(want.Tunnels))
	for _, w := range want.Tunnels {
		tunnels[w.Link] = w
	}
	ends := make(map[end]state.TunnelEnd, len(want.Ends))
	for _, w := range want.Ends {
		ends[end{w.Link, w.Subnet}] = w
	}
	changes := reconcile.Diff(tunnels, have.tunnels, func(w state.Tunnel, h found) bool {
		return h.fault == "" && w == h.Tunnel
	})
	return append(changes, reconcile.Diff(ends, have.ends, func(w, h state.TunnelEnd) bool { return w == h })...), nil
}

// read asks the forwarder. None has nothing. One that does not answer has
// nothing either that anybody could rely on: it is there, and in the way.
func (d *Driver) read(ctx context.Context, want *state.Set) (picture, error) {
	st, err := d.status(ctx)
	d.silent = false
	link := "" // of a forwarder that does not say
	if len(want.Tunnels) > 0 {
		link = want.Tunnels[0].Link
	}
	switch {
	case ctx.Err() != nil:
		return picture{}, fmt.Errorf("forwarder on %s: %w", d.o.Process.Socket, ctx.Err())
	case errors.Is(err, tunnel.ErrNoForwarder):
		return picture{}, nil
	case unreachable(err):
		return picture{}, err
	case err != nil:
		d.silent = true
		silent := found{Tunnel: state.Tunnel{Link: link}, fault: err.Error()}
		return picture{tunnels: map[string]found{link: silent}}, nil //nolint:nilerr // it is the finding
	}
	p := picture{ends: make(map[end]state.TunnelEnd, len(st.Peers)), tunnels: map[string]found{}}
	if st.Config != nil {
		link = st.Config.Link
	}
	if st.Config != nil || len(want.Tunnels) == 0 {
		p.tunnels[link] = found{Tunnel: describe(st.Config), fault: d.fault(st.Hello)}
	}
	for _, o := range st.Peers {
		p.ends[end{link, o.Subnet}] = state.TunnelEnd{Link: link, Subnet: o.Subnet, Dst: o.Dst, ECN: o.ECN}
	}
	return p, nil
}

// unreachable says whether nothing is known of the forwarder, because the
// socket could not be tried. One whose queue of callers is full hangs.
func unreachable(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial" && !errors.Is(err, syscall.EAGAIN)
}

// fault says why a forwarder that answers must be replaced, or "".
func (d *Driver) fault(h tunnel.Hello) string {
	switch {
	case h.Version != tunnel.Version:
		return fmt.Sprintf("version %d of the conversation", h.Version)
	case h.Build != d.o.Process.Build:
		return "of build " + h.Build
	default:
		return ""
	}
}

// describe is a forwarder's config as state. A nil config is that of nobody's
// forwarder, which has no device yet.
func describe(c *tunnel.Config) state.Tunnel {
	if c == nil {
		return state.Tunnel{}
	}
	t := state.Tunnel{Link: c.Link, Port: c.Port, Plain: c.Plain}
	for _, a := range c.Source {
		t.Source.Put(addr.Of(a), a)
	}
	for _, p := range c.Local {
		t.Local.Put(addr.Of(p.Addr()), p)
	}
	return t
}

// configOf is describe's inverse.
func configOf(t state.Tunnel) *tunnel.Config {
	c := &tunnel.Config{Link: t.Link, Port: t.Port, Plain: t.Plain}
	for _, f := range addr.Families() {
		if a := t.Source.At(f); a.IsValid() {
			c.Source = append(c.Source, a)
		}
		if p := t.Local.At(f); p.IsValid() {
			c.Local = append(c.Local, p)
		}
	}
	return c
}
