package engine

import (
	"errors"
	"fmt"
	"net/netip"
	"reflect"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/lease"
	"github.com/flannel-ng/flannel-ng/internal/state"
	"github.com/flannel-ng/flannel-ng/internal/subnetenv"
	"github.com/flannel-ng/flannel-ng/internal/traffic"
)

// errTwice says that two producers want one object.
var errTwice = errors.New("is wanted twice")

// host is the part of the wanted state that depends on no peer.
type host struct {
	set  state.Set
	keys map[state.Key]bool // of set: what readiness depends on
	// taken are the keys that no peer may have: keys, and the entries that
	// would lead frames to our own VTEP away.
	taken map[state.Key]bool
	file  state.File
}

// desireHost computes it. It costs the same in a fabric of any size.
func desireHost(in Inputs) (host, error) {
	local, err := in.Backend.Local(in.Own.Lease.Lease, in.Node)
	if err != nil {
		return host{}, err
	}
	var tunnels []string
	for _, l := range local.Links {
		tunnels = append(tunnels, l.Name)
	}
	policy := traffic.Desire(traffic.Inputs{
		Network: in.Network, Self: in.Own.Lease.Lease, Node: in.Node, Tunnels: tunnels, Options: in.Policy.traffic(in.Network),
	})
	h := host{keys: map[state.Key]bool{}, taken: map[state.Key]bool{}, file: envFile(in, local.MTU)}
	for _, s := range []state.Set{local, policy, blackholes(in)} {
		for o := range s.Objects() {
			if h.keys[o.Key()] {
				return host{}, fmt.Errorf("%s %w", o, errTwice)
			}
			h.keys[o.Key()], h.taken[o.Key()] = true, true
		}
		h.set.Append(s)
	}
	for _, l := range local.Links {
		h.taken[state.FDBEntry{Link: l.Name, MAC: l.MAC}.Key()] = true
	}
	return h, nil
}

// equal says whether both want the same of the kernel.
func (h host) equal(o host) bool { return reflect.DeepEqual(h.set, o.set) }

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
