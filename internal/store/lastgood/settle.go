package lastgood

import (
	"bytes"
	"slices"

	"github.com/flannel-ng/flannel-ng/internal/lease"
)

// position is where in the history of a store a picture is.
type position struct {
	cluster    string // "" is nowhere
	epoch, rev int64  // epoch 0: not known
}

// wentBack says whether p is of another history than what was known: the store
// was restored or wiped, here or while this daemon was down.
func (k position) wentBack(p lease.Snapshot) bool {
	return k.cluster != "" && (k.cluster != p.Cluster || p.Rev < k.rev || k.epoch != 0 && k.epoch != p.Epoch)
}

// watchOut begins the time in which absence means nothing, if p is of another
// history, or lacks the own lease and those of most others: they ended while the
// store could not be reached. The hosts whose leases it lacks are alive, and their
// containers talk.
func (w *watch) watchOut(p lease.Snapshot) {
	if !p.Synced {
		return
	}
	switch {
	case w.known.wentBack(p):
		w.doubt("the store was restored or replaced: for a while nothing is removed on its word")
	case w.swept(p):
		w.doubt("the own lease and most others are gone from the store: for a while nothing is removed on its word")
	}
	w.known = position{cluster: p.Cluster, epoch: p.Epoch, rev: p.Rev}
}

// swept says whether p has lost, since the last picture, the own lease and more
// than half of the others.
func (w *watch) swept(p lease.Snapshot) bool {
	host := w.store.options.HostID
	own := func(l *lease.Lease) bool { return l.Owner != "" && l.Owner == host }
	if !slices.ContainsFunc(w.last.Leases, own) || slices.ContainsFunc(p.Leases, own) {
		return false
	}
	gone, _ := lease.Differ(w.last.Leases, p.Leases)
	return len(gone) > 1+(len(w.last.Leases)-1)/2
}

func (w *watch) doubt(why string) {
	w.settling = true
	w.settled.Reset(settleFor)
	w.store.options.Log.Warn(why, "for", settleFor) //nolint:sloglint // both are constant
}

// give hands the last live picture on. One that settles is not remembered: a
// restart in between must know what was before.
func (w *watch) give() {
	p := w.last
	p.Settling = w.settling
	if p.Synced && !p.Settling {
		w.pressing = w.pressing || turns(w.remembered, p)
		w.urgent = w.urgent || w.differs(p)
		w.unsaved = &p
	}
	w.put(p)
}

// settle ends that time.
func (w *watch) settle() {
	if !w.settling {
		return
	}
	w.settling = false
	w.give()
}

// differs says whether p has news that a host that boots without the store
// should know: by the hint, all but revisions.
func (w *watch) differs(p lease.Snapshot) bool {
	before := w.remembered
	w.remembered = &p
	return before == nil || p.Changed == nil || len(p.Changed) > 0 ||
		before.Cluster != p.Cluster || before.Epoch != p.Epoch || !bytes.Equal(before.Config, p.Config) ||
		!slices.Equal(before.Recent, p.Recent)
}

// turns says whether hosts are reached in another way than before: by the config,
// or by what one of them offers. Who came or went does not count.
func turns(before *lease.Snapshot, p lease.Snapshot) bool {
	if before == nil || p.Changed != nil && len(p.Changed) == 0 && bytes.Equal(before.Config, p.Config) {
		return false
	}
	gone, come := lease.Differ(before.Leases, p.Leases)
	offers := map[string]lease.Offer{}
	for _, l := range gone {
		offers[l.Key] = l.Offer
	}
	return !bytes.Equal(before.Config, p.Config) || slices.ContainsFunc(come, func(l *lease.Lease) bool {
		old, ok := offers[l.Key]
		return ok && old != l.Offer
	})
}
