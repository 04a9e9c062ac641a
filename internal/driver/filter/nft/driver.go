// Package nft makes traffic filters true with nftables, over netlink: neither
// the nft nor an iptables binary is needed.
//
// Ours are, whole, the tables "ip flannel-ipv4" and "ip6 flannel-ipv6" plus
// the owner's suffix; and, in the chains DOCKER-USER and FORWARD of the tables
// "ip filter" and "ip6 filter", the rules that carry our comment. It touches
// nothing else. Everything is compared whole and replaced in one transaction,
// so there is no moment without rules. Called by reconcile, from one goroutine
// at a time.
package nft

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/driver/filter"
	"github.com/flannel-ng/flannel-ng/internal/reconcile"
	"github.com/flannel-ng/flannel-ng/internal/state"
)

// Options configures a Driver.
type Options struct {
	Owner state.Owner
	Log   *slog.Logger
}

// Driver implements reconcile.Driver for filters of mode nftables.
type Driver struct {
	names names
	log   *slog.Logger
	// seen is, per family, the last reading that was as wanted. It counts
	// only while the kernel's generation number is still the same.
	seen addr.ByFamily[reading]
}

type reading struct {
	valid      bool
	generation uint32
	want       state.Filter
}

// New returns a driver that works in the network namespace of the thread that
// calls it.
func New(o Options) *Driver { return &Driver{names: names{suffix: o.Owner.Suffix()}, log: o.Log} }

// Kind implements reconcile.Driver.
func (d *Driver) Kind() state.Kind { return state.KindFilter }

// Plan implements reconcile.Driver. A kernel without nftables is fine as long
// as nothing is wanted from it.
func (d *Driver) Plan(ctx context.Context, want *state.Set) ([]reconcile.Change, error) {
	wanted := filter.Wanted(want, state.ModeNFTables)
	generation, err := filter.Generation()
	if err != nil {
		if missing(err) && filter.Empty(wanted.At(addr.IPv4)) && filter.Empty(wanted.At(addr.IPv6)) {
			return nil, nil
		}
		return nil, err
	}
	var out []reconcile.Change
	for _, f := range addr.Families() {
		c, err := d.plan(ctx, f, wanted.At(f), generation)
		if err != nil {
			return nil, err
		}
		out = append(out, c...)
	}
	return out, nil
}

func (d *Driver) plan(ctx context.Context, f addr.Family, want state.Filter, generation uint32) ([]reconcile.Change, error) {
	if last := d.seen.At(f); last.valid && last.generation == generation && same(last.want, want) {
		return nil, nil
	}
	have, err := d.names.read(ctx, f)
	if err != nil {
		return nil, err
	}
	finding := d.names.compare(f, want, have).finding(f, have)
	if change, needed := finding.Change(want); needed {
		return []reconcile.Change{change}, nil
	}
	d.seen.Put(f, reading{valid: true, generation: have.generation, want: want})
	return nil, nil
}

// Apply implements reconcile.Driver. It reads again instead of trusting the
// plan, because rule handles may have changed since.
func (d *Driver) Apply(ctx context.Context, changes []reconcile.Change) []reconcile.Result {
	return reconcile.Each(ctx, changes, func(c reconcile.Change) error { return d.apply(ctx, c) })
}

func (d *Driver) apply(ctx context.Context, c reconcile.Change) error {
	f, want, err := filter.Target(c)
	if err != nil {
		return err
	}
	have, err := d.names.read(ctx, f)
	if err != nil {
		return err
	}
	diff := d.names.compare(f, want, have)
	conn, err := nftables.New()
	if err != nil {
		return fmt.Errorf("nftables socket: %w", err)
	}
	if len(diff.table) > 0 {
		d.names.replaceTable(conn, f, want, have)
	}
	if len(diff.host) > 0 {
		d.names.replaceHostRules(conn, f, want, have)
	}
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("nftables rules for %s: %w", f, err)
	}
	if len(diff.table) > 0 {
		filter.DropStale(want, d.log)
	}
	return nil
}

// missing says that the kernel has no nftables at all.
func missing(err error) bool {
	return errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP)
}

func same(a, b state.Filter) bool {
	return slices.Equal(a.Postrouting, b.Postrouting) && slices.Equal(a.Forward, b.Forward)
}
