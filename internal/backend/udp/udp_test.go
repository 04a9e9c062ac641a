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
	"github.com/flannel-ng/flannel-ng/internal/lease"
)

func newUDP(t *testing.T, n config.Network) backend.Backend {
	t.Helper()
	s := backend.Setup{Options: n.Backend, Families: n.Families()}
	for _, f := range n.Families() {
		s.Networks.Put(f, n.Pools.At(f).Network)
	}
	b, warnings, err := udp.New(s)
	if err != nil || len(warnings) > 0 {
		t.Fatal(err, warnings)
	}
	return b
}

func TestConform(t *testing.T) {
	backendtest.Conform(t, newUDP,
		`{"Network":"10.5.0.0/16"}`,
		`{"Network":"10.5.0.0/16","Backend":{"Type":"udp","Port":8286}}`,
		`{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fc00:5::/48","Backend":{"Type":"udp"}}`,
		`{"Network":"10.5.0.0/16","EnableIPv6":true,"IPv6Network":"fc00:5::/48","Backend":{"Type":"udp"}}`)
}

func TestGolden(t *testing.T) { backendtest.Golden(t, newUDP) }

func TestOptions(t *testing.T) {
	for _, tt := range []struct{ options, want string }{
		{`{"Type":"udp","Port":0}`, "Backend.Port 0: must be 1..65535"},
		{`{"Type":"udp","Port":65536}`, "Backend.Port 65536: must be 1..65535"},
		{`{"Type":"udp","Port":"8285"}`, "Backend.Port"},
	} {
		_, _, err := udp.New(backend.Setup{Options: config.Backend{Type: "udp", Options: []byte(tt.options)}})
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", tt.options, err, tt.want)
		}
	}
	_, warnings, err := udp.New(backend.Setup{Options: config.Backend{Type: "udp", Options: []byte(`{"Type":"udp","MTU":1400}`)}})
	if err != nil || len(warnings) != 1 || !strings.Contains(warnings[0], "MTU") {
		t.Errorf("%q, %v: want one warning, of the MTU", warnings, err)
	}
}

// A tunnel that cannot carry IPv6 is refused: the kernel would make the device,
// without IPv6, and every address of it would fail.
func TestMTU(t *testing.T) {
	for _, tt := range []struct {
		uplink   int
		families []addr.Family
		want     int // 0: refused
	}{
		{1500, []addr.Family{addr.IPv4}, 1472},
		{1000, []addr.Family{addr.IPv4}, 972},
		{1500, []addr.Family{addr.IPv6}, 1452},
		{1500, []addr.Family{addr.IPv4, addr.IPv6}, 1452},
		{1328, []addr.Family{addr.IPv6}, 1280},
		{1327, []addr.Family{addr.IPv6}, 0},
		{1327, []addr.Family{addr.IPv4, addr.IPv6}, 0},
	} {
		b, _, err := udp.New(backend.Setup{Options: config.Backend{Type: "udp"}, Families: tt.families})
		if err != nil {
			t.Fatal(err)
		}
		n := backendtest.Node(tt.families, 1)
		n.Uplink.MTU = tt.uplink
		self := lease.Lease{Subnets: addr.Pair(netip.MustParsePrefix("10.5.1.0/24"), netip.MustParsePrefix("fc00:5:0:1::/64"))}
		s, err := b.Local(self, n)
		if errors.Is(err, udp.ErrMTU) != (tt.want == 0) || tt.want != 0 && err != nil || s.MTU != tt.want {
			t.Errorf("%v on %d: %d, %v; want %d", tt.families, tt.uplink, s.MTU, err, tt.want)
		}
	}
}

func TestNoAddressToOffer(t *testing.T) {
	b := newUDP(t, config.Network{
		Backend: config.Backend{Type: "udp"}, Pools: addr.Pair(config.Pool{}, config.Pool{Network: netip.MustParsePrefix("fc00:5::/48")}),
	})
	_, err := b.Offer(backendtest.Node([]addr.Family{addr.IPv4}, 1), nil)
	if err == nil || !strings.Contains(err.Error(), "IPv6") {
		t.Errorf("%v", err)
	}
}

// The forwarder could not bind it, and then had no IPv4 either.
func TestLinkLocal(t *testing.T) {
	families := []addr.Family{addr.IPv4, addr.IPv6}
	b, _, err := udp.New(backend.Setup{Options: config.Backend{Type: "udp"}, Families: families})
	if err != nil {
		t.Fatal(err)
	}
	n := backendtest.Node(families, 1)
	alone := netip.MustParseAddr("fe80::1")
	n.Source.Put(addr.IPv6, alone)
	self := lease.Lease{Subnets: addr.Pair(netip.MustParsePrefix("10.5.1.0/24"), netip.MustParsePrefix("fc00:5:0:1::/64"))}
	public := n.Public
	n.Public.Put(addr.IPv6, alone)
	if _, err := b.Offer(n, nil); !errors.Is(err, udp.ErrLinkLocal) {
		t.Errorf("offered: %v", err)
	}
	if _, err := b.Local(self, n); !errors.Is(err, udp.ErrLinkLocal) {
		t.Errorf("used: %v", err)
	}
	n.Public = public
	n.Source.Put(addr.IPv6, public.At(addr.IPv6))
	if _, err := b.Offer(n, nil); err != nil {
		t.Error(err)
	}
}

// Offloads are the forwarder's affair, unless the fabric's config says no. Only
// hosts of ours heed outer congestion marks.
func TestOffload(t *testing.T) {
	families := []addr.Family{addr.IPv4}
	self := lease.Lease{Subnets: addr.Pair(netip.MustParsePrefix("10.5.1.0/24"), netip.Prefix{})}
	peer := lease.Lease{Subnets: addr.Pair(netip.MustParsePrefix("10.5.2.0/24"), netip.Prefix{}), Public: addr.Pair(netip.MustParseAddr("198.51.100.2"), netip.Addr{})}
	for offload, want := range map[string]bool{``: false, `"Offload":"auto"`: false, `"Offload":"off"`: true} {
		b, _, err := udp.New(backend.Setup{Options: config.Backend{Type: "udp", Options: []byte("{" + offload + "}")}, Families: families})
		if err != nil {
			t.Fatal(err)
		}
		s, err := b.Local(self, backendtest.Node(families, 1))
		if err != nil || s.Tunnels[0].Plain != want {
			t.Errorf("%s: %+v, %v", offload, s.Tunnels, err)
		}
		for _, owner := range []string{"", "b"} {
			peer.Owner = owner
			p, err := b.Peer(self, backendtest.Node(families, 1), peer, peer.Offer)
			if err != nil || p.Ends[0].ECN != (owner != "") {
				t.Errorf("owner %q: %+v, %v", owner, p.Ends, err)
			}
		}
	}
	_, _, err := udp.New(backend.Setup{Options: config.Backend{Type: "udp", Options: []byte(`{"Offload":"on"}`)}})
	if err == nil || err.Error() != `Backend.Offload "on": must be auto or off` {
		t.Errorf("%v", err)
	}
	_, _, err = udp.New(backend.Setup{Options: config.Backend{Type: "udp", Options: []byte(`{"Offload":"on","BPF":"ON"}`)}})
	if err == nil || !strings.HasSuffix(err.Error(), "must be auto or off\nBackend.BPF \"ON\": must be auto, on or off") {
		t.Errorf("two mistakes: %v", err)
	}
}
