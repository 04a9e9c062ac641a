package filter

import (
	"fmt"
	"log/slog"
	"net"
	"net/netip"

	"github.com/flannel-ng/flannel-ng/internal/nl"
	"github.com/flannel-ng/flannel-ng/internal/state"
)

// DropStale makes connections decide again that started while masquerading
// was not in place: the kernel chooses a translation with the first packet and
// keeps it, so they would go on with a source that nobody can answer.
//
// A failure is logged and not returned: the rules are right, and such
// connections end by themselves.
func DropStale(f state.Filter, log *slog.Logger) {
	if len(f.Postrouting) == 0 {
		return
	}
	local, err := localAddrs()
	if err != nil {
		log.Warn("connections kept", "family", f.Family, "err", err)
		return
	}
	dropped, err := nl.DropFlows(f.Family, func(flow nl.Flow) bool { return stale(f, flow, local) })
	if err != nil {
		log.Warn("connections kept", "family", f.Family, "err", err)
	}
	if dropped > 0 {
		log.Info("connections without masquerading dropped", "family", f.Family, "count", dropped)
	}
}

// stale says whether flow keeps its source although f masquerades it. Packets
// to this host itself never pass POSTROUTING. Packets of which others changed
// the mark are judged as unmarked; at worst they are looked up anew.
func stale(f state.Filter, flow nl.Flow, local map[netip.Addr]bool) bool {
	if flow.Translated() || local[flow.Dst] {
		return false
	}
	for _, r := range f.Postrouting {
		if r.Matches(0, flow.Src, flow.Dst) {
			return r.Verdict == state.Masquerade || r.Verdict == state.MasqueradeRandom
		}
	}
	return false
}

func localAddrs() (map[netip.Addr]bool, error) {
	all, err := net.InterfaceAddrs()
	if err != nil {
		return nil, fmt.Errorf("local addresses: %w", err)
	}
	out := map[netip.Addr]bool{}
	for _, a := range all {
		p, err := netip.ParsePrefix(a.String())
		if err != nil {
			return nil, fmt.Errorf("local address %s: %w", a, err)
		}
		out[p.Addr().Unmap()] = true
	}
	return out, nil
}
