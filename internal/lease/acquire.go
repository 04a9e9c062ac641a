package lease

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/flannel-ng/flannel-ng/internal/addr"
)

var errNoPublic = errors.New("this host has no public address of an enabled family")

// acquire looks for a subnet in the order of docs/lease-protocol.md: own
// lease, lease with our address, subnet.env, pick.
func (d *decision) acquire() {
	public, err := unicast(d.Ask.Public)
	if err != nil {
		d.waitFor(errNoPublic)
		return
	}
	if l := d.candidate(func(l *Lease) bool { return l.Owner == d.HostID && l.Owner != "" }); l != nil {
		d.adopt(l, "the lease is this host's own")
		return
	}
	mine := func(l *Lease) bool { _, ok := shared(l.Public, public); return ok && l.Owner != d.HostID }
	if l := d.candidate(mine); l != nil {
		d.adopt(l, "the lease has this host's public address")
		return
	}
	if prev := d.Ask.Previous; d.Ask.Fits(prev, false) == nil && !d.refused(prev) && d.isFree(prev) {
		d.claim(Claim{Subnets: prev}, "the subnet was this host's before")
		return
	}
	picked, err := Pick(Picking{
		Network: d.Ask.Network, Leases: d.Snapshot.Leases, HostID: d.HostID, Attempt: d.Attempt,
		Recent:  d.Snapshot.Recent,
		Refused: slices.DeleteFunc(slices.Clone(d.Refused), func(r Recent) bool { return !d.Now.Before(r.Until) }),
	})
	if err != nil {
		d.waitFor(err)
		return
	}
	d.claim(Claim{Subnets: picked}, "the subnet is free")
}

// waitFor states why nothing can be claimed.
func (d *decision) waitFor(err error) {
	if d.Holding.State == Pending {
		d.enter(Pending, err.Error())
	}
}

// candidate finds a lease in the picture that want accepts, that fits and that
// no other lease beats: reservations first, then the oldest.
func (d *decision) candidate(want func(*Lease) bool) (best *Lease) {
	for _, l := range d.Snapshot.Leases {
		if !want(l) || d.Ask.Fits(l.Subnets, l.Reserved) != nil || d.beaten(l) {
			continue
		}
		if best == nil || l.Reserved && !best.Reserved || l.Reserved == best.Reserved && l.Created < best.Created {
			best = l
		}
	}
	return best
}

func (d *decision) beaten(l *Lease) bool {
	for _, f := range d.Ask.Network.Families() {
		pool := d.Ask.Network.Pools.At(f)
		for _, o := range d.Snapshot.Leases {
			p := o.Subnets.At(f)
			if o.Key != l.Key && p.IsValid() && p.Overlaps(l.Subnets.At(f)) &&
				inside(p, pool.Network) == nil && beats(o, l, f, pool.SubnetLen) {
				return true
			}
		}
	}
	return false
}

func (d *decision) isFree(subnets addr.ByFamily[netip.Prefix]) bool {
	return !slices.ContainsFunc(d.Snapshot.Leases, func(l *Lease) bool { return d.blocks(l, subnets) })
}

// blocks says whether l keeps this host from subnets. As in the store, one of
// another length without an owner does not: it is somebody's mistake.
func (d *decision) blocks(l *Lease, subnets addr.ByFamily[netip.Prefix]) bool {
	for _, f := range d.Ask.Network.Families() {
		length := d.Ask.Network.Pools.At(f).SubnetLen
		if (l.Owner != "" || oddness(l, f, length) == 0) && l.Subnets.At(f).Overlaps(subnets.At(f)) {
			return true
		}
	}
	return false
}

func (d *decision) refused(subnets addr.ByFamily[netip.Prefix]) bool {
	wanted := Lease{Subnets: subnets}
	return slices.ContainsFunc(d.Refused, func(r Recent) bool {
		return d.Now.Before(r.Until) && slices.Contains(wanted.Prefixes(), r.Subnet)
	})
}

func (d Decision) String() string {
	s := d.Holding.State.String()
	switch d.Action.Act {
	case ActClaim:
		c := d.Action.Claim
		s += fmt.Sprintf(": claim %s token %d", join(Lease{Subnets: c.Subnets}.Prefixes()), c.Token)
		if c.Takeover {
			s += " by takeover"
		}
		return s + ": " + d.Action.Why
	case ActRelease:
		return s + fmt.Sprintf(": release %s token %d: %s", join(d.Action.Held.Prefixes()), d.Action.Held.Token, d.Action.Why)
	case ActNone:
	}
	if d.Holding.Reason != "" {
		s += ": " + d.Holding.Reason
	}
	return s
}
