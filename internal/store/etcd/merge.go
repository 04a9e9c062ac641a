package etcd

import (
	"net/netip"
	"slices"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/lease"
)

// merge makes the list of leases anew if anything is pending. The old one
// stays as it is: others read it.
func (v *view) merge() {
	if len(v.pending) == 0 && len(v.loose) == 0 {
		return
	}
	list := make([]*lease.Lease, 0, len(v.list)+len(v.pending))
	var removed []*lease.Lease
	rest := v.list
	for _, name := range v.ordered() {
		i, found := slices.BinarySearchFunc(rest, name, lease.Compare)
		list = append(list, rest[:i]...)
		rest = rest[i:]
		now := v.pending[name.Key]
		var old *lease.Lease
		if found {
			old, rest = rest[0], rest[1:]
		}
		if now != nil {
			list = append(list, now)
		} else if old != nil {
			removed = append(removed, old)
		}
		v.account(name.Key, old, now)
	}
	v.list = append(list, rest...)
	v.reassign()
	v.vanish(removed)
	clear(v.pending)
	clear(v.loose)
}

// ordered are the pending leases as keys to search by, sorted.
func (v *view) ordered() []*lease.Lease {
	names := make([]*lease.Lease, 0, len(v.pending))
	for name, l := range v.pending {
		if l == nil {
			subnets, err := ParseKey(name)
			if err != nil {
				continue // cannot be: it was read before
			}
			l = &lease.Lease{Key: name, Subnets: subnets}
		}
		names = append(names, l)
	}
	slices.SortFunc(names, lease.Compare)
	return names
}

func (v *view) account(name string, old, now *lease.Lease) {
	if !equivalent(old, now) {
		v.delta.leases = append(v.delta.leases, name)
	}
	if old != nil || now == nil {
		return
	}
	for _, p := range now.Prefixes() {
		v.delta.leased[p] = true
	}
}

// reassign gives leases their owners whose claims changed. IPv4 subnets are
// found by their order; IPv6 ones take a look at every lease.
func (v *view) reassign() {
	var ipv6 bool
	for subnet := range v.loose {
		if subnet.Addr().Is6() {
			ipv6 = true
			continue
		}
		for i := v.first(subnet); i < len(v.list) && v.list[i].Subnets.At(addr.IPv4) == subnet; i++ {
			v.review(i)
		}
	}
	if !ipv6 {
		return
	}
	for i := range v.list {
		if v.loose[v.list[i].Subnets.At(addr.IPv6)] {
			v.review(i)
		}
	}
}

// first is where leases with this IPv4 subnet begin.
func (v *view) first(subnet netip.Prefix) int {
	i, _ := slices.BinarySearchFunc(v.list, subnet, func(l *lease.Lease, p netip.Prefix) int {
		return lease.ComparePrefix(l.Subnets.At(addr.IPv4), p)
	})
	return i
}

// review gives the i-th of the new list its owner. It may be in pictures that
// were shown, so it is replaced.
func (v *view) review(i int) {
	l := *v.list[i]
	if v.assign(&l); l != *v.list[i] {
		v.list[i] = &l
		v.delta.leases = append(v.delta.leases, l.Key)
	}
}

// vanish notes the subnets of removed that no other lease has.
func (v *view) vanish(removed []*lease.Lease) {
	lost := map[netip.Prefix]bool{}
	var ipv6 bool
	for _, l := range removed {
		for _, p := range l.Prefixes() {
			lost[p] = true
			ipv6 = ipv6 || p.Addr().Is6()
		}
	}
	for p := range lost {
		if i := v.first(p); p.Addr().Is4() && i < len(v.list) && v.list[i].Subnets.At(addr.IPv4) == p {
			delete(lost, p)
		}
	}
	for i := 0; ipv6 && i < len(v.list); i++ {
		delete(lost, v.list[i].Subnets.At(addr.IPv6))
	}
	for p := range lost {
		v.delta.leased[p] = false
	}
}
