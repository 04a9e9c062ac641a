package etcd

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

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
	version   int64
	claims    []string // keys of the claims on its subnets, IPv4 first
	addresses []string // keys of the records of its public addresses
}

// holder is a claim or address record that could be read.
type holder struct {
	host  string
	extra string // of the offer; "" for most
	grant kv.LeaseID
	mod   int64
}

// picture is everything known of the fabric, each key parsed once per write:
// an event costs one parse and one copy of the sorted leases.
type picture struct {
	table
	items   map[string]*item
	order   []*item // sorted by lease.Compare
	holders map[string]holder
	recent  map[string]lease.Recent
	bad     map[string]string // key to reason
	members int64             // changes with the set of leases, not with their values
}

func newPicture(t table) *picture {
	p := &picture{
		table: table{Header: t.Header, entries: map[string]kv.Entry{}},
		items: map[string]*item{}, holders: map[string]holder{},
		recent: map[string]lease.Recent{}, bad: map[string]string{},
	}
	p.replace(t)
	return p
}

// replace makes p the picture of t; keys with the same history are not parsed
// again.
func (p *picture) replace(t table) {
	sameCluster := p.Cluster == t.Cluster
	for key := range maps.Clone(p.entries) {
		if _, ok := t.entries[key]; !ok {
			p.unset(key)
		}
	}
	for key, e := range t.entries {
		// After a restore two writes can have one revision, so the value is
		// compared too.
		if !sameCluster || p.entries[key] != e {
			p.unset(key)
			p.set(key, e)
		}
	}
	p.Header = t.Header
	p.sort()
}

func (p *picture) sort() {
	p.members++
	p.order = slices.SortedFunc(maps.Values(p.items), compareItems)
}

func compareItems(a, b *item) int { return lease.Compare(a.Lease, b.Lease) }

// apply makes an event part of the picture and says whether a snapshot can
// have changed by it.
func (p *picture) apply(key string, ev kv.Event) bool {
	old := p.items[key]
	p.unset(key)
	if !ev.Deleted {
		p.set(key, ev.Entry)
	}
	p.reorder(old, p.items[key])
	return !strings.HasPrefix(key, sessionsDir)
}

func (p *picture) reorder(old, now *item) {
	if old != nil && now != nil {
		*old = *now // one key is one place in the order
		p.items[subnetsDir+now.Key] = old
		return
	}
	if old != nil || now != nil {
		p.members++
	}
	if old != nil {
		if i, ok := slices.BinarySearchFunc(p.order, old, compareItems); ok {
			p.order = slices.Delete(p.order, i, i+1)
		}
	}
	if now != nil {
		i, _ := slices.BinarySearchFunc(p.order, now, compareItems)
		p.order = slices.Insert(p.order, i, now)
	}
}

func (p *picture) unset(key string) {
	delete(p.entries, key)
	delete(p.items, key)
	delete(p.holders, key)
	delete(p.recent, key)
	delete(p.bad, key)
}

// set files an entry by its directory; what cannot be read is bad and nothing
// else.
func (p *picture) set(key string, e kv.Entry) {
	p.entries[key] = e
	var err error
	switch {
	case strings.HasPrefix(key, subnetsDir):
		err = p.setLease(key, e)
	case strings.HasPrefix(key, strayDir):
		p.bad[key] = "a key beside subnets/ makes plain flannel hosts drop all their routes: remove it"
	case strings.HasPrefix(key, claimsDir), strings.HasPrefix(key, addressDir):
		err = p.setHolder(key, e)
	case strings.HasPrefix(key, recentDir):
		err = p.setRecent(key, e)
	}
	if err != nil {
		p.bad[key] = clip(err.Error())
	}
}

