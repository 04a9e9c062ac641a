package udp_test

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/backend"
	"github.com/flannel-ng/flannel-ng/internal/backend/backendtest"
	"github.com/flannel-ng/flannel-ng/internal/backend/udp"
	"github.com/flannel-ng/flannel-ng/internal/config"
	"github.com/flannel-ng/flannel-ng/internal/facts"
	"github.com/flannel-ng/flannel-ng/internal/lease"
	"github.com/flannel-ng/flannel-ng/internal/state"
)

func able(n facts.Node) facts.Node {
	n.FastPath = facts.Ability{OK: true}
	return n
}

// Only between two hosts that both can, and only IPv4, has the kernel a part;
// the forwarder has its own always.
func TestFastPath(t *testing.T) {
	both := []addr.Family{addr.IPv4, addr.IPv6}
	cannot := backendtest.Node(both, 1)
	cannot.FastPath.Why = "too old"
	noEthernet := able(backendtest.Node(both, 1))
	noEthernet.Uplink.MAC = addr.MAC{}
	const good = `{"udp":{"bpf":1}}`
	for _, tt := range []struct {
		name, bpf  string
		families   []addr.Family
		node       facts.Node
		extra      string
		owner      string
		path, peer bool
		why        string
		refused    bool
	}{
		{"both can", "auto", both, able(backendtest.Node(both, 1)), good, "b", true, true, "", false},
		{"demanded", "on", both, able(backendtest.Node(both, 1)), good, "b", true, true, "", false},
		{"peer of a later version", "auto", both, able(backendtest.Node(both, 1)), `{"udp":{"bpf":2,"x":1},"y":[]}`, "b", true, true, "", false},
		{"off", "off", both, able(backendtest.Node(both, 1)), good, "b", false, false, "in the network config", false},
		{"this host cannot", "auto", both, cannot, good, "b", false, false, "too old", false},
		{"this host cannot and must", "on", both, cannot, good, "b", false, false, "too old", true},
		{"no Ethernet", "auto", both, noEthernet, good, "b", false, true, "Ethernet", false},
		{"nobody looked", "auto", both, backendtest.Node(both, 1), good, "b", false, false, "nobody has looked", false},
		{"IPv6 alone", "auto", both[1:], able(backendtest.Node(both, 1)), good, "b", false, false, "IPv4 only", false},
		{"peer cannot", "auto", both, able(backendtest.Node(both, 1)), `{"udp":{"bpf":0}}`, "b", true, false, "", false},
		{"peer says nothing", "auto", both, able(backendtest.Node(both, 1)), "", "b", true, false, "", false},
		{"peer talks garbage", "auto", both, able(backendtest.Node(both, 1)), `{"udp":7}`, "b", true, false, "", false},
		{"plain flannel", "auto", both, able(backendtest.Node(both, 1)), good, "", true, false, "", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			options := config.Backend{Type: "udp", Options: []byte(`{"Type":"udp","BPF":"` + tt.bpf + `"}`)}
			b, _, err := udp.New(backend.Setup{Options: options, Families: tt.families})
			if err != nil {
				t.Fatal(err)
			}
			offer, err := b.Offer(tt.node, nil)
			if err != nil || (offer.Extra == good) != tt.path || !tt.path && offer.Extra != "" {
				t.Errorf("offers %q, %v", offer.Extra, err)
			}
			self := lease.Lease{Subnets: addr.Pair(netip.MustParsePrefix("10.5.1.0/24"), netip.MustParsePrefix("fc00:5:0:1::/64"))}
			s, err := b.Local(self, tt.node)
			if errors.Is(err, udp.ErrBPF) != tt.refused || err != nil && !tt.refused {
				t.Errorf("local: %v", err)
			}
			if len(s.Tunnels) != 1 || (len(s.FastPaths) == 1) != tt.path {
				t.Errorf("%v, %v", s.Tunnels, s.FastPaths)
			}
			if tt.path && s.FastPaths[0].Optional != (tt.bpf == "auto") {
				t.Errorf("%+v: optional is for auto", s.FastPaths[0])
			}
			peer := lease.Lease{
				Owner:   tt.owner,
				Subnets: addr.Pair(netip.MustParsePrefix("10.5.2.0/24"), netip.MustParsePrefix("fc00:5:0:2::/64")),
				Public:  addr.Pair(netip.MustParseAddr("198.51.100.2"), netip.MustParseAddr("2001:db8::2")),
				Offer:   lease.Offer{Backend: "udp", Extra: tt.extra},
			}
			p, _ := b.Peer(self, tt.node, peer, peer.Offer) // plain flannel has an error for IPv6
			if (len(p.FastPeers) == 1) != tt.peer || len(p.FastPeers) > 1 || len(p.Ends) == 0 {
				t.Errorf("%v beside %v", p.FastPeers, p.Ends)
			}
			if tt.peer && p.FastPeers[0] != (state.FastPeer{
				Link: "flannel0", Subnet: netip.MustParsePrefix("10.5.2.0/24"), Dst: netip.MustParseAddr("198.51.100.2"),
			}) {
				t.Errorf("%v", p.FastPeers[0])
			}
			network := config.Network{Backend: options}
			for _, f := range tt.families {
				network.Pools.Put(f, config.Pool{Network: self.Subnets.At(f)})
			}
			if why := udp.WithoutFastPath(network, tt.node); (why == "") != tt.path || !strings.Contains(why, tt.why) {
				t.Errorf("reason %q, want %q", why, tt.why)
			}
		})
	}
	_, _, err := udp.New(backend.Setup{Options: config.Backend{Type: "udp", Options: []byte(`{"BPF":"maybe"}`)}})
	if err == nil || !strings.Contains(err.Error(), "auto, on or off") {
		t.Errorf("%v", err)
	}
}

// The hidden device never takes the name of a foreign one, and keeps its own.
func TestHiddenName(t *testing.T) {
	b, _, err := udp.New(backend.Setup{Options: config.Backend{Type: "udp"}, Families: []addr.Family{addr.IPv4}})
	if err != nil {
		t.Fatal(err)
	}
	name := func(alias string) string {
		n := able(backendtest.Node([]addr.Family{addr.IPv4}, 1))
		n.Links = append(n.Links, facts.Link{Name: "flannel0-in", Type: "vxlan", Alias: alias})
		s, err := b.Local(lease.Lease{Subnets: addr.Pair(netip.MustParsePrefix("10.5.1.0/24"), netip.Prefix{})}, n)
		if err != nil || len(s.FastPaths) != 1 {
			t.Fatal(s.FastPaths, err)
		}
		return s.FastPaths[0].Decap
	}
	if got := name(state.FastPathAlias(state.Owner{})); got != "flannel0-in" {
		t.Errorf("our own is called %s", got)
	}
	for _, alias := range []string{"", "somebody", state.FastPathAlias(state.Owner{Instance: "abcdef"})} {
		if got := name(alias); got == "flannel0-in" || !strings.HasPrefix(got, "flannel-") {
			t.Errorf("with a device of alias %q ours is called %s", alias, got)
		}
	}
}
