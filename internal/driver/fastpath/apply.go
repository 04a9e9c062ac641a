package fastpath

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/bpf"
	"github.com/flannel-ng/flannel-ng/internal/driver/kernel"
	"github.com/flannel-ng/flannel-ng/internal/nl"
	"github.com/flannel-ng/flannel-ng/internal/reconcile"
	"github.com/flannel-ng/flannel-ng/internal/state"
)

var (
	errOnePath  = errors.New("there is one fast path")
	errEthernet = errors.New("the fast path needs an uplink with Ethernet")
)

// Apply implements reconcile.Driver: the path first, and then its peers in
// batches; removals after that.
func (d *Driver) Apply(ctx context.Context, changes []reconcile.Change) []reconcile.Result {
	b := batch{d: d, results: make([]reconcile.Result, len(changes))}
	var puts, deletes, paths []int
	for i, ch := range changes {
		b.results[i].Change = ch
		switch o := ch.Object.(type) {
		case state.FastPath, found:
			paths = append(paths, i)
		case state.FastPeer:
			if ch.Op == reconcile.Remove {
				deletes = append(deletes, i)
			} else {
				puts = append(puts, i)
			}
		default:
			b.results[i].Err = fmt.Errorf("fastpath driver got %T", o)
		}
	}
	err := b.paths(ctx, paths)
	b.put(puts, err)
	b.delete(deletes)
	return b.results
}

// batch is one Apply.
type batch struct {
	d       *Driver
	results []reconcile.Result
}

// paths makes or removes the path. The error is that of the one that peers
// stand on.
func (b batch) paths(ctx context.Context, at []int) error {
	var first error
	made := ""
	for _, i := range at {
		var err error
		w, ok := b.results[i].Object.(state.FastPath)
		switch {
		case b.results[i].Op == reconcile.Remove || !ok:
			err = b.d.remove(ctx)
		case made != "":
			err = fmt.Errorf("%w, on %s", errOnePath, made)
		default:
			err, made = b.d.put(ctx, w), w.Link
			first = err
		}
		b.results[i].Err = err
	}
	return first
}

func (b batch) fail(at []int, err error) {
	for _, i := range at {
		b.results[i].Err = err
	}
}

// put adds and changes peers, if there is a path.
func (b batch) put(at []int, broken error) {
	if len(at) == 0 {
		return
	}
	if broken != nil {
		b.fail(at, fmt.Errorf("no fast path: %w: %w", reconcile.ErrBlocked, broken))
		return
	}
	p, err := b.d.open()
	if err != nil {
		b.fail(at, fmt.Errorf("no fast path: %w: %w", reconcile.ErrBlocked, err))
		return
	}
	peers := make([]bpf.Peer, len(at))
	for n, i := range at {
		o, _ := b.results[i].Object.(state.FastPeer)
		peers[n] = bpf.Peer{Subnet: o.Subnet, Dst: o.Dst}
	}
	done, err := p.Put(peers)
	if err = errors.Join(err, p.Close()); err != nil {
		b.fail(at[done:], err)
	}
}

func (b batch) delete(at []int) {
	if len(at) == 0 {
		return
	}
	p, err := b.d.open()
	if errors.Is(err, bpf.ErrNone) {
		return // gone with the path
	}
	if err == nil {
		var subnets []netip.Prefix
		for _, i := range at {
			o, _ := b.results[i].Object.(state.FastPeer)
			subnets = append(subnets, o.Subnet)
		}
		err = errors.Join(p.Delete(subnets), p.Close())
	}
	b.fail(at, err)
}

func (d *Driver) open() (*bpf.Path, error) {
	dir, err := Dir(d.o.Root, d.o.Owner)
	if err != nil {
		return nil, err
	}
	return bpf.Open(dir)
}

// put makes w true. What is received comes before what is sent.
func (d *Driver) put(ctx context.Context, w state.FastPath) error {
	c, err := nl.Dial()
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	x := kernel.NewIndexes(c, d.o.Owner)
	tunnel, err := x.Own(ctx, w.Link)
	if err != nil {
		return err
	}
	uplink, err := x.Any(ctx, w.Uplink)
	if err != nil {
		return err
	}
	if uplink.MAC == (addr.MAC{}) {
		return fmt.Errorf("link %s: %w", w.Uplink, errEthernet)
	}
	dir, err := Dir(d.o.Root, d.o.Owner)
	if err != nil {
		return err
	}
	if err := mount(d.o.Root); err != nil {
		return err
	}
	p, err := bpf.Load(dir)
	if err != nil {
		return err
	}
	hidden, err := d.guard(ctx, c, p, w.Decap)
	if err == nil {
		err = install(p, bpf.Settings{
			Uplink: uplink.Index, Tunnel: tunnel, Source: w.Source, Local: w.Local, Port: w.Port, Decap: hidden.VXLAN.Port,
		})
	}
	return errors.Join(err, p.Close())
}

// guard gives the one hidden device, with its program. It is never up without:
// anybody may send to its UDP port, and what came in by it would be routed.
func (d *Driver) guard(ctx context.Context, c *nl.Conn, p *bpf.Path, name string) (nl.Link, error) {
	at, err := p.Attached(bpf.Decap)
	if err != nil {
		return nl.Link{}, err
	}
	hidden, err := d.hide(ctx, c, name, at.Link)
	if err != nil {
		return nl.Link{}, err
	}
	if err := p.Attach(bpf.Decap, hidden.Index); err != nil {
		return nl.Link{}, err
	}
	if err := do(ctx, c, nl.SetLink(nl.Link{Index: hidden.Index, Alias: hidden.Alias, MTU: hidden.MTU})); err != nil {
		return nl.Link{}, fmt.Errorf("set link %s up: %w", name, err)
	}
	return hidden, nil
}

