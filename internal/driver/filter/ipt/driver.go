// Package ipt makes traffic filters true with iptables, in the flavour (nft or
// legacy) that the host uses.
//
// Ours are, whole, the chains FLANNEL-POSTRTG in nat and FLANNEL-FWD in filter
// plus the owner's suffix, and the rules in POSTROUTING and FORWARD that jump
// to them. It touches nothing else. Each pass reads every table with one
// iptables-save per family; each repair is one iptables-restore, so there is
// no moment without rules. Called by reconcile, from one goroutine at a time.
package ipt

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/driver/filter"
	"github.com/flannel-ng/flannel-ng/internal/reconcile"
	"github.com/flannel-ng/flannel-ng/internal/state"
)

// ErrNoTools says that a filter is wanted and the host has no iptables.
var ErrNoTools = errors.New("no iptables-save and iptables-restore in PATH")

// Options configures a Driver.
type Options struct {
	Owner state.Owner
	Log   *slog.Logger
	Host  Host // nil: this host
}

// Driver implements reconcile.Driver for filters of mode iptables.
type Driver struct {
	suffix string
	log    *slog.Logger
	host   Host
	tools  addr.ByFamily[*toolset] // nil until looked for
	// seen is, per family, the last reading that was as wanted. It counts
	// only while the kernel's generation number is still the same, and only
	// if legacy tables, which have no such number, play no part.
	seen addr.ByFamily[reading]
}

type reading struct {
	valid      bool
	generation uint32
	want       state.Filter
}

// New returns a driver that works in the network namespace of the thread that
// calls it.
func New(o Options) *Driver {
	d := &Driver{suffix: o.Owner.Suffix(), log: o.Log, host: o.Host}
	if d.host == nil {
		d.host = System{}
	}
	return d
}

// Kind implements reconcile.Driver.
func (d *Driver) Kind() state.Kind { return state.KindFilter }

// Plan implements reconcile.Driver. A host without iptables is fine as long as
// nothing is wanted from it.
func (d *Driver) Plan(ctx context.Context, want *state.Set) ([]reconcile.Change, error) {
	wanted := filter.Wanted(want, state.ModeIPTables)
	var out []reconcile.Change
	for _, f := range addr.Families() {
		c, needed, err := d.plan(ctx, f, wanted.At(f))
		if err != nil {
			return nil, err
		}
		if needed {
			out = append(out, c)
		}
	}
	return out, nil
}

func (d *Driver) plan(ctx context.Context, f addr.Family, want state.Filter) (reconcile.Change, bool, error) {
	ts, err := d.toolset(ctx, f)
	if errors.Is(err, ErrNoTools) && filter.Empty(want) {
		return reconcile.Change{}, false, nil
	}
	if err != nil {
		return reconcile.Change{}, false, err
	}
	now := d.covered(f, ts, want)
	if now.valid && d.unchanged(f, now) {
		return reconcile.Change{}, false, nil
	}
	finding := filter.Finding{Mode: state.ModeIPTables, Family: f}
	for _, t := range ts.flavours() {
		edits, err := d.compare(ctx, f, t, ts.share(t, want))
		if err != nil {
			return reconcile.Change{}, false, err
		}
		for _, e := range edits {
			finding.Found += e.found
			finding.Drift = append(finding.Drift, e.drift...)
		}
	}
	change, needed := finding.Change(want)
	if !needed {
		d.seen.Put(f, now)
	}
	return change, needed, nil
}

// covered takes the generation number before anything is read. Not valid: the
// number does not cover what will be read.
func (d *Driver) covered(f addr.Family, ts *toolset, want state.Filter) reading {
	generation, err := filter.Generation()
	legacy := ts.home.legacy || ts.other != nil && ts.other.legacy && d.host.LegacyTables(f)
	return reading{valid: err == nil && !legacy, generation: generation, want: want}
}

func (d *Driver) unchanged(f addr.Family, now reading) bool {
	last := d.seen.At(f)
	return last.valid && last.generation == now.generation &&
		slices.Equal(last.want.Postrouting, now.want.Postrouting) && slices.Equal(last.want.Forward, now.want.Forward)
}

// Apply implements reconcile.Driver. It reads again instead of trusting the
// plan, because positions may have changed since.
func (d *Driver) Apply(ctx context.Context, changes []reconcile.Change) []reconcile.Result {
	return reconcile.Each(ctx, changes, func(c reconcile.Change) error { return d.apply(ctx, c) })
}

func (d *Driver) apply(ctx context.Context, c reconcile.Change) error {
	f, want, err := filter.Target(c)
	if err != nil {
		return err
	}
	ts, err := d.toolset(ctx, f)
	if err != nil {
		return err
	}
	masquerade := false
	for _, t := range ts.flavours() {
		edits, err := d.compare(ctx, f, t, ts.share(t, want))
		if err != nil {
			return err
		}
		input := script(edits)
		if input == "" {
			continue
		}
		if _, err := d.host.Run(ctx, input, t.restoreArgs()); err != nil {
			return fmt.Errorf("%s rules for %s: %w", t.restore, f, err)
		}
		masquerade = masquerade || len(edits[0].lines) > 0
	}
	if masquerade {
		filter.DropStale(want, d.log)
	}
	return nil
}

// compare reads one flavour and returns the edits of nat and filter, in this
// order. Legacy tables that the kernel has not loaded are empty; asking for
// them would load them.
func (d *Driver) compare(ctx context.Context, f addr.Family, t *tools, want state.Filter) ([]edit, error) {
	have := tables{}
	if !t.legacy || d.host.LegacyTables(f) {
		text, err := d.host.Run(ctx, "", []string{t.save})
		if err != nil {
			return nil, fmt.Errorf("%s: %w", t.save, err)
		}
		if have, err = parse(text); err != nil {
			return nil, fmt.Errorf("%s: %w", t.save, err)
		}
	}
	want = t.possible(want)
	var out []edit
	for _, s := range sections(d.suffix) {
		out = append(out, s.edit(have[s.table], s.rules(want)))
	}
	return out, nil
}
