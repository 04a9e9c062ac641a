// Package traffic decides what may be forwarded and what is masqueraded: the
// policy of flannel, written once, for both families and both firewall tools.
//
// It is pure. It knows no rule syntax (the filter drivers do) and reads no
// host: facts come in, wanted state goes out. Called by the engine; the
// evaluator Judge is called by tests that compare drivers with the meaning.
package traffic

import (
	"net/netip"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/config"
	"github.com/flannel-ng/flannel-ng/internal/facts"
	"github.com/flannel-ng/flannel-ng/internal/lease"
	"github.com/flannel-ng/flannel-ng/internal/state"
)

// keepMark is set by kube-proxy on packets that it masquerades by itself. It
// is a bit in a field that others share, so it is compared masked.
const keepMark = 0x4000

// Options is what the command line says about traffic.
type Options struct {
	Masquerade  bool             // --ip-masq
	RandomFully bool             // not --ip-masq-fully-random-disable
	Forward     bool             // --iptables-forward-rules
	Mode        state.FilterMode // network config key EnableNFTables
}

// Inputs is everything that the traffic policy depends on.
type Inputs struct {
	Network config.Network
	Self    lease.Lease // families without a subnet get no rules
	Node    facts.Node
	Tunnels []string // our links that bring packets for containers
	Options Options
}

// Desire returns the filters and the forwarding switches, nothing else.
func Desire(in Inputs) state.Set {
	var out state.Set
	for _, f := range in.Network.Families() {
		subnet := in.Self.Subnets.At(f)
		if !subnet.IsValid() {
			continue
		}
		if fl := filter(in.Network.Pools.At(f).Network, subnet, in.Options); len(fl.Postrouting)+len(fl.Forward) > 0 {
			out.Filters = append(out.Filters, fl)
		}
		out.Sysctls = append(out.Sysctls, forwarding(f, in)...)
	}
	return out
}

func filter(network, subnet netip.Prefix, o Options) state.Filter {
	out := state.Filter{Mode: o.Mode, Family: addr.Of(network.Addr())}
	if o.Masquerade {
		out.Postrouting = postrouting(network, subnet, o.RandomFully)
	}
	if o.Forward {
		out.Forward = []state.Rule{
			{Src: is(network), Verdict: state.Accept},
			{Dst: is(network), Verdict: state.Accept},
		}
	}
	return out
}

// postrouting hides containers from the world and the world from containers
// of other hosts, but never containers from each other. A packet from outside
// to another host's container needs it: the answer must come back through
// this host, which translated the destination.
func postrouting(network, subnet netip.Prefix, random bool) []state.Rule {
	masquerade := state.Masquerade
	if random {
		masquerade = state.MasqueradeRandom
	}
	multicast := addr.Of(network.Addr()).Multicast()
	return []state.Rule{
		{Mark: keepMark, Verdict: state.Return},
		{Src: is(subnet), Dst: is(network), Verdict: state.Return},
		{Src: is(network), Dst: is(subnet), Verdict: state.Return},
		{Src: not(network), Dst: is(subnet), Verdict: state.Return},
		{Src: is(network), Dst: not(multicast), Verdict: masquerade},
		{Src: not(network), Dst: is(network), Verdict: masquerade},
	}
}

func is(p netip.Prefix) state.Match  { return state.Match{Prefix: p} }
func not(p netip.Prefix) state.Match { return state.Match{Prefix: p, Not: true} }
