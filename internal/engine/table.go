package engine

import (
	"cmp"
	"errors"
	"fmt"
	"hash/maphash"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"sync"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/backend"
	"github.com/flannel-ng/flannel-ng/internal/facts"
	"github.com/flannel-ng/flannel-ng/internal/lease"
	"github.com/flannel-ng/flannel-ng/internal/state"
)

// table is what peers add to the wanted state. The engine's goroutine alone
// changes it; others may ask, with the lock.
//
// It is kept small: a fabric of 20,000 dual-stack hosts has 120,000 objects.
type table struct {
	mu     sync.RWMutex
	made   bool
	from   peerInputs
	leases []*lease.Lease // of the picture
	// entries has the peers, by Lease.Key, which a store has once. An entry
	// never changes: another takes its place.
	entries map[string]*entry
	bad     map[string][]lease.Rejected // by Lease.Key
	unread  []lease.Rejected            // Snapshot.Bad
	errs    map[string]string           // peers with an error, by Lease.Key
	kinds   map[state.Kind]bool         // of objects that peers have or had
	// index finds the entry that wants a key, by its hash: the keys themselves
	// would take five times the memory.
	index     map[uint64]*entry
	seed      maphash.Seed
	collision bool // two keys have one hash: take another seed
	// contested counts what peers wanted in vain.
	contested map[uint64]int
	ground    addr.ByFamily[*lease.Occupancy] // subnets of all leases
	failed    map[string]string               // why objects of a peer failed, by Lease.Key
}

// entry is what became of one lease.
type entry struct {
	key     string // of the lease
	by      string // wire that packets to it take
	objects []state.Object
	refused []state.Object // not wanted, because another peer has one of them
	kept    *lease.Lease   // what is believed of the lease; nil: all of it
	err     error
}

// peerInputs are those that what is wanted for any peer depends on, beside its
// own lease and those that it collides with.
type peerInputs struct {
	self  lease.Lease
	node  facts.Node
	taken map[state.Key]bool
	ways  string // Carrier.Key
}

func (p peerInputs) equal(o peerInputs) bool {
	return p.self == o.self && p.ways == o.ways && maps.Equal(p.taken, o.taken) && reflect.DeepEqual(p.node, o.node)
}

// forPeers takes away what no backend looks at when it makes a peer's objects:
// links come and go with every container, and up and down.
func forPeers(n facts.Node) facts.Node {
	n.Links = backend.Related(n.Links)
	for i, l := range n.Links {
		n.Links[i] = facts.Link{Name: l.Name, Type: l.Type, MAC: l.MAC, Alias: l.Alias, VNI: l.VNI, Port: l.Port}
	}
	n.Uplink = facts.Link{Name: n.Uplink.Name, MTU: n.Uplink.MTU}
	n.Warnings = nil
	return n
}

func newTable() *table { return &table{seed: maphash.MakeSeed()} }

// delta is how the wanted objects of peers changed.
type delta struct {
	put  []state.Object // to be made or altered
	gone []state.Object // not wanted any more
	// more: there are others, too many to look at one by one.
	more bool
	// news: what is refused, or why, may be another.
	news bool
}

func (d delta) size() int { return len(d.put) + len(d.gone) }

// few is how many leases may change at once before computing all anew is
// cheaper.
func (t *table) few() int { return 64 + len(t.leases)/16 }

// update brings t in line with in and h, and says what changed by it.
func (t *table) update(in Inputs, h host) delta {
	t.mu.Lock()
	defer t.mu.Unlock()
	from := peerInputs{in.Own.Lease.Lease, forPeers(in.Node), h.taken, in.Backend.Key()}
	in.Node = from.node
	gone, come := lease.Differ(t.leases, in.Snapshot.Leases)
	news := len(gone)+len(come) > 0 || !slices.Equal(t.unread, in.Snapshot.Bad)
	t.leases, t.unread = in.Snapshot.Leases, in.Snapshot.Bad
	before := map[string]*entry{}
	if t.made && t.from.equal(from) && len(gone)+len(come) <= t.few() && t.edit(in, gone, come, before) {
		return t.delta(before, news)
	}
	old := t.entries // some may have been edited
	for key, e := range before {
		if e == nil {
			delete(old, key)
		} else {
			old[key] = e
		}
	}
	t.build(in, from)
	for key := range t.entries {
		if old[key] == nil {
			before[key] = nil
		}
	}
	maps.Copy(before, old)
	return t.delta(before, true)
}

