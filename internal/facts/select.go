package facts

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"github.com/flannel-ng/flannel-ng/internal/addr"
)

// Wish is what the user says about the uplink. The zero values of all but
// Families mean "you choose".
type Wish struct {
	Families   []addr.Family // enabled, IPv4 first
	Iface      []string      // --iface: names or addresses, tried in this order
	IfaceRegex []*regexp.Regexp
	CanReach   netip.Addr
	Public     addr.ByFamily[netip.Addr] // --public-ip, --public-ipv6
	// Global: peers know this host by more than a link-local address. While it
	// has no other, it is better to be where it was.
	Global addr.ByFamily[bool]
}

// Select finds the link that carries traffic between hosts and its addresses
// (reference §1.4). It fills Uplink, Source, Public, Links and Routes of the
// result. The error lists what was tried and what the host has.
func Select(links []Link, routes []Route, w Wish) (Node, error) {
	s := selector{links: slices.Clone(links), routes: routes, wish: w}
	// By index, as the kernel lists them: the first match wins, and devices
	// made later (bridges, tunnels) come behind the physical ones.
	slices.SortStableFunc(s.links, func(a, b Link) int { return cmp.Compare(a.Index, b.Index) })
	failed := errors.New("no uplink")
	for _, a := range s.attempts() {
		c, err := a.find()
		fixed := addr.Pair(c.source.At(addr.IPv4).IsValid(), c.source.At(addr.IPv6).IsValid())
		if err == nil {
			err = s.address(&c)
		}
		if err == nil {
			n := Node{Uplink: c.link, Source: c.source, Fixed: fixed, Links: links, Routes: routes}
			n.Public = advertised(c.source, w)
			return n, nil
		}
		failed = fmt.Errorf("%w; %s: %w", failed, a.what, err)
	}
	return Node{}, fmt.Errorf("%w; this host has %s", failed, s.inventory())
}

type selector struct {
	links  []Link // by index
	routes []Route
	wish   Wish
}

// choice is a link and those of its addresses that are settled already.
type choice struct {
	link   Link
	source addr.ByFamily[netip.Addr]
}

type attempt struct {
	what string // for people
	find func() (choice, error)
}

func (s selector) attempts() []attempt {
	var out []attempt
	for _, name := range s.wish.Iface {
		out = append(out, attempt{"--iface " + name, func() (choice, error) { return s.named(name) }})
	}
	for _, re := range s.wish.IfaceRegex {
		out = append(out, attempt{"--iface-regex " + re.String(), func() (choice, error) { return s.matching(re) }})
	}
	if a := s.wish.CanReach; a.IsValid() {
		out = append(out, attempt{"--iface-can-reach " + a.String(), func() (choice, error) { return s.reaching(a) }})
	}
	if len(out) > 0 {
		return out
	}
	for _, f := range s.wish.Families {
		if a := s.wish.Public.At(f); a.IsValid() {
			return []attempt{{"public address " + a.String(), func() (choice, error) { return s.public(a) }}}
		}
	}
	return []attempt{{"default route", s.byDefaultRoute}}
}

// named finds a link by its name or by one of its addresses.
func (s selector) named(name string) (choice, error) {
	if a, err := netip.ParseAddr(name); err == nil {
		return s.owning(a.Unmap())
	}
	i := slices.IndexFunc(s.links, func(l Link) bool { return l.Name == name })
	if i < 0 {
		return choice{}, errors.New("no such interface")
	}
	return choice{link: s.links[i]}, nil
}

func (s selector) public(a netip.Addr) (choice, error) {
	c, err := s.owning(a)
	if err != nil {
		return c, fmt.Errorf("%w: if it belongs to a NAT in front of this host, name the interface with --iface", err)
	}
	return c, nil
}

