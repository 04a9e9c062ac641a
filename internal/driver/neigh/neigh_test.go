package neigh_test

import (
	"testing"

	"github.com/flannel-ng/flannel-ng/internal/driver/drivertest"
	"github.com/flannel-ng/flannel-ng/internal/driver/neigh"
	"github.com/flannel-ng/flannel-ng/internal/reconcile"
	"github.com/flannel-ng/flannel-ng/internal/state"
)

func TestConformance(t *testing.T) {
	drivertest.Conformance(t, drivertest.Subject{
		New:   func(f drivertest.Fabric) reconcile.Driver { return neigh.New(f.Owner) },
		Peers: 999,
		Steal: []string{
			"ip neigh del 10.16.0.16 dev flannel.1",
			"ip -6 neigh del fd00:1:0:1:: dev flannel-v6.1",
			"ip neigh replace 10.16.0.16 lladdr 02:00:00:00:00:01 dev flannel.1 nud permanent",
			"ip neigh change 10.16.0.16 dev flannel.1 nud stale",
			"ip neigh flush dev flannel.1 nud permanent",
			"ip link set flannel.1 down",
		},
		Litter: []string{
			"ip neigh add 10.16.7.0 lladdr 02:00:00:00:00:02 dev flannel.1 nud permanent",
			"ip -6 neigh add fd00:1:0:7:: lladdr 02:00:00:00:00:02 dev flannel-v6.1 nud permanent",
		},
		Bad: func(f drivertest.Fabric, s *state.Set) {
			n := s.Neighbours[0]
			n.Link = "missing0"
			s.Neighbours = append(s.Neighbours, n)
		},
	})
}

// The kernel's own neighbours are not ours, whatever their state.
func TestLearnedStay(t *testing.T) {
	drivertest.Namespace(t)
	f := drivertest.FabricOf(1)
	drivertest.Ground(t, f)
	drivertest.Run(t, "ip neigh add 10.16.9.9 lladdr 02:00:00:00:00:03 dev flannel.1 nud stale")
	drivertest.MustBeDone(t, neigh.New(f.Owner), f.Local())
}
