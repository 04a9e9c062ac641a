// Package fastpath lets the kernel carry the udp backend's packets: it attaches
// the programs of package bpf to the TUN device and to the uplink, fills their
// maps, and keeps the hidden VXLAN device that they need.
//
// Ours are the pins in one directory, which is named after the owner and the
// network namespace, and VXLAN devices with the alias state.FastPathAlias.
// There is one fast path for an owner. Everything outlives the daemon: one that
// starts again finds it in place, and exchanges programs of another build
// without a packet lost.
//
// Packets that the programs leave alone take the forwarder's way, so that
// nothing here is ever needed to reach a peer. Called by the engine through
// reconcile.
package fastpath

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/flannel-ng/flannel-ng/internal/bpf"
	"github.com/flannel-ng/flannel-ng/internal/nl"
	"github.com/flannel-ng/flannel-ng/internal/reconcile"
	"github.com/flannel-ng/flannel-ng/internal/state"
)

// Root is where Linux has its bpf file system.
const Root = "/sys/fs/bpf"

// Options are the settings of a Driver.
type Options struct {
	Owner state.Owner
	// Root is a directory of a bpf file system, or where one can be mounted.
	Root string
}

// Driver makes fast paths. It is not safe for concurrent use.
type Driver struct{ o Options }

// New makes a driver.
func New(o Options) *Driver { return &Driver{o: o} }

// Kind implements reconcile.Driver.
func (*Driver) Kind() state.Kind { return state.KindFastPath }

// Dir is where an owner has its pins below root, in the network namespace of
// the calling thread: namespaces may share a file system of pins.
func Dir(root string, owner state.Owner) (string, error) {
	var st unix.Stat_t
	if err := unix.Stat("/proc/thread-self/ns/net", &st); err != nil {
		return "", fmt.Errorf("find the network namespace: %w", err)
	}
	return filepath.Join(root, fmt.Sprintf("%s-%d", owner.Alias(), st.Ino)), nil
}

// found is a fast path as it is.
type found struct {
	state.FastPath
	faults []string // why it does not work as it should
}

func (f found) String() string {
	if len(f.faults) > 0 {
		return f.FastPath.String() + " (" + strings.Join(f.faults, ", ") + ")"
	}
	return f.FastPath.String()
}

// is says whether f is what is wanted.
func (f found) is(w state.FastPath) bool {
	w.Optional = f.Optional
	return len(f.faults) == 0 && f.FastPath == w
}

// picture is all there is.
type picture struct {
	path  *found
	peers map[netip.Prefix]state.FastPeer
}

// Plan implements reconcile.Driver.
func (d *Driver) Plan(ctx context.Context, want *state.Set) ([]reconcile.Change, error) {
	have, err := d.read(ctx, want, (*bpf.Path).Peers)
	if err != nil {
		return nil, err
	}
	peers := make(map[netip.Prefix]state.FastPeer, len(want.FastPeers))
	if len(want.FastPaths) > 0 {
		for _, w := range want.FastPeers {
			peers[w.Subnet] = w
		}
	}
	return append(diffPath(want.FastPaths, have.path), diffPeers(peers, have.peers)...), nil
}

// PlanScope implements reconcile.Scoped. The path itself costs little to read,
// so that it always is.
func (d *Driver) PlanScope(ctx context.Context, s reconcile.Scope) ([]reconcile.Change, error) {
	paths := s.All().FastPaths
	if len(paths) == 0 {
		return nil, reconcile.Doubt("no fast path is wanted")
	}
	want := state.Set{FastPaths: paths}
	peers := map[netip.Prefix]state.FastPeer{}
	var subnets []netip.Prefix
	for _, w := range s.Want.FastPeers {
		peers[w.Subnet] = w
		subnets = append(subnets, w.Subnet)
	}
	for _, o := range s.Gone {
		if p, ok := o.(state.FastPeer); ok {
			subnets = append(subnets, p.Subnet)
		}
	}
	have, err := d.read(ctx, &want, func(p *bpf.Path) ([]bpf.Peer, error) { return p.Lookup(subnets) })
	if err != nil {
		return nil, err
	}
	return append(diffPath(paths, have.path), diffPeers(peers, have.peers)...), nil
}

func diffPath(want []state.FastPath, have *found) []reconcile.Change {
	var out []reconcile.Change
	for i, w := range want {
		switch {
		case have == nil || i > 0:
			out = append(out, reconcile.Change{Op: reconcile.Add, Object: w})
		case !have.is(w):
			out = append(out, reconcile.Change{Op: reconcile.Update, Object: w, Was: have.String(), Found: *have})
		}
	}
	if have != nil && len(want) == 0 {
		out = append(out, reconcile.Change{Op: reconcile.Remove, Object: *have})
	}
	return out
}

