package explorer

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/config"
)

// plan is what the seed chose for a schedule.
type plan struct {
	Families  string // "4", "6" or "46"
	Blocks    int    // subnets in the pool of each family
	Hosts     int
	Flannels  int
	Twins     bool // two hosts have one public address
	Clones    bool // two hosts have one host id
	Faults    int
	Every     time.Duration // between faults, on average
	Loss      float64       // share of requests that go wrong in a storm
	Restores  bool          // the store may be restored from a backup
	Slow      bool          // requests take half a second
	Margin    time.Duration // of renewals
	networkOf string
}

func (w *world) choose() plan {
	r := w.rng
	p := plan{
		Families: []string{"4", "4", "6", "46", "46"}[r.IntN(5)],
		Hosts:    2 + r.IntN(4),
		Faults:   4 + r.IntN(12),
		Every:    time.Duration(1+r.IntN(60)) * time.Second,
		Loss:     []float64{0, 0.02, 0.1, 0.3}[r.IntN(4)],
		Twins:    r.IntN(6) == 0,
		Clones:   r.IntN(6) == 0,
		Restores: r.IntN(12) == 0,
		Slow:     r.IntN(3) == 0,
		Margin:   renewMargin,
	}
	if r.IntN(4) == 0 {
		p.Margin = busyMargin
		p.Every /= 3
	}
	if w.Flannel {
		p.Flannels = 1 + r.IntN(3)
		if p.Families == "6" {
			p.Families = "46" // plain flannel knows hosts by their IPv4 address (W7)
		}
	}
	p.Blocks = max(1, p.Hosts+p.Flannels-1+r.IntN(6))
	p.networkOf = fmt.Sprintf(`{"EnableIPv4":%v,"Network":"10.5.0.0/24","SubnetLen":28,"SubnetMin":"10.5.0.16","SubnetMax":"10.5.0.%d",`+
		`"EnableIPv6":%v,"IPv6Network":"fc00:5::/56","IPv6SubnetLen":60,"IPv6SubnetMin":"fc00:5:0:10::","IPv6SubnetMax":"fc00:5:0:%x::"}`,
		p.Families != "6", 16*min(15, p.Blocks), p.Families != "4", 16*min(15, p.Blocks))
	return p
}

// build makes the hosts that the plan wants and starts nobody.
func (w *world) build() {
	w.plan = w.choose()
	network, err := config.Parse([]byte(w.plan.networkOf))
	if err != nil {
		panic(err)
	}
	w.network = network
	for i := range w.plan.Hosts {
		m := &machine{
			world: w, name: fmt.Sprintf("h%d", i+1), id: fmt.Sprintf("id-%d", i+1), began: w.began,
			public: w.public(i + 1), rate: 1 + (w.rng.Float64()-0.5)*0.016, seed: w.rng.Uint64(),
		}
		if i == 1 && w.plan.Twins {
			m.public = w.machines[0].public
		} else if i == 1 && w.plan.Clones {
			m.id = w.machines[0].id
		}
		w.machines = append(w.machines, m)
	}
	for i := range w.plan.Flannels {
		w.flannels = append(w.flannels, &flannel{
			world: w, name: fmt.Sprintf("f%d", i+1), public: w.public(101 + i), seed: w.rng.Uint64(),
		})
	}
}

// public is the address of host n in the enabled families.
func (w *world) public(n int) addr.ByFamily[netip.Addr] {
	var public addr.ByFamily[netip.Addr]
	all := addr.Pair(netip.AddrFrom4([4]byte{192, 0, 2, byte(n)}), netip.AddrFrom16([16]byte{0x20, 1, 0x0d, 0xb8, 15: byte(n)}))
	for _, f := range w.network.Families() {
		public.Put(f, all.At(f))
	}
	return public
}

// blocks lists the subnets of one family's pool.
func (w *world) blocks(f addr.Family) []netip.Prefix {
	pool := w.network.Pools.At(f)
	var all []netip.Prefix
	for n := 1; n <= min(15, w.plan.Blocks); n++ {
		base := netip.AddrFrom4([4]byte{10, 5, 0, byte(16 * n)})
		if f == addr.IPv6 {
			base = netip.AddrFrom16([16]byte{0xfc, 0, 0, 5, 7: byte(16 * n)})
		}
		all = append(all, netip.PrefixFrom(base, pool.SubnetLen))
	}
	return all
}
