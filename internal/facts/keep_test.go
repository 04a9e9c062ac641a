package facts_test

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/facts"
)

func selected(t *testing.T, w facts.Wish) facts.Node {
	t.Helper()
	n, err := facts.Select(host(), defaults(), w)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// A link that comes up has a link-local address first. It is left for another as
// soon as there is one, and never taken again: peers would send into the void.
func TestKeepLinkLocal(t *testing.T) {
	w := facts.Wish{Families: dual()}
	n, err := facts.Select(uplink("169.254.0.9/16", "fe80::1/64"), defaults(), w)
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		addrs  []string
		source addr.ByFamily[netip.Addr]
	}{
		{[]string{"169.254.0.9/16", "fe80::1/64"}, ips("169.254.0.9", "fe80::1")},
		{[]string{"169.254.0.9/16", "fe80::1/64", "fe80::2/64"}, ips("169.254.0.9", "fe80::1")},
		{[]string{"169.254.0.9/16", "fe80::1/64", "2001:db8::1/64"}, ips("169.254.0.9", "2001:db8::1")},
		{[]string{"169.254.0.9/16", "198.51.100.1/24", "fe80::1/64", "2001:db8::1/64"}, ips("198.51.100.1", "2001:db8::1")},
		{[]string{"169.254.0.9/16", "198.51.100.1/24", "fe80::1/64", "2001:db8::2/64"}, ips("198.51.100.1", "2001:db8::2")},
	} {
		var ok bool
		if n, ok = facts.Keep(n, uplink(step.addrs...), w); !ok || n.Source != step.source {
			t.Fatalf("%s: from %v, want from %v", step.addrs, n.Source, step.source)
		}
	}
	for _, addrs := range [][]string{{"198.51.100.1/24", "fe80::1/64"}, {"169.254.0.9/16", "2001:db8::2/64"}} {
		if got, ok := facts.Keep(n, uplink(addrs...), w); ok {
			t.Errorf("%s: from %v", addrs, got.Source)
		}
	}
	w.Global = addr.Pair(true, true)
	if got, err := facts.Select(uplink("198.51.100.1/24", "fe80::1/64"), defaults(), w); err == nil {
		t.Errorf("selected %v", got.Source)
	}
}

// uplink is host with other addresses on eth0.
func uplink(addrs ...string) []facts.Link {
	links := host()
	links[0].Addrs = nil
	for _, a := range addrs {
		links[0].Addrs = append(links[0].Addrs, address(a))
	}
	return links
}

func deprecated(links []facts.Link, a string) []facts.Link {
	for i, x := range links[0].Addrs {
		links[0].Addrs[i].Deprecated = x.Deprecated || x.Prefix.Addr() == netip.MustParseAddr(a)
	}
	return links
}