// edit takes leases out and in, as long as each concerns nobody else. before
// gets the entries as they were. False: not all of it was done.
func (t *table) edit(in Inputs, gone, come []*lease.Lease, before map[string]*entry) bool {
	for _, l := range gone {
		before[l.Key] = t.entries[l.Key]
		if !t.leave(l) {
			return false
		}
	}
	for _, l := range come {
		if _, touched := before[l.Key]; !touched {
			before[l.Key] = t.entries[l.Key]
		}
		if !t.enter(in, l) {
			return false
		}
	}
	return !t.collision
}

func (t *table) leave(l *lease.Lease) bool {
	for _, f := range addr.Families() {
		if p := l.Subnets.At(f).Masked(); p.IsValid() {
			t.ground.At(f).Remove(p)
			if t.ground.At(f).Overlaps(p) {
				return false
			}
		}
	}
	e := t.entries[l.Key]
	delete(t.bad, l.Key)
	delete(t.errs, l.Key)
	delete(t.failed, l.Key)
	delete(t.entries, l.Key)
	if e == nil {
		return true
	}
	for _, o := range e.objects {
		h := t.hash(o.Key())
		if t.contested[h] > 0 {
			return false
		}
		delete(t.index, h)
	}
	return len(e.refused) == 0
}

func (t *table) enter(in Inputs, l *lease.Lease) bool {
	if t.entries[l.Key] != nil || !t.settle(l) {
		return false
	}
	kept, bad, ok := lease.Screen(l, in.Network, self(in))
	if len(bad) > 0 {
		t.bad[l.Key] = bad
	}
	if !ok || kept.Subnets == (lease.Lease{}).Subnets {
		return true
	}
	t.add(in, kept, l)
	return t.entries[l.Key] == nil || len(t.entries[l.Key].refused) == 0
}

// settle takes the subnets of l, if nobody has them.
func (t *table) settle(l *lease.Lease) bool {
	for _, f := range addr.Families() {
		if p := l.Subnets.At(f).Masked(); p.IsValid() {
			if t.ground.At(f).Overlaps(p) {
				return false
			}
			t.ground.At(f).Add(p)
		}
	}
	return true
}

// self is what admission must know of this host.
func self(in Inputs) lease.Self {
	return lease.Self{HostID: in.Node.HostID, Public: in.Node.Public, Subnets: in.Own.Lease.Subnets}
}

// build makes t anew.
func (t *table) build(in Inputs, from peerInputs) {
	t.made, t.from = true, from
	peers, rejected := lease.Admit(t.leases, in.Network, self(in))
	// The older lease first: a newcomer that announces another's MAC address
	// loses the clash, whatever its subnet.
	slices.SortStableFunc(peers, func(a, b *lease.Lease) int { return cmp.Compare(a.Created, b.Created) })
	raw := make(map[string]*lease.Lease, len(t.leases))
	var ground addr.ByFamily[[]netip.Prefix]
	for _, l := range t.leases {
		raw[l.Key] = l
		for _, f := range addr.Families() {
			if p := l.Subnets.At(f).Masked(); p.IsValid() {
				ground.Put(f, append(ground.At(f), p))
			}
		}
	}
	for _, f := range addr.Families() {
		t.ground.Put(f, &lease.Occupancy{})
		t.ground.At(f).Fill(ground.At(f))
	}
	t.bad = map[string][]lease.Rejected{}
	for _, r := range rejected {
		t.bad[r.Key] = append(t.bad[r.Key], r)
	}
	t.failed = map[string]string{} // of the next pass
	for t.collision = true; t.collision; {
		t.fill(in, peers, raw)
	}
}

// fill makes the entries of peers, which come in the order in which they may
// choose.
func (t *table) fill(in Inputs, peers []*lease.Lease, raw map[string]*lease.Lease) {
	t.seed, t.collision = maphash.MakeSeed(), false
	t.entries = make(map[string]*entry, len(peers))
	t.index = make(map[uint64]*entry, 3*len(peers))
	t.errs, t.contested, t.kinds = map[string]string{}, map[uint64]int{}, map[state.Kind]bool{}
	for _, p := range peers {
		t.add(in, p, raw[p.Key])
	}
}

