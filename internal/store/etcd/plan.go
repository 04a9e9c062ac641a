package etcd

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/lease"
	"github.com/flannel-ng/flannel-ng/internal/store/etcd/kv"
	"github.com/flannel-ng/flannel-ng/internal/store/subnetkey"
)

// plan is the write that a claim needs. It is made from one picture and holds
// only while every key that mattered is unchanged.
type plan struct {
	key      string // of the lease
	old      kv.Entry
	owner    string // of the lease as it stands
	reserved bool   // no etcd lease: it stays one (reference W6)

	host     string
	claim    lease.Claim
	ifs      []kv.Cmp
	bindings []string // claims and address records to put
	drop     []string // keys to delete
}

func (pl plan) txn(value string, grant kv.LeaseID) kv.Txn {
	t := kv.Txn{If: slices.Clone(pl.ifs), Then: []kv.Op{put(pl.key, value, grant)}}
	for i, key := range pl.bindings {
		b := binding{Host: pl.host}
		if i == 0 {
			b.Public, b.Extra = addresses(pl.claim.Public), json.RawMessage(pl.claim.Offer.Extra)
		}
		t.Then = append(t.Then, put(key, encode(b), grant))
	}
	for _, key := range pl.drop {
		t.Then = append(t.Then, remove(key))
	}
	return t
}

// newPlan decides whether host may have what it claims. With an error the plan
// still tells how the lease stands.
func newPlan(p *picture, host string, c lease.Claim) (plan, error) {
	key := subnetsDir + FormatKey(c.Subnets)
	old := p.entries[key]
	pl := plan{key: key, old: old, host: host, claim: c, reserved: old.Mod != 0 && old.Lease == 0}
	if l, ok := p.items[key]; ok {
		pl.owner = p.owner(l)
	}
	var err error
	switch {
	case c.Token == 0 && pl.garbled(p):
		pl.ifs = append(pl.ifs, kv.Unchanged(pl.key, pl.old.Mod))
	case c.Token == 0:
		err = pl.create(p, c)
	default:
		err = pl.rewrite(p, c)
	}
	if err == nil {
		err = pl.bind(p, c)
	}
	if err != nil {
		return pl, err
	}
	pl.tidy(p, c)
	return pl, nil
}

func (pl *plan) create(p *picture, c lease.Claim) error {
	wanted := lease.Lease{Key: FormatKey(c.Subnets), Subnets: c.Subnets}
	if pl.old.Mod != 0 {
		return fmt.Errorf("%s exists: %w", wanted.Key, lease.ErrTaken)
	}
	if rival := contender(p.leases(), &wanted, pl.host); rival != nil {
		return fmt.Errorf("%s overlaps %s of %s: %w", wanted.Key, rival.Key, rival.Node(), lease.ErrTaken)
	}
	free := place(c.Subnets)
	for key := range p.entries {
		if free.Contains(key) {
			return fmt.Errorf("%s exists: %w", key, lease.ErrTaken)
		}
	}
	pl.ifs = append(pl.ifs, kv.Absent(free))
	return nil
}

// garbled says whether somebody put what cannot be read in the place of our own
// lease: it still lives on the grant that our claims live on. No host writes such
// a value, so there is nobody to yield to.
func (pl *plan) garbled(p *picture) bool {
	if _, bad := p.bad[pl.key]; !bad || pl.old.Lease == 0 {
		return false
	}
	for _, key := range claimKeys(pl.claim.Subnets) {
		if h := p.holders[key]; h.host != pl.host || h.grant != pl.old.Lease {
			return false
		}
	}
	return true
}

// place is where the lease of subnets and its twin, IPv4 alone or with another
// IPv6 subnet, would lie.
func place(subnets addr.ByFamily[netip.Prefix]) kv.Span {
	if ipv4 := subnets.At(addr.IPv4); ipv4.IsValid() {
		return kv.Prefix(subnetsDir + subnetkey.FormatHalf(ipv4))
	}
	return kv.One(subnetsDir + FormatKey(subnets))
}

