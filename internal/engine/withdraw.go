package engine

import (
	"context"
	"net/netip"
	"time"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/facts"
	"github.com/flannel-ng/flannel-ng/internal/lease"
	"github.com/flannel-ng/flannel-ng/internal/reconcile"
	"github.com/flannel-ng/flannel-ng/internal/state"
)

// withdraw takes back what this host may no longer show when a full pass is not
// possible. It depends on nothing but the holding and the picture: a runtime
// that trusts subnet.env must not start containers in another host's subnet.
func (e *Engine) withdraw(ctx context.Context, in Inputs) {
	out := reconcile.Outcome{}
	switch {
	case in.Own.State == lease.Lost:
	case in.Own.State != lease.Pending:
		return
	case e.had:
		// The grace of a lost lease is over: its traffic ends with it.
		out = reconcile.Execute(ctx, e.drivers, &state.Set{}, trusted(in.Snapshot))
	case !heldByAnother(in, e.cfg.Previous):
		return
	}
	files := e.write(ctx, state.File{Path: e.cfg.Policy.SubnetFile, Absent: true})
	out.Results = append(out.Results, files.Results...)
	e.noteFailures(&passed{whole: true, out: out})
	e.repair.stir(time.Now())
	e.noteChanges(out, func(reconcile.Change) bool { return false })
}

// write makes subnet.env what f says.
func (e *Engine) write(ctx context.Context, f state.File) reconcile.Outcome {
	return reconcile.Execute(ctx, []reconcile.Driver{e.cfg.Files}, &state.Set{Files: []state.File{f}}, false)
}

// heldByAnother says whether a live picture gives one of subnets to another
// host.
func heldByAnother(in Inputs, subnets addr.ByFamily[netip.Prefix]) bool {
	if !trusted(in.Snapshot) {
		return false
	}
	mine := lease.Lease{Subnets: subnets}
	for _, l := range in.Snapshot.Leases {
		if mine.Overlaps(*l) && ofAnother(l, in.Node) {
			return true
		}
	}
	return false
}

// ofAnother goes by the owner, else by the address. While the host's own is not
// known (the config cannot be used) a lease without an owner may be ours.
func ofAnother(l *lease.Lease, n facts.Node) bool {
	if l.Owner != "" {
		return l.Owner != n.HostID
	}
	return n.Public != facts.Node{}.Public && !sharesAddress(l.Public, n.Public)
}
