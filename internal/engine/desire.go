// Package engine runs the pass: facts and leases in, wanted state out, the
// difference applied by drivers, a report kept.
//
// Desire is pure. The loop does no I/O of its own: it reads facts through
// World and writes through drivers. It never claims leases (keeper) and never
// decides what packets mean (backend, traffic). Called by the daemon.
//
// What peers add to the wanted state is kept from pass to pass (table), so that
// a change costs what it concerns; whenever that is not sure, all is computed
// anew, by the same code that Desire uses.
package engine

import (
	"slices"

	"github.com/flannel-ng/flannel-ng/internal/config"
	"github.com/flannel-ng/flannel-ng/internal/facts"
	"github.com/flannel-ng/flannel-ng/internal/lease"
	"github.com/flannel-ng/flannel-ng/internal/state"
	"github.com/flannel-ng/flannel-ng/internal/traffic"
)

// Inputs is everything that the wanted state depends on.
type Inputs struct {
	Network  config.Network
	Backend  Carrier
	Node     facts.Node
	Own      lease.Holding // with a lease: hasLease
	Snapshot lease.Snapshot
	Policy   Policy
	Owner    state.Owner // marks objects that have no better mark
}

// Policy is what the command line says about this host.
type Policy struct {
	Traffic    traffic.Options
	Blackhole  bool   // keep a blackhole route for the own subnets
	SubnetFile string // absolute path
}

// traffic completes the command line's word on traffic with the fabric's.
func (p Policy) traffic(n config.Network) traffic.Options {
	o := p.Traffic
	o.Mode = state.ModeIPTables
	if n.NFTables {
		o.Mode = state.ModeNFTables
	}
	return o
}

// hasLease says whether there is a lease to build state for.
func hasLease(h lease.Holding) bool { return len(h.Lease.Prefixes()) > 0 }

// Desired is what this host should look like, and what was left out.
type Desired struct {
	Set state.Set
	// Own are the keys of objects that readiness depends on: all but peers'.
	Own map[state.Key]bool
	// File is subnet.env, to be written when Own is in place.
	File     state.File
	Peers    []Peer
	Rejected []lease.Rejected
}

// Peer is an admitted lease and what came of it.
type Peer struct {
	Lease lease.Lease
	// Keys are its objects, to find its failures by.
	Keys []state.Key
	// Err is why it, or one family of it, is not programmed.
	Err error
}

// Desire computes the wanted state of a host with a lease. It is a pure
// function; the order of leases does not matter.
func Desire(in Inputs) (Desired, error) {
	h, err := desireHost(in)
	if err != nil {
		return Desired{}, err
	}
	t := newTable()
	t.update(in, h)
	return t.desired(h), nil
}

// desired is all of t with h, as Desire shows it.
func (t *table) desired(h host) Desired {
	out := Desired{Set: *t.all(h), Own: h.keys, File: h.file, Rejected: t.rejected()}
	t.each(func(e *entry, l *lease.Lease) {
		p := Peer{Lease: *l, Err: e.err}
		for _, o := range e.objects {
			p.Keys = append(p.Keys, o.Key())
		}
		out.Peers = append(out.Peers, p)
	})
	slices.SortFunc(out.Peers, func(a, b Peer) int { return lease.Compare(&a.Lease, &b.Lease) })
	return out
}