func diffPeers(want, have map[netip.Prefix]state.FastPeer) []reconcile.Change {
	return reconcile.Diff(want, have, func(w, h state.FastPeer) bool { return w == h })
}

// read reads the path, and the peers by way of list.
func (d *Driver) read(ctx context.Context, want *state.Set, list func(*bpf.Path) ([]bpf.Peer, error)) (picture, error) {
	dir, err := Dir(d.o.Root, d.o.Owner)
	if err != nil {
		return picture{}, err
	}
	// Most hosts have another backend, and some a kernel without BPF.
	if _, err := os.Stat(dir); len(want.FastPaths) == 0 && errors.Is(err, fs.ErrNotExist) {
		return picture{}, nil
	}
	c, err := nl.Dial()
	if err != nil {
		return picture{}, err
	}
	defer func() { _ = c.Close() }()
	hidden, err := d.hidden(ctx, c)
	if err != nil {
		return picture{}, err
	}
	r := reader{conn: c, hidden: hidden}
	if len(want.FastPaths) > 0 {
		r.link = want.FastPaths[0].Link
	}
	path, err := bpf.Open(dir)
	if errors.Is(err, bpf.ErrNone) {
		return r.remains(dir)
	}
	if err != nil {
		return picture{}, err
	}
	out, err := r.read(ctx, path, list)
	return out, errors.Join(err, path.Close())
}

// hidden lists the devices of the fast path.
func (d *Driver) hidden(ctx context.Context, c *nl.Conn) ([]nl.Link, error) {
	links, err := c.Links(ctx, string(state.LinkVXLAN))
	if err != nil {
		return nil, fmt.Errorf("list VXLAN links: %w", err)
	}
	return slices.DeleteFunc(links, func(l nl.Link) bool { return l.Alias != state.FastPathAlias(d.o.Owner) }), nil
}

// reader describes what is there.
type reader struct {
	conn   *nl.Conn
	hidden []nl.Link
	link   string // that is wanted: what has no name of its own is called so
}

// remains is what there is without maps: a part of a fast path, or nothing.
func (r reader) remains(dir string) (picture, error) {
	_, err := os.Stat(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist) && len(r.hidden) == 0:
		return picture{}, nil
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return picture{}, fmt.Errorf("look for pins: %w", err)
	}
	return picture{path: &found{FastPath: state.FastPath{Link: r.link}, faults: []string{"not whole"}}}, nil
}

func (r reader) read(ctx context.Context, p *bpf.Path, list func(*bpf.Path) ([]bpf.Peer, error)) (picture, error) {
	s, err := p.Settings()
	if err != nil {
		return picture{}, err
	}
	f := found{FastPath: state.FastPath{Port: s.Port, Source: s.Source, Local: s.Local}}
	for _, n := range []struct {
		index int
		name  *string
	}{{s.Tunnel, &f.Link}, {s.Uplink, &f.Uplink}} {
		if *n.name, err = r.nameOf(ctx, n.index); err != nil {
			return picture{}, err
		}
	}
	places := map[bpf.Hook]int{bpf.Out: s.Tunnel, bpf.In: s.Uplink}
	if len(r.hidden) == 1 {
		f.Decap, places[bpf.Decap] = r.hidden[0].Name, r.hidden[0].Index
		f.fault(r.hidden[0].VXLAN.Port != s.Decap, "another port of "+f.Decap)
		f.fault(!r.hidden[0].Up, f.Decap+" is down")
	}
	for _, h := range bpf.Hooks() {
		a, err := p.Attached(h)
		if err != nil {
			return picture{}, err
		}
		f.fault(a.Link == 0 || a.Link != places[h], string(h)+" is not attached")
		f.fault(a.Link != 0 && !a.Current, string(h)+" is of another build")
	}
	stale, err := p.Stale()
	if err != nil {
		return picture{}, err
	}
	f.fault(stale, "remains of another build")
	if f.Link == "" {
		f.Link = r.link
	}
	peers, err := list(p)
	if err != nil {
		return picture{}, err
	}
	out := picture{path: &f, peers: make(map[netip.Prefix]state.FastPeer, len(peers))}
	for _, o := range peers {
		out.peers[o.Subnet] = state.FastPeer{Link: f.Link, Subnet: o.Subnet, Dst: o.Dst}
	}
	return out, nil
}

func (f *found) fault(is bool, text string) {
	if is {
		f.faults = append(f.faults, text)
	}
}

// nameOf is "" for a device that is gone.
func (r reader) nameOf(ctx context.Context, index int) (string, error) {
	if index == 0 {
		return "", nil
	}
	l, err := r.conn.LinkAt(ctx, index)
	if errors.Is(err, unix.ENODEV) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("find the link of index %d: %w", index, err)
	}
	return l.Name, nil
}
