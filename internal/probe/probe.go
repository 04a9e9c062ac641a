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

	"golang.org/x/sys/unix"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/facts"
	"github.com/flannel-ng/flannel-ng/internal/nl"
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
// in AcceptRA and DefaultByRA of the links: a file for every link is read in
// that case only.
func Forwarding(ctx context.Context, links []facts.Link) (bool, error) {
	on, err := ipv6Conf("all", "forwarding")
	if err != nil || on != 0 {
		return on != 0, err
	}
	learnt, err := linksWithDefaultByRA(ctx)
	if err != nil {
		return false, err
	}
	for i := range links {
		l := &links[i]
		if l.Index == loopback {
			continue
		}
		l.DefaultByRA = learnt[l.Index]
		if l.AcceptRA, err = ipv6Conf(l.Name, "accept_ra"); err != nil {
			return false, err
		}
	}
	return false, nil
}

// linksWithDefaultByRA lists, by index, the links over which a router has
// announced itself (RFC 4861).
func linksWithDefaultByRA(ctx context.Context) (map[int]bool, error) {
	c, err := nl.Dial()
	if err != nil {
		return nil, err
	}
	defer func() { _ = c.Close() }()
	list, err := c.Routes(ctx, nl.RouteFilter{Family: addr.IPv6, Protocol: unix.RTPROT_RA})
	if err != nil {
		return nil, fmt.Errorf("list learnt routes: %w", err)
	}
	out := map[int]bool{}
	for _, r := range list {
		if r.Dst.Bits() == 0 {
			out[r.Link] = true
		}
	}
	return out, nil
}

// loopback is the index of lo in every network namespace (LOOPBACK_IFINDEX).
const loopback = 1

// ipv6Conf reads a number below net.ipv6.conf; 0 where there is no IPv6.
func ipv6Conf(link, name string) (int, error) {
	return conf("ipv6", link, name)
}

// Strict says whether the link drops IPv4 packets whose answer would not leave by
// it: rp_filter 1, of the link and of all the larger one
// (Documentation/networking/ip-sysctl.rst).
func Strict(link string) (bool, error) {
	all, err := conf("ipv4", "all", "rp_filter")
	own, other := conf("ipv4", link, "rp_filter")
	return max(all, own) == 1, errors.Join(err, other)
}

func conf(family, link, name string) (int, error) {
	b, err := os.ReadFile("/proc/sys/net/" + family + "/conf/" + link + "/" + name)
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