func install(p *bpf.Path, s bpf.Settings) error {
	if err := p.SetSettings(s); err != nil {
		return err
	}
	for _, to := range []struct {
		hook bpf.Hook
		link int
	}{{bpf.In, s.Uplink}, {bpf.Out, s.Tunnel}} {
		if err := p.Attach(to.hook, to.link); err != nil {
			return err
		}
	}
	return p.Forget()
}

// mount sees to a bpf file system at root, as systemd does on most hosts.
func mount(root string) error {
	var st unix.Statfs_t
	if err := unix.Statfs(root, &st); err != nil {
		return fmt.Errorf("look for a bpf file system at %s: %w", root, err)
	}
	if uint32(st.Type) == unix.BPF_FS_MAGIC { //nolint:gosec // its type is another on each architecture
		return nil
	}
	if err := unix.Mount("bpf", root, "bpf", 0, "mode=0700"); err != nil {
		return fmt.Errorf("mount a bpf file system at %s: %w", root, err)
	}
	return nil
}

// portAttempts is how often a free UDP port is looked for: somebody may take it
// first.
const portAttempts = 5

// hide gives the one hidden device, by this name, and removes others of ours. One
// that is there stays if its index is that of the device with the program.
func (d *Driver) hide(ctx context.Context, c *nl.Conn, name string, guarded int) (nl.Link, error) {
	all, err := d.hidden(ctx, c)
	if err != nil {
		return nl.Link{}, err
	}
	for _, l := range all {
		if l.Name == name && l.Up && l.VXLAN.Special && l.Index == guarded {
			continue
		}
		if err := do(ctx, c, nl.DelLink(l.Index)); err != nil {
			return nl.Link{}, fmt.Errorf("delete link %s: %w", l.Name, err)
		}
	}
	have, err := c.LinkNamed(ctx, name)
	switch {
	case errors.Is(err, unix.ENODEV):
		return d.makeHidden(ctx, c, name)
	case err != nil:
		return nl.Link{}, fmt.Errorf("read link %s: %w", name, err)
	case have.Alias != state.FastPathAlias(d.o.Owner):
		return nl.Link{}, fmt.Errorf("link %s has the alias %q: %w", name, have.Alias, kernel.ErrForeign)
	}
	return have, nil
}

// makeHidden makes the device, down, with any free UDP port: no packet on a wire ever
// has it.
func (d *Driver) makeHidden(ctx context.Context, c *nl.Conn, name string) (nl.Link, error) {
	for attempt := 1; ; attempt++ {
		l, err := d.tryHidden(ctx, c, name)
		if err == nil {
			return l, nil
		}
		if !errors.Is(err, unix.EADDRINUSE) || attempt == portAttempts {
			return nl.Link{}, fmt.Errorf("make link %s: %w", name, err)
		}
	}
}

func (d *Driver) tryHidden(ctx context.Context, c *nl.Conn, name string) (nl.Link, error) {
	port, err := freePort(ctx)
	if err != nil {
		return nl.Link{}, err
	}
	if err := do(ctx, c, nl.AddExternalVXLAN(name, port)); err != nil {
		return nl.Link{}, err
	}
	l, err := c.LinkNamed(ctx, name)
	if err == nil {
		// Without IPv6 there is nothing to keep it from.
		_ = do(ctx, c, nl.NoLinkLocal(l.Index))
		err = do(ctx, c, nl.SetAlias(l.Index, state.FastPathAlias(d.o.Owner)))
	}
	if err != nil {
		return nl.Link{}, errors.Join(err, do(ctx, c, nl.DelLink(l.Index)))
	}
	return c.LinkNamed(ctx, name)
}

func freePort(ctx context.Context) (uint16, error) {
	var lc net.ListenConfig
	s, err := lc.ListenPacket(ctx, "udp", ":0")
	if err != nil {
		return 0, fmt.Errorf("find a free UDP port: %w", err)
	}
	a, ok := s.LocalAddr().(*net.UDPAddr)
	if err := s.Close(); err != nil || !ok {
		return 0, fmt.Errorf("find a free UDP port: %w", err)
	}
	return uint16(a.Port), nil
}

// remove takes away all there is. Peers go with it. The hidden device goes while
// it has its program; from then on the forwarder gets what comes.
func (d *Driver) remove(ctx context.Context) error {
	dir, err := Dir(d.o.Root, d.o.Owner)
	if err != nil {
		return err
	}
	c, err := nl.Dial()
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	all, err := d.hidden(ctx, c)
	if err != nil {
		return err
	}
	for _, l := range all {
		if err := do(ctx, c, nl.DelLink(l.Index)); err != nil && !kernel.Gone(err) {
			return fmt.Errorf("delete link %s: %w", l.Name, err)
		}
	}
	return bpf.Remove(dir)
}

func do(ctx context.Context, c *nl.Conn, r nl.Request) error {
	return c.Do(ctx, []nl.Request{r})[0]
}
