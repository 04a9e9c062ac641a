package filter

import (
	"net/netip"
	"testing"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/nl"
	"github.com/flannel-ng/flannel-ng/internal/state"
)

func TestStale(t *testing.T) {
	network := state.Match{Prefix: netip.MustParsePrefix("10.5.0.0/16")}
	f := state.Filter{Family: addr.IPv4, Postrouting: []state.Rule{
		{Mark: 0x4000, Verdict: state.Return},
		{Src: network, Dst: network, Verdict: state.Return},
		{Src: network, Verdict: state.MasqueradeRandom},
	}}
	local := map[netip.Addr]bool{netip.MustParseAddr("198.51.100.1"): true}
	for _, c := range []struct {
		name, src, dst, replyTo string
		want                    bool
	}{
		{"not masqueraded", "10.5.14.5", "192.0.2.1", "10.5.14.5", true},
		{"masqueraded", "10.5.14.5", "192.0.2.1", "198.51.100.1", false},
		{"between containers", "10.5.14.5", "10.5.9.5", "10.5.14.5", false},
		{"to this host", "10.5.14.5", "198.51.100.1", "10.5.14.5", false},
		{"others' affair", "192.0.2.2", "192.0.2.1", "192.0.2.2", false},
	} {
		flow := nl.Flow{
			Src: netip.MustParseAddr(c.src), Dst: netip.MustParseAddr(c.dst), ReplyTo: netip.MustParseAddr(c.replyTo),
		}
		if got := stale(f, flow, local); got != c.want {
			t.Errorf("%s: stale %v, want %v", c.name, got, c.want)
		}
	}
}
