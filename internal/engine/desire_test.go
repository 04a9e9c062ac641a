package engine_test

import (
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"testing"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/backend"
	"github.com/flannel-ng/flannel-ng/internal/backend/all"
	"github.com/flannel-ng/flannel-ng/internal/backend/backendtest"
	"github.com/flannel-ng/flannel-ng/internal/config"
	"github.com/flannel-ng/flannel-ng/internal/engine"
	"github.com/flannel-ng/flannel-ng/internal/facts"
	"github.com/flannel-ng/flannel-ng/internal/lease"
	"github.com/flannel-ng/flannel-ng/internal/state"
)

func inputs(t *testing.T, peers ...byte) engine.Inputs {
	t.Helper()
	network, err := config.Parse([]byte(netConf))
	if err != nil {
		t.Fatal(err)
	}
	b, _, err := all.New(backend.Setup{Options: network.Backend, Families: network.Families()})
	if err != nil {
		t.Fatal(err)
	}
	n := facts.Node{HostID: "h1", Uplink: facts.Link{Name: "eth0", MTU: 1500}}
	n.Public.Put(addr.IPv4, netip.MustParseAddr("198.51.100.1"))
	n.Source = n.Public
	offer, err := b.Offer(n, nil)
	if err != nil {
		t.Fatal(err)
	}
	in := engine.Inputs{Network: network, Backend: backendtest.Alone(network, b), Node: n, Snapshot: *picture(peers...)}
	in.Own.State = lease.Owned
	in.Own.Lease.Lease = lease.Lease{Key: "10.5.1.0-24", Subnets: subnets("10.5.1.0/24"), Public: n.Public, Offer: offer}
	return in
}

func desire(t *testing.T, in engine.Inputs) engine.Desired {
	t.Helper()
	d, err := engine.Desire(in)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestOrderOfLeasesDoesNotMatter(t *testing.T) {
	in := inputs(t, 2, 3, 4, 5, 6)
	in.Snapshot.Leases[3].Offer = in.Snapshot.Leases[1].Offer // a clash
	want := desire(t, in)
	r := rand.New(rand.NewPCG(1, 2))
	for range 50 {
		in.Snapshot.Leases = slices.Clone(in.Snapshot.Leases)
		r.Shuffle(len(in.Snapshot.Leases), func(i, j int) {
			l := in.Snapshot.Leases
			l[i], l[j] = l[j], l[i]
		})
		got := desire(t, in)
		if !reflect.DeepEqual(keySet(want.Set), keySet(got.Set)) || len(got.Peers) != len(want.Peers) {
			t.Fatalf("another order gives another state:\n%v\n%v", keySet(want.Set), keySet(got.Set))
		}
	}
}

// What one peer adds is what it takes away: state with it, less its own
// objects, is the state without it.
func TestPeerTakesExactlyItsObjects(t *testing.T) {
	with, without := desire(t, inputs(t, 2, 3)), desire(t, inputs(t, 2))
	left := keySet(with.Set)
	for _, p := range with.Peers {
		if p.Lease.Key == "10.5.3.0-24" {
			for _, k := range p.Keys {
				delete(left, k)
			}
		}
	}
	if !reflect.DeepEqual(left, keySet(without.Set)) {
		t.Errorf("left %v, want %v", left, keySet(without.Set))
	}
}

func TestBlackholeStandsBehindTheBridge(t *testing.T) {
	in := inputs(t)
	in.Policy.Blackhole, in.Owner = true, state.OwnerOf("/run/flannel/second.env")
	d := desire(t, in)
	i := slices.IndexFunc(d.Set.Routes, func(r state.Route) bool { return r.Blackhole })
	if i < 0 || d.Set.Routes[i].Dst != netip.MustParsePrefix("10.5.1.0/24") || d.Set.Routes[i].Metric != in.Owner.BlackholeMetric() {
		t.Errorf("routes %v", d.Set.Routes)
	}
}

func keySet(s state.Set) map[state.Key]string {
	out := map[state.Key]string{}
	for o := range s.Objects() {
		out[o.Key()] = o.String()
	}
	return out
}
