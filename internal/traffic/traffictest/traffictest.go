// Package traffictest is the traffic policy of a sample host, for tests of
// those that install it and must not know where it comes from.
//
// It is pure and owns nothing. Called by tests of the filter drivers.
package traffictest

import (
	"net/netip"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/config"
	"github.com/flannel-ng/flannel-ng/internal/facts"
	"github.com/flannel-ng/flannel-ng/internal/lease"
	"github.com/flannel-ng/flannel-ng/internal/state"
	"github.com/flannel-ng/flannel-ng/internal/traffic"
)

// Want returns all that flannel installs with --ip-masq on a host with the
// subnets 10.5.14.0/24 and fc00:5:0:44::/64 of 10.5.0.0/16 and fc00:5::/48.
func Want(mode state.FilterMode) *state.Set {
	return desire(traffic.Options{Masquerade: true, RandomFully: true, Forward: true, Mode: mode})
}

// ForwardOnly is Want without --ip-masq.
func ForwardOnly(mode state.FilterMode) *state.Set {
	return desire(traffic.Options{Forward: true, Mode: mode})
}

func desire(o traffic.Options) *state.Set {
	set := traffic.Desire(traffic.Inputs{
		Network: config.Network{Pools: addr.Pair(
			config.Pool{Network: netip.MustParsePrefix("10.5.0.0/16"), SubnetLen: 24},
			config.Pool{Network: netip.MustParsePrefix("fc00:5::/48"), SubnetLen: 64},
		)},
		Self: lease.Lease{Subnets: addr.Pair(
			netip.MustParsePrefix("10.5.14.0/24"), netip.MustParsePrefix("fc00:5:0:44::/64"))},
		Node:    facts.Node{Uplink: facts.Link{Name: "outside"}},
		Options: o,
	})
	return &set
}

// Masquerades is the judgement on an IP packet: does its source change?
func Masquerades(f state.Filter, src, dst netip.Addr, mark uint32) bool {
	return traffic.Judge(f, traffic.Packet{Src: src, Dst: dst, Mark: mark}).Masqueraded
}
