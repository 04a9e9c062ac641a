package facts_test

import (
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/facts"
)

func address(s string) facts.Addr { return facts.Addr{Prefix: netip.MustParsePrefix(s)} }

// host has two uplinks, the tunnels of a fabric, and a link whose addresses
// differ in every way that selection ranks.
func host() []facts.Link {
	deprecated, dynamic, temporary := address("2001:db8:2::1/64"), address("2001:db8:2::2/64"), address("2001:db8:2::3/64")
	deprecated.Deprecated = true
	dynamic.Dynamic = true
	temporary.Dynamic, temporary.Temporary = true, true
	return []facts.Link{
		{Name: "eth0", Index: 2, MTU: 1500, Addrs: []facts.Addr{
			address("198.51.100.1/24"), address("fe80::1/64"), address("2001:db8::1/64"),
		}},
		{Name: "eth1", Index: 3, MTU: 9000, Addrs: []facts.Addr{
			address("192.0.2.1/25"), address("192.0.2.129/25"), address("2001:db8:1::1/64"),
		}},
		{Name: "eth2", Index: 4, MTU: 1500, Addrs: []facts.Addr{
			deprecated, temporary, dynamic, address("fe80::2/64"), address("169.254.1.1/16"),
		}},
		{Name: "flannel.1", Index: 5, Type: "vxlan", MTU: 1450, Addrs: []facts.Addr{address("10.5.1.0/32")}},
		{Name: "fab1", Index: 6, Type: "vxlan", Alias: "flannel-ng-0a0b0c", MTU: 1450, Addrs: []facts.Addr{address("10.6.1.0/32")}},
		{Name: "lo", Index: 1, MTU: 65536, Addrs: []facts.Addr{address("127.0.0.1/8"), address("::1/128")}},
		{Name: "zero", Index: 7, Addrs: []facts.Addr{address("203.0.113.1/24")}},
	}
}

func route(dst, via, link string) facts.Route {
	r := facts.Route{Dst: netip.MustParsePrefix(dst), Link: link}
	if via != "" {
		r.Via = netip.MustParseAddr(via)
	}
	return r
}

func defaults() []facts.Route {
	return []facts.Route{
		route("0.0.0.0/0", "198.51.100.254", "eth0"),
		route("::/0", "2001:db8::fe", "eth0"),
		route("192.0.2.0/25", "", "eth1"),
		route("203.0.113.0/24", "192.0.2.254", "eth1"),
	}
}

func with(change func(*facts.Route), rs ...facts.Route) []facts.Route {
	for i := range rs {
		change(&rs[i])
	}
	return rs
}

func only(f ...addr.Family) []addr.Family { return f }

func dual() []addr.Family { return only(addr.IPv4, addr.IPv6) }

func regexps(texts ...string) []*regexp.Regexp {
	var out []*regexp.Regexp
	for _, s := range texts {
		out = append(out, regexp.MustCompile(s))
	}
	return out
}

func ips(ipv4, ipv6 string) addr.ByFamily[netip.Addr] {
	var out addr.ByFamily[netip.Addr]
	if ipv4 != "" {
		out.Put(addr.IPv4, netip.MustParseAddr(ipv4))
	}
	if ipv6 != "" {
		out.Put(addr.IPv6, netip.MustParseAddr(ipv6))
	}
	return out
}

