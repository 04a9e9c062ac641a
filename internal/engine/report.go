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
func ownFailures(want Desired, out reconcile.Outcome) []string {
	var reasons []string
	for _, err := range out.Unread {
		reasons = append(reasons, err.Error())
	}
	slices.Sort(reasons)
	for _, r := range out.Failed() {
		if want.Own[r.Object.Key()] {
			reasons = append(reasons, fmt.Sprintf("%s %s: %s", r.Op, r.Object, r.Err))
		}
	}
	return reasons
}

func describe(failed []reconcile.Result) []string {
	var out []string
	for _, r := range failed {
		out = append(out, fmt.Sprintf("%s %s: %s", r.Op, r.Object, r.Err))
	}
	return out
}

// note logs, records and counts what a pass did.
func (e *Engine) note(out reconcile.Outcome) {
	type group struct {
		op   reconcile.Op
		kind state.Kind
	}
	done := map[group][]reconcile.Result{}
	var order []group
	for _, r := range out.Results {
		if r.Err != nil {
			continue
		}
		g := group{r.Op, r.Object.Key().Kind}
		if done[g] == nil {
			order = append(order, g)
		}
		done[g] = append(done[g], r)
		e.base.Pass.Changes[string(g.kind)+" "+string(g.op)]++
	}
	for _, g := range order {
		e.noteGroup(g.op, g.kind, done[g])
	}
	e.noteFailures(out)
}

func (e *Engine) noteGroup(op reconcile.Op, kind state.Kind, rs []reconcile.Result) {
	if len(rs) > fewLines {
		e.cfg.Log.Info("changed many", "op", op, "kind", kind, "count", len(rs), "first", rs[0].Object.String())
		e.cfg.Event("change", fmt.Sprintf("%s %d × %s", op, len(rs), kind))
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

// noteFailures logs a failure when it appears or changes, not each time it is
// met again.
func (e *Engine) noteFailures(out reconcile.Outcome) {
	now := map[state.Key]string{}
	fresh := 0
	for _, r := range out.Failed() {
		k, text := r.Object.Key(), r.Err.Error()
		now[k] = text
		if e.failing[k] == text {
			continue
		}
		if fresh++; fresh <= fewLines {
			e.cfg.Log.Error("change failed, will retry", "op", r.Op, "object", r.Object.String(), "err", r.Err)
		}
		e.cfg.Event("failure", fmt.Sprintf("%s %s: %s", r.Op, r.Object, r.Err))
	}
	for kind, err := range out.Unread {
		k := state.Key{Kind: kind}
		now[k] = err.Error()
		if e.failing[k] != now[k] {
			e.cfg.Log.Error("state not readable, will retry", "kind", kind, "err", err)
			e.cfg.Event("failure", err.Error())
		}
	}
	if fresh > fewLines {
		e.cfg.Log.Error("more changes failed", "count", fresh-fewLines)
	}
	e.failing = now
	switch {
	case len(now) > 0:
		e.streak++
	case len(out.Results) > 0:
		e.streak, e.idle = 0, 0
	default:
		e.streak = 0
	}
}

// passed is a pass that ran.
type passed struct {
	in      Inputs
	want    Desired
	out     reconcile.Outcome
	reasons []string // why this host is not ready
	start   time.Time
}

func changedSwitch(out reconcile.Outcome) bool {
	return slices.ContainsFunc(out.Results, func(r reconcile.Result) bool {
		return r.Err == nil && r.Object.Key().Kind == state.KindSysctl
	})
}

// noteRefused tells of entries of the store that are ignored, when they appear
// or their reason changes.
func (e *Engine) noteRefused(want Desired) {
	now := map[string]string{}
	for _, r := range want.Rejected {
		now[r.Key] = r.Reason
	}
	for _, p := range want.Peers {
		if p.Err != nil {
			now[p.Lease.Key] = p.Err.Error()
		}
	}
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

// publish makes the report of a pass that ran.
func (e *Engine) publish(p passed) {
	if p.in.Own.State != lease.Owned {
		p.reasons = append([]string{p.in.Own.Reason}, p.reasons...)
	}
	e.base.Pass.Passes++
	e.uplink = p.in.Node.Warnings
	s := e.base
	s.Network = networkReport(p.in, p.want)
	s.Uplink = uplinkReport(p.in.Node)
	s.Pass.At, s.Pass.Duration = p.start, time.Since(p.start)
	failed := map[state.Key]string{}
	for _, r := range p.out.Failed() {
		failed[r.Object.Key()] = r.Err.Error()
		s.Pass.Failures = append(s.Pass.Failures, report.Failure{Object: r.Object.String(), Error: r.Err.Error()})
	}
	for _, peer := range p.want.Peers {
		s.Peers = append(s.Peers, peerReport(peer, failed))
	}
	for _, r := range p.want.Rejected {
		s.Rejected = append(s.Rejected, report.Rejected{Key: r.Key, Reason: r.Reason})
	}
	s.Ready, s.NotReady = len(p.reasons) == 0, p.reasons
	e.store(s)
}

func networkReport(in Inputs, want Desired) report.Network {
	n := report.Network{
		Backend: in.Network.Backend.Type, Firewall: string(in.Policy.traffic(in.Network).Mode), MTU: want.Set.MTU,
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

func peerReport(p Peer, failed map[state.Key]string) report.Peer {
	out := report.Peer{
		Key: p.Lease.Key, Backend: p.Lease.Offer.Backend, Owner: p.Lease.Owner, State: "programmed",
		Subnets: prefixes(p.Lease), Public: publics(p.Lease),
	}
	if p.Err != nil {
		out.State, out.Error = "failing", p.Err.Error()
	}
	for _, k := range p.Keys {
		if text, bad := failed[k]; bad {
			out.State, out.Error = "failing", text
		}
	}
	return out
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
	s.Pass.Changes = maps.Clone(e.base.Pass.Changes)
	e.fillStore(&s)
	last := e.status.Swap(&s)
	if last == nil || last.Ready == s.Ready && slices.Equal(last.NotReady, s.NotReady) {
		return
	}
	if last.Ready != s.Ready {
		e.cfg.Ready(s.Ready)
	}
	if s.Ready {
		e.cfg.Log.Info("ready", "subnets", s.Lease.Subnets, "peers", len(s.Peers))
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
		Subnets: prefixes(own.Lease.Lease), Public: publics(own.Lease.Lease),
	}
	if snap, ok := e.cfg.World.Snapshot(); ok {
		s.Store.Cluster, s.Store.Revision, s.Store.Synced = snap.Cluster, snap.Rev, snap.Synced
		s.Store.LastKnownGood, s.Store.Age = snap.Origin.LastKnownGood, snap.Origin.Age
	}
}

func prefixes(l lease.Lease) []string {
	var out []string
	for _, p := range l.Prefixes() {
		out = append(out, p.String())
	}
	return out
}

func publics(l lease.Lease) []string {
	var out []string
	for _, f := range addr.Families() {
		if a := l.Public.At(f); a.IsValid() {
			out = append(out, a.String())
		}
	}
	return out
}
