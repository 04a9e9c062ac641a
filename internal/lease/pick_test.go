package lease_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/config"
	"github.com/flannel-ng/flannel-ng/internal/lease"
)

// blocks lists a small pool.
func blocks(f addr.Family, p config.Pool) []netip.Prefix {
	var all []netip.Prefix
	for b := p.Min; ; {
		all = append(all, b)
		if b == p.Max {
			return all
		}
		raw := b.Addr().As16()
		at := 16 - (f.Bits()-b.Bits())/8 - 1
		step := byte(1) << ((f.Bits() - b.Bits()) % 8)
		for raw[at] += step; raw[at] < step; raw[at]++ {
			at--
			step = 1
		}
		b = netip.PrefixFrom(netip.AddrFrom16(raw).Unmap(), b.Bits())
		if f == addr.IPv6 {
			b = netip.PrefixFrom(netip.AddrFrom16(raw), b.Bits())
		}
	}
}

// TestPickFindsWhatIsFree fills small pools at random with leases and recent
// subnets of any length and compares with counting.
func TestPickFindsWhatIsFree(t *testing.T) {
	net := network(t, `{"Network":"10.5.0.0/24","SubnetLen":28,"EnableIPv6":true,"IPv6Network":"fc00:5::/56","IPv6SubnetLen":60}`)
	rng := rand.New(rand.NewPCG(3, 4))
	for i := range 3000 {
		q := lease.Picking{Network: net, HostID: fmt.Sprint("host", i), Attempt: rng.IntN(3)}
		for range rng.IntN(24) {
			q.Leases = append(q.Leases, &lease.Lease{
				Subnets: addr.Pair(someIn(rng, net, addr.IPv4), someIn(rng, net, addr.IPv6)),
				Owner:   []string{"", "another"}[rng.IntN(2)],
			})
		}
		for j := range rng.IntN(24) {
			f := addr.Families()[rng.IntN(2)]
			q.Recent = append(q.Recent, lease.Recent{Subnet: someIn(rng, net, f), Until: noon().Add(time.Duration(j) * time.Hour)})
		}
		got, err := lease.Pick(q)
		for _, f := range addr.Families() {
			best := bestBlocks(q, f)
			if p := got.At(f); err == nil && !slices.Contains(best, p) {
				t.Fatalf("%s: picked %s, want one of %v", f, p, best)
			}
		}
		full := len(bestBlocks(q, addr.IPv4)) == 0 || len(bestBlocks(q, addr.IPv6)) == 0
		if full != errors.Is(err, lease.ErrFull) {
			t.Fatalf("full: %v, error: %v", full, err)
		}
	}
}

func someIn(rng *rand.Rand, net config.Network, f addr.Family) netip.Prefix {
	all := blocks(f, net.Pools.At(f))
	b := all[rng.IntN(len(all))]
	return netip.PrefixFrom(b.Addr(), b.Bits()-1+rng.IntN(3)).Masked()
}

// bestBlocks are the blocks without a lease whose last memory ends first;
// those without memory come before all. Only if there are none do ownerless
// leases of another length not count.
func bestBlocks(q lease.Picking, f addr.Family) []netip.Prefix {
	if best := bestOf(q, f); len(best) > 0 {
		return best
	}
	q.Leases = slices.DeleteFunc(slices.Clone(q.Leases), func(l *lease.Lease) bool {
		return l.Owner == "" && l.Subnets.At(f).Bits() != q.Network.Pools.At(f).SubnetLen
	})
	return bestOf(q, f)
}

func bestOf(q lease.Picking, f addr.Family) []netip.Prefix {
	var best []netip.Prefix
	var until time.Time
	for _, b := range blocks(f, q.Network.Pools.At(f)) {
		if slices.ContainsFunc(q.Leases, func(l *lease.Lease) bool { return l.Subnets.At(f).Overlaps(b) }) {
			continue
		}
		var memory time.Time
		for _, r := range q.Recent {
			if r.Subnet.Overlaps(b) && r.Until.After(memory) {
				memory = r.Until
			}
		}
		switch c := memory.Compare(until); {
		case len(best) == 0 || c < 0:
			best, until = []netip.Prefix{b}, memory
		case c == 0:
			best = append(best, b)
		}
	}
	return best
}

func TestPickSpreadsHosts(t *testing.T) {
	net := network(t, `{"Network":"10.5.0.0/16"}`)
	seen := map[netip.Prefix]bool{}
	for i := range 50 {
		p, err := lease.Pick(lease.Picking{Network: net, HostID: fmt.Sprint("host", i)})
		if err != nil {
			t.Fatal(err)
		}
		seen[p.At(addr.IPv4)] = true
	}
	// 50 of 255 at random leave 45 on average.
	if len(seen) < 38 {
		t.Errorf("50 hosts share %d first choices", len(seen))
	}
	again := lease.Picking{Network: net, HostID: "host0"}
	first, _ := lease.Pick(again)
	again.Attempt++
	if second, _ := lease.Pick(again); first == second {
		t.Errorf("both attempts start at %v", first)
	}
}

