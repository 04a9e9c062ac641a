package lease_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/lease"
)

const dual = `{"Network":"10.5.0.0/16","EnableIPv6":true,"IPv6Network":"fc00:5::/48"}`

// TestAdmit shows what is believed of each lease beside an innocent one, which
// must always be admitted.
func TestAdmit(t *testing.T) {
	self := lease.Self{HostID: "me", Public: addrs("192.0.2.1,2001:db8::1"), Subnets: prefixes("10.5.1.0/24,fc00:5:0:1::/64")}
	innocent := options("10.5.200.0/24 public=192.0.2.200 rev=900").lease()
	for name, c := range map[string]struct{ leases, want string }{
		"a peer":          {"10.5.2.0/24 public=192.0.2.2", "10.5.2.0/24"},
		"dual":            {"10.5.2.0/24,fc00:5:0:2::/64 public=192.0.2.2,2001:db8::2", "10.5.2.0/24 fc00:5:0:2::/64"},
		"no known owner":  {"10.5.2.0/24 public=192.0.2.2 owner=other", "10.5.2.0/24"},
		"own by id":       {"10.5.9.0/24 public=192.0.2.9 owner=me", ""},
		"own, rewritten":  {"10.5.1.0/24,fc00:5:0:1::/64 public=192.0.2.1 reserved", ""},
		"our address":     {"10.5.2.0/24 public=192.0.2.1", "10.5.2.0-24: public address 192.0.2.1 is this host's own: give each host its own address"},
		"our IPv6":        {"10.5.2.0/24 public=192.0.2.2,2001:db8::1", "10.5.2.0-24: public address 2001:db8::1 is this host's own: give each host its own address"},
		"outside":         {"8.8.8.0/24 public=192.0.2.2", "8.8.8.0-24: subnet 8.8.8.0/24 is outside the network 10.5.0.0/16"},
		"whole network":   {"10.5.0.0/16 public=192.0.2.2", "10.5.0.0-16: subnet 10.5.0.0/16 covers the whole network 10.5.0.0/16"},
		"more than that":  {"10.0.0.0/8 public=192.0.2.2", "10.0.0.0-8: subnet 10.0.0.0/8 covers the whole network 10.5.0.0/16"},
		"own subnet":      {"10.5.0.0/20 public=192.0.2.2", "10.5.0.0-20: subnet 10.5.0.0/20 overlaps this host's own 10.5.1.0/24"},
		"multicast":       {"10.5.2.0/24 public=224.0.0.1", "10.5.2.0-24: public address 224.0.0.1 is not a unicast address"},
		"loopback":        {"10.5.2.0/24 public=127.0.0.1", "10.5.2.0-24: public address 127.0.0.1 is not a unicast address"},
		"broadcast":       {"10.5.2.0/24 public=255.255.255.255", "10.5.2.0-24: public address 255.255.255.255 is not a unicast address"},
		"no address":      {"10.5.2.0/24 public=0.0.0.0", "10.5.2.0-24: has no public address"},
		"one family":      {"8.8.8.0/24,fc00:5:0:2::/64 public=192.0.2.2", "fc00:5:0:2::/64 8.8.8.0-24&fc00:5:0:2::-64: subnet 8.8.8.0/24 is outside the network 10.5.0.0/16"},
		"twins":           {"10.5.2.0/24 public=192.0.2.2 rev=5|10.5.2.0/24,fc00:5:0:2::/64 public=192.0.2.3 rev=4", "10.5.2.0/24 fc00:5:0:2::/64 10.5.2.0-24: subnet 10.5.2.0/24 overlaps 10.5.2.0/24 of 192.0.2.3, which comes first"},
		"length over age": {"10.5.2.0/24 public=192.0.2.2 rev=5|10.5.2.0/25 public=192.0.2.3 rev=4", "10.5.2.0/24 10.5.2.0-25: subnet 10.5.2.0/25 overlaps 10.5.2.0/24 of 192.0.2.2, which comes first"},
		"nested": {
			"10.5.4.0/22 public=192.0.2.4 rev=2|10.5.4.0/23 public=192.0.2.3 rev=1|10.5.6.0/23 public=192.0.2.6 rev=3|10.5.6.0/25 public=192.0.2.7 rev=4",
			"10.5.4.0/23 10.5.6.0/23 10.5.4.0-22: subnet 10.5.4.0/22 overlaps 10.5.4.0/23 of 192.0.2.3, which comes first " +
				"10.5.6.0-25: subnet 10.5.6.0/25 overlaps 10.5.6.0/23 of 192.0.2.6, which comes first",
		},
	} {
		t.Run(name, func(t *testing.T) {
			leases := []*lease.Lease{&innocent}
			for l := range strings.SplitSeq(c.leases, "|") {
				leases = append(leases, new(options(l).lease()))
			}
			peers, bad := lease.Admit(leases, network(t, dual), self)
			if n := len(peers); n == 0 || peers[n-1].Key != innocent.Key {
				t.Errorf("the innocent peer suffered: %v", peers)
			}
			var got []string
			for _, p := range peers[:max(0, len(peers)-1)] {
				for _, s := range p.Prefixes() {
					got = append(got, s.String())
				}
			}
			for _, b := range bad {
				got = append(got, b.Key+": "+b.Reason)
			}
			if g := strings.Join(got, " "); g != c.want {
				t.Errorf("got\n %s\nwant\n %s", g, c.want)
			}
		})
	}
}

