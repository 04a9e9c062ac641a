package link_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/flannel-ng/flannel-ng/internal/driver/drivertest"
	"github.com/flannel-ng/flannel-ng/internal/driver/kernel"
	"github.com/flannel-ng/flannel-ng/internal/driver/link"
	"github.com/flannel-ng/flannel-ng/internal/reconcile"
	"github.com/flannel-ng/flannel-ng/internal/state"
)

func TestConformance(t *testing.T) {
	drivertest.Conformance(t, drivertest.Subject{
		New:   func(f drivertest.Fabric) reconcile.Driver { return link.New(f.Owner) },
		Peers: 1,
		Steal: []string{
			"ip link del flannel.1",
			"ip link del flannel-v6.1",
			"ip link set flannel.1 down",
			"ip link set flannel.1 mtu 1300",
			"ip link set flannel-v6.1 address 02:00:00:00:00:07",
			"ip link set flannel.1 type vxlan learning",
			"ip link set flannel.1 type vxlan local 198.51.100.9",
			"ip link set flannel.1 type vxlan ttl 3",
			"ip link set flannel-v6.1 name flannel-x",
			"ip link set flannel.1 alias overlay",
			"ip link add flannel-port type bridge\nip link set flannel.1 master flannel-port",
			"ip link set flannel.1 arp off",
		},
		Prepare: `
			ip link add flannel.8 type vxlan id 8 dstport 8472 local 198.51.100.1
			ip link add flannel-br type bridge
		`,
		Litter: []string{
			"ip link set flannel.8 alias flannel-ng",
			"ip link set flannel-br alias flannel-ng",
		},
		Bad: func(f drivertest.Fabric, s *state.Set) {
			l := s.Links[0]
			l.Name, l.VXLAN.VNI, l.VXLAN.Parent = "flannel.9", 9, "missing0"
			s.Links = append(s.Links, l)
		},
	})
}

func TestLikeFlannel(t *testing.T) {
	drivertest.Namespace(t)
	f := drivertest.FabricOf(1)
	drivertest.Ground(t, f)
	for name, wants := range map[string][]string{
		"flannel.1": {
			"UP,LOWER_UP", "mtu 1400", "link/ether 0e:01:04:00:00:00", "alias flannel-ng",
			"vxlan id 1 local 198.51.100.1 dev eth0 srcport 0 0 dstport 8472 nolearning ttl auto ageing 300 udpcsum " +
				"noudp6zerocsumtx noudp6zerocsumrx addrgenmode eui64",
		},
		"flannel-v6.1": {
			"vxlan id 1 local 2001:db8::1 dev eth0 srcport 0 0 dstport 8472 nolearning ttl auto ageing 300 udpcsum " +
				"noudp6zerocsumtx noudp6zerocsumrx addrgenmode eui64",
		},
	} {
		out := drivertest.Output(t, "ip -d link show "+name)
		for _, want := range wants {
			if !strings.Contains(out, want) {
				t.Errorf("%s: no %q in\n%s", name, want, out)
			}
		}
	}
}

// What a change of the device costs what stands on it.
func TestInPlaceOrAnew(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*state.Link)
		kept   bool
	}{
		"mtu":    {func(l *state.Link) { l.MTU = 1350 }, true},
		"mac":    {func(l *state.Link) { l.MAC[5]++ }, true},
		"source": {func(l *state.Link) { l.VXLAN.Source = l.VXLAN.Source.Next() }, true},
		"parent": {func(l *state.Link) { l.VXLAN.Parent = "foreign0" }, true},
		"learns": {func(l *state.Link) { l.VXLAN.Learning = true }, true},
		"no tx":  {func(l *state.Link) { l.TxChecksum = state.OffloadOff }, true},
		"gbp":    {func(l *state.Link) { l.VXLAN.GBP = true }, false},
		"vni":    {func(l *state.Link) { l.VXLAN.VNI = 12 }, false},
		"port":   {func(l *state.Link) { l.VXLAN.Port = 4789 }, false},
		"family": {func(l *state.Link) { l.VXLAN.Source = drivertest.Public(6, 0); l.VXLAN.VNI = 13 }, false},
	} {
		t.Run(name, func(t *testing.T) {
			drivertest.Namespace(t)
			f := drivertest.FabricOf(1)
			drivertest.Ground(t, f)
			drivertest.Run(t, "bridge fdb replace 02:00:00:00:00:07 dev flannel.1 dst 198.51.100.7 self permanent")
			want := f.Local()
			c.change(&want.Links[0])
			d := link.New(f.Owner)
			drivertest.MustApply(t, d, want)
			drivertest.MustBeDone(t, d, want)
			kept := strings.Contains(drivertest.Output(t, "bridge fdb show dev flannel.1"), "02:00:00:00:00:07")
			if kept != c.kept {
				t.Errorf("forwarding entries kept: %v", kept)
			}
		})
	}
}

// A running plain flannel hands over: nothing on its device is lost.
func TestAdoptsPlainFlannel(t *testing.T) {
	drivertest.Namespace(t)
	f := drivertest.FabricOf(1)
	drivertest.Run(t, `
		ip link add flannel.1 address 0e:01:04:00:00:00 type vxlan id 1 local 198.51.100.1 dev eth0 dstport 8472 nolearning udpcsum
		ip link set flannel.1 up
		bridge fdb add 02:00:00:00:00:07 dev flannel.1 dst 198.51.100.7 self permanent
		ip neigh add 10.5.7.0 lladdr 02:00:00:00:00:07 dev flannel.1 nud permanent
	`)
	before := drivertest.Output(t, "ip -br link show flannel.1")
	drivertest.Ground(t, f)
	if after := drivertest.Output(t, "ip -br link show flannel.1"); after != before {
		t.Errorf("was %s now %s", before, after)
	}
	if !strings.Contains(drivertest.Output(t, "bridge fdb show dev flannel.1"), "02:00:00:00:00:07") {
		t.Error("lost a forwarding entry")
	}
	if !strings.Contains(drivertest.Output(t, "ip neigh show dev flannel.1"), "02:00:00:00:00:07") {
		t.Error("lost a neighbour: packets to that peer wait until it is back")
	}
}

func TestForeignDeviceIsRefused(t *testing.T) {
	for name, script := range map[string]string{
		"another instance": "ip link add flannel.1 type vxlan id 3 dstport 8472\nip link set flannel.1 alias flannel-ng-123456",
		"another's alias":  "ip link add flannel.1 type vxlan id 3 dstport 8472\nip link set flannel.1 alias mine",
		"another type":     "ip link add flannel.1 type bridge",
		"the same VNI":     "ip link add other1 type vxlan id 1 local 198.51.100.3 dev eth0 dstport 8472",
	} {
		t.Run(name, func(t *testing.T) {
			drivertest.Namespace(t)
			drivertest.Run(t, script)
			before := drivertest.Output(t, "ip -d link show")
			f := drivertest.FabricOf(1)
			want := f.Local()
			want.Links = want.Links[:1]
			failed := drivertest.Apply(t, link.New(f.Owner), want)
			if len(failed) != 1 || !errors.Is(failed[0].Err, kernel.ErrForeign) {
				t.Errorf("want a refusal, got %v", failed)
			}
			if after := drivertest.Output(t, "ip -d link show"); after != before {
				t.Errorf("touched:\n%s\n%s", before, after)
			}
		})
	}
}
