// Package transit takes a running fabric from one backend to another
// (docs/live-change.md): a host receives by the old and the new carrier at once,
// sends to each peer by one that the peer receives, and leaves the old one when
// nobody can send by it any more.
//
// Next decides, from what the network config says and what hosts say of
// themselves; Backend is the backend of a host that follows a plan. It is pure:
// it never reads the kernel or the store. Called by the engine.
package transit

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/flannel-ng/flannel-ng/internal/backend"
	"github.com/flannel-ng/flannel-ng/internal/facts"
	"github.com/flannel-ng/flannel-ng/internal/lease"
	"github.com/flannel-ng/flannel-ng/internal/state"
)

var (
	// ErrApart says that a peer receives by nothing that this host may send by.
	ErrApart = errors.New("no carrier in common")
	// ErrConflict says that two carriers want one object.
	ErrConflict = errors.New("two carriers want different things")
)

// Member is a carrier at work.
type Member struct {
	Carrier
	Backend backend.Backend
}

// Backend carries packets by the carriers of a plan. It implements
// backend.Backend. One goroutine at a time uses it.
type Backend struct {
	plan    Plan
	members []Member // in the order of the plan
	records map[string]Record
}

// New makes the backend of a plan. members are its carriers, but for those that
// cannot be made on this host.
func New(plan Plan, members []Member) *Backend {
	return &Backend{plan: plan, members: members, records: map[string]Record{}}
}

// Key says in one text what Peer depends on beside its arguments.
func (b *Backend) Key() string {
	var out strings.Builder
	for _, m := range b.members {
		fmt.Fprintf(&out, "%s %s %s\n", m.Wire.Name, m.Carrier.Backend.Type, m.Carrier.Backend.Options)
	}
	fmt.Fprintln(&out, b.plan.Target, b.plan.Send, b.plan.Guess)
	return out.String()
}

// Offer is that of the primary with the record of all.
func (b *Backend) Offer(n facts.Node, prev *lease.Lease) (lease.Offer, error) {
	if len(b.members) == 0 {
		return lease.Offer{}, ErrApart
	}
	if b.plan.Solo {
		return b.members[0].Backend.Offer(n, prev)
	}
	var out lease.Offer
	var r Record
	for _, l := range b.plan.Publish {
		m, ok := b.member(l.Wire)
		if !ok {
			continue
		}
		o, err := m.Backend.Offer(n, b.before(prev, m))
		switch {
		case err != nil && len(r.Entries) == 0:
			return lease.Offer{}, err
		case err != nil: // Trouble tells
			continue
		case len(r.Entries) == 0:
			out = o
		}
		r.Entries = append(r.Entries, Entry{
			Wire: l.Wire, Backend: m.Carrier.Backend.JSON(), ReceiveOnly: l.ReceiveOnly, Data: o.Data, Extra: o.Extra,
		})
	}
	var err error
	out.Extra, err = r.Format(out.Extra)
	return out, err
}

// before is the lease that a carrier's peers knew this host by, or nil.
func (b *Backend) before(prev *lease.Lease, m Member) *lease.Lease {
	if prev == nil {
		return nil
	}
	r := b.record(prev.Offer)
	if len(r.Entries) == 0 {
		return prev
	}
	o, ok := r.offer(prev.Offer, m.Wire.Name, m.Wire.Type)
	if !ok {
		return nil
	}
	known := *prev
	known.Offer = o
	return &known
}

// Local is what all carriers have on this host. What keeps one that is not the
// primary from it is told by Trouble.
func (b *Backend) Local(self lease.Lease, n facts.Node) (state.Set, error) {
	sum := state.Set{}
	seen := map[state.Key]held{}
	for i, m := range b.members {
		s, err := b.local(m, self, n)
		if err == nil {
			err = merge(&sum, s, m.Wire.Name, seen)
		}
		if err != nil && i == 0 {
			return state.Set{}, err
		}
	}
	return sum, nil
}

// held is an object and the carrier that wanted it first.
type held struct {
	object state.Object
	wire   string
}

// merge adds s to sum: all of it or, with an error, nothing.
func merge(sum *state.Set, s state.Set, wire string, seen map[state.Key]held) error {
	var fresh []state.Object
	for o := range s.Objects() {
		first, ok := seen[o.Key()]
		switch {
		case !ok:
			fresh = append(fresh, o)
		case !reflect.DeepEqual(first.object, o):
			return fmt.Errorf("%w: %s of %s, %s of %s", ErrConflict, first.object, first.wire, o, wire)
		}
	}
	for _, o := range fresh {
		seen[o.Key()] = held{o, wire}
		sum.Add(o)
	}
	sum.Append(state.Set{MTU: s.MTU})
	return nil
}

// local is what one carrier has on this host.
func (b *Backend) local(m Member, self lease.Lease, n facts.Node) (state.Set, error) {
	if b.plan.Solo {
		return m.Backend.Local(self, n)
	}
	r := b.record(self.Offer)
	o, published := r.offer(self.Offer, m.Wire.Name, m.Wire.Type)
	if !published && (len(r.Entries) > 0 || self.Offer.Backend != m.Wire.Type) {
		var err error
		if o, err = m.Backend.Offer(n, b.before(&self, m)); err != nil {
			return state.Set{}, err
		}
	} else if !published {
		o = self.Offer
	}
	self.Offer = o
	return m.Backend.Local(self, n)
}