func TestSelect(t *testing.T) {
	type wish = facts.Wish
	for name, tt := range map[string]struct {
		wish   wish
		routes []facts.Route // nil: defaults
		link   string
		source addr.ByFamily[netip.Addr]
		public addr.ByFamily[netip.Addr] // zero: as source
	}{
		"default route": {wish: wish{Families: only(addr.IPv4)}, link: "eth0", source: ips("198.51.100.1", "")},
		"default route IPv6": {
			wish: wish{Families: only(addr.IPv6)}, link: "eth0", source: ips("", "2001:db8::1"),
		},
		"default route dual": {
			wish: wish{Families: dual()}, link: "eth0", source: ips("198.51.100.1", "2001:db8::1"),
		},
		"lowest metric": {
			wish: wish{Families: only(addr.IPv4)},
			routes: append(with(func(r *facts.Route) { r.Metric = 100 }, route("0.0.0.0/0", "198.51.100.254", "eth0")),
				route("0.0.0.0/0", "192.0.2.2", "eth1")),
			link: "eth1", source: ips("192.0.2.1", ""),
		},
		"first of equal metric": {
			wish:   wish{Families: only(addr.IPv4)},
			routes: []facts.Route{route("0.0.0.0/0", "192.0.2.2", "eth1"), route("0.0.0.0/0", "198.51.100.254", "eth0")},
			link:   "eth1", source: ips("192.0.2.1", ""),
		},
		"default route of a tunnel is passed over": {
			wish: wish{Families: only(addr.IPv4)},
			routes: []facts.Route{
				route("0.0.0.0/0", "", "flannel.1"), route("0.0.0.0/0", "", "fab1"), route("0.0.0.0/0", "198.51.100.254", "eth0"),
			},
			link: "eth0", source: ips("198.51.100.1", ""),
		},
		"public address on a link": {
			wish: wish{Families: only(addr.IPv4), Public: ips("192.0.2.129", "")},
			link: "eth1", source: ips("192.0.2.129", ""),
		},
		"public IPv6 address when IPv4 is off": {
			wish: wish{Families: only(addr.IPv6), Public: ips("203.0.113.9", "2001:db8:1::1")},
			link: "eth1", source: ips("", "2001:db8:1::1"),
		},
		"public address beside NAT": {
			wish: wish{Families: only(addr.IPv4), Iface: []string{"eth0"}, Public: ips("203.0.113.9", "")},
			link: "eth0", source: ips("198.51.100.1", ""), public: ips("203.0.113.9", ""),
		},
		"second name": {
			wish: wish{Families: only(addr.IPv4), Iface: []string{"eth9", "eth1", "eth0"}},
			link: "eth1", source: ips("192.0.2.1", ""),
		},
		"name without addresses gives way": {
			wish: wish{Families: dual(), Iface: []string{"zero"}, IfaceRegex: regexps("h1$")},
			link: "eth1", source: ips("192.0.2.1", "2001:db8:1::1"),
		},
		"address as name": {
			wish: wish{Families: only(addr.IPv4), Iface: []string{"192.0.2.129"}},
			link: "eth1", source: ips("192.0.2.129", ""),
		},
		"IPv6 address as name in dual stack": {
			wish: wish{Families: dual(), Iface: []string{"2001:db8:1::1"}},
			link: "eth1", source: ips("192.0.2.1", "2001:db8:1::1"),
		},
		"IPv6 address as name for IPv4": {
			wish: wish{Families: only(addr.IPv4), Iface: []string{"2001:db8:1::1"}},
			link: "eth1", source: ips("192.0.2.1", ""),
		},
		"both addresses on one link": {
			wish: wish{Families: dual(), Iface: []string{"192.0.2.129"}, Public: ips("", "2001:db8:1::1")},
			link: "eth1", source: ips("192.0.2.129", "2001:db8:1::1"),
		},
		"regex on address": {
			wish: wish{Families: only(addr.IPv4), IfaceRegex: regexps(`\.129$`)},
			link: "eth1", source: ips("192.0.2.129", ""),
		},
		"regex on address before name": {
			wish: wish{Families: only(addr.IPv4), IfaceRegex: regexps(`^eth0$|^192\.0`)},
			link: "eth1", source: ips("192.0.2.1", ""),
		},
		"regex in dual stack needs both": {
			wish: wish{Families: dual(), IfaceRegex: regexps(`^198\.`, `^192\.|^2001:db8:1:`)},
			link: "eth1", source: ips("192.0.2.1", "2001:db8:1::1"),
		},
		"regex never takes a tunnel": {
			wish: wish{Families: only(addr.IPv4), IfaceRegex: regexps(`^10\.|^f`, "eth")},
			link: "eth0", source: ips("198.51.100.1", ""),
		},
		"can reach with preferred source": {
			wish:   wish{Families: dual(), CanReach: netip.MustParseAddr("203.0.113.77")},
			routes: with(func(r *facts.Route) { r.Source = netip.MustParseAddr("192.0.2.129") }, route("203.0.113.0/24", "192.0.2.2", "eth1")),
			link:   "eth1", source: ips("192.0.2.129", "2001:db8:1::1"),
		},
		"can reach takes the address next to the gateway": {
			wish: wish{Families: only(addr.IPv4), CanReach: netip.MustParseAddr("203.0.113.77")},
			link: "eth1", source: ips("192.0.2.129", ""),
		},
		"can reach on link": {
			wish: wish{Families: only(addr.IPv4), CanReach: netip.MustParseAddr("192.0.2.20")},
			link: "eth1", source: ips("192.0.2.1", ""),
		},
		"can reach with a foreign gateway": {
			wish:   wish{Families: only(addr.IPv4), CanReach: netip.MustParseAddr("203.0.113.77")},
			routes: []facts.Route{route("0.0.0.0/0", "203.0.113.254", "eth1")},
			link:   "eth1", source: ips("192.0.2.1", ""),
		},
		"durable address": {
			wish: wish{Families: dual(), Iface: []string{"eth2"}},
			link: "eth2", source: ips("169.254.1.1", "2001:db8:2::2"),
		},
		"tunnel by name": {
			wish: wish{Families: only(addr.IPv4), Iface: []string{"flannel.1"}},
			link: "flannel.1", source: ips("10.5.1.0", ""),
		},
	} {
		t.Run(name, func(t *testing.T) {
			if tt.routes == nil {
				tt.routes = defaults()
			}
			links := host()
			n, err := facts.Select(links, tt.routes, tt.wish)
			if err != nil {
				t.Fatal(err)
			}
			if tt.public == ips("", "") {
				tt.public = tt.source
			}
			if n.Uplink.Name != tt.link || n.Source != tt.source || n.Public != tt.public {
				t.Errorf("got %s from %v as %v, want %s from %v as %v",
					n.Uplink.Name, n.Source, n.Public, tt.link, tt.source, tt.public)
			}
			if len(n.Links) != len(links) || !slices.Equal(n.Routes, tt.routes) {
				t.Errorf("node has %d links and routes %v", len(n.Links), n.Routes)
			}
		})
	}
}