// owning finds the link that has a. In dual stack, the public address of the
// other family, if given, must be there too: otherwise the two families would
// silently use different links.
func (s selector) owning(a netip.Addr) (choice, error) {
	i := slices.IndexFunc(s.links, func(l Link) bool { return l.has(a) })
	if i < 0 {
		return choice{}, errors.New("no interface has this address")
	}
	c := choice{link: s.links[i]}
	c.source.Put(addr.Of(a), a)
	for _, f := range s.wish.Families {
		p := s.wish.Public.At(f)
		if f == addr.Of(a) || !p.IsValid() {
			continue
		}
		if !c.link.has(p) {
			return choice{}, fmt.Errorf("interface %s does not have the public address %s: name the interface instead",
				c.link.Name, p)
		}
		c.source.Put(f, p)
	}
	return c, nil
}

// matching tries the addresses of all links before any name. By address, every
// enabled family must match, on one link. Our own tunnels never count: their
// addresses are those of the cluster.
func (s selector) matching(re *regexp.Regexp) (choice, error) {
	for _, l := range s.links {
		if l.isTunnel() {
			continue
		}
		c := choice{link: l}
		matched := 0
		for _, f := range s.wish.Families {
			if a, ok := l.best(f, re.MatchString); ok {
				c.source.Put(f, a)
				matched++
			}
		}
		if matched > 0 && matched == len(s.wish.Families) {
			return c, nil
		}
	}
	for _, l := range s.links {
		if !l.isTunnel() && re.MatchString(l.Name) {
			return choice{link: l}, nil
		}
	}
	return choice{}, errors.New("matches no interface, by address or by name")
}

// reaching finds the link and source address of the route to a.
func (s selector) reaching(a netip.Addr) (choice, error) {
	r, ok := Lookup(s.routes, a)
	switch {
	case !ok:
		return choice{}, errors.New("no route")
	case r.Multiple:
		return choice{}, fmt.Errorf("route %s has several next hops: name the interface with --iface", r.Dst)
	}
	c, err := s.named(r.Link)
	if err != nil {
		return choice{}, fmt.Errorf("route %s dev %s: %w", r.Dst, r.Link, err)
	}
	f := addr.Of(a)
	if r.Source.IsValid() {
		c.source.Put(f, r.Source)
	} else if from, ok := c.link.towards(f, cmp.Or(r.Via, a)); ok {
		c.source.Put(f, from)
	}
	return c, nil
}

// byDefaultRoute takes the link of the default route, which all enabled
// families must share.
func (s selector) byDefaultRoute() (choice, error) {
	var name string
	for _, f := range s.wish.Families {
		r, err := s.defaultRoute(f)
		if err != nil {
			return choice{}, err
		}
		if name != "" && r.Link != name {
			return choice{}, fmt.Errorf("the default routes of IPv4 and IPv6 use different interfaces, %s and %s: "+
				"name one with --iface", name, r.Link)
		}
		name = r.Link
	}
	return s.named(name)
}

func (s selector) defaultRoute(f addr.Family) (Route, error) {
	var defaults []Route
	for _, r := range s.routes {
		if r.Dst.Bits() == 0 && r.Dst.Addr().Is4() == (f == addr.IPv4) && !s.isTunnel(r.Link) {
			defaults = append(defaults, r)
		}
	}
	if len(defaults) == 0 {
		return Route{}, fmt.Errorf("no %s default route: name the interface with --iface", f)
	}
	r := slices.MinFunc(defaults, func(a, b Route) int { return cmp.Compare(a.Metric, b.Metric) })
	if r.Multiple {
		return Route{}, fmt.Errorf("the %s default route has several next hops: name the interface with --iface", f)
	}
	return r, nil
}

func (s selector) isTunnel(name string) bool {
	return slices.ContainsFunc(s.links, func(l Link) bool { return l.Name == name && l.isTunnel() })
}

// address settles the source address of every enabled family, and of no other.
func (s selector) address(c *choice) error {
	if c.link.MTU <= 0 {
		return fmt.Errorf("interface %s has MTU %d", c.link.Name, c.link.MTU)
	}
	var source addr.ByFamily[netip.Addr]
	for _, f := range s.wish.Families {
		a := c.source.At(f)
		if !a.IsValid() {
			var ok bool
			if a, ok = c.link.best(f, anyAddress); !ok {
				return fmt.Errorf("interface %s has no usable %s address", c.link.Name, f)
			}
		}
		if s.wish.Global.At(f) && a.IsLinkLocalUnicast() {
			return fmt.Errorf("interface %s has no %s address but a link-local one", c.link.Name, f)
		}
		source.Put(f, a)
	}
	c.source = source
	return nil
}

