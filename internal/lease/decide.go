package lease

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// Situation is all that a decision depends on.
type Situation struct {
	HostID   string
	Ask      Ask
	Holding  Holding
	Snapshot Snapshot
	Now      time.Time
	Grace    time.Duration // how long a lost subnet keeps working
	// Attempt counts the picks that were refused in a row, and Refused are
	// their subnets, not to be tried again before Until if others are free.
	Attempt int
	Refused []Recent
}

// Decision is what is true now and what to do about it.
type Decision struct {
	Holding Holding
	Action  Action
	// Wake is when time alone may change the decision; zero: never.
	Wake time.Time
}

// Act is a kind of action.
type Act uint8

// The actions.
const (
	ActNone    Act = iota
	ActClaim       // call Store.Claim with Claim
	ActRelease     // call Store.Release with Held
)

// Action is one call of the store.
type Action struct {
	Act   Act
	Claim Claim
	Held  Held
	Why   string // for people
}

// Decide is the lease protocol of one host as a function: the same situation
// always gives the same decision. From a snapshot that is not live, not synced
// or older than the own last write nothing is concluded; renewals go on, fenced
// by the token.
func Decide(s Situation) Decision {
	d := decision{Situation: s}
	d.passTime()
	switch {
	case len(s.Ask.Network.Families()) == 0: // nothing is asked for yet
	case !d.current():
		d.blind()
	case d.Holding.State == Pending:
		d.acquire()
	default:
		d.defend()
	}
	return Decision{Holding: d.Holding, Action: d.action, Wake: d.wake()}
}

type decision struct {
	Situation
	action Action
}

// current says whether the snapshot can be acted upon.
func (d *decision) current() bool {
	s := d.Snapshot
	if !s.Synced || s.Origin.LastKnownGood {
		return false
	}
	return d.Holding.State == Pending || s.Epoch != d.Holding.Epoch || s.Rev >= int64(d.Holding.Lease.Token)
}

// enter changes the state. Coming from the same state keeps Since.
func (d *decision) enter(st State, reason string) {
	h := &d.Holding
	if h.State != st {
		h.Since, h.Deadline, h.Renew = d.Now, time.Time{}, time.Time{}
		if st == Lost {
			h.Deadline = d.Now.Add(d.Grace)
		}
	}
	h.State, h.Reason = st, reason
	if st == Pending {
		h.Lease, h.Asked = Held{}, Claim{}
	}
}

func (d *decision) passTime() {
	h := d.Holding
	if h.Deadline.IsZero() || d.Now.Before(h.Deadline) {
		return
	}
	switch h.State {
	case Owned:
		d.enter(Expired, "the store did not answer until the lease ran out")
	case Lost:
		d.enter(Pending, fmt.Sprintf("%s was lost and its grace is over", join(h.Lease.Prefixes())))
	case Pending, Expired:
	}
}

func (d *decision) wake() time.Time {
	h := d.Holding
	if h.State == Owned && !h.Renew.IsZero() && h.Renew.After(d.Now) {
		return h.Renew
	}
	return h.Deadline
}

// blind acts without a picture.
func (d *decision) blind() {
	h := d.Holding
	switch {
	case h.State == Pending && d.Snapshot.Origin.LastKnownGood:
		d.remember()
	case h.State != Owned || d.Ask.Fits(h.Lease.Subnets, h.Lease.Reserved) != nil:
	case d.Ask.differs(h.Asked) || d.due():
		d.claim(Claim{Token: h.Lease.Token, Subnets: h.Lease.Subnets}, "renewal is due")
	}
}

func (d *decision) due() bool { return !d.Holding.Renew.IsZero() && !d.Now.Before(d.Holding.Renew) }

// remember takes the own lease from a stored picture: traffic goes on, but who
// cannot ask the store does not own.
func (d *decision) remember() {
	for _, l := range d.Snapshot.Leases {
		if l.Owner != "" && l.Owner == d.HostID && d.Ask.Fits(l.Subnets, l.Reserved) == nil {
			d.enter(Expired, "the store has not been reached yet; the lease is from the last known good picture")
			// No token: the store may have been restored since, and then
			// its revisions do not compare.
			d.Holding.Lease = Held{Lease: *l}
			d.Holding.Asked = Claim{Subnets: l.Subnets, Public: l.Public}
			return
		}
	}
}

func (d *decision) claim(c Claim, why string) {
	c.Public, c.Offer = d.Ask.Public, d.Ask.Offer
	d.action = Action{Act: ActClaim, Claim: c, Why: why}
}

// adopt claims a lease that is in the store.
func (d *decision) adopt(l *Lease, why string) {
	d.claim(Claim{Token: Token(l.Modified), Subnets: l.Subnets, Takeover: l.Owner != d.HostID}, why)
}

func (d *decision) release(h Held, why string) {
	d.action = Action{Act: ActRelease, Held: h, Why: why}
}

