package engine

import (
	"context"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/config"
	"github.com/flannel-ng/flannel-ng/internal/facts"
	"github.com/flannel-ng/flannel-ng/internal/lease"
)

// Depth says how much of the host's facts is to be read anew.
type Depth uint8

const (
	// Known allows those of the last call, with what a new picture asks for
	// besides.
	Known Depth = iota
	// Host is all but the routes to peers, of which there may be many. Those
	// too, if anything else is not as it was.
	Host
	// All is everything.
	All
)

// Need says what facts are for.
type Need struct {
	Families []addr.Family // enabled, IPv4 first
	Carriers []config.Backend
}

// World is what the loop looks at and asks of. All methods but Node return at
// once.
type World interface {
	// Snapshot is the latest picture of the store; false before the first.
	Snapshot() (lease.Snapshot, bool)
	// Node gives the facts of this host.
	Node(ctx context.Context, need Need, depth Depth) (facts.Node, error)
	// Ask tells the keeper what to hold a lease for. Idempotent.
	Ask(a lease.Ask)
	// Own is the holding that the keeper has now.
	Own() lease.Holding
}
