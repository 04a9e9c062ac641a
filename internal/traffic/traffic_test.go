package traffic_test

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/config"
	"github.com/flannel-ng/flannel-ng/internal/facts"
	"github.com/flannel-ng/flannel-ng/internal/lease"
	"github.com/flannel-ng/flannel-ng/internal/state"
	"github.com/flannel-ng/flannel-ng/internal/traffic"
)

func inputs(o traffic.Options) traffic.Inputs {
	return traffic.Inputs{
		Network: config.Network{Pools: addr.Pair(
			config.Pool{Network: netip.MustParsePrefix("10.5.0.0/16")},
			config.Pool{Network: netip.MustParsePrefix("fc00:5::/48")},
		)},
		Self: lease.Lease{Subnets: addr.Pair(
			netip.MustParsePrefix("10.5.14.0/24"), netip.MustParsePrefix("fc00:5:0:44::/64"))},
		Node:    facts.Node{Uplink: facts.Link{Name: "eth0"}},
		Tunnels: []string{"flannel.1"},
		Options: o,
	}
}

func TestJudge(t *testing.T) {
	set := traffic.Desire(inputs(traffic.Options{Masquerade: true, Forward: true, Mode: state.ModeNFTables}))
	const (
		own, remote, outside    = "10.5.14.5", "10.5.9.5", "192.0.2.1"
		own6, remote6, outside6 = "fc00:5:0:44::5", "fc00:5:0:9::5", "2001:db8::1"
	)
	for _, c := range []struct {
		src, dst         string
		mark             uint32
		masquerade, pass bool
	}{
		{own, remote, 0, false, true},
		{remote, own, 0, false, true},
		{own, own, 0, false, true},
		{own, outside, 0, true, true},
		{remote, outside, 0, true, true},
		{outside, own, 0, false, true},
		{outside, remote, 0, true, true},
		{outside, "198.51.100.1", 0, false, false},
		{own, "224.0.0.251", 0, false, true},
		{remote, "224.0.0.251", 0, false, true},
		{own, outside, 0x4000, false, true},
		{own, outside, 0xc000, false, true},
		{own, outside, 0x8000, true, true},
		{outside, remote, 0x4000, false, true},
		{own6, remote6, 0, false, true},
		{own6, outside6, 0, true, true},
		{outside6, own6, 0, false, true},
		{outside6, remote6, 0, true, true},
		{own6, "ff02::fb", 0, false, true},
	} {
		p := traffic.Packet{Src: netip.MustParseAddr(c.src), Dst: netip.MustParseAddr(c.dst), Mark: c.mark}
		i := slices.IndexFunc(set.Filters, func(f state.Filter) bool { return f.Family == addr.Of(p.Src) })
		got := traffic.Judge(set.Filters[i], p)
		if want := (traffic.Judgement{Masqueraded: c.masquerade, Accepted: c.pass}); got != want {
			t.Errorf("%s to %s mark %#x: %+v, want %+v", c.src, c.dst, c.mark, got, want)
		}
	}
}

func TestFiltersFollowOptions(t *testing.T) {
	for _, c := range []struct {
		name         string
		o            traffic.Options
		filters      int
		nat, forward int
		verdict      state.Verdict
	}{
		{"nothing", traffic.Options{}, 0, 0, 0, ""},
		{"forward", traffic.Options{Forward: true}, 2, 0, 2, ""},
		{"masquerade", traffic.Options{Masquerade: true}, 2, 6, 0, state.Masquerade},
		{"random", traffic.Options{Masquerade: true, RandomFully: true}, 2, 6, 0, state.MasqueradeRandom},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.o.Mode = state.ModeIPTables
			set := traffic.Desire(inputs(c.o))
			if len(set.Filters) != c.filters {
				t.Fatalf("%d filters, want %d", len(set.Filters), c.filters)
			}
			for _, f := range set.Filters {
				check(t, f, c.nat, c.forward)
				if c.nat > 0 && f.Postrouting[5].Verdict != c.verdict {
					t.Errorf("verdict %s, want %s", f.Postrouting[5].Verdict, c.verdict)
				}
			}
		})
	}
}

func check(t *testing.T, f state.Filter, nat, forward int) {
	t.Helper()
	if f.Mode != state.ModeIPTables || len(f.Postrouting) != nat || len(f.Forward) != forward {
		t.Errorf("%s", f)
	}
}

