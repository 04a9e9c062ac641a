// Package alloc hands out subnets and carries nothing: how packets reach other
// hosts is the affair of whoever runs the network.
//
// It produces wanted state only; called by the engine.
package alloc

import (
	"github.com/flannel-ng/flannel-ng/internal/backend"
	"github.com/flannel-ng/flannel-ng/internal/facts"
	"github.com/flannel-ng/flannel-ng/internal/lease"
	"github.com/flannel-ng/flannel-ng/internal/state"
)

// Type is the Backend.Type of this backend.
const Type = "alloc"

// Options are the keys of the Backend object: none but Type.
type Options struct{}

type alloc struct{}

// New makes the backend.
func New(s backend.Setup) (backend.Backend, []string, error) {
	warnings, err := s.Options.Decode(&Options{})
	return alloc{}, warnings, err
}

// Offer is nothing but the type, which stores that keep to flannel's format
// leave out: they give it back as the default type, and no peer is taken for
// one of this backend. Public addresses are recorded unseen.
func (alloc) Offer(facts.Node, *lease.Lease) (lease.Offer, error) {
	return lease.Offer{Backend: Type}, nil
}

// Local is the MTU alone.
func (alloc) Local(_ lease.Lease, n facts.Node) (state.Set, error) {
	return state.Set{MTU: n.Uplink.MTU}, nil
}

// Peer is nothing.
func (alloc) Peer(_ lease.Lease, _ facts.Node, _ lease.Lease, _ lease.Offer) (state.Set, error) {
	return state.Set{}, nil
}
