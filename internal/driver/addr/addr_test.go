package addr_test

import (
	"strings"
	"testing"

	"github.com/flannel-ng/flannel-ng/internal/driver/addr"
	"github.com/flannel-ng/flannel-ng/internal/driver/drivertest"
	"github.com/flannel-ng/flannel-ng/internal/reconcile"
	"github.com/flannel-ng/flannel-ng/internal/state"
)

func TestConformance(t *testing.T) {
	drivertest.Conformance(t, drivertest.Subject{
		New:   func(f drivertest.Fabric) reconcile.Driver { return addr.New(f.Owner) },
		Peers: 3,
		Steal: []string{
			"ip addr del 10.16.0.0/32 dev flannel.1",
			"ip -6 addr del fd00:1::/128 dev flannel-v6.1",
			"ip addr flush dev flannel.1",
			"ip addr change 10.16.0.0/32 dev flannel.1 valid_lft 1000 preferred_lft 1000",
			"ip -6 addr change fd00:1::/128 dev flannel-v6.1 valid_lft 1000 preferred_lft 1000",
		},
		Litter: []string{
			"ip addr add 169.254.3.3/16 dev flannel.1",
			"ip addr add 10.16.0.5/32 dev flannel.1",
			"ip -6 addr add fd00:1::5/128 dev flannel-v6.1",
			"ip addr add 192.0.2.77/24 dev flannel-v6.1",
		},
		Bad: func(_ drivertest.Fabric, s *state.Set) {
			s.Addresses = append(s.Addresses, state.Address{Link: "missing0", Prefix: s.Addresses[0].Prefix})
		},
	})
}

// The kernel makes the link-local address itself; without it NDP dies.
func TestLinkLocalStays(t *testing.T) {
	drivertest.Namespace(t)
	f := drivertest.FabricOf(1)
	drivertest.Ground(t, f)
	drivertest.Run(t, "ip -6 addr add fe80::5/64 dev flannel.1 nodad")
	drivertest.MustApply(t, addr.New(f.Owner), f.Local())
	for _, link := range []string{"flannel.1", "flannel-v6.1"} {
		if out := drivertest.Output(t, "ip -6 addr show dev "+link+" scope link"); !strings.Contains(out, "fe80::") {
			t.Errorf("link-local address of %s is gone:\n%s", link, out)
		}
	}
}

func TestLikeFlannel(t *testing.T) {
	drivertest.Namespace(t)
	f := drivertest.FabricOf(1)
	drivertest.Ground(t, f)
	drivertest.MustApply(t, addr.New(f.Owner), f.Local())
	out := drivertest.Output(t, "ip addr show scope global dev flannel.1") +
		drivertest.Output(t, "ip addr show scope global dev flannel-v6.1")
	for _, want := range []string{"inet 10.16.0.0/32 scope global flannel.1", "inet6 fd00:1::/128 scope global nodad"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
}
