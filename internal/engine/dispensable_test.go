package engine_test

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/facts"
	"github.com/flannel-ng/flannel-ng/internal/reconcile"
	"github.com/flannel-ng/flannel-ng/internal/reconcile/reconciletest"
	"github.com/flannel-ng/flannel-ng/internal/report"
	"github.com/flannel-ng/flannel-ng/internal/state"
)

// A fast path that fails is told, and keeps nobody from being ready, unless the
// config demands it; peers are reached without.
func TestFastPathIsDispensable(t *testing.T) {
	for mode, ready := range map[string]bool{"auto": true, "on": false} {
		t.Run(mode, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, resync)
				r.world.node.FastPath = facts.Ability{OK: true}
				r.world.node.Uplink.MAC = addr.MAC{2, 0, 0, 0, 0, 1}
				tunnel := &reconciletest.Memory{Of: state.KindTunnel}
				fast := &reconciletest.Memory{Of: state.KindFastPath, Refuse: func(reconcile.Change) error { return errors.New("no such luck") }}
				before := r.config.NewDrivers
				r.config.NewDrivers = func(networks []netip.Prefix) []reconcile.Driver {
					return append(before(networks), tunnel, fast)
				}
				r.rebuild(func(*addr.ByFamily[netip.Prefix]) {})
				r.run(t, func() {
					r.world.set(func() {
						r.world.snap = picture(2, 3)
						r.world.snap.Config = []byte(`{"Network":"10.5.0.0/16","Backend":{"Type":"udp","BPF":"` + mode + `"}}`)
						for i := range r.world.snap.Leases {
							r.world.snap.Leases[i].Offer.Backend = "udp"
							r.world.snap.Leases[i].Offer.Extra = `{"udp":{"bpf":1}}`
						}
					})
					r.settle()
					s := r.Status()
					if s.Ready != ready {
						t.Errorf("ready %v: %q", s.Ready, s.NotReady)
					}
					if s.PeerCount.Failing > 0 || s.PeerCount.Programmed != 2 {
						t.Errorf("peers %+v: they are reached by the forwarder", s.PeerCount)
					}
					told := slices.ContainsFunc(s.Pass.Failures, func(f report.Failure) bool { return strings.Contains(f.Object, "fastpath flannel0 dev") })
					if !told {
						t.Errorf("failures %v: the fast path's is not told", s.Pass.Failures)
					}
				})
			})
		})
	}
}
