package probe

import (
	"net/netip"
	"testing"

	"github.com/flannel-ng/flannel-ng/internal/state"
)

// A doubt about two objects, or about one and about all, is about all; what leaves
// none does not widen one.
func TestDoubtAboutOneObject(t *testing.T) {
	one := state.Route{Dst: netip.MustParsePrefix("10.5.1.0/24")}.Key()
	other := state.Route{Dst: netip.MustParsePrefix("10.5.2.0/24")}.Key()
	for name, c := range map[string]struct {
		told []Change
		want Change
	}{
		"one":         {[]Change{about(one, true)}, Change{Doubt: true, Of: one}},
		"twice":       {[]Change{about(one, true), about(one, true)}, Change{Doubt: true, Of: one}},
		"and facts":   {[]Change{{Facts: true}, about(one, true), {Facts: true}}, Change{Facts: true, Doubt: true, Of: one}},
		"two":         {[]Change{about(one, true), about(other, true)}, Change{Doubt: true}},
		"all":         {[]Change{about(one, true), {Doubt: true}}, Change{Doubt: true}},
		"all, before": {[]Change{{Doubt: true}, about(one, true)}, Change{Doubt: true}},
		"none":        {[]Change{about(one, false)}, Change{}},
	} {
		var got Change
		for _, x := range c.told {
			got.add(x)
		}
		if got != c.want {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
	}
}
