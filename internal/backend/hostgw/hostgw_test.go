package hostgw_test

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/backend"
	"github.com/flannel-ng/flannel-ng/internal/backend/backendtest"
	"github.com/flannel-ng/flannel-ng/internal/backend/hostgw"
	"github.com/flannel-ng/flannel-ng/internal/config"
	"github.com/flannel-ng/flannel-ng/internal/facts"
	"github.com/flannel-ng/flannel-ng/internal/lease"
)

func newHostGW(t *testing.T, n config.Network) backend.Backend {
	t.Helper()
	b, warnings, err := hostgw.New(backend.Setup{Options: n.Backend, Families: n.Families()})
	if err != nil || len(warnings) > 0 {
		t.Fatal(err, warnings)
	}
	return b
}

func TestConform(t *testing.T) {
	backendtest.Conform(t, newHostGW,
		`{"Network":"10.5.0.0/16","Backend":{"Type":"host-gw"}}`,
		`{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fc00:5::/48","Backend":{"Type":"host-gw"}}`,
		`{"Network":"10.5.0.0/16","EnableIPv6":true,"IPv6Network":"fc00:5::/48","Backend":{"Type":"host-gw"}}`)
}

func TestGolden(t *testing.T) { backendtest.Golden(t, newHostGW) }

func TestUnknownOptionWarns(t *testing.T) {
	_, warnings, err := hostgw.New(backend.Setup{Options: config.Backend{Options: []byte(`{"Type":"host-gw","VNI":1}`)}})
	if err != nil || len(warnings) != 1 || !strings.Contains(warnings[0], "VNI") {
		t.Errorf("%v, %v", warnings, err)
	}
}

// An address of a NAT in front of the host is no next hop, in any family.
func TestPublicAddressMustBeTheUplinks(t *testing.T) {
	both := []addr.Family{addr.IPv4, addr.IPv6}
	for _, public := range []string{"203.0.113.7", "2001:db8:7::7"} {
		a := netip.MustParseAddr(public)
		n := backendtest.Node(both, 1)
		n.Public.Put(addr.Of(a), a)
		for _, families := range [][]addr.Family{{addr.IPv4}, {addr.IPv6}, both} {
			b, _, err := hostgw.New(backend.Setup{Families: families})
			if err != nil {
				t.Fatal(err)
			}
			refused := len(families) == 2 || families[0] == addr.Of(a)
			_, err = b.Offer(n, nil)
			if errors.Is(err, hostgw.ErrPublic) != refused {
				t.Errorf("public %s, families %v: %v", public, families, err)
			}
			for _, text := range []string{public, "eth0 has", "--public-ip"} {
				if refused && !strings.Contains(err.Error(), text) {
					t.Errorf("no %q: %v", text, err)
				}
			}
		}
	}
}

// routes renders what Peer wants for peer 2 of the dual stack host n.
func routes(t *testing.T, n facts.Node) (string, error) {
	t.Helper()
	b, _, err := hostgw.New(backend.Setup{Families: []addr.Family{addr.IPv4, addr.IPv6}})
	if err != nil {
		t.Fatal(err)
	}
	peer := lease.Lease{
		Public:  addr.Pair(netip.MustParseAddr("198.51.100.2"), netip.MustParseAddr("2001:db8::2")),
		Subnets: addr.Pair(netip.MustParsePrefix("10.5.9.0/24"), netip.MustParsePrefix("fc00:5:0:a::/64")),
	}
	s, err := b.Peer(lease.Lease{}, n, peer, peer.Offer)
	var lines []string
	for o := range s.Objects() {
		lines = append(lines, o.String())
	}
	return strings.Join(lines, "\n"), err
}

// Whatever happens to the uplink, the routes follow the link that the peer is
// on then; a route to the same network by another link does not lure them away
// from the uplink that the user chose.
func TestFollowsTheUplink(t *testing.T) {
	const (
		over4, over6 = "route 10.5.9.0/24 via 198.51.100.2 dev ", "route fc00:5:0:a::/64 via 2001:db8::2 dev "
	)
	node := func(change func(*facts.Node)) facts.Node {
		n := backendtest.Node([]addr.Family{addr.IPv4, addr.IPv6}, 1)
		change(&n)
		return n
	}
	moveTo := func(n *facts.Node, link string) {
		n.Uplink.Name = link
		for i := range n.Routes {
			n.Routes[i].Link = link
		}
	}
	for _, c := range []struct {
		name  string
		n     facts.Node
		want  string
		fails bool
	}{
		{"as it was", node(func(*facts.Node) {}), over4 + "eth0\n" + over6 + "eth0", false},
		{"renamed", node(func(n *facts.Node) { moveTo(n, "up0") }), over4 + "up0\n" + over6 + "up0", false},
		{"other address of the network", node(func(n *facts.Node) {
			n.Source.Put(addr.IPv4, netip.MustParseAddr("198.51.100.99"))
			n.Public = n.Source
		}), over4 + "eth0\n" + over6 + "eth0", false},
		{"other IPv4 network", node(func(n *facts.Node) {
			n.Routes[0].Dst = netip.MustParsePrefix("192.0.2.0/24")
		}), over6 + "eth0", true},
		{"second link on the segment, better metric", node(func(n *facts.Node) {
			for i := range 2 {
				n.Routes[i].Metric = 100
				other := n.Routes[i]
				other.Link, other.Metric = "eth1", 10
				n.Routes = append(n.Routes, other)
			}
		}), over4 + "eth0\n" + over6 + "eth0", false},
		{"the peer's half of the network is elsewhere", node(func(n *facts.Node) {
			n.Routes = append(n.Routes, facts.Route{Dst: netip.MustParsePrefix("198.51.100.0/25"), Link: "eth1"})
		}), over4 + "eth1\n" + over6 + "eth0", false},
		{"all routes gone", node(func(n *facts.Node) { n.Routes = nil }), "", true},
	} {
		got, err := routes(t, c.n)
		if got != c.want || (err != nil) != c.fails || err != nil && !errors.Is(err, hostgw.ErrNotAdjacent) {
			t.Errorf("%s: got\n%s\nerr %v, want\n%s", c.name, got, err, c.want)
		}
	}
}
