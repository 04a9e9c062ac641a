package etcd

import (
	"iter"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/lease"
	"github.com/flannel-ng/flannel-ng/internal/store/etcd/kv"
	"github.com/flannel-ng/flannel-ng/internal/store/subnetkey"
)

// item is a lease that could be read. Its Owner is left empty: it depends on
// other keys.
type item struct {
	lease.Lease
	grant     kv.LeaseID
	claims    []string // keys of the claims on its subnets, IPv4 first
	addresses []string // keys of the records of its public addresses
}

// picture is the fabric at one revision, or the part of it that a claim
// depends on, with all that can be known of it.
type picture struct {
	table
	items   map[string]*item
	order   []*item // sorted by lease.Compare
	holders map[string]holder
	bad     map[string]string // key to reason
}

func newPicture(t table) *picture {
	p := &picture{table: t, items: map[string]*item{}, holders: map[string]holder{}, bad: map[string]string{}}
	for key, e := range t.entries {
		p.set(key, e)
	}
	p.order = slices.SortedFunc(maps.Values(p.items), func(a, b *item) int { return lease.Compare(&a.Lease, &b.Lease) })
	return p
}

// set files an entry by its directory; what cannot be read is bad and nothing
// else.
func (p *picture) set(key string, e kv.Entry) {
	var err error
	switch {
	case strings.HasPrefix(key, subnetsDir):
		var l lease.Lease
		if l, err = parseLease(key, e); err == nil {
			p.items[key] = &item{
				Lease: l, grant: e.Lease, claims: claimKeys(l.Subnets), addresses: addressKeys(l.Public),
			}
		}
	case strings.HasPrefix(key, claimsDir), strings.HasPrefix(key, addressDir):
		var h holder
		if h, err = parseHolder(e); h.mod != 0 {
			p.holders[key] = h
		}
	}
	if err != nil {
		p.bad[key] = clip(err.Error())
	}
}

func claimKeys(subnets addr.ByFamily[netip.Prefix]) []string {
	var keys []string
	for _, p := range (lease.Lease{Subnets: subnets}).Prefixes() {
		keys = append(keys, claimsDir+subnetkey.FormatHalf(p))
	}
	return keys
}

func addressKeys(public addr.ByFamily[netip.Addr]) []string {
	var keys []string
	for _, a := range addresses(public) {
		keys = append(keys, addressDir+a.String())
	}
	return keys
}

func addresses(public addr.ByFamily[netip.Addr]) []netip.Addr {
	var as []netip.Addr
	for _, f := range addr.Families() {
		if a := public.At(f); a.IsValid() {
			as = append(as, a)
		}
	}
	return as
}

// owner is the host id that the claims on l name, or "".
func (p *picture) owner(l *item) string {
	host, _ := ownerOf(l.Lease, l.grant, func(subnet netip.Prefix) (holder, bool) {
		h, ok := p.holders[claimsDir+subnetkey.FormatHalf(subnet)]
		return h, ok
	})
	return host
}

// inUse says whether a claim is on a lease that host has, besides the one that
// it is writing: it may be moving.
func (p *picture) inUse(claim, host string) bool {
	for _, l := range p.items {
		if slices.Contains(l.claims, claim) && p.owner(l) == host {
			return true
		}
	}
	return false
}

// carries says whether any key lives on grant.
func (p *picture) carries(grant kv.LeaseID) bool {
	for _, e := range p.entries {
		if grant != 0 && e.Lease == grant {
			return true
		}
	}
	return false
}

// alive says whether the session of host is there.
func (p *picture) alive(host string) bool {
	_, ok := p.entries[sessionsDir+host]
	return ok
}

// leases are all, sorted, with their owners.
func (p *picture) leases() iter.Seq[*lease.Lease] {
	return func(yield func(*lease.Lease) bool) {
		for _, l := range p.order {
			owned := l.Lease
			owned.Owner = p.owner(l)
			if !yield(&owned) {
				return
			}
		}
	}
}

// judge looks at our lease h and at who was there before it.
func (p *picture) judge(h lease.Held) evidence {
	e := evidence{mod: p.entries[subnetsDir+h.Key].Mod}
	if l, ok := p.items[subnetsDir+h.Key]; ok {
		e.owner = p.owner(l)
	}
	e.rival = contender(earlier(p.leases(), h), &h.Lease, h.Owner)
	return e
}

// contender finds a lease of somebody else that excludes me: any with the very
// same subnet in some family, and any overlapping one of a host of ours. An
// overlapping lease of no owner does not count: one bad entry, 10.0.0.0/8 say,
// must not keep every host out.
func contender(all iter.Seq[*lease.Lease], me *lease.Lease, host string) *lease.Lease {
	for l := range all {
		if l.Key != me.Key && l.Overlaps(*me) && l.Owner != host && (l.Owner != "" || sameSubnet(l, me)) {
			return l
		}
	}
	return nil
}

func sameSubnet(a, b *lease.Lease) bool {
	for _, f := range addr.Families() {
		if p := a.Subnets.At(f); p.IsValid() && p == b.Subnets.At(f) {
			return true
		}
	}
	return false
}
