package table_test

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/flannel-ng/flannel-ng/internal/tunnel"
	"github.com/flannel-ng/flannel-ng/internal/tunnel/table"
)

func peer(subnet, dst string) tunnel.Peer {
	return tunnel.Peer{Subnet: netip.MustParsePrefix(subnet), Dst: netip.MustParseAddr(dst)}
}

func peers() []tunnel.Peer {
	return []tunnel.Peer{
		peer("10.5.2.0/24", "198.51.100.2"),
		peer("10.5.0.0/16", "198.51.100.9"),
		peer("10.5.2.128/25", "198.51.100.3"),
		peer("10.5.4.0/24", "198.51.100.2"),
		peer("fc00:5:0:2::/64", "2001:db8::2"),
	}
}

func TestTable(t *testing.T) {
	tab := table.New(peers())
	for inner, want := range map[string]string{
		"10.5.2.1": "198.51.100.2", "10.5.2.129": "198.51.100.3", "10.5.3.1": "198.51.100.9", "10.6.0.1": "",
		"fc00:5:0:2::7": "2001:db8::2", "fc00:5:0:3::7": "", "::ffff:10.5.2.1": "",
	} {
		outer, ok := tab.Route(netip.MustParseAddr(inner))
		if ok != (want != "") || ok && outer != netip.MustParseAddr(want) {
			t.Errorf("%s: %s, %v; want %q", inner, outer, ok, want)
		}
	}
	for outer, want := range map[string]bool{
		"198.51.100.2": true, "::ffff:198.51.100.2": true, "198.51.100.4": false, "2001:db8::2": true, "2001:db8::3": false,
	} {
		if tab.Known(netip.MustParseAddr(outer)) != want {
			t.Errorf("%s known: %v", outer, !want)
		}
	}
	for _, tt := range []struct {
		outer, src string
		want       bool
	}{
		{"198.51.100.2", "10.5.2.1", true},
		{"::ffff:198.51.100.2", "10.5.2.1", true},
		{"198.51.100.2", "10.5.4.1", true},
		{"198.51.100.2", "10.5.2.129", false}, // a longer subnet is another's
		{"198.51.100.3", "10.5.2.129", true},
		{"198.51.100.9", "10.5.2.1", false},
		{"198.51.100.2", "fc00:5:0:2::7", false},
		{"198.51.100.2", "192.0.2.1", false},
	} {
		if got := tab.Owns(netip.MustParseAddr(tt.outer), netip.MustParseAddr(tt.src)); got != tt.want {
			t.Errorf("%s owns %s: %v", tt.outer, tt.src, got)
		}
	}
	if _, ok := tab.Route(netip.Addr{}); ok || tab.Known(netip.Addr{}) || tab.Owns(netip.Addr{}, netip.Addr{}) {
		t.Error("found no address at all")
	}
}

func TestEmpty(t *testing.T) {
	for _, tab := range []*table.Table{{}, table.New(nil)} {
		a := netip.MustParseAddr("10.5.2.1")
		if _, ok := tab.Route(a); ok || tab.Known(a) || tab.Owns(a, a) || len(tab.Peers()) > 0 {
			t.Error("an empty table has a peer")
		}
		if tab.With(peers(), nil).Known(a) {
			t.Error("an inner address is known as an outer one")
		}
	}
}

