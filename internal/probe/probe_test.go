package probe_test

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"slices"
	"testing"

	"github.com/flannel-ng/flannel-ng/internal/driver/drivertest"
	"github.com/flannel-ng/flannel-ng/internal/facts"
	"github.com/flannel-ng/flannel-ng/internal/probe"
)

func links(t *testing.T) map[string]facts.Link {
	t.Helper()
	list, err := probe.Links(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !slices.IsSortedFunc(list, func(a, b facts.Link) int {
		if a.Name < b.Name {
			return -1
		}
		return 1
	}) {
		t.Errorf("not sorted: %v", list)
	}
	m := map[string]facts.Link{}
	for _, l := range list {
		m[l.Name] = l
	}
	return m
}

func TestLinks(t *testing.T) {
	drivertest.Namespace(t)
	drivertest.Run(t, `
		ip link set eth0 mtu 1400
		ip link set eth0 address 02:00:00:00:00:42
		ip link set eth0 alias uplink
		ip link set foreign0 down
		ip addr add 198.51.100.40/24 dev eth0 valid_lft 1000 preferred_lft 500
		ip -6 addr add 2001:db8::40/64 dev eth0 valid_lft 1000 preferred_lft 0 nodad
	`)
	all := links(t)
	eth0 := all["eth0"]
	if eth0.MTU != 1400 || eth0.MAC.String() != "02:00:00:00:00:42" || eth0.Alias != "uplink" || !eth0.Up || eth0.Type != "veth" {
		t.Errorf("eth0: %+v", eth0)
	}
	if fvx := all["fvx"]; fvx.Type != "vxlan" || fvx.VNI != 777 || fvx.Port != 4790 {
		t.Errorf("fvx: %+v", fvx)
	}
	if all["foreign0"].Up || all["lo"].Index != 1 {
		t.Errorf("foreign0 %+v, lo %+v", all["foreign0"], all["lo"])
	}
	for _, want := range []facts.Addr{
		{Prefix: netip.MustParsePrefix("198.51.100.1/24")},
		{Prefix: netip.MustParsePrefix("198.51.100.40/24"), Dynamic: true},
		{Prefix: netip.MustParsePrefix("2001:db8::1/64")},
		{Prefix: netip.MustParsePrefix("2001:db8::40/64"), Dynamic: true, Deprecated: true},
	} {
		if !slices.Contains(eth0.Addrs, want) {
			t.Errorf("no %+v in %+v", want, eth0.Addrs)
		}
	}
}

func routes(t *testing.T) []facts.Route {
	t.Helper()
	list, err := probe.Links(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	out, err := probe.Routes(t.Context(), func(facts.Link) bool { return false }, list)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestRoutes(t *testing.T) {
	drivertest.Namespace(t)
	drivertest.Run(t, `
		ip route add default via 198.51.100.254 dev eth0 src 198.51.100.1 metric 5
		ip -6 route add default via 2001:db8::fe dev eth0
		ip route add 203.0.113.200/32 nexthop via 198.51.100.5 dev eth0 nexthop via 192.0.2.9 dev foreign0
		ip nexthop add id 6 via 198.51.100.6 dev eth0
		ip nexthop add id 7 group 5/6
		ip route add 203.0.113.201/32 nhid 7
		ip route add 203.0.113.202/32 dev fvx
		ip route add 203.0.113.203/32 dev eth0 table 77
	`)
	wants := []facts.Route{
		{Dst: netip.MustParsePrefix("0.0.0.0/0"), Via: netip.MustParseAddr("198.51.100.254"), Link: "eth0", Source: netip.MustParseAddr("198.51.100.1"), Metric: 5},
		{Dst: netip.MustParsePrefix("::/0"), Via: netip.MustParseAddr("2001:db8::fe"), Link: "eth0", Metric: 1024},
		{Dst: netip.MustParsePrefix("198.51.100.0/24"), Link: "eth0", Source: netip.MustParseAddr("198.51.100.1")},
		{Dst: netip.MustParsePrefix("203.0.113.32/28"), Via: netip.MustParseAddr("192.0.2.9"), Link: "foreign0"},
		{Dst: netip.MustParsePrefix("203.0.113.200/32"), Via: netip.MustParseAddr("198.51.100.5"), Link: "eth0", Multiple: true},
		{Dst: netip.MustParsePrefix("203.0.113.202/32"), Link: "fvx"},
	}
	for _, compat := range []string{"1", "0"} {
		drivertest.Run(t, "sysctl -qw net.ipv4.nexthop_compat_mode="+compat)
		got := routes(t)
		for _, want := range wants {
			if !slices.Contains(got, want) {
				t.Errorf("compat mode %s: no %+v in %+v", compat, want, got)
			}
		}
		for _, r := range got {
			switch r.Dst.String() {
			case "203.0.113.64/26", "10.200.0.0/24", "203.0.113.203/32":
				t.Errorf("blackhole, own protocol or other table: %+v", r)
			case "203.0.113.201/32":
				if !r.Multiple {
					t.Errorf("group: %+v", r)
				}
			}
		}
	}
}

func TestRoutesOverSkippedLinks(t *testing.T) {
	drivertest.Namespace(t)
	list, err := probe.Links(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	got, err := probe.Routes(t.Context(), func(l facts.Link) bool { return l.Name == "foreign0" }, list)
	if err != nil || len(got) == 0 {
		t.Fatal(got, err)
	}
	for _, r := range got {
		if r.Link == "foreign0" {
			t.Errorf("not skipped: %+v", r)
		}
	}
}

// What decides adjacency is found however many routes there are, and a gateway
// inside an on-link network counts.
func TestRoutesTo(t *testing.T) {
	drivertest.Namespace(t)
	drivertest.Run(t, `
		ip route add default via 198.51.100.254 dev eth0
		ip route add 198.51.100.64/26 via 192.0.2.9 dev foreign0
		ip route add 198.51.100.9/32 nexthop via 198.51.100.5 dev eth0 nexthop via 192.0.2.9 dev foreign0
		ip route add unreachable 198.51.100.10/32
		ip -6 route add 2001:db8::8/128 via 2001:db8:7::9 dev foreign0
	`)
	list, err := probe.Links(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var targets []netip.Addr
	wants := map[string]string{
		"198.51.100.2": "eth0", "198.51.100.3": "eth0", "198.51.100.65": "", "198.51.100.9": "", "198.51.100.10": "",
		"203.0.113.33": "", "10.1.1.1": "", "10.200.0.1": "", "198.51.100.1": "", "192.0.2.7": "", "10.200.0.9": "",
		"2001:db8::2": "eth0", "2001:db8::8": "", "2001:db8:8::1": "", "2001:db8:ffff::1": "",
	}
	for a := range wants {
		targets = append(targets, netip.MustParseAddr(a))
	}
	skip := func(l facts.Link) bool { return l.Name == "foreign0" }
	for _, compat := range []string{"1", "0"} {
		drivertest.Run(t, "sysctl -qw net.ipv4.nexthop_compat_mode="+compat)
		found, err := probe.RoutesTo(t.Context(), probe.Lookup{Links: list, Skip: skip, Uplink: "eth0", Targets: targets})
		if err != nil {
			t.Fatal(err)
		}
		n := facts.Node{Uplink: facts.Link{Name: "eth0"}, Routes: found}
		for a, want := range wants {
			// An address whose own route adds nothing must not be taken for a
			// neighbour because of another's.
			if got, _ := n.Adjacent(netip.MustParseAddr(a)); got != want {
				t.Errorf("%s: link %q, want %q of %v", a, got, want, found)
			}
		}
	}
}

// Two links on one segment: the kernel prefers the one with the lower metric,
// the fabric its uplink. A longer prefix elsewhere is meant, and stays so.
func TestRoutesToPreferTheUplink(t *testing.T) {
	drivertest.Namespace(t)
	drivertest.Run(t, `
		ip addr flush dev eth0
		ip addr add 198.51.100.1/24 dev eth0 metric 100
		ip addr add 2001:db8::1/64 dev eth0 nodad metric 300
		ip addr add 198.51.100.2/24 dev foreign0 metric 10
		ip addr add 2001:db8::2/64 dev foreign0 nodad metric 200
		ip route add 198.51.100.128/25 dev foreign0
		ip -6 route add 2001:db8:0:0:8000::/65 dev foreign0
		ip -6 route add 2001:db8:0:1::/64 dev foreign0
		ip -6 route add default via 2001:db8::fe dev eth0
	`)
	list, err := probe.Links(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	wants := map[string]string{
		"198.51.100.9": "eth0", "198.51.100.10": "eth0", "198.51.100.200": "foreign0", "192.0.2.7": "foreign0",
		"2001:db8::9": "eth0", "2001:db8:0:0:8000::9": "foreign0", "2001:db8:0:1::9": "foreign0", "fe80::9": "eth0",
	}
	var targets []netip.Addr
	for a := range wants {
		targets = append(targets, netip.MustParseAddr(a))
	}
	found, err := probe.RoutesTo(t.Context(), probe.Lookup{
		Links: list, Skip: func(facts.Link) bool { return false }, Uplink: "eth0", Targets: targets,
	})
	if err != nil {
		t.Fatal(err)
	}
	n := facts.Node{Uplink: facts.Link{Name: "eth0"}, Routes: found}
	for a, want := range wants {
		if got, _ := n.Adjacent(netip.MustParseAddr(a)); got != want {
			t.Errorf("%s: link %q, want %q of %v", a, got, want, found)
		}
	}
}

// Many targets need several batches, and answers stay with their questions. A
// host whose uplink is down has nowhere to go, and need not say so of each.
func TestRoutesToMany(t *testing.T) {
	drivertest.Namespace(t)
	drivertest.Run(t, "ip route add 10.7.0.0/17 via 198.51.100.5 dev eth0\nip route add 10.7.1.7/32 via 198.51.100.6 dev eth0")
	list, err := probe.Links(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	q := probe.Lookup{Links: list, Skip: func(facts.Link) bool { return false }, Uplink: "eth0"}
	for i := range 1000 {
		q.Targets = append(q.Targets, netip.AddrFrom4([4]byte{10, 7, uint8(i >> 8), uint8(i)}))
	}
	q.Targets = append(q.Targets, netip.MustParseAddr("10.7.255.1"))
	found, err := probe.RoutesTo(t.Context(), q)
	if err != nil || len(found) != 2 {
		t.Fatalf("want two routes, got %v, %v", found, err)
	}
	if r, _ := facts.Lookup(found, netip.MustParseAddr("10.7.1.7")); r.Via != netip.MustParseAddr("198.51.100.6") {
		t.Errorf("got %v", found)
	}
	drivertest.Run(t, "ip link set eth0 down")
	if found, err = probe.RoutesTo(t.Context(), q); err != nil || len(found) != 0 {
		t.Errorf("uplink down: %v, %v", found, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if found, err = probe.RoutesTo(ctx, q); !errors.Is(err, context.Canceled) || found != nil {
		t.Errorf("cancelled: %v, %v", found, err)
	}
}

func TestForwarding(t *testing.T) {
	drivertest.Namespace(t)
	drivertest.Run(t, `
		sysctl -qw net.ipv6.conf.all.forwarding=0
		sysctl -qw net.ipv6.conf.eth0.accept_ra=2
		sysctl -qw net.ipv6.conf.foreign0.accept_ra=1
		ip -6 route add default via fe80::1 dev foreign0 proto ra
		ip -6 route add default via fe80::1 dev eth0 metric 9999 proto static
	`)
	learnt := map[string]bool{}
	read := func() (bool, map[string]int) {
		list, err := probe.Links(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, facts.Link{Name: "missing0", Index: 9999})
		on, err := probe.Forwarding(t.Context(), list)
		if err != nil {
			t.Fatal(err)
		}
		m := map[string]int{}
		for _, l := range list {
			m[l.Name], learnt[l.Name] = l.AcceptRA, l.DefaultByRA
		}
		return on, m
	}
	if on, ra := read(); on || ra["eth0"] != 2 || ra["foreign0"] != 1 || ra["missing0"] != 0 || ra["lo"] != 0 {
		t.Errorf("%v, %v", on, ra)
	}
	if !learnt["foreign0"] || learnt["eth0"] {
		t.Errorf("links with a learnt default route: %v", learnt)
	}
	drivertest.Run(t, "sysctl -qw net.ipv6.conf.all.forwarding=1")
	if on, ra := read(); !on || ra["foreign0"] != 0 {
		t.Errorf("forwarding: %v, %v", on, ra)
	}
}

func TestBridgeNetfilter(t *testing.T) {
	ipv4, ipv6 := probe.BridgeNetfilter()
	for name, got := range map[string]bool{"bridge-nf-call-iptables": ipv4, "bridge-nf-call-ip6tables": ipv6} {
		if _, err := os.Stat("/proc/sys/net/bridge/" + name); (err == nil) != got {
			t.Errorf("%s: %v, but %v", name, got, err)
		}
	}
}