func TestSelectErrors(t *testing.T) {
	type wish = facts.Wish
	multiple := with(func(r *facts.Route) { r.Multiple = true }, route("0.0.0.0/0", "198.51.100.254", "eth0"))
	for name, tt := range map[string]struct {
		wish   wish
		routes []facts.Route // nil: defaults
		want   []string      // parts of the error
	}{
		"public address of a NAT": {
			wish: wish{Families: only(addr.IPv4), Public: ips("203.0.113.9", "")},
			want: []string{"public address 203.0.113.9: no interface has this address", "--iface"},
		},
		"several next hops": {
			wish: wish{Families: only(addr.IPv4)}, routes: multiple,
			want: []string{"default route: the IPv4 default route has several next hops", "--iface"},
		},
		"several next hops towards": {
			wish:   wish{Families: only(addr.IPv4), CanReach: netip.MustParseAddr("203.0.113.1")},
			routes: multiple, want: []string{"--iface-can-reach 203.0.113.1: route 0.0.0.0/0 has several next hops"},
		},
		"default routes differ": {
			wish:   wish{Families: dual()},
			routes: []facts.Route{route("0.0.0.0/0", "", "eth0"), route("::/0", "", "eth1")},
			want:   []string{"default routes of IPv4 and IPv6 use different interfaces, eth0 and eth1"},
		},
		"no default route": {
			wish: wish{Families: dual()}, routes: []facts.Route{route("0.0.0.0/0", "", "eth0")},
			want: []string{"no IPv6 default route"},
		},
		"no route to": {
			wish:   wish{Families: only(addr.IPv4), CanReach: netip.MustParseAddr("203.0.113.1")},
			routes: []facts.Route{}, want: []string{"--iface-can-reach 203.0.113.1: no route"},
		},
		"route to a missing link": {
			wish:   wish{Families: only(addr.IPv4), CanReach: netip.MustParseAddr("203.0.113.1")},
			routes: []facts.Route{route("0.0.0.0/0", "", "gone0")}, want: []string{"route 0.0.0.0/0 dev gone0: no such interface"},
		},
		"everything that was tried": {
			wish: wish{Families: only(addr.IPv4), Iface: []string{"eth8", "198.51.100.9"}, IfaceRegex: regexps("^wlan")},
			want: []string{
				"no uplink; --iface eth8: no such interface; --iface 198.51.100.9: no interface has this address; " +
					"--iface-regex ^wlan: matches no interface, by address or by name; this host has lo (127.0.0.1, ::1), eth0 (198.51.100.1, ",
			},
		},
		"zero MTU": {
			wish: wish{Families: only(addr.IPv4), Iface: []string{"zero"}},
			want: []string{"--iface zero: interface zero has MTU 0"},
		},
		"no address": {
			wish: wish{Families: only(addr.IPv6), Iface: []string{"flannel.1"}},
			want: []string{"interface flannel.1 has no usable IPv6 address"},
		},
		"loopback is no address": {
			wish: wish{Families: only(addr.IPv4), IfaceRegex: regexps(`^127\.`)}, want: []string{"matches no interface"},
		},
		"public IPv6 address elsewhere": {
			wish: wish{Families: dual(), Iface: []string{"192.0.2.1"}, Public: ips("", "2001:db8::1")},
			want: []string{"--iface 192.0.2.1: interface eth1 does not have the public address 2001:db8::1"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			if tt.routes == nil {
				tt.routes = defaults()
			}
			n, err := facts.Select(host(), tt.routes, tt.wish)
			if err == nil {
				t.Fatalf("got %s from %v, want an error", n.Uplink.Name, n.Source)
			}
			for _, part := range tt.want {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("error %q lacks %q", err, part)
				}
			}
		})
	}
}

func TestSelectEmptyHost(t *testing.T) {
	_, err := facts.Select(nil, nil, facts.Wish{Families: dual(), Iface: []string{"eth0"}})
	if err == nil || !strings.HasSuffix(err.Error(), "this host has no interface") {
		t.Errorf("error %v", err)
	}
}