// rewrite is for a key that exists: ours, or one that we may take over.
func (pl *plan) rewrite(p *picture, c lease.Claim) error {
	if pl.old.Mod != int64(c.Token) {
		return fmt.Errorf("%s changed since revision %d: %w", pl.key, c.Token, lease.ErrTaken)
	}
	pl.ifs = append(pl.ifs, kv.Unchanged(pl.key, pl.old.Mod))
	if pl.owner == pl.host {
		return nil
	}
	l, ok := p.items[pl.key]
	if !ok {
		return fmt.Errorf("%s cannot be read: %w", pl.key, lease.ErrTaken)
	}
	shared, ok := sharedAddress(l.Public, c.Public)
	if !c.Takeover || !ok {
		return fmt.Errorf("%s belongs to %s: %w", pl.key, l.Node(), lease.ErrTaken)
	}
	if pl.owner == "" {
		return nil
	}
	return pl.dead(p, pl.owner, shared)
}

func sharedAddress(a, b addr.ByFamily[netip.Addr]) (netip.Addr, bool) {
	for _, f := range addr.Families() {
		if x := a.At(f); x.IsValid() && x == b.At(f) {
			return x, true
		}
	}
	return netip.Addr{}, false
}

// dead demands that host, which has our address a, has no session.
func (pl *plan) dead(p *picture, host string, a netip.Addr) error {
	if p.alive(host) {
		return &lease.DuplicateError{Address: a, Host: host}
	}
	pl.ifs = append(pl.ifs, kv.Absent(kv.One(sessionsDir+host)))
	return nil
}

// bind takes the claims and address records.
func (pl *plan) bind(p *picture, c lease.Claim) error {
	for _, key := range claimKeys(c.Subnets) {
		if err := pl.unbound(p, key, c.Takeover); err != nil {
			return err
		}
		pl.take(p, key)
	}
	for _, a := range addresses(c.Public) {
		key := addressDir + a.String()
		if h, ok := p.holders[key]; ok && h.host != pl.host {
			if err := pl.dead(p, h.host, a); err != nil {
				return err
			}
		}
		pl.take(p, key)
	}
	return nil
}

// unbound demands that the claim at key is free, ours, or of a dead host that
// we may take over.
func (pl *plan) unbound(p *picture, key string, takeover bool) error {
	h, ok := p.holders[key]
	_, bad := p.bad[key]
	switch {
	case !ok && bad:
		return fmt.Errorf("%s cannot be read: %w", key, lease.ErrTaken)
	case !ok || h.host == pl.host:
		return nil
	case !takeover || p.alive(h.host):
		return fmt.Errorf("%s is bound to host %s: %w", key, h.host, lease.ErrTaken)
	}
	pl.ifs = append(pl.ifs, kv.Absent(kv.One(sessionsDir+h.host)))
	return nil
}

func (pl *plan) take(p *picture, key string) {
	pl.ifs = append(pl.ifs, kv.Unchanged(key, p.entries[key].Mod))
	pl.bindings = append(pl.bindings, key)
}

// tidy drops notes that these subnets expired, our records of addresses that we
// no longer have, and our claims on subnets that we lost: those of a reservation
// would never run out and keep everybody else from it.
func (pl *plan) tidy(p *picture, c lease.Claim) {
	for _, subnet := range (lease.Lease{Subnets: c.Subnets}).Prefixes() {
		if key := recentDir + subnetkey.FormatHalf(subnet); p.entries[key].Mod != 0 {
			pl.drop = append(pl.drop, key)
		}
	}
	for key, h := range p.holders {
		if h.host == pl.host && !slices.Contains(pl.bindings, key) && !p.inUse(key, pl.host) {
			pl.drop = append(pl.drop, key)
		}
	}
	slices.Sort(pl.drop)
}

// leaving lists the deletions that give up the lease at key: itself, host's
// claims on its subnets, and the address records that live on its grant.
func leaving(p *picture, host, key string) (gone []kv.Op, grant kv.LeaseID) {
	gone = []kv.Op{remove(key)}
	grant = p.entries[key].Lease
	l, ok := p.items[key]
	if !ok {
		return gone, grant
	}
	for _, k := range l.claims {
		if p.holders[k].host == host {
			gone = append(gone, remove(k))
		}
	}
	for _, k := range l.addresses {
		if h := p.holders[k]; h.host == host && h.grant == grant {
			gone = append(gone, remove(k))
		}
	}
	return gone, grant
}
