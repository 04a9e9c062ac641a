package link_test

import (
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/flannel-ng/flannel-ng/internal/driver/drivertest"
	"github.com/flannel-ng/flannel-ng/internal/driver/link"
	"github.com/flannel-ng/flannel-ng/internal/reconcile"
	"github.com/flannel-ng/flannel-ng/internal/state"
)

// Modes that plain flannel's device has too are taken over in place if they are
// the wanted ones; the group policy extension alone is fixed at creation.
func TestAdoptsModes(t *testing.T) {
	for name, c := range map[string]struct {
		found  string
		wanted func(*state.VXLAN)
		kept   bool
	}{
		"gbp as wanted":      {"nolearning gbp", func(v *state.VXLAN) { v.GBP = true }, true},
		"gbp, none wanted":   {"nolearning gbp", func(*state.VXLAN) {}, false},
		"no gbp, but wanted": {"nolearning", func(v *state.VXLAN) { v.GBP = true }, false},
		"learning as wanted": {"learning", func(v *state.VXLAN) { v.Learning = true }, true},
		"learning, unwanted": {"learning", func(*state.VXLAN) {}, true},
		"no learning":        {"nolearning", func(v *state.VXLAN) { v.Learning = true }, true},
		"both as wanted":     {"learning gbp", func(v *state.VXLAN) { v.GBP, v.Learning = true, true }, true},
	} {
		t.Run(name, func(t *testing.T) {
			drivertest.Namespace(t)
			f := drivertest.FabricOf(1)
			drivertest.Run(t, "ip link add flannel.1 address 0e:01:04:00:00:00 mtu 1400 type vxlan id 1 local 198.51.100.1 dev eth0 dstport 8472 udpcsum "+c.found)
			drivertest.Run(t, "ip link set flannel.1 up")
			before := index(t, "flannel.1")
			want := f.Local()
			c.wanted(&want.Links[0].VXLAN)
			d := link.New(f.Owner)
			drivertest.MustApply(t, d, want)
			drivertest.MustBeDone(t, d, want)
			if kept := index(t, "flannel.1") == before; kept != c.kept {
				t.Errorf("device kept: %v", kept)
			}
			shown := strings.Fields(drivertest.Output(t, "ip -d link show flannel.1"))
			v := want.Links[0].VXLAN
			for word, wanted := range map[string]bool{"gbp": v.GBP, "nolearning": !v.Learning} {
				if slices.Contains(shown, word) != wanted {
					t.Errorf("%s shown: %v in %v", word, !wanted, shown)
				}
			}
		})
	}
}

func TestModesComeBack(t *testing.T) {
	drivertest.Namespace(t)
	f := drivertest.FabricOf(1)
	d, want := link.New(f.Owner), f.Local()
	want.Links[0].VXLAN.Learning, want.Links[0].VXLAN.GBP = true, true
	drivertest.MustApply(t, d, want)
	for command, was := range map[string]string{
		"ip link set flannel.1 type vxlan nolearning": "nolearning",
		"ip link set flannel.1 type vxlan ttl 3":      "ttl 3",
	} {
		drivertest.Run(t, command)
		if changes := drivertest.MustPlan(t, d, want); len(changes) != 1 || changes[0].Was != was {
			t.Errorf("%s: planned %v", command, changes)
		}
		drivertest.MustApply(t, d, want)
		drivertest.MustBeDone(t, d, want)
	}
}

// The feature and what depends on it go off, come back after somebody meddled,
// and stay off through every change in place.
func TestChecksumOffload(t *testing.T) {
	drivertest.Namespace(t)
	needEthtool(t)
	f := drivertest.FabricOf(1)
	d, want := link.New(f.Owner), f.Local()
	drivertest.MustApply(t, d, want)
	features(t, "on")
	drivertest.Run(t, "ethtool -K flannel.1 tx-checksum-ip-generic off")
	drivertest.MustBeDone(t, d, want) // done by hand, as flannel's documentation says: not fought
	features(t, "off")

	want.Links[0].TxChecksum = state.OffloadOn
	become(t, d, want, "tx-checksumming off")
	features(t, "on")
	want.Links[0].TxChecksum = state.OffloadOff
	become(t, d, want, "tx-checksumming on")
	features(t, "off")

	drivertest.Run(t, "ethtool -K flannel.1 tx-checksum-ip-generic on")
	become(t, d, want, "tx-checksumming on")
	drivertest.Run(t, "ip link set flannel.1 down")
	become(t, d, want, "down")
	want.Links[0].MTU = 1300
	become(t, d, want, "mtu 1400")
	want.Links[0].VXLAN.Source = want.Links[0].VXLAN.Source.Next()
	become(t, d, want, "local 198.51.100.1")
	features(t, "off")
	want.Links[0].VXLAN.Port = 4789
	become(t, d, want, "dstport 8472 (made anew)")
	features(t, "off")
	drivertest.Run(t, "ip link del flannel.1")
	drivertest.MustApply(t, d, want)
	drivertest.MustBeDone(t, d, want)
	features(t, "off")
}

func needEthtool(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath("ethtool"); err != nil {
		t.Skipf("needs ethtool: %v", err)
	}
}

// become applies want, for which exactly one difference must be found.
func become(t *testing.T, d reconcile.Driver, want *state.Set, was string) {
	t.Helper()
	if changes := drivertest.MustPlan(t, d, want); len(changes) != 1 || changes[0].Was != was {
		t.Errorf("want a change from %q, planned %v", was, changes)
	}
	drivertest.MustApply(t, d, want)
	drivertest.MustBeDone(t, d, want)
}

// features looks at flannel.1 with ethtool.
func features(t *testing.T, want string) {
	t.Helper()
	out := drivertest.Output(t, "ethtool -k flannel.1")
	for _, feature := range []string{"tx-checksum-ip-generic: ", "tx-tcp-segmentation: "} {
		if !strings.Contains(out, "\t"+feature+want) {
			t.Errorf("not %s%s in\n%s", feature, want, out)
		}
	}
}

// A change in place costs no packet: what stands on the link is not forgotten.
func TestNeighboursOutliveChanges(t *testing.T) {
	drivertest.Namespace(t)
	f := drivertest.FabricOf(1)
	d, want := link.New(f.Owner), f.Local()
	drivertest.MustApply(t, d, want)
	drivertest.Run(t, "ip neigh add 10.5.7.0 lladdr 02:00:00:00:00:07 dev flannel.1 nud permanent")
	drivertest.MustApply(t, d, want)
	want.Links[0].MTU = 1300
	drivertest.MustApply(t, d, want)
	drivertest.MustBeDone(t, d, want)
	if out := drivertest.Output(t, "ip neigh show dev flannel.1 nud permanent"); !strings.Contains(out, "10.5.7.0") {
		t.Errorf("the neighbour is gone: %q", out)
	}
}
