package fdb_test

import (
	"testing"

	"github.com/flannel-ng/flannel-ng/internal/driver/drivertest"
	"github.com/flannel-ng/flannel-ng/internal/driver/fdb"
	"github.com/flannel-ng/flannel-ng/internal/reconcile"
	"github.com/flannel-ng/flannel-ng/internal/state"
)

func TestConformance(t *testing.T) {
	drivertest.Conformance(t, drivertest.Subject{
		New:   func(f drivertest.Fabric) reconcile.Driver { return fdb.New(f.Owner) },
		Peers: 999,
		Steal: []string{
			"bridge fdb del 0e:01:04:00:00:01 dev flannel.1",
			"bridge fdb del 0e:01:06:00:00:01 dev flannel-v6.1",
			"bridge fdb replace 0e:01:04:00:00:01 dev flannel.1 dst 198.51.100.99 self permanent",
			"bridge fdb replace 0e:01:04:00:00:01 dev flannel.1 dst 198.51.100.2 port 4789 self permanent",
			"bridge fdb replace 0e:01:04:00:00:01 dev flannel.1 dst 198.51.100.2 vni 9 self permanent",
			"bridge fdb replace 0e:01:06:00:00:01 dev flannel-v6.1 dst 2001:db8::99 self permanent",
		},
		Litter: []string{
			"bridge fdb add 02:00:00:00:00:02 dev flannel.1 dst 198.51.100.66 self permanent",
			"bridge fdb add 02:00:00:00:00:02 dev flannel-v6.1 dst 2001:db8::66 self permanent",
			"bridge fdb add 00:00:00:00:00:00 dev flannel.1 dst 198.51.100.66 self permanent",
			"bridge fdb add 02:00:00:00:00:03 dev flannel.1 dst 198.51.100.66 port 4789 self permanent",
		},
		Bad: func(f drivertest.Fabric, s *state.Set) {
			e := s.FDB[0]
			e.Link = "missing0"
			s.FDB = append(s.FDB, e)
		},
	})
}

// The all-zero entry may have many destinations; all of them go at once.
func TestFloodListGoes(t *testing.T) {
	drivertest.Namespace(t)
	f := drivertest.FabricOf(1)
	drivertest.Ground(t, f)
	drivertest.Run(t, `
		bridge fdb append 00:00:00:00:00:00 dev flannel.1 dst 198.51.100.66 self permanent
		bridge fdb append 00:00:00:00:00:00 dev flannel.1 dst 198.51.100.67 self permanent
	`)
	d := fdb.New(f.Owner)
	if changes := drivertest.MustPlan(t, d, f.Local()); len(changes) != 1 {
		t.Errorf("want one removal, got %v", changes)
	}
	drivertest.MustApply(t, d, f.Local())
	if out := drivertest.Output(t, "bridge fdb show dev flannel.1"); out != "" {
		t.Errorf("still there:\n%s", out)
	}
}

func TestLikeFlannel(t *testing.T) {
	drivertest.Namespace(t)
	f := drivertest.FabricOf(1)
	drivertest.Ground(t, f)
	drivertest.MustApply(t, fdb.New(f.Owner), f.With(1))
	if out := drivertest.Output(t, "bridge fdb show dev flannel.1"); out != "0e:01:04:00:00:01 dst 198.51.100.2 self permanent\n" {
		t.Errorf("got %q", out)
	}
}