func TestFamilyWithoutSubnetGetsNothing(t *testing.T) {
	in := inputs(traffic.Options{Masquerade: true, Forward: true})
	in.Self.Subnets.Put(addr.IPv4, netip.Prefix{})
	set := traffic.Desire(in)
	if len(set.Filters) != 1 || set.Filters[0].Family != addr.IPv6 {
		t.Errorf("filters %v, want one for IPv6", set.Filters)
	}
	for _, s := range set.Sysctls {
		if s.Path != "net/ipv6/conf/all/forwarding" {
			t.Errorf("unexpected %s", s)
		}
	}
}

// TestForwarding: the switch of all IPv6 devices must not come in the same
// pass as a raise of accept_ra, whatever the order within a pass, and on a
// host that forwards already nothing is raised.
func TestForwarding(t *testing.T) {
	perLink := []string{"sysctl net/ipv4/conf/eth0/forwarding = 1", "sysctl net/ipv4/conf/flannel.1/forwarding = 1"}
	const (
		raise  = "sysctl net/ipv6/conf/eth0/accept_ra = 2"
		raise1 = "sysctl net/ipv6/conf/eth1/accept_ra = 2"
		all    = "sysctl net/ipv6/conf/all/forwarding = 1"
	)
	for _, c := range []struct {
		forwards           bool
		eth0, eth1, tunnel int
		want               []string
	}{
		{false, 0, 0, 0, []string{all}},
		{false, 1, 0, 0, []string{raise}},
		{false, 2, 1, 0, []string{raise1}},
		{false, 1, 1, 1, []string{raise, raise1}},
		{false, 2, 2, 0, []string{all}},
		{false, 2, 0, 1, []string{all}},
		{true, 1, 1, 0, []string{all}},
	} {
		in := inputs(traffic.Options{})
		in.Node.Forwards = c.forwards
		in.Node.Links = []facts.Link{
			{Name: "eth0", AcceptRA: c.eth0},
			{Name: "eth1", AcceptRA: c.eth1, DefaultByRA: true},
			{Name: "flannel.1", AcceptRA: c.tunnel, DefaultByRA: true},
			{Name: "docker0", AcceptRA: 1},
		}
		var got []string
		for _, s := range traffic.Desire(in).Sysctls {
			got = append(got, s.String())
		}
		if !slices.Equal(got, slices.Concat(perLink, c.want)) {
			t.Errorf("%+v: %q", c, got)
		}
	}
}

// Without a tunnel device the uplink is what brings packets for containers: from
// peers, and the answers to masqueraded ones. Links that peers are neighbours
// on bring them as well; those of routers, and of the other family, do not.
func TestForwardingWithoutTunnel(t *testing.T) {
	route := func(dst, link, via string) facts.Route {
		r := facts.Route{Dst: netip.MustParsePrefix(dst), Link: link}
		if via != "" {
			r.Via = netip.MustParseAddr(via)
		}
		return r
	}
	const (
		eth0 = "sysctl net/ipv4/conf/eth0/forwarding = 1"
		eth1 = "sysctl net/ipv4/conf/eth1/forwarding = 1"
		all  = "sysctl net/ipv6/conf/all/forwarding = 1"
	)
	for name, c := range map[string]struct {
		routes []facts.Route
		want   []string
	}{
		"alloc": {nil, []string{eth0, all}},
		"host-gw, peers on the uplink": {[]facts.Route{
			route("198.51.100.0/24", "eth0", ""), route("2001:db8::/64", "eth0", ""), route("0.0.0.0/0", "eth3", "192.0.2.1"),
			route("203.0.113.9/32", "", ""),
		}, []string{eth0, all}},
		"host-gw, a peer on another link": {[]facts.Route{
			route("192.0.2.0/24", "eth1", ""), route("192.0.2.128/25", "eth1", ""), route("2001:db8:7::/64", "eth2", ""),
		}, []string{eth0, eth1, all}},
	} {
		in := inputs(traffic.Options{Masquerade: true})
		in.Tunnels, in.Node.Routes = nil, c.routes
		set := traffic.Desire(in)
		var got []string
		for _, s := range set.Sysctls {
			got = append(got, s.String())
			if s.Optional != (s.String() == eth1) {
				t.Errorf("%s: %s optional %v", name, s, s.Optional)
			}
		}
		if !slices.Equal(got, c.want) || len(set.Filters) != 2 {
			t.Errorf("%s: %q, filters %v", name, got, set.Filters)
		}
	}
}
