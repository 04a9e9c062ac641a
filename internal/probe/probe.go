// Package probe reads facts about this host from Linux: links with their
// addresses, foreign routes, and switches; and it says when to look again.
//
// It owns nothing and writes nothing. Which link is the uplink is decided by
// pure code in package facts. Called by the daemon; works in the network
// namespace of the calling thread.
package probe

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/facts"
	"github.com/flannel-ng/flannel-ng/internal/nl"
	"github.com/flannel-ng/flannel-ng/internal/state"
)

// Links reads every link with its addresses, sorted by name.
func Links(ctx context.Context) ([]facts.Link, error) {
	c, err := nl.Dial()
	if err != nil {
		return nil, err
	}
	defer func() { _ = c.Close() }()
	links, err := c.Links(ctx, "")
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	addrs := map[int][]facts.Addr{}
	for _, f := range addr.Families() {
		list, err := c.Addresses(ctx, f, 0)
		if err != nil {
			return nil, fmt.Errorf("list %s addresses: %w", f, err)
		}
		for _, a := range list {
			addrs[a.Link] = append(addrs[a.Link], facts.Addr{
				Prefix: a.Prefix, Deprecated: a.Deprecated, Dynamic: !a.Permanent, Temporary: a.Temporary,
			})
		}
	}
	out := make([]facts.Link, len(links))
	for i, l := range links {
		out[i] = facts.Link{
			Name: l.Name, Index: l.Index, Type: l.Kind, MTU: l.MTU, MAC: l.MAC, Alias: l.Alias, Up: l.Up,
			VNI: l.VXLAN.VNI, Port: l.VXLAN.Port, Addrs: addrs[l.Index],
		}
	}
	slices.SortFunc(out, func(a, b facts.Link) int { return cmp.Compare(a.Name, b.Name) })
	return out, nil
}

// Routes reads the unicast routes of the main table that no flannel-ng made,
// except those over links that skip names. links is what Links returned.
func Routes(ctx context.Context, skip func(facts.Link) bool, links []facts.Link) ([]facts.Route, error) {
	c, err := nl.Dial()
	if err != nil {
		return nil, err
	}
	defer func() { _ = c.Close() }()
	byIndex := make(map[int]facts.Link, len(links))
	for _, l := range links {
		byIndex[l.Index] = l
	}
	var out []facts.Route
	for _, f := range addr.Families() {
		list, err := c.Routes(ctx, nl.RouteFilter{Family: f})
		if err != nil {
			return nil, fmt.Errorf("list %s routes: %w", f, err)
		}
		if err := resolve(ctx, c, list); err != nil {
			return nil, err
		}
		for _, r := range list {
			// A route over a link that came after Links was called is seen
			// by the next reading: its link wakes us.
			l, known := byIndex[r.Link]
			if r.Type != nl.Unicast || r.Protocol == state.Protocol || !known || skip(l) {
				continue
			}
			out = append(out, facts.Route{
				Dst: r.Dst, Via: r.Via, Link: l.Name, Source: r.Source, Metric: r.Metric, Multiple: r.Multiple,
			})
		}
	}
	return out, nil
}

// resolve fills in next hops that the kernel shows by number only
// (net.ipv4.nexthop_compat_mode = 0).
func resolve(ctx context.Context, c *nl.Conn, routes []nl.Route) error {
	byNumber := func(r nl.Route) bool { return r.Nexthop != 0 && r.Link == 0 }
	if !slices.ContainsFunc(routes, byNumber) {
		return nil
	}
	list, err := c.Nexthops(ctx)
	if err != nil {
		return fmt.Errorf("list nexthop objects: %w", err)
	}
	objects := make(map[uint32]nl.Nexthop, len(list))
	for _, h := range list {
		objects[h.ID] = h
	}
	for i := range routes {
		r := &routes[i]
		if !byNumber(*r) {
			continue
		}
		h := objects[r.Nexthop]
		if h.Group != 0 {
			r.Multiple = h.Several
			h = objects[h.Group]
		}
		r.Link, r.Via, r.Onlink = h.Hop.Link, h.Hop.Via, h.Hop.Onlink
	}
	return nil
}

// Watch calls wake whenever links, addresses or routes change, until ctx ends
// or notifications cannot be had; wake must not block for long. Routes that
// flannel-ng itself adds do not count; if they vanish, that does. Lost
// notifications wake, too: nobody knows what they said.
//
// After an overrun the subscription is made anew: until its queue is drained,
// the kernel drops further notifications without another word.
func Watch(ctx context.Context, wake func()) error {
	for {
		s, err := nl.Subscribe()
		if err != nil {
			return err
		}
		wake() // of what happened before this subscription, nothing is known
		err = listen(ctx, s, wake)
		_ = s.Close()
		switch {
		case errors.Is(err, nl.ErrOverrun):
		case errors.Is(err, ctx.Err()):
			return nil
		default:
			return err
		}
	}
}

// listen passes on notifications until an error.
func listen(ctx context.Context, s *nl.Subscription, wake func()) error {
	for {
		news := false
		err := s.Receive(ctx, func(e nl.Event) {
			own := e.Subject == nl.SubjectRoute && !e.Gone && e.Route.Protocol == state.Protocol
			news = news || !own
		})
		if err != nil {
			return err
		}
		if news {
			wake()
		}
	}
}

// BridgeNetfilter says per family whether bridged packets can be made to pass
// the firewall: whether the module br_netfilter is there.
func BridgeNetfilter() (ipv4, ipv6 bool) {
	exists := func(name string) bool {
		_, err := os.Stat("/proc/sys/net/bridge/" + name)
		return err == nil
	}
	return exists("bridge-nf-call-iptables"), exists("bridge-nf-call-ip6tables")
}

// Forwarding says whether this host forwards IPv6, and while it does not, fills
// in AcceptRA of the links: a file for every link is read in that case only.
func Forwarding(links []facts.Link) (bool, error) {
	on, err := ipv6Conf("all", "forwarding")
	if err != nil || on != 0 {
		return on != 0, err
	}
	for i := range links {
		l := &links[i]
		if l.Index == loopback {
			continue
		}
		if l.AcceptRA, err = ipv6Conf(l.Name, "accept_ra"); err != nil {
			return false, err
		}
	}
	return false, nil
}

// loopback is the index of lo in every network namespace (LOOPBACK_IFINDEX).
const loopback = 1

// ipv6Conf reads a number below net.ipv6.conf; 0 where there is no IPv6.
func ipv6Conf(link, name string) (int, error) {
	b, err := os.ReadFile("/proc/sys/net/ipv6/conf/" + link + "/" + name)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read %s of %s: %w", name, link, err)
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return 0, fmt.Errorf("read %s of %s: %w", name, link, err)
	}
	return n, nil
}