// advertised are the addresses that peers send to.
func advertised(source addr.ByFamily[netip.Addr], w Wish) addr.ByFamily[netip.Addr] {
	for _, f := range w.Families {
		source.Put(f, cmp.Or(w.Public.At(f), source.At(f)))
	}
	return source
}

// inventory lists links and addresses for an error message.
func (s selector) inventory() string {
	var out []string
	for _, l := range s.links {
		var as []string
		for _, a := range l.Addrs {
			as = append(as, a.Prefix.Addr().String())
		}
		if len(as) == 0 {
			as = []string{"no address"}
		}
		out = append(out, l.Name+" ("+strings.Join(as, ", ")+")")
	}
	if len(out) == 0 {
		return "no interface"
	}
	return strings.Join(out, ", ")
}

// isTunnel says whether l is a device of flannel-ng or of flannel. Such a link
// carries the cluster network and cannot be what carries itself.
func (l Link) isTunnel() bool {
	return strings.HasPrefix(l.Alias, "flannel-ng") || l.Type != "" && strings.HasPrefix(l.Name, "flannel")
}

func (l Link) has(a netip.Addr) bool {
	return slices.ContainsFunc(l.Addrs, func(x Addr) bool { return x.Prefix.Addr() == a })
}

func anyAddress(string) bool { return true }

// best is the most durable usable address whose text is accepted; the first
// of equals. A deprecated address still is better than one that means nothing
// beyond its link.
func (l Link) best(f addr.Family, accept func(string) bool) (netip.Addr, bool) {
	var found []Addr
	for _, a := range l.usable(f) {
		if accept(a.Prefix.Addr().String()) {
			found = append(found, a)
		}
	}
	best, ok := mostDurable(found)
	if ok && !best.IsLinkLocalUnicast() {
		return best, true
	}
	for _, a := range l.Addrs {
		if ip := a.Prefix.Addr(); ip.Is4() == (f == addr.IPv4) && a.Deprecated && ip.IsGlobalUnicast() && accept(ip.String()) {
			return ip, true
		}
	}
	return best, ok
}

// towards is the address that the kernel would choose for packets to next: one
// that shares a network with it, else the best.
func (l Link) towards(f addr.Family, next netip.Addr) (netip.Addr, bool) {
	var near []Addr
	for _, a := range l.usable(f) {
		if a.Prefix.Masked().Contains(next) {
			near = append(near, a)
		}
	}
	if a, ok := mostDurable(near); ok {
		return a, true
	}
	return l.best(f, anyAddress)
}

// usable are the addresses of f that peers could send to.
func (l Link) usable(f addr.Family) []Addr {
	var out []Addr
	for _, a := range l.Addrs {
		ip := a.Prefix.Addr()
		if ip.Is4() == (f == addr.IPv4) && !a.Deprecated && (ip.IsGlobalUnicast() || ip.IsLinkLocalUnicast()) {
			out = append(out, a)
		}
	}
	return out
}

func mostDurable(as []Addr) (netip.Addr, bool) {
	if len(as) == 0 {
		return netip.Addr{}, false
	}
	return slices.MinFunc(as, compareDurability).Prefix.Addr(), true
}

// compareDurability puts global before link-local, permanent before dynamic,
// stable before temporary.
func compareDurability(a, b Addr) int {
	return cmp.Or(
		compareFalseFirst(a.Prefix.Addr().IsLinkLocalUnicast(), b.Prefix.Addr().IsLinkLocalUnicast()),
		compareFalseFirst(a.Dynamic, b.Dynamic),
		compareFalseFirst(a.Temporary, b.Temporary),
	)
}

func compareFalseFirst(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	default:
		return 1
	}
}
