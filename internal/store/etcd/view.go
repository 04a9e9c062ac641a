package etcd

import (
	"hash/maphash"
	"iter"
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

// How long a change may wait for others before it is shown.
const (
	// atOnce is for what a host acts upon.
	atOnce time.Duration = 0
	// soon is for what only matters to who picks a subnet.
	soon = time.Second
	// someTime is for renewals: nobody acts upon those of others, and in a
	// fabric of 20,000 hosts there is one every four seconds.
	someTime = 10 * time.Second
	never    = time.Duration(1<<63 - 1)
)

// view is what a host follows, grown write by write. What it shows is one
// sorted slice of leases. Neither it nor any of them is ever changed, only
// replaced: a change costs one copy of the slice, eight bytes a lease.
type view struct {
	kv.Header        // of the last write seen
	host      string // whose leases are shown at once; "" for nobody
	config    []byte

	seed   maphash.Seed
	round  uint32           // of lists
	keys   map[string]stamp // of all that lies in the range, without prefix
	claims map[netip.Prefix]holder
	recent map[netip.Prefix]lease.Recent
	bad    map[string]string // key to reason

	list    []*lease.Lease
	pending map[string]*lease.Lease // by lease key, differs from list; nil: gone
	loose   map[netip.Prefix]bool   // their claims changed since list was made
	shown   lease.Snapshot          // Bad and Recent as last made; nil: make anew
	delta   delta                   // since the last snapshot

	// While a batch is applied: what its leases were before, and its claims.
	before map[string]*lease.Lease
	freed  []netip.Prefix
}

// stamp tells one write of a key from another.
type stamp struct {
	sum   uint64 // of all of the entry: after a restore two writes can have one revision
	mod   int64
	grant kv.LeaseID
	round uint32
}

// delta is what changed between two snapshots.
type delta struct {
	cluster uint64
	leases  []string              // keys that came, went or changed
	leased  map[netip.Prefix]bool // subnets that got a lease, or (false) have none any more
	noted   []netip.Prefix        // are in recent now
}

func newView(host string) *view {
	return &view{
		host: host,
		seed: maphash.MakeSeed(), keys: map[string]stamp{},
		claims: map[netip.Prefix]holder{}, recent: map[netip.Prefix]lease.Recent{}, bad: map[string]string{},
		pending: map[string]*lease.Lease{}, loose: map[netip.Prefix]bool{}, before: map[string]*lease.Lease{},
		delta: delta{leased: map[netip.Prefix]bool{}},
	}
}

// begin starts a list. Until finish the view is neither the old one nor the new.
func (v *view) begin() { v.round++ }

// listed takes an entry of a list. What has the same history as before costs a
// look and changes nothing.
func (v *view) listed(key string, e kv.Entry, fresh bool) {
	s := v.stamp(e)
	if old, ok := v.keys[key]; !fresh && ok && old.sum == s.sum {
		v.keys[key] = s
		return
	}
	v.put(key, e, s)
}

// finish forgets what the list did not have.
func (v *view) finish(h kv.Header) {
	for key, s := range v.keys {
		if s.round != v.round {
			v.unset(key)
		}
	}
	v.settle()
	v.Header = h
}

// apply takes the events of one message of the watch, of which there must be
// some, and says how long they may wait to be shown. The message's own revision
// may be ahead of a watch that catches up.
func (v *view) apply(b kv.Batch, relative func(string) string) time.Duration {
	wait := never
	for _, ev := range b.Events {
		key := relative(ev.Entry.Key)
		if ev.Deleted {
			wait = min(wait, v.unset(key))
		} else {
			wait = min(wait, v.put(key, ev.Entry, v.stamp(ev.Entry)))
		}
	}
	v.Rev = b.Events[len(b.Events)-1].Entry.Mod
	return min(wait, v.settle())
}

func (v *view) stamp(e kv.Entry) stamp {
	return stamp{sum: maphash.Comparable(v.seed, e), mod: e.Mod, grant: e.Lease, round: v.round}
}

// put files an entry by its directory; what cannot be read is bad and nothing
// else.
func (v *view) put(key string, e kv.Entry, s stamp) time.Duration {
	wait := v.unset(key)
	v.keys[key] = s
	var err error
	switch {
	case strings.HasPrefix(key, subnetsDir):
		err = v.putLease(key, e)
	case isStray(key):
		v.mark(key, strayReason)
		return atOnce
	case strings.HasPrefix(key, claimsDir):
		err = v.putClaim(key, e)
	case strings.HasPrefix(key, recentDir):
		wait = min(wait, soon)
		err = v.putRecent(key, e)
	}
	if err != nil {
		v.mark(key, clip(err.Error()))
		return atOnce
	}
	return wait
}

func (v *view) mark(key, reason string) {
	v.bad[key] = reason
	v.shown.Bad = nil
}

func (v *view) putLease(key string, e kv.Entry) error {
	l, err := parseLease(key, e)
	if err == nil {
		v.pending[l.Key] = &l
	}
	return err
}

func (v *view) putClaim(key string, e kv.Entry) error {
	h, err := parseHolder(e)
	// No lease has a subnet that is spelled otherwise.
	if subnet, wrong := parseHalf(key, claimsDir); wrong == nil && h.mod != 0 {
		v.claims[subnet] = h
	}
	return err
}

func (v *view) putRecent(key string, e kv.Entry) error {
	r, err := parseRecent(key, e)
	if err == nil {
		v.recent[r.Subnet] = r
		v.shown.Recent = nil
		v.delta.noted = append(v.delta.noted, r.Subnet)
	}
	return err
}

// unset forgets a key. Whether its lease or claim went or only makes place is
// seen when the batch is settled.
func (v *view) unset(key string) time.Duration {
	wait := never
	delete(v.keys, key)
	if _, ok := v.bad[key]; ok {
		delete(v.bad, key)
		v.shown.Bad = nil
		wait = atOnce
	}
	switch {
	case strings.HasPrefix(key, subnetsDir):
		v.unsetLease(strings.TrimPrefix(key, subnetsDir))
	case strings.HasPrefix(key, claimsDir):
		if subnet, err := parseHalf(key, claimsDir); err == nil {
			delete(v.claims, subnet)
			v.freed = append(v.freed, subnet)
		}
	case strings.HasPrefix(key, recentDir):
		if subnet, err := parseHalf(key, recentDir); err == nil {
			delete(v.recent, subnet)
			v.shown.Recent = nil
		}
		wait = min(wait, someTime)
	}
	return wait
}

func (v *view) unsetLease(name string) {
	l := v.lease(name)
	if _, ok := v.before[name]; !ok {
		v.before[name] = l
	}
	if l != nil {
		v.pending[name] = nil
	}
}

// lease is the lease called name, or nil.
func (v *view) lease(name string) *lease.Lease {
	if l, ok := v.pending[name]; ok {
		return l
	}
	subnets, err := ParseKey(name)
	if err != nil {
		return nil
	}
	i, ok := slices.BinarySearchFunc(v.list, &lease.Lease{Key: name, Subnets: subnets}, lease.Compare)
	if !ok {
		return nil
	}
	return v.list[i]
}

// settle gives the leases of a batch their owners and says how long the batch
// may wait.
func (v *view) settle() time.Duration {
	wait := never
	covered := map[netip.Prefix]bool{}
	for name, old := range v.before {
		now := v.pending[name]
		if now != nil {
			v.assign(now)
			for _, p := range now.Prefixes() {
				covered[p] = true
			}
		}
		own := now != nil && v.host != "" && now.Owner == v.host
		if equivalent(old, now) && !own {
			wait = min(wait, someTime)
		} else {
			wait = atOnce
		}
	}
	for _, p := range v.freed {
		v.loose[p] = true
		if !covered[p] {
			wait = atOnce
		}
	}
	clear(v.before)
	v.freed = v.freed[:0]
	return wait
}

// equivalent says whether nobody needs to act upon the difference: a renewal.
func equivalent(a, b *lease.Lease) bool {
	if a == nil || b == nil {
		return a == b
	}
	x, y := *a, *b
	x.Modified, y.Modified = 0, 0
	return x == y
}

// assign sets what the claims say.
func (v *view) assign(l *lease.Lease) {
	l.Owner, l.Offer.Extra = ownerOf(*l, v.keys[subnetsDir+l.Key].grant, func(subnet netip.Prefix) (holder, bool) {
		h, ok := v.claims[subnet]
		return h, ok
	})
}

// snapshot is the whole view, and what changed since the last.
func (v *view) snapshot() (lease.Snapshot, delta) {
	v.merge()
	d := v.delta
	d.cluster = v.Cluster
	v.delta = delta{leased: map[netip.Prefix]bool{}}
	slices.Sort(d.leases)
	changed := slices.Compact(append([]string{}, d.leases...))
	if v.shown.Bad == nil {
		v.shown.Bad = make([]lease.Rejected, 0, len(v.bad))
		for key, reason := range v.bad {
			v.shown.Bad = append(v.shown.Bad, lease.Rejected{Key: clip(key), Reason: reason})
		}
		v.shown.Bad = lease.SortRejected(v.shown.Bad)
	}
	if v.shown.Recent == nil {
		v.shown.Recent = slices.AppendSeq(make([]lease.Recent, 0, len(v.recent)), maps.Values(v.recent))
		slices.SortFunc(v.shown.Recent, func(a, b lease.Recent) int { return lease.ComparePrefix(a.Subnet, b.Subnet) })
	}
	return lease.Snapshot{
		Rev: v.Rev, Synced: true, Config: v.config, Leases: v.list,
		Bad: v.shown.Bad, Recent: v.shown.Recent, Changed: changed,
	}, d
}

// judge looks at our lease h and at who was there before it.
func (v *view) judge(h lease.Held) evidence {
	v.merge()
	e := evidence{mod: v.keys[subnetsDir+h.Key].mod}
	if l := v.lease(h.Key); l != nil {
		e.owner = l.Owner
	}
	e.rival = contender(earlier(slices.Values(v.list), h), &h.Lease, h.Owner)
	return e
}

// earlier are those of all that were there before h.
func earlier(all iter.Seq[*lease.Lease], h lease.Held) iter.Seq[*lease.Lease] {
	return func(yield func(*lease.Lease) bool) {
		for l := range all {
			if l.Created < h.Created && !yield(l) {
				return
			}
		}
	}
}

// related lists the keys, besides those of the claim itself, that a claim of
// host on subnets may depend on: leases that overlap, and what is host's.
func (v *view) related(host string, subnets addr.ByFamily[netip.Prefix]) []string {
	v.merge()
	var keys []string
	wanted := lease.Lease{Subnets: subnets}
	for _, l := range v.list {
		if l.Owner != host && !l.Overlaps(wanted) {
			continue
		}
		keys = append(append(keys, subnetsDir+l.Key), claimKeys(l.Subnets)...)
		if l.Owner == host {
			keys = append(keys, addressKeys(l.Public)...)
		}
	}
	for subnet, h := range v.claims {
		if h.host == host {
			keys = append(keys, claimsDir+subnetkey.FormatHalf(subnet))
		}
	}
	slices.Sort(keys)
	return slices.Compact(keys)
}
