package explorer

import (
	"context"
	"net/netip"
	"slices"
	"time"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/lease"
	"github.com/flannel-ng/flannel-ng/internal/store/etcd/kv"
)

// settle ends the faults and demands that everybody gets what is there.
func (w *world) settle(ctx context.Context) {
	w.setLoss(0)
	w.server.SetLeader(true)
	for _, m := range w.machines {
		if m.daemonOf() == nil {
			m.start(ctx, false)
		}
		w.heal(m)
	}
	for _, f := range w.flannels {
		w.join(f)
	}
	want := "nothing was looked at"
	for waited := time.Duration(0); waited < patience && want != "" && !w.violated(); waited += 5 * time.Second {
		sleep(ctx, 5*time.Second)
		want = w.unsettled()
	}
	w.mu.Lock()
	if want != "" {
		w.fail("liveness: %s, %s after the last fault", want, patience)
	}
	w.mu.Unlock()
	if w.Seed%4 == 0 && !w.violated() {
		w.noOrphans(ctx)
	}
}

// unsettled says what is not yet as it must be at the end.
func (w *world) unsettled() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, m := range w.machines {
		h := m.run.keeper.Holding()
		switch {
		case h.State == lease.Owned:
			if wrong := w.wrong(m, h); wrong != "" {
				return m.run.name + " " + wrong
			}
		case w.excused(m, h):
		default:
			return m.run.name + " is " + h.State.String() + ": " + h.Reason
		}
	}
	return ""
}

// wrong says what is not right with what m holds at the end.
func (w *world) wrong(m *machine, h lease.Holding) string {
	own := w.model.leases[subnetsDir+h.Lease.Key]
	switch o, found := w.model.earlier(own); {
	case w.pinned(m, own):
		return ""
	case own.Owner != m.id || lease.Token(own.Modified) != h.Lease.Token:
		return "holds what is not its own in the store"
	case w.model.holders[claimKey(own.Prefixes()[0])].extra != m.run.ask.Offer.Extra:
		return "does not announce what it wants to"
	case found && !w.model.restored:
		return "has a subnet that is older as " + o.Key + " of " + o.writer
	}
	return ""
}

// pinned says whether own was made a reservation by hand while another host
// took the address of m: it is m's by its claims, but as long as the other lives
// m cannot write it.
func (w *world) pinned(m *machine, own record) bool {
	return own.Owner == "" && own.Reserved && w.model.claimed(own, m.id) &&
		slices.ContainsFunc(w.machines, func(o *machine) bool { return o != m && sharesAddress(o.public, m.public) })
}

// excused says whether m has no lease for a good reason: another host has its
// address or its id, or the pool is full.
func (w *world) excused(m *machine, h lease.Holding) bool {
	if h.State == lease.Lost {
		return false
	}
	for _, o := range w.machines {
		if o != m && (o.id == m.id || sharesAddress(o.public, m.public)) && o.run.keeper.Holding().State == lease.Owned {
			return true
		}
	}
	return h.State == lease.Pending && slices.ContainsFunc(w.network.Families(), func(f addr.Family) bool { return !w.hasFree(f, m.id) })
}

// hasFree says whether a subnet of f is free for host id. A claim of another
// host blocks even if its lease was overwritten.
func (w *world) hasFree(f addr.Family, id string) bool {
	return slices.ContainsFunc(w.blocks(f), func(p netip.Prefix) bool {
		if holder := w.model.holders[claimKey(p)].host; holder != "" && holder != id {
			return false
		}
		for _, r := range w.model.leases {
			if q := r.Subnets.At(f); q.IsValid() && q.Overlaps(p) {
				return false
			}
		}
		return true
	})
}

// noOrphans demands that grants do not pile up. Those of claims that failed run
// out. A note of a vanished subnet whose grant got no answer stays for two days:
// at most one per host, family and vanished lease. And in quiet times every
// renewal revokes the grant before.
func (w *world) noOrphans(ctx context.Context) {
	sleep(ctx, 2*leaseTTL) // a grant may come late, and a claim retry meanwhile
	before := w.orphans()
	sleep(ctx, leaseTTL)
	after := w.orphans()
	w.mu.Lock()
	defer w.mu.Unlock()
	// A renewal may be under way on each host, and plain flannel leaves its
	// old grants to run out.
	usual := w.plan.Hosts + 2*w.plan.Flannels
	most := usual + w.vanished*w.plan.Hosts*len(w.network.Families())
	if before > most || after > before+usual {
		w.fail("orphans: %d grants without a key, after quiet renewals %d; explained are %d", before, after, most)
	}
}

// orphans counts the grants that no key is on.
func (w *world) orphans() int {
	used := map[kv.LeaseID]bool{}
	for _, e := range w.server.Entries() {
		if e.Lease != 0 {
			used[e.Lease] = true
		}
	}
	return w.server.Grants() - len(used)
}