// Trouble says which carriers cannot be had on this host, by wire, and why.
func (b *Backend) Trouble(self lease.Lease, n facts.Node) map[string]error {
	out := map[string]error{}
	sum, seen := state.Set{}, map[state.Key]held{}
	for _, m := range b.members {
		s, err := b.local(m, self, n)
		if err == nil {
			err = merge(&sum, s, m.Wire.Name, seen)
		}
		if _, other := m.Backend.Offer(n, b.before(&self, m)); err == nil {
			err = other
		}
		if err != nil {
			out[m.Wire.Name] = err
		}
	}
	return out
}

// Keys are those of what a carrier has on this host, nil if it cannot be had.
func (b *Backend) Keys(wire string, self lease.Lease, n facts.Node) []state.Key {
	m, ok := b.member(wire)
	if !ok {
		return nil
	}
	s, err := b.local(m, self, n)
	if err != nil {
		return nil
	}
	keys := []state.Key{}
	for o := range s.Objects() {
		keys = append(keys, o.Key())
	}
	return keys
}

// Peer is Send without the wire.
func (b *Backend) Peer(self lease.Lease, n facts.Node, p lease.Lease, _ lease.Offer) (state.Set, error) {
	s, _, err := b.Send(self, n, p)
	return s, err
}

// Send leads packets to p by one carrier, and says by the wire of which; of the
// others it adds what lets packets of p in. A carrier that does not reach p
// leaves it to the next.
func (b *Backend) Send(self lease.Lease, n facts.Node, p lease.Lease) (state.Set, string, error) {
	if b.plan.Solo {
		return b.solo(self, n, p)
	}
	r := b.record(p.Offer)
	if p.Owner == "" {
		r = Record{}
	}
	says := b.says(r, p.Offer)
	if len(says) == 0 {
		return b.stranger(self, n, p)
	}
	out, wire, err := b.first(self, n, p, says)
	if wire == "" {
		err = fmt.Errorf("%w: it receives by %s, this host may send by %s", ErrApart, list(says), list(b.plan.Send))
	}
	for _, m := range b.members {
		if m.Wire.Name != wire {
			out.Append(b.admit(m, self, n, p))
		}
	}
	return out, wire, err
}

// first is what the first carrier makes of p that reaches it.
func (b *Backend) first(self lease.Lease, n facts.Node, p lease.Lease, says []string) (out state.Set, wire string, why error) {
	for _, w := range b.plan.ways(says) {
		m, ok := b.member(w)
		if !ok {
			continue
		}
		r := b.record(p.Offer)
		o, published := r.offer(p.Offer, w, m.Wire.Type)
		if !published {
			o = p.Offer
		}
		reached := p
		reached.Offer = o
		s, err := m.Backend.Peer(self, n, reached, o)
		if wire == "" || err == nil {
			out, wire, why = s, w, err
		}
		if err == nil {
			return out, wire, nil
		}
	}
	return out, wire, why
}

// admit is what lets packets of p in by a carrier that is not used to reach it.
func (b *Backend) admit(m Member, self lease.Lease, n facts.Node, p lease.Lease) state.Set {
	a, ok := m.Backend.(backend.Admitter)
	if !ok {
		return state.Set{}
	}
	r := b.record(p.Offer)
	if o, published := r.offer(p.Offer, m.Wire.Name, m.Wire.Type); published {
		p.Offer = o
	}
	return a.Admit(self, n, p)
}

// says lists the wires that p receives by.
func (b *Backend) says(r Record, o lease.Offer) []string {
	var out []string
	for _, e := range r.Entries {
		out = append(out, e.Wire)
	}
	if len(out) > 0 {
		return out
	}
	if wire := b.plan.Guess[Mark{o.Backend, vniOf(o)}]; wire != "" {
		return []string{wire}
	}
	return nil
}

// stranger is a peer whose carrier is none of those known here. If its type is,
// that one's word says what is wrong with it.
func (b *Backend) stranger(self lease.Lease, n facts.Node, p lease.Lease) (state.Set, string, error) {
	for _, m := range b.members {
		if m.Wire.Type == p.Offer.Backend {
			s, err := m.Backend.Peer(self, n, p, p.Offer)
			return s, m.Wire.Name, err
		}
	}
	return state.Set{}, "", backend.ErrForeign
}

func (b *Backend) solo(self lease.Lease, n facts.Node, p lease.Lease) (state.Set, string, error) {
	m := b.members[0]
	if p.Offer.Backend != m.Carrier.Backend.Type {
		return state.Set{}, "", backend.ErrForeign
	}
	s, err := m.Backend.Peer(self, n, p, p.Offer)
	return s, m.Carrier.Backend.Type, err
}

func (b *Backend) member(wire string) (Member, bool) {
	i := slices.IndexFunc(b.members, func(m Member) bool { return m.Wire.Name == wire })
	if i < 0 {
		return Member{}, false
	}
	return b.members[i], true
}

// remembered bounds the records that are not read again. Where nothing changes
// nearly all hosts have the same.
const remembered = 64

func (b *Backend) record(o lease.Offer) Record {
	if r, ok := b.records[o.Extra]; ok {
		return r
	}
	r, err := Parse(o.Extra)
	if err != nil {
		r = Record{}
	}
	if len(b.records) < remembered {
		b.records[o.Extra] = r
	}
	return r
}

func list(wires []string) string {
	if len(wires) == 0 {
		return "nothing"
	}
	return strings.Join(wires, ", ")
}