// defend compares a lease that we have, or had, with the picture.
func (d *decision) defend() {
	own, present := d.own()
	rival := d.rival(own, present)
	switch {
	case rival != nil && present:
		d.lose(fmt.Sprintf("%s has %s, which overlaps and comes first", rival.Node(), join(rival.Prefixes())))
		d.release(Held{Lease: *own, Token: Token(own.Modified)}, d.Holding.Reason)
	case rival != nil:
		d.lose(fmt.Sprintf("%s has %s now", rival.Node(), join(rival.Prefixes())))
	case d.Ask.Fits(d.Holding.Lease.Subnets, d.Holding.Lease.Reserved || own != nil && own.Reserved) != nil:
		d.move(own, present)
	case present:
		d.keep(own)
	case !d.garbled():
		d.regain("the lease was deleted from the store")
	case d.Holding.State == Lost || d.Attempt > 0: // the store knows that it is not ours any more
		d.lose(garbage)
	default:
		d.regain(garbage)
	}
}

func (d *decision) lose(reason string) {
	if d.Holding.State == Lost {
		return // keep the first reason
	}
	d.enter(Lost, reason)
	d.passTime() // without grace
}

// garbage is why a lease is gone that is there.
const garbage = "its key in the store was overwritten with something that is no lease"

// regain claims a lease that is gone from the store again, as long as it is
// free.
func (d *decision) regain(gone string) {
	if d.Holding.State == Owned {
		d.enter(Expired, gone)
	}
	d.claim(Claim{Subnets: d.Holding.Lease.Subnets}, "the lease is gone from the store and still free")
}

// keep has the own lease in the store before it.
func (d *decision) keep(own *Lease) {
	h := d.Holding
	switch {
	case h.State != Owned:
		d.adopt(own, "the lease is in the store")
	case own.Owner != d.HostID, Token(own.Modified) != h.Lease.Token, d.Snapshot.Epoch != h.Epoch:
		d.adopt(own, "the lease in the store was rewritten")
	case d.Ask.differs(h.Asked):
		d.adopt(own, "address or backend data changed")
	case d.due():
		d.adopt(own, "renewal is due")
	default:
		d.tidy()
	}
}

// tidy releases a lease that we left behind when we moved. Reservations stay:
// they are the operator's.
func (d *decision) tidy() {
	for _, l := range d.Snapshot.Leases {
		if l.Owner == d.HostID && !l.Reserved && l.Subnets != d.Holding.Lease.Subnets {
			d.release(Held{Lease: *l, Token: Token(l.Modified)}, "the host has another lease now")
			return
		}
	}
}

// move leaves a subnet that the network config no longer allows. One that we
// own is given up only when its successor is held.
func (d *decision) move(own *Lease, present bool) {
	if d.Holding.State != Owned || !present {
		d.enter(Pending, "the network config no longer allows "+join(d.Holding.Lease.Prefixes()))
	}
	d.acquire()
	if d.Holding.State == Owned && d.action.Act == ActNone {
		d.keep(own) // nothing else is to be had
	}
}

// own finds the lease that we hold in the picture. It is ours if its owner is
// our host id, unless another machine with our id wrote it, or if it has no
// owner and the address that we would claim it by: an operator or a plain flannel
// on this host wrote it.
func (d *decision) own() (*Lease, bool) {
	h := d.Holding
	for _, l := range d.Snapshot.Leases {
		if l.Subnets != h.Lease.Subnets || l.Owner != "" && l.Owner != d.HostID {
			continue
		}
		if l.Owner == d.HostID && Token(l.Modified) == h.Lease.Token {
			return l, true
		}
		_, wanted := shared(l.Public, d.Ask.Public)
		_, granted := shared(l.Public, h.Asked.Public)
		return l, wanted || granted && l.Owner == d.HostID
	}
	return nil, false
}

// rival finds a lease that overlaps the held subnets and stands above ours, or
// any if ours is gone.
func (d *decision) rival(own *Lease, present bool) (best *Lease) {
	for _, f := range d.Ask.Network.Families() {
		pool := d.Ask.Network.Pools.At(f)
		held := d.Holding.Lease.Subnets.At(f)
		for _, l := range d.Snapshot.Leases {
			// A lease that nobody may believe takes nothing from us.
			if !held.Overlaps(l.Subnets.At(f)) || inside(l.Subnets.At(f), pool.Network) != nil {
				continue
			}
			below := present && (l.Key == own.Key || !beats(l, own, f, pool.SubnetLen))
			if !below && (best == nil || l.Created < best.Created) {
				best = l
			}
		}
	}
	return best
}

// garbled says whether our key is among those that cannot be read.
func (d *decision) garbled() bool {
	key := d.Holding.Lease.Key
	return key != "" && slices.ContainsFunc(d.Snapshot.Bad, func(r Rejected) bool {
		return r.Key == key || strings.HasSuffix(r.Key, "/"+key)
	})
}

func join(ps []netip.Prefix) string {
	words := make([]string, len(ps))
	for i, p := range ps {
		words[i] = p.String()
	}
	return strings.Join(words, " and ")
}