func TestPickInHugePools(t *testing.T) {
	for _, text := range []string{
		`{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fc00::/8","IPv6SubnetLen":126}`,
		`{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"8000::/2","IPv6SubnetLen":64}`,
		`{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"ff00::/8","IPv6SubnetLen":126}`,
		`{"Network":"128.0.0.0/1","SubnetLen":30}`,
	} {
		net := network(t, text)
		f := net.Families()[0]
		pool := net.Pools.At(f)
		p, err := lease.Pick(lease.Picking{Network: net, HostID: "me"})
		if b := p.At(f); err != nil || b.Bits() != pool.SubnetLen || b != b.Masked() || !pool.Network.Contains(b.Addr()) {
			t.Errorf("%s: picked %v, %v", text, p, err)
		}
		// All but the first block taken.
		var leases []*lease.Lease
		for n := pool.SubnetLen; n > pool.Network.Bits(); n-- {
			l := lease.Lease{}
			l.Subnets.Put(f, sibling(netip.PrefixFrom(pool.Min.Addr(), n).Masked()))
			leases = append(leases, &l)
		}
		if p, err = lease.Pick(lease.Picking{Network: net, HostID: "me", Leases: leases}); err == nil && p.At(f) != pool.Min {
			t.Errorf("%s: picked %v, want %v", text, p.At(f), pool.Min)
		} else if err != nil {
			t.Errorf("%s: %v", text, err)
		}
	}
}

// sibling is the other half of the prefix above p.
func sibling(p netip.Prefix) netip.Prefix {
	raw := p.Addr().AsSlice()
	raw[(p.Bits()-1)/8] ^= 0x80 >> ((p.Bits() - 1) % 8)
	a, _ := netip.AddrFromSlice(raw)
	return netip.PrefixFrom(a, p.Bits())
}

func TestFullSaysHowToEnlarge(t *testing.T) {
	net := network(t, `{"Network":"10.5.0.0/16","EnableIPv6":true,"IPv6Network":"fc00:5::/48","IPv6SubnetMin":"fc00:5:0:7::","IPv6SubnetMax":"fc00:5:0:7::"}`)
	_, err := lease.Pick(lease.Picking{Network: net, HostID: "me", Leases: []*lease.Lease{new(options("fc00:5:0:7::/64").lease())}})
	for _, word := range []string{"IPv6", "/64", "fc00:5:0:7::", "IPv6SubnetMax", "IPv6SubnetLen"} {
		if err == nil || !strings.Contains(err.Error(), word) {
			t.Errorf("%v does not say %s", err, word)
		}
	}
}

func TestLeaseOverTheWholeNetworkBlocksNothing(t *testing.T) {
	net := network(t, `{"Network":"10.5.0.0/16"}`)
	if _, err := lease.Pick(lease.Picking{Network: net, Leases: []*lease.Lease{new(options("10.5.0.0/16").lease())}}); err != nil {
		t.Error(err)
	}
}

func TestOwnerlessLeasesOfAnotherLengthKeepNobodyOut(t *testing.T) {
	net := network(t, `{"Network":"10.5.0.0/16","SubnetLen":24}`)
	for i := range 20 {
		low, high := options("10.5.0.0/17").lease(), options("10.5.128.0/17").lease()
		low.Owner, high.Owner = "", ""
		q := lease.Picking{Network: net, HostID: fmt.Sprint("host", i), Leases: []*lease.Lease{&low}}
		if p, err := lease.Pick(q); err != nil || low.Subnets.At(addr.IPv4).Overlaps(p.At(addr.IPv4)) {
			t.Fatalf("picked %v, %v while the other half is free", p, err)
		}
		q.Leases = append(q.Leases, &high)
		if _, err := lease.Pick(q); err != nil {
			t.Fatal(err)
		}
		q.Leases[0].Owner, q.Leases[1].Owner = "a", "b"
		if p, err := lease.Pick(q); !errors.Is(err, lease.ErrFull) {
			t.Fatalf("picked %v, %v from what others own", p, err)
		}
	}
}

func BenchmarkPick20000(b *testing.B) {
	net, leases := network(b, wide), fabric(20000)
	b.Run("free", func(b *testing.B) {
		for b.Loop() {
			if _, err := lease.Pick(lease.Picking{Network: net, Leases: leases, HostID: "me"}); err != nil {
				b.Fatal(err)
			}
		}
	})
	recent := make([]lease.Recent, 20000)
	for i := range recent {
		recent[i] = lease.Recent{Subnet: leases[i].Subnets.At(addr.IPv4), Until: noon().Add(time.Duration(i))}
	}
	tight := network(b, `{"Network":"10.0.0.0/8","SubnetLen":24,"SubnetMin":"10.0.0.0","SubnetMax":"10.78.31.0"}`)
	b.Run("only recent", func(b *testing.B) {
		for b.Loop() {
			p, err := lease.Pick(lease.Picking{Network: tight, Recent: recent, HostID: "me"})
			if err != nil || p.At(addr.IPv4) != recent[0].Subnet {
				b.Fatal(p, err)
			}
		}
	})
}
