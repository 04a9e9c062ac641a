package engine

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/facts"
	"github.com/flannel-ng/flannel-ng/internal/lease"
	"github.com/flannel-ng/flannel-ng/internal/reconcile"
	"github.com/flannel-ng/flannel-ng/internal/report"
	"github.com/flannel-ng/flannel-ng/internal/state"
)

// fewLines bounds the lines that one pass logs per kind: one line per real
// change, but not 20,000 for a fabric that appears at once.
const fewLines = 8

// ownFailures says why this host is not ready, if it is not.
func (e *Engine) ownFailures(p passed) []string {
	var reasons []string
	for _, err := range p.out.Unread {
		reasons = append(reasons, err.Error())
	}
	slices.Sort(reasons)
	var failed []string
	for k, r := range e.failing {
		if p.host.keys[k] && !state.Dispensable(r.Object) {
			failed = append(failed, fmt.Sprintf("%s %s: %s", r.Op, r.Object, r.Err))
		}
	}
	slices.Sort(failed)
	return append(reasons, failed...)
}

func describe(failed []reconcile.Result) []string {
	var out []string
	for _, r := range failed {
		out = append(out, fmt.Sprintf("%s %s: %s", r.Op, r.Object, r.Err))
	}
	return out
}

// noteChanges counts what a pass did, and logs and records it, but for repairs,
// of which another tells.
func (e *Engine) noteChanges(out reconcile.Outcome, repair func(reconcile.Change) bool) {
	done := map[reconcile.Success][]reconcile.Result{} // the first few
	count := maps.Clone(out.More)
	if count == nil {
		count = map[reconcile.Success]int{}
	}
	repairs := map[reconcile.Success]int{}
	var order []reconcile.Success
	for _, r := range out.Results {
		if r.Err != nil {
			continue
		}
		s := reconcile.Success{Op: r.Op, Kind: r.Object.Key().Kind}
		if count[s]++; !slices.Contains(order, s) {
			order = append(order, s)
		}
		if repair(r.Change) {
			repairs[s]++
		} else if len(done[s]) < fewLines {
			done[s] = append(done[s], r)
		}
	}
	for _, s := range order {
		e.base.Pass.Changes[string(s.Kind)+" "+string(s.Op)] += int64(count[s])
		if len(done[s]) == 0 {
			continue // nor is any that is only counted
		}
		e.noteGroup(s.Op, s.Kind, done[s], count[s]-repairs[s])
	}
}

func (e *Engine) noteGroup(op reconcile.Op, kind state.Kind, rs []reconcile.Result, count int) {
	if count > len(rs) {
		e.cfg.Log.Info("changed many", "op", op, "kind", kind, "count", count, "first", rs[0].Object.String())
		e.cfg.Event("change", fmt.Sprintf("%s %d × %s", op, count, kind))
		return
	}
	for _, r := range rs {
		text := r.Object.String()
		if r.Was != "" {
			text += " (was " + r.Was + ")"
		}
		e.cfg.Log.Info("changed", "op", op, "object", text)
		e.cfg.Event("change", string(op)+" "+text)
	}
}

// noteFailures keeps what failed, and logs a failure when it appears or changes,
// not each time it is met again.
func (e *Engine) noteFailures(p *passed) {
	now := e.untried(p)
	fresh, failed := 0, p.out.Failed()
	for _, r := range failed {
		k := r.Object.Key()
		now[k] = r
		if old, ok := e.failing[k]; ok && old.Err.Error() == r.Err.Error() {
			continue
		}
		if fresh++; fresh <= fewLines {
			e.cfg.Log.Error("change failed, will retry", "op", r.Op, "object", r.Object.String(), "err", r.Err)
		}
		e.cfg.Event("failure", fmt.Sprintf("%s %s: %s", r.Op, r.Object, r.Err))
	}
	if fresh > fewLines {
		e.cfg.Log.Error("more changes failed", "count", fresh-fewLines)
	}
	e.noteUnread(p.out.Unread)
	e.failing = now
	e.table.fail(now, e.fights.waiting())
	switch {
	case len(failed)+len(p.out.Unread) > 0:
		e.pace.streak++
	case len(now) > 0: // others, not tried now
	default:
		e.pace.streak = 0
	}
	if len(failed)+len(p.out.Unread) == 0 && len(p.out.Results) > 0 {
		e.pace.idle = 0
	}
}