func (p *picture) setLease(key string, e kv.Entry) error {
	name := strings.TrimPrefix(key, subnetsDir)
	subnets, err := ParseKey(name)
	if err != nil {
		return err
	}
	public, offer, err := ParseValue(e.Value)
	if err != nil {
		return err
	}
	p.items[key] = &item{
		Lease: lease.Lease{
			Key: name, Subnets: subnets, Public: public, Offer: offer,
			Reserved: e.Lease == 0, Created: e.Create, Modified: e.Mod,
		},
		grant: e.Lease, version: e.Version,
		claims: claimKeys(subnets), addresses: addressKeys(public),
	}
	return nil
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

func (p *picture) setHolder(key string, e kv.Entry) error {
	b, err := decode[binding](e.Value)
	if err != nil {
		return err
	}
	if err := atMost(maxName, "host id", b.Host); err != nil {
		return err
	}
	h := holder{host: b.Host, grant: e.Lease, mod: e.Mod}
	h.extra, err = lease.FormatExtra(string(b.Extra))
	p.holders[key] = h // who holds it counts, whatever the extra
	return err
}

func (p *picture) setRecent(key string, e kv.Entry) error {
	name := strings.TrimPrefix(key, recentDir)
	f := addr.IPv4
	if strings.Contains(name, ":") {
		f = addr.IPv6
	}
	subnet, err := subnetkey.ParseHalf(name, f)
	if err != nil {
		return err
	}
	stone, err := decode[tombstone](e.Value)
	if err != nil {
		// The key counts; without a readable time it stands at the end.
		stone.Until = time.Now().Add(recentTTL)
	}
	p.recent[key] = lease.Recent{Subnet: subnet, Until: stone.Until}
	return nil
}

// owner is the host id that the claims on l name, or "". A claim on another
// grant than the lease's is the trace of an earlier holder whom a plain flannel
// overwrote. A reservation has no grant to tell by, and its claims may have one
// (it was put back by hand): there the address record tells.
func (p *picture) owner(l *item) string {
	host := ""
	for i, key := range l.claims {
		h, ok := p.holders[key]
		switch {
		case !ok, i > 0 && h.host != host:
			return ""
		case l.Reserved && !p.hasAddress(l, h.host), !l.Reserved && h.grant != l.grant:
			return ""
		}
		host = h.host
	}
	return host
}

func (p *picture) hasAddress(l *item, host string) bool {
	return slices.ContainsFunc(l.addresses, func(key string) bool { return p.holders[key].host == host })
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

// leases is the sorted list with owners.
func (p *picture) leases() []lease.Lease {
	ls := make([]lease.Lease, len(p.order))
	for i, l := range p.order {
		ls[i] = l.Lease
		if ls[i].Owner = p.owner(l); ls[i].Owner != "" {
			ls[i].Offer.Extra = p.holders[l.claims[0]].extra
		}
	}
	return ls
}

// snapshot is the whole picture as the store's users see it.
func (p *picture) snapshot() lease.Snapshot {
	s := lease.Snapshot{Rev: p.Rev, Synced: true, Leases: p.leases()}
	if e, ok := p.entries[configKey]; ok {
		s.Config = []byte(e.Value)
	}
	for key, reason := range p.bad {
		s.Bad = append(s.Bad, lease.Rejected{Key: clip(key), Reason: reason})
	}
	s.Bad = lease.SortRejected(s.Bad)
	s.Recent = slices.SortedFunc(maps.Values(p.recent), func(a, b lease.Recent) int {
		return cmp.Or(a.Subnet.Addr().Compare(b.Subnet.Addr()), cmp.Compare(a.Subnet.Bits(), b.Subnet.Bits()))
	})
	return s
}

// contender finds a lease of somebody else that excludes one of subnets:
// any with the very same subnet in some family, and any overlapping one of a
// host of ours. An overlapping lease of no owner does not count: one bad entry,
// 10.0.0.0/8 say, must not keep every host out.
func (p *picture) contender(me lease.Lease, host string, counts func(lease.Lease) bool) (lease.Lease, bool) {
	for _, l := range p.order {
		if l.Key == me.Key || !l.Overlaps(me) || !counts(l.Lease) {
			continue
		}
		owner := p.owner(l)
		if owner != host && (owner != "" || sameSubnet(l.Lease, me)) {
			return l.Lease, true
		}
	}
	return lease.Lease{}, false
}

func sameSubnet(a, b lease.Lease) bool {
	for _, f := range addr.Families() {
		if p := a.Subnets.At(f); p.IsValid() && p == b.Subnets.At(f) {
			return true
		}
	}
	return false
}