// What comes in is made plain once, at the edge.
func TestNewMakesPlain(t *testing.T) {
	got := table.New([]tunnel.Peer{
		peer("10.5.2.7/24", "::ffff:198.51.100.2"), peer("::ffff:10.5.3.0/120", "198.51.100.3"),
		{Subnet: netip.MustParsePrefix("10.5.4.0/24")},
		{Dst: netip.MustParseAddr("198.51.100.4")},
		peer("10.5.2.0/24", "198.51.100.5"),
	}).Peers()
	want := []tunnel.Peer{peer("10.5.2.0/24", "198.51.100.5"), peer("10.5.3.0/24", "198.51.100.3")}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestWith(t *testing.T) {
	old := table.New(peers())
	got := old.With(
		[]tunnel.Peer{peer("10.5.2.0/24", "198.51.100.7"), peer("10.5.8.0/24", "198.51.100.8")},
		[]netip.Prefix{netip.MustParsePrefix("10.5.0.0/16"), netip.MustParsePrefix("::ffff:10.5.4.1/120"), netip.MustParsePrefix("10.9.0.0/16")},
	)
	want := []tunnel.Peer{
		peer("10.5.2.0/24", "198.51.100.7"), peer("10.5.2.128/25", "198.51.100.3"),
		peer("10.5.8.0/24", "198.51.100.8"), peer("fc00:5:0:2::/64", "2001:db8::2"),
	}
	if !slices.Equal(got.Peers(), want) {
		t.Errorf("got %v, want %v", got.Peers(), want)
	}
	if got.Known(netip.MustParseAddr("198.51.100.2")) {
		t.Error("a peer without subnets is known")
	}
	if len(old.Peers()) != len(peers()) || !old.Known(netip.MustParseAddr("198.51.100.2")) {
		t.Error("the old table changed")
	}
}

// linear is the table that anybody would believe.
type linear []tunnel.Peer

func (l linear) route(dst netip.Addr) (best tunnel.Peer, ok bool) {
	for _, p := range l {
		if p.Subnet.Contains(dst) && (!ok || p.Subnet.Bits() >= best.Subnet.Bits()) {
			best, ok = p, true
		}
	}
	return best, ok
}

func TestLikeLinear(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // a test that can be repeated
	// Few bits are free, so that subnets nest and addresses meet them.
	inner := func() netip.Addr {
		if r.IntN(2) == 0 {
			return netip.AddrFrom4([4]byte{10, byte(r.IntN(3)), byte(r.IntN(4)) << 6, byte(r.IntN(4))})
		}
		return netip.AddrFrom16([16]byte{0xfc, 7: byte(r.IntN(3)), 8: byte(r.IntN(4)) << 6, 15: byte(r.IntN(4))})
	}
	for range 200 {
		var l linear
		tab := table.New(nil)
		for range r.IntN(40) {
			a := inner()
			p := tunnel.Peer{
				Subnet: netip.PrefixFrom(a, r.IntN(a.BitLen()+1)).Masked(),
				Dst:    netip.AddrFrom4([4]byte{198, 51, 100, byte(r.IntN(8))}),
			}
			l = append(slices.DeleteFunc(l, func(o tunnel.Peer) bool { return o.Subnet == p.Subnet }), p)
			tab = tab.With([]tunnel.Peer{p}, nil)
			if r.IntN(4) == 0 {
				gone := l[r.IntN(len(l))].Subnet
				l = slices.DeleteFunc(l, func(o tunnel.Peer) bool { return o.Subnet == gone })
				tab = tab.With(nil, []netip.Prefix{gone})
			}
		}
		if len(tab.Peers()) != len(l) {
			t.Fatalf("%d peers, want %d", len(tab.Peers()), len(l))
		}
		for range 100 {
			a := inner()
			want, wantOK := l.route(a)
			if got, ok := tab.Route(a); ok != wantOK || got != want.Dst {
				t.Fatalf("%s: %s, %v; want %s of %v", a, got, ok, want.Dst, l)
			}
			outer := netip.AddrFrom4([4]byte{198, 51, 100, byte(r.IntN(8))})
			if got := tab.Owns(outer, a); got != (wantOK && outer == want.Dst) {
				t.Fatalf("%s owns %s: %v in %v", outer, a, got, l)
			}
			known := slices.ContainsFunc(l, func(p tunnel.Peer) bool { return p.Dst == outer })
			if tab.Known(outer) != known {
				t.Fatalf("%s known: %v", outer, !known)
			}
		}
	}
}

// fabric has n peers with a /24 and a /64 each.
func fabric(n int) []tunnel.Peer {
	var out []tunnel.Peer
	for i := range n {
		a, b := byte(i>>8), byte(i)
		out = append(out,
			tunnel.Peer{Subnet: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, a, b}), 24), Dst: netip.AddrFrom4([4]byte{198, 18, a, b})},
			tunnel.Peer{
				Subnet: netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfc, 0, 0, 5, 0, 0, a, b}), 64),
				Dst:    netip.AddrFrom16([16]byte{0x20, 1, 0x0d, 0xb8, 14: a, 15: b}),
			})
	}
	return out
}

func TestLookupsMakeNoGarbage(t *testing.T) {
	tab := table.New(fabric(100))
	for _, p := range fabric(1) {
		if n := testing.AllocsPerRun(100, func() {
			if !tab.Known(p.Dst) || !tab.Owns(p.Dst, p.Subnet.Addr()) {
				t.Fatal("not found")
			}
		}); n != 0 {
			t.Errorf("%v allocations", n)
		}
	}
}

const many = 20_000

func BenchmarkLookup(b *testing.B) {
	all := fabric(many)
	tab := table.New(all)
	for name, i := range map[string]int{"IPv4": 0, "IPv6": 1} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				p := all[i]
				i = (i + 7918) % len(all)
				if !tab.Known(p.Dst) || !tab.Owns(p.Dst, p.Subnet.Addr()) {
					b.Fatal("not found")
				}
			}
		})
	}
}

func BenchmarkChange(b *testing.B) {
	tab, one := table.New(fabric(many)), fabric(1)
	for b.Loop() {
		tab = tab.With(one, nil)
	}
}

func BenchmarkPeers(b *testing.B) {
	tab := table.New(fabric(many))
	for b.Loop() {
		tab.Peers()
	}
}