// untried are the failures that a pass did not look at.
func (e *Engine) untried(p *passed) map[state.Key]reconcile.Result {
	out := map[state.Key]reconcile.Result{}
	if p.whole || len(e.failing) == 0 {
		return out
	}
	tried := p.keys()
	for k, r := range e.failing {
		if !tried[k] {
			out[k] = r
		}
	}
	return out
}

func (e *Engine) noteUnread(unread map[state.Kind]error) {
	now := map[state.Kind]string{}
	for kind, err := range unread {
		now[kind] = err.Error()
		if e.unread[kind] != now[kind] {
			e.cfg.Log.Error("state not readable, will retry", "kind", kind, "err", err)
			e.cfg.Event("failure", err.Error())
		}
	}
	e.unread = now
}

func changedSwitch(out reconcile.Outcome) bool {
	return slices.ContainsFunc(out.Results, func(r reconcile.Result) bool {
		return r.Err == nil && r.Object.Key().Kind == state.KindSysctl
	})
}

// noteRefused tells of entries of the store that are ignored, when they appear
// or their reason changes.
func (e *Engine) noteRefused() {
	now := map[string]string{}
	rejected := e.table.rejected()
	e.rejected = make([]report.Rejected, 0, len(rejected))
	for _, r := range rejected {
		now[r.Key] = r.Reason
		e.rejected = append(e.rejected, report.Rejected{Key: r.Key, Reason: r.Reason})
	}
	maps.Copy(now, e.table.errs)
	fresh := 0
	for _, key := range slices.Sorted(maps.Keys(now)) {
		if e.refused[key] == now[key] {
			continue
		}
		if fresh++; fresh <= fewLines {
			e.cfg.Log.Warn("store entry ignored", "key", key, "reason", now[key])
		}
		e.cfg.Event("store", fmt.Sprintf("ignored %s: %s", key, now[key]))
	}
	if fresh > fewLines {
		e.cfg.Log.Warn("more store entries ignored", "count", fresh-fewLines)
	}
	e.refused = now
}

// publish makes the report of a pass that ran, all but the list of peers.
func (e *Engine) publish(p passed) {
	// A lease that nobody could be asked about carries on; were the host not ready,
	// a boot without the store would hold up what waits for it for ever.
	if st := p.in.Own.State; st != lease.Owned && st != lease.Expired {
		p.reasons = append([]string{p.in.Own.Reason}, p.reasons...)
	}
	e.base.Pass.Passes++
	e.uplink = p.in.Node.Warnings
	s := e.base
	s.Network = networkReport(p.in, p.host)
	s.Uplink = uplinkReport(p.in.Node)
	s.Pass.At, s.Pass.Duration, s.Pass.Contested = p.start, time.Since(p.start), len(e.fights.contested())
	for _, r := range e.failing {
		s.Pass.Failures = append(s.Pass.Failures, report.Failure{Object: r.Object.String(), Error: r.Err.Error()})
	}
	slices.SortFunc(s.Pass.Failures, func(a, b report.Failure) int { return strings.Compare(a.Object, b.Object) })
	s.PeerCount = e.table.count()
	s.Rejected = e.rejected
	s.Ready, s.NotReady = len(p.reasons) == 0, p.reasons
	e.store(s)
}

func networkReport(in Inputs, h host) report.Network {
	n := report.Network{
		Backend: in.Network.Backend.Type, Firewall: string(in.Policy.traffic(in.Network).Mode), MTU: h.set.MTU,
	}
	for _, f := range in.Network.Families() {
		n.Networks = append(n.Networks, in.Network.Pools.At(f).Network.String())
	}
	return n
}

func uplinkReport(n facts.Node) report.Uplink {
	u := report.Uplink{Name: n.Uplink.Name, MTU: n.Uplink.MTU}
	for _, f := range addr.Families() {
		if a := n.Source.At(f); a.IsValid() {
			u.Sources = append(u.Sources, a.String())
		}
	}
	return u
}