// TestAdmitIsMaximalAndOrderless compares with the plain rule: in order of
// rank, a subnet is admitted if it overlaps none admitted before.
func TestAdmitIsMaximalAndOrderless(t *testing.T) {
	net := network(t, dual)
	rng := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		leases := crowd(rng, 40)
		peers, _ := lease.Admit(leases, net, lease.Self{})
		rng.Shuffle(len(leases), func(i, j int) { leases[i], leases[j] = leases[j], leases[i] })
		again, _ := lease.Admit(leases, net, lease.Self{})
		if !reflect.DeepEqual(peers, again) {
			t.Fatalf("order matters:\n%v\n%v", peers, again)
		}
		for _, f := range addr.Families() {
			if got, want := subnets(peers, f), plainRule(leases, f, net.Pools.At(f).SubnetLen); !slices.Equal(got, want) {
				t.Fatalf("%s: got %v, want %v", f, got, want)
			}
		}
	}
}

func plainRule(leases []*lease.Lease, f addr.Family, length int) []netip.Prefix {
	ranked := slices.Clone(leases)
	slices.SortFunc(ranked, func(a, b *lease.Lease) int {
		oddA, oddB := a.Subnets.At(f).Bits() != length, b.Subnets.At(f).Bits() != length
		if oddA != oddB {
			if oddA {
				return 1
			}
			return -1
		}
		return int(a.Created - b.Created)
	})
	var got []netip.Prefix
	for _, l := range ranked {
		if p := l.Subnets.At(f); !slices.ContainsFunc(got, p.Overlaps) {
			got = append(got, p)
		}
	}
	slices.SortFunc(got, lease.ComparePrefix)
	return got
}

func subnets(leases []*lease.Lease, f addr.Family) []netip.Prefix {
	var ps []netip.Prefix
	for _, l := range leases {
		if p := l.Subnets.At(f); p.IsValid() {
			ps = append(ps, p)
		}
	}
	slices.SortFunc(ps, lease.ComparePrefix)
	return ps
}

// crowd makes n leases that overlap often, in both families.
func crowd(rng *rand.Rand, n int) []*lease.Lease {
	leases := make([]*lease.Lease, n)
	for i := range leases {
		v4 := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 5, byte(rng.IntN(8)), byte(rng.IntN(4) * 64)}), 18+rng.IntN(9)).Masked()
		v6 := netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfc, 0, 0, 5, 0, 0, 0, byte(rng.IntN(8))}), 58+rng.IntN(9)).Masked()
		leases[i] = &lease.Lease{
			Key:     fmt.Sprintf("%s&%s#%d", v4, v6, i),
			Subnets: addr.Pair(v4, v6),
			Public:  addr.Pair(netip.AddrFrom4([4]byte{192, 0, 2, byte(i + 2)}), netip.Addr{}),
			Created: int64(i + 1),
		}
	}
	return leases
}

// fabric makes n orderly dual-stack leases.
func fabric(n int) []*lease.Lease {
	leases := make([]*lease.Lease, n)
	for i := range leases {
		v4 := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 0}), 24)
		v6 := netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfc, 0, 0, 5, 0, 0, byte(i >> 8), byte(i)}), 64)
		leases[i] = &lease.Lease{
			Key: v4.String() + "&" + v6.String(), Subnets: addr.Pair(v4, v6),
			Public: addr.Pair(netip.AddrFrom4([4]byte{198, 51, byte(i >> 8), byte(i)}), netip.Addr{}), Created: int64(n - i),
		}
	}
	return leases
}

const wide = `{"Network":"10.0.0.0/8","EnableIPv6":true,"IPv6Network":"fc00:5::/32","SubnetLen":24,"IPv6SubnetLen":64}`

func BenchmarkAdmit20000(b *testing.B) {
	net, leases := network(b, wide), fabric(20000)
	b.Run("orderly", func(b *testing.B) {
		for b.Loop() {
			if peers, _ := lease.Admit(leases, net, lease.Self{}); len(peers) != 20000 {
				b.Fatal(len(peers))
			}
		}
	})
	// One lease over half the network and as many twins as leases must not
	// make it slow.
	hostile := slices.Concat(leases, leases)
	for i := range 20000 {
		hostile[i].Key += "twin"
	}
	hostile = append(hostile, new(options("10.0.0.0/9 public=192.0.2.9").lease()))
	b.Run("hostile", func(b *testing.B) {
		for b.Loop() {
			if peers, bad := lease.Admit(hostile, net, lease.Self{}); len(peers) != 20000 || len(bad) != 40001 {
				b.Fatal(len(peers), len(bad))
			}
		}
	})
}
