// Package engine runs the pass: facts and leases in, wanted state out, the
// difference applied by drivers, a report kept.
//
// Desire is pure. The loop does no I/O of its own: it reads facts through
// World and writes through drivers. It never claims leases (keeper) and never
// decides what packets mean (backend, traffic). Called by the daemon.
package engine

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/backend"
	"github.com/flannel-ng/flannel-ng/internal/config"
	"github.com/flannel-ng/flannel-ng/internal/facts"
	"github.com/flannel-ng/flannel-ng/internal/lease"
	"github.com/flannel-ng/flannel-ng/internal/state"
	"github.com/flannel-ng/flannel-ng/internal/subnetenv"
	"github.com/flannel-ng/flannel-ng/internal/traffic"
)

// Inputs is everything that the wanted state depends on.
type Inputs struct {
	Network  config.Network
	Backend  backend.Backend
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
	b := builder{owner: map[state.Key]string{}}
	local, err := in.Backend.Local(in.Own.Lease.Lease, in.Node)
	if err != nil {
		return Desired{}, err
	}
	var tunnels []string
	for _, l := range local.Links {
		tunnels = append(tunnels, l.Name)
	}
	policy := traffic.Desire(traffic.Inputs{
		Network: in.Network, Self: in.Own.Lease.Lease, Node: in.Node, Tunnels: tunnels, Options: in.Policy.traffic(in.Network),
	})
	for _, s := range []state.Set{local, policy, blackholes(in)} {
		if err := b.add("this host", s); err != nil {
			return Desired{}, err
		}
	}
	out := Desired{Own: map[state.Key]bool{}}
	for k := range b.owner {
		out.Own[k] = true
	}
	// Frames to our own VTEP address must not leave for a peer that claims it.
	for _, l := range local.Links {
		b.owner[state.FDBEntry{Link: l.Name, MAC: l.MAC}.Key()] = "this host"
	}
	peers, rejected := lease.Admit(in.Snapshot.Leases, in.Network, lease.Self{
		HostID: in.Node.HostID, Public: in.Node.Public, Subnets: in.Own.Lease.Subnets,
	})
	out.Rejected = lease.SortRejected(append(rejected, in.Snapshot.Bad...))
	// The older lease first: a newcomer that announces another's MAC address
	// loses the clash, whatever its subnet.
	slices.SortStableFunc(peers, func(a, b lease.Lease) int { return cmp.Compare(a.Created, b.Created) })
	for _, p := range peers {
		if peer, ok := b.peer(in, p); ok {
			out.Peers = append(out.Peers, peer)
		}
	}
	slices.SortFunc(out.Peers, func(a, b Peer) int { return lease.Compare(a.Lease, b.Lease) })
	out.Set = b.set
	out.File = envFile(in, local.MTU)
	return out, nil
}

// blackholes catch packets to the own subnets while there is no bridge.
func blackholes(in Inputs) state.Set {
	var s state.Set
	if !in.Policy.Blackhole {
		return s
	}
	for _, p := range in.Own.Lease.Prefixes() {
		s.Routes = append(s.Routes, state.Route{Dst: p, Blackhole: true, Metric: in.Owner.BlackholeMetric()})
	}
	return s
}

// envFile is subnet.env, or its withdrawal when another host has our subnet:
// nobody may start containers in it.
func envFile(in Inputs, mtu int) state.File {
	f := state.File{Path: in.Policy.SubnetFile}
	if in.Own.State == lease.Lost {
		f.Absent = true
		return f
	}
	env := subnetenv.Env{MTU: mtu, IPMasq: in.Policy.Traffic.Masquerade}
	for _, fam := range in.Network.Families() {
		env.Networks.Put(fam, in.Network.Pools.At(fam).Network)
		p := in.Own.Lease.Subnets.At(fam)
		env.Subnets.Put(fam, netip.PrefixFrom(addr.Host(p, 1), p.Bits()))
	}
	f.Content = subnetenv.Format(env)
	return f
}

// builder sums sets and refuses two producers that want one key.
type builder struct {
	set   state.Set
	owner map[state.Key]string
}

// peer adds one peer's objects; false for a lease of another backend, which is
// not ours to reach and no fault.
func (b *builder) peer(in Inputs, p lease.Lease) (Peer, bool) {
	out := Peer{Lease: p}
	if p.Offer.Backend != in.Network.Backend.Type {
		return out, false
	}
	s, err := in.Backend.Peer(in.Own.Lease.Lease, in.Node, p, p.Offer)
	if clash := b.add(p.Key, s); clash != nil {
		out.Err = errors.Join(err, clash)
		return out, true
	}
	out.Err = err
	out.Keys = keys(s)
	return out, true
}

// add merges s whole or, on a clash, not at all.
func (b *builder) add(who string, s state.Set) error {
	for o := range s.Objects() {
		if other, taken := b.owner[o.Key()]; taken {
			return fmt.Errorf("%s is already wanted for %s", o, other)
		}
	}
	for o := range s.Objects() {
		b.owner[o.Key()] = who
	}
	b.set.Append(s)
	return nil
}

func keys(s state.Set) []state.Key {
	var ks []state.Key
	for o := range s.Objects() {
		ks = append(ks, o.Key())
	}
	return ks
}
