package lab

import (
	"net/netip"

	"github.com/flannel-ng/flannel-ng/internal/addr"
)

// Side is one family of a plain flannel host for the tests.
type Side struct {
	Network, Subnet netip.Prefix
	Public          netip.Addr
	MAC             addr.MAC
}

// Trace is what the replay would leave behind, as text.
type Trace struct {
	Lease          Pair
	SubnetEnv, Nft string
	IPTables       addr.ByFamily[string]
}

// TraceOf renders a host with a backend of that type.
func TraceOf(kind string, sides map[addr.Family]Side) Trace {
	t := trace{carrier: traceCarrier{kind: kind}}
	for f, s := range sides {
		t.sides.Put(f, traceSide{network: s.Network, subnet: s.Subnet, public: s.Public, mac: s.MAC})
	}
	out := Trace{Lease: t.lease(), SubnetEnv: t.subnetEnv(), Nft: t.nftRules()}
	for f := range sides {
		out.IPTables.Put(f, t.iptablesRules(f))
	}
	return out
}

// ParsePeer reads a lease as the replay does, and renders it again.
func ParsePeer(p Pair) (Pair, error) {
	peer, err := parseTracePeer(p)
	return trace{carrier: traceCarrier{kind: peer.kind}, sides: peer.sides}.lease(), err
}

// Place is a place on the underlay.
func Place(underlay Underlay, hosts, index int, f addr.Family) (prefix netip.Prefix, gateway netip.Addr) {
	at := plan{underlay: underlay, hosts: hosts}.at(f, index)
	return at.prefix, at.gateway
}

// CheckPlan says whether so many hosts fit.
func CheckPlan(underlay Underlay, hosts int) error {
	return plan{underlay: underlay, hosts: hosts}.check()
}

// Numbers counts those that are missing between from and the greatest, and all.
func Numbers(from uint64, came ...uint64) (missing, count uint64) {
	var s numbers
	for _, n := range came {
		s.add(n)
	}
	return s.missing(from), s.count
}
