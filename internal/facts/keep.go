package facts

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/flannel-ng/flannel-ng/internal/addr"
)

// Keep is prev on the links there are now: a fabric moves only when it must.
// Default routes that come and go, and links that look better than the uplink,
// change nothing. It returns false when the uplink is gone, or has no usable
// address of an enabled family, or lost an address that the user chose: then
// it is time to Select anew. Routes are left empty.
func Keep(prev Node, links []Link, w Wish) (Node, bool) {
	n := Node{Links: links, Fixed: prev.Fixed, HostID: prev.HostID}
	var ok bool
	if n.Uplink, ok = successor(prev, links); !ok || n.Uplink.MTU <= 0 {
		return Node{}, false
	}
	for _, f := range w.Families {
		a, ok := n.Uplink.follow(f, prev.Source.At(f), prev.Fixed.At(f))
		if !ok {
			return Node{}, false
		}
		n.Source.Put(f, a)
	}
	n.Public = advertised(n.Source, w)
	return n, true
}

// successor is what became of prev's uplink: the link of that name, or one that
// has an address of it. Links are renamed.
func successor(prev Node, links []Link) (Link, bool) {
	if l, ok := (Node{Links: links}).LinkNamed(prev.Uplink.Name); ok {
		return l, true
	}
	i := slices.IndexFunc(links, func(l Link) bool {
		return !l.isTunnel() && (l.has(prev.Source.At(addr.IPv4)) || l.has(prev.Source.At(addr.IPv6)))
	})
	if i < 0 {
		return Link{}, false
	}
	return links[i], true
}

// follow keeps the address had, while it is usable; otherwise it takes the
// best. A link-local address is kept only for want of others: it is the first
// that a link has when it comes up, long before a router or DHCP gives another;
// and it never takes the place of another.
// A deprecated address that has no successor still works.
func (l Link) follow(f addr.Family, had netip.Addr, fixed bool) (netip.Addr, bool) {
	if !had.IsValid() {
		return had, false
	}
	if fixed {
		return had, l.has(had)
	}
	best, ok := l.best(f, anyAddress)
	if !ok {
		return had, l.has(had)
	}
	switch {
	case had.IsLinkLocalUnicast() && !best.IsLinkLocalUnicast():
		return best, true
	case best.IsLinkLocalUnicast() && !had.IsLinkLocalUnicast():
		return had, l.has(had) // another link may have a global one now
	}
	if l.has(had) && !l.deprecates(had) || l.deprecates(best) && l.has(had) {
		return had, true
	}
	return best, true
}

func (l Link) deprecates(a netip.Addr) bool {
	return slices.ContainsFunc(l.Addrs, func(x Addr) bool { return x.Prefix.Addr() == a && x.Deprecated })
}

// Hold is prev as it was last known, with what still is of its uplink, and a
// warning why: for when neither Keep nor Select finds anything. A host that
// cannot send at the moment still has routes to look after. It returns false
// when prev lacks an enabled family.
func Hold(prev Node, links []Link, w Wish, why error) (Node, bool) {
	for _, f := range w.Families {
		if !prev.Source.At(f).IsValid() {
			return Node{}, false
		}
	}
	n := prev
	n.Links, n.Routes = links, nil
	if l, ok := successor(prev, links); ok {
		l.MTU = cmp.Or(max(l.MTU, 0), prev.Uplink.MTU)
		n.Uplink = l
	}
	n.Warnings = []string{"uplink " + prev.Uplink.Name + " is not usable and is kept, there is no other: " + why.Error()}
	return n, true
}
