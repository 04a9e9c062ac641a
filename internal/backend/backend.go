// Package backend is the seam between the fabric's decisions and one way of
// carrying packets. A backend is one folder below this one and a line in
// backend/all.
//
// Backends are pure: facts and leases in, wanted state out. They never read
// the kernel, the clock or the store, and never import a driver.
package backend

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/config"
	"github.com/flannel-ng/flannel-ng/internal/facts"
	"github.com/flannel-ng/flannel-ng/internal/lease"
	"github.com/flannel-ng/flannel-ng/internal/state"
)

// Backend carries packets between hosts. Receive and send sides are separate,
// so that a host can receive by two backends and choose one per peer to send.
type Backend interface {
	// Offer is what this host publishes so that peers can reach it. prev is
	// this host's lease as the store has it, or nil: it keeps MACs and keys.
	Offer(n facts.Node, prev *lease.Lease) (lease.Offer, error)
	// Local is the receive side: devices, addresses, switches, and the MTU.
	Local(self lease.Lease, n facts.Node) (state.Set, error)
	// Peer is the send side towards one peer, and depends on no other peer. Of
	// the links of this host it sees those of Related, with their identity
	// alone, and of the uplink the name and MTU: all else changes too often.
	// o is the offer of p to use. An error rejects that peer only, or one
	// family of it: the set holds what is right all the same.
	Peer(self lease.Lease, n facts.Node, p lease.Lease, o lease.Offer) (state.Set, error)
}

// Setup is what every backend is made from.
type Setup struct {
	Options  config.Backend // the Backend object of the network config
	Owner    state.Owner
	Families []addr.Family // enabled, IPv4 first
	// Networks are the cluster networks of the enabled families.
	Networks addr.ByFamily[netip.Prefix]
	// Beside are the wires that this host has, or is to have, too.
	Beside []Wire
	// Commands: the command line lets the network config name commands that
	// run as root on this host.
	Commands bool
}

// Entry lists a backend in backend/all.
type Entry struct {
	Type string // canonical Backend.Type, lower case
	// New makes the backend; warnings name option keys it does not know.
	New func(Setup) (b Backend, warnings []string, err error)
	// Options is a zero value of the option struct, for documentation.
	Options any
	// Adjacency says whether a backend with these options asks for
	// facts.Node.Adjacent, which costs a lookup for every peer; nil: never.
	Adjacency func(config.Backend) bool
	// Startup names the command whose output Offer finds in
	// facts.Node.Startup; nil: none is ever run.
	Startup func(config.Backend) (state.Command, error)
	// Wire says what a backend with these options puts on the wire; nil: it
	// cannot stand beside another, and a fabric leaves it, or comes to it, by a
	// restart.
	Wire func(config.Backend) (Wire, error)
}

// Wire says what the packets of a backend look like and where they arrive.
// Hosts whose wires are equal understand each other, whatever else their options
// say. The zero Wire is that of a backend without one.
type Wire struct {
	// Name is for people and for other hosts: "vxlan vni 1 port 8472".
	Name string
	Type string // canonical Backend.Type
	// VNI stands in the backend data of a lease; 0: such data says nothing.
	VNI uint32
	// Port is where a host listens (UDP); 0: nowhere.
	Port uint16
	// Socket is what listens there: those that say the same share the port.
	Socket string
	// Single is what a host has but one of, "" for nothing.
	Single string
}

// Beside says why a host cannot receive by w and o at once; nil: it can.
func (w Wire) Beside(o Wire) error {
	switch {
	case w.Name == o.Name:
		return nil
	case w.Port != 0 && w.Port == o.Port && w.Socket != o.Socket:
		return fmt.Errorf("%w: both need UDP port %d", ErrBeside, w.Port)
	case w.Single != "" && w.Single == o.Single:
		return fmt.Errorf("%w: a host has one %s", ErrBeside, w.Single)
	default:
		return nil
	}
}

// ErrBeside says that a host cannot receive in two ways at once.
var ErrBeside = errors.New("not possible at once")

// ErrForeign says that a lease is that of a host which speaks none of the wires
// of this one. That is no fault of it.
var ErrForeign = errors.New("another backend")

// Admitter is a Backend that refuses packets of hosts that it does not know.
type Admitter interface {
	// Admit is what of Peer lets packets of p in, before p has offered to be
	// reached by this backend. It leads no packet to p.
	Admit(self lease.Lease, n facts.Node, p lease.Lease) state.Set
}