// report lists the peers. It is safe for concurrent use.
func (t *table) report() []report.Peer {
	t.mu.RLock()
	defer t.mu.RUnlock()
	out := make([]report.Peer, 0, len(t.entries))
	t.each(func(e *entry, l *lease.Lease) {
		p := report.Peer{
			Key: l.Key, Backend: l.Offer.Backend, Owner: l.Owner, State: "programmed",
			Subnets: prefixes(l), Public: publics(l),
		}
		text, failing := t.failed[l.Key]
		if !failing && e.err != nil {
			text, failing = e.err.Error(), true
		}
		if failing {
			p.State, p.Error = "failing", text
		}
		out = append(out, p)
	})
	return out
}

// count is what report would list.
func (t *table) count() report.PeerCount {
	failing := len(t.errs)
	for key := range t.failed {
		if _, both := t.errs[key]; !both {
			failing++
		}
	}
	return report.PeerCount{Programmed: len(t.entries) - failing, Failing: failing}
}

// fail notes which peers' objects failed, or are left missing for now.
func (t *table) fail(failing map[state.Key]reconcile.Result, waiting map[state.Key]*fight) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.failed = map[string]string{}
	for k, r := range failing {
		if e := t.entry(k); e != nil && !state.Dispensable(r.Object) {
			t.failed[e.key] = r.Err.Error()
		}
	}
	for k, f := range waiting {
		if e := t.entry(k); e != nil && !state.Dispensable(f.object) {
			t.failed[e.key] = f.String()
		}
	}
}

// unready is the report of a pass that could not run: what was known of the
// fabric stays visible.
func (e *Engine) unready(reason string) {
	s := e.base
	if last := e.status.Load(); last != nil {
		s = *last
	}
	s.Ready, s.NotReady = false, []string{reason}
	e.store(s)
}

// store completes and publishes s, and says so when readiness changed.
func (e *Engine) store(s report.Status) {
	s.Warnings = slices.Clone(e.warnings)
	s.Warnings = append(append(s.Warnings, e.conditions...), e.uplink...)
	s.Warnings = append(s.Warnings, e.fights.warnings(time.Now())...)
	s.Pass.Changes, s.Pass.Repairs = maps.Clone(e.base.Pass.Changes), maps.Clone(e.base.Pass.Repairs)
	e.fillStore(&s)
	last := e.status.Swap(&s)
	if last == nil || last.Ready == s.Ready && slices.Equal(last.NotReady, s.NotReady) {
		return
	}
	if last.Ready != s.Ready {
		e.cfg.Ready(s.Ready)
	}
	if s.Ready {
		e.cfg.Log.Info("ready", "subnets", s.Lease.Subnets, "peers", s.PeerCount.Programmed+s.PeerCount.Failing)
		e.cfg.Event("ready", "ready")
		return
	}
	why := strings.Join(s.NotReady, "; ")
	if s.Pass.Passes == 0 { // a start takes its steps
		e.cfg.Log.Info("starting", "waits", why)
	} else {
		e.cfg.Log.Warn("not ready", "reasons", why)
	}
	e.cfg.Event("ready", "not ready: "+why)
}

func (e *Engine) fillStore(s *report.Status) {
	own := e.cfg.World.Own()
	s.Lease = report.Lease{
		State: own.State.String(), Key: own.Lease.Key, Reason: own.Reason, Expires: own.Lease.Expires,
		Subnets: prefixes(&own.Lease.Lease), Public: publics(&own.Lease.Lease),
	}
	if snap, ok := e.cfg.World.Snapshot(); ok {
		s.Store.Cluster, s.Store.Revision, s.Store.Synced = snap.Cluster, snap.Rev, snap.Synced
		s.Store.LastKnownGood, s.Store.Age = snap.Origin.LastKnownGood, snap.Origin.Age
	}
}

func prefixes(l *lease.Lease) []string {
	var out []string
	for _, p := range l.Prefixes() {
		out = append(out, p.String())
	}
	return out
}

func publics(l *lease.Lease) []string {
	var out []string
	for _, f := range addr.Families() {
		if a := l.Public.At(f); a.IsValid() {
			out = append(out, a.String())
		}
	}
	return out
}