func TestKeep(t *testing.T) {
	byRoute := facts.Wish{Families: dual()}
	byAddress := facts.Wish{Families: only(addr.IPv4), Iface: []string{"198.51.100.1"}}
	nat := facts.Wish{Families: only(addr.IPv4), Iface: []string{"eth0"}, Public: ips("203.0.113.9", "")}
	zeroMTU := host()
	zeroMTU[0].MTU = 0
	for name, tt := range map[string]struct {
		wish           facts.Wish
		links          []facts.Link
		source, public addr.ByFamily[netip.Addr] // zero: not kept
	}{
		"nothing changed": {byRoute, host(), ips("198.51.100.1", "2001:db8::1"), ips("198.51.100.1", "2001:db8::1")},
		"another address": {
			byRoute, uplink("198.51.100.77/24", "2001:db8::1/64"),
			ips("198.51.100.77", "2001:db8::1"), ips("198.51.100.77", "2001:db8::1"),
		},
		"an address more": {
			byRoute, uplink("198.51.100.7/24", "198.51.100.1/24", "2001:db8::1/64"),
			ips("198.51.100.1", "2001:db8::1"), ips("198.51.100.1", "2001:db8::1"),
		},
		"deprecated without successor": {
			byRoute, deprecated(uplink("198.51.100.1/24", "2001:db8::1/64"), "2001:db8::1"),
			ips("198.51.100.1", "2001:db8::1"), ips("198.51.100.1", "2001:db8::1"),
		},
		"deprecated beside link-local": {
			byRoute, deprecated(uplink("198.51.100.1/24", "fe80::1/64", "2001:db8::1/64"), "2001:db8::1"),
			ips("198.51.100.1", "2001:db8::1"), ips("198.51.100.1", "2001:db8::1"),
		},
		"deprecated, the former of two": {
			byRoute, deprecated(deprecated(uplink("198.51.100.1/24", "fe80::1/64", "2001:db8::9/64", "2001:db8::1/64"), "2001:db8::1"), "2001:db8::9"),
			ips("198.51.100.1", "2001:db8::1"), ips("198.51.100.1", "2001:db8::1"),
		},
		"deprecated with successor": {
			byRoute, deprecated(uplink("198.51.100.1/24", "2001:db8::1/64", "2001:db8::2/64"), "2001:db8::1"),
			ips("198.51.100.1", "2001:db8::2"), ips("198.51.100.1", "2001:db8::2"),
		},
		"public address of a NAT":   {nat, uplink("198.51.100.7/24"), ips("198.51.100.7", ""), ips("203.0.113.9", "")},
		"chosen address":            {byAddress, uplink("198.51.100.7/24", "198.51.100.1/24"), ips("198.51.100.1", ""), ips("198.51.100.1", "")},
		"chosen address lost":       {wish: byAddress, links: uplink("198.51.100.7/24")},
		"no IPv6 any more":          {wish: byRoute, links: uplink("198.51.100.1/24")},
		"IPv6 that nobody needs":    {byAddress, uplink("198.51.100.1/24"), ips("198.51.100.1", ""), ips("198.51.100.1", "")},
		"link gone":                 {wish: byRoute, links: host()[1:]},
		"link that carries nothing": {wish: byRoute, links: zeroMTU},
	} {
		t.Run(name, func(t *testing.T) {
			n, ok := facts.Keep(selected(t, tt.wish), tt.links, tt.wish)
			if ok != (tt.source != ips("", "")) || n.Source != tt.source || n.Public != tt.public {
				t.Fatalf("%v: from %v as %v, want from %v as %v", ok, n.Source, n.Public, tt.source, tt.public)
			}
			if ok && (n.Uplink.Name != "eth0" || len(n.Links) != len(tt.links)) {
				t.Errorf("uplink %s of %d links", n.Uplink.Name, len(n.Links))
			}
		})
	}
}

// A link that is renamed is the same, as long as an address tells.
func TestKeepRenamed(t *testing.T) {
	w := facts.Wish{Families: dual()}
	prev := selected(t, w)
	links := uplink("198.51.100.1/24", "2001:db8::1/64")
	links[0].Name = "lan0"
	if n, ok := facts.Keep(prev, links, w); !ok || n.Uplink.Name != "lan0" || n.Source != prev.Source {
		t.Errorf("%v: %s from %v", ok, n.Uplink.Name, n.Source)
	}
	links = uplink("198.51.100.1/24") // IPv6 went with it, for now
	links[0].Name = "lan0"
	if n, ok := facts.Keep(prev, links, w); ok {
		t.Errorf("kept %v", n.Source)
	}
	if n, ok := facts.Hold(prev, links, w, errors.New("no route")); !ok || n.Uplink.Name != "lan0" || n.Source != prev.Source {
		t.Errorf("%v: %s from %v", ok, n.Uplink.Name, n.Source)
	}
}

// A family that was enabled later has nothing to keep.
func TestKeepAnotherFamily(t *testing.T) {
	prev := selected(t, facts.Wish{Families: only(addr.IPv4)})
	if n, ok := facts.Keep(prev, host(), facts.Wish{Families: dual()}); ok {
		t.Errorf("kept %v", n.Source)
	}
	if n, ok := facts.Hold(prev, host(), facts.Wish{Families: dual()}, errors.New("reason")); ok {
		t.Errorf("held %v", n.Source)
	}
}

func TestHold(t *testing.T) {
	w := facts.Wish{Families: dual()}
	prev := selected(t, w)
	changed := uplink()
	changed[0].MTU = 1400
	for name, tt := range map[string]struct {
		links []facts.Link
		mtu   int
	}{
		"link gone":    {host()[1:], 1500},
		"no addresses": {changed, 1400},
	} {
		n, ok := facts.Hold(prev, tt.links, w, errors.New("no IPv6 default route"))
		if !ok || n.Uplink.Name != "eth0" || n.Uplink.MTU != tt.mtu || n.Source != prev.Source || n.Public != prev.Public {
			t.Errorf("%s: %v, %+v", name, ok, n)
		}
		if !slices.ContainsFunc(n.Warnings, func(s string) bool { return strings.Contains(s, "no IPv6 default route") }) {
			t.Errorf("%s: warnings %q", name, n.Warnings)
		}
	}
}
