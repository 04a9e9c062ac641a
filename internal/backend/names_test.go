package backend_test

import (
	"testing"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/backend"
	"github.com/flannel-ng/flannel-ng/internal/facts"
	"github.com/flannel-ng/flannel-ng/internal/state"
)

func TestLinkName(t *testing.T) {
	fits := func(l facts.Link) bool { return l.Port == 8472 }
	for _, tt := range []struct {
		name  string
		owner state.Owner
		links []facts.Link
		want  string
		same  bool
	}{
		{"free", state.Owner{}, nil, "flannel.1", true},
		{"ours, whatever its port", state.Owner{}, []facts.Link{{Name: "flannel.1", Alias: "flannel-ng", Port: 1}}, "flannel.1", true},
		{"plain flannel's", state.Owner{}, []facts.Link{{Name: "flannel.1", Port: 8472}}, "flannel.1", true},
		{"a stranger's with another port", state.Owner{}, []facts.Link{{Name: "flannel.1", Port: 4789}}, "flannel.1", false},
		{"another instance's", state.Owner{Instance: "abcdef"}, []facts.Link{{Name: "flannel.1", Alias: "flannel-ng", Port: 8472}}, "flannel.1", false},
		{"fits, and labelled by somebody", state.Owner{}, []facts.Link{{Name: "flannel.1", Alias: "overlay", Port: 8472}}, "flannel.1", true},
		{"too long", state.Owner{}, nil, "flannel-v6.16777215", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := backend.LinkName(tt.links, tt.owner, tt.want, fits)
			if (got == tt.want) != tt.same || len(got) > 15 {
				t.Fatalf("got %s for %s", got, tt.want)
			}
			// Once made, the name stays, even when the wanted one becomes free.
			made := []facts.Link{{Name: got, Alias: tt.owner.Alias(), Port: 8472}}
			if again := backend.LinkName(made, tt.owner, tt.want, fits); again != got {
				t.Errorf("after a restart %s, before %s", again, got)
			}
		})
	}
}

func TestDeriveMAC(t *testing.T) {
	a, b := backend.DeriveMAC("host", "flannel.1"), backend.DeriveMAC("host", "flannel-v6.1")
	if a == b || a != backend.DeriveMAC("host", "flannel.1") || a == backend.DeriveMAC("other", "flannel.1") {
		t.Errorf("MACs must depend on host and device only: %s %s", a, b)
	}
	for _, m := range []addr.MAC{a, b} {
		if !m.IsUnicast() || m[0]&2 == 0 {
			t.Errorf("%s is not a local unicast address", m)
		}
	}
}