// add makes the entry of a peer. kept is what is believed of raw. A lease of
// another backend is not ours to reach and no fault.
func (t *table) add(in Inputs, kept, raw *lease.Lease) {
	s, by, err := in.Backend.Send(in.Own.Lease.Lease, in.Node, *kept)
	if errors.Is(err, backend.ErrForeign) {
		return
	}
	e := &entry{key: kept.Key, by: by, err: err}
	if kept != raw {
		e.kept = kept
	}
	e.objects = slices.AppendSeq(make([]state.Object, 0, objectsOf(s)), s.Objects())
	if clash := t.clash(e); clash != nil {
		e.err = errors.Join(err, clash)
		e.objects, e.refused = nil, e.objects
	}
	for _, o := range e.objects {
		t.index[t.hash(o.Key())] = e
		t.kinds[o.Key().Kind] = true
	}
	for _, o := range e.refused {
		t.contested[t.hash(o.Key())]++
	}
	t.entries[e.key] = e
	if e.err != nil {
		t.errs[e.key] = e.err.Error()
	}
}

func objectsOf(s state.Set) int {
	n := 0
	for range s.Objects() {
		n++
	}
	return n
}

func (t *table) hash(k state.Key) uint64 { return maphash.Comparable(t.seed, k) }

// clash says why e cannot be added: whole or not at all.
func (t *table) clash(e *entry) error {
	for _, o := range e.objects {
		if who, taken := t.holder(o.Key()); taken {
			return fmt.Errorf("%s is already wanted for %s", o, who)
		}
	}
	return nil
}

// holder says who wants the object of that key.
func (t *table) holder(k state.Key) (who string, taken bool) {
	if t.from.taken[k] {
		return "this host", true
	}
	if e := t.entry(k); e != nil {
		return e.key, true
	}
	return "", false
}

// entry finds the peer that wants the object of that key.
func (t *table) entry(k state.Key) *entry {
	e := t.index[t.hash(k)]
	if e == nil || slices.ContainsFunc(e.objects, func(o state.Object) bool { return o.Key() == k }) {
		return e
	}
	t.collision = true
	return nil
}

// object is what is wanted for a peer under that key.
func (t *table) object(k state.Key) (state.Object, bool) {
	e := t.entry(k)
	if e == nil {
		return nil, false
	}
	i := slices.IndexFunc(e.objects, func(o state.Object) bool { return o.Key() == k })
	return e.objects[i], true
}

// wants says whether a peer or this host has an object of that key. It is safe
// for concurrent use.
func (t *table) wants(k state.Key) bool {
	t.mu.RLock()
	defer t.mu.RUnlock()
	// Another key of the same hash would be a false alarm, no more.
	return t.from.taken[k] || t.index[t.hash(k)] != nil
}

// delta compares entries with what they were; nil: there was none.
func (t *table) delta(before map[string]*entry, news bool) delta {
	d := delta{news: news}
	for key, old := range before {
		now := t.entries[key]
		switch {
		case now == old:
		case d.size() > scopeLimit:
			d.more = true
			return d
		default:
			t.differ(&d, old, now)
		}
	}
	return d
}

// differ adds to d what one entry has otherwise than another.
func (t *table) differ(d *delta, old, now *entry) {
	was := map[state.Key]state.Object{}
	if old != nil {
		for _, o := range old.objects {
			was[o.Key()] = o
		}
	}
	if now != nil {
		for _, o := range now.objects {
			if w, ok := was[o.Key()]; !ok || !same(w, o) {
				d.put = append(d.put, o)
			}
			delete(was, o.Key())
		}
	}
	for k, o := range was {
		if _, taken := t.holder(k); !taken {
			d.gone = append(d.gone, o)
		}
	}
}

func same(a, b state.Object) bool {
	if t := reflect.TypeOf(a); t != reflect.TypeOf(b) || !t.Comparable() {
		return reflect.DeepEqual(a, b)
	}
	return a == b
}

// all is the whole wanted state.
func (t *table) all(h host) *state.Set {
	out := &state.Set{}
	out.Append(h.set)
	n := len(t.entries)
	out.Routes = slices.Grow(out.Routes, 2*n)
	for _, l := range t.leases {
		if e := t.entries[l.Key]; e != nil {
			for _, o := range e.objects {
				out.Add(o)
			}
		}
	}
	return out
}

// each visits the peers in the order of leases, each with what is believed of
// its lease.
func (t *table) each(visit func(*entry, *lease.Lease)) {
	for _, l := range t.leases {
		e := t.entries[l.Key]
		switch {
		case e == nil:
		case e.kept != nil:
			visit(e, e.kept)
		default:
			visit(e, l)
		}
	}
}

// rejected lists what is ignored of the store.
func (t *table) rejected() []lease.Rejected {
	out := slices.Clone(t.unread)
	for _, r := range t.bad {
		out = append(out, r...)
	}
	return lease.SortRejected(out)
}
