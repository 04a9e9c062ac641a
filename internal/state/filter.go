package state

import (
	"fmt"
	"net/netip"

	"github.com/flannel-ng/flannel-ng/internal/addr"
)

// FilterMode is the tool that a Filter is installed with.
type FilterMode string

// The two modes (network config key EnableNFTables).
const (
	ModeIPTables FilterMode = "iptables"
	ModeNFTables FilterMode = "nftables"
)

// Filter is the traffic policy of one family: a NAT chain hooked after
// routing and a filter chain hooked in forwarding. It says what is meant;
// drivers for iptables and nftables say it in their own words.
type Filter struct {
	Mode        FilterMode
	Family      addr.Family
	Postrouting []Rule // empty: no masquerading wanted
	Forward     []Rule // empty: no forward accepts wanted
}

// Rule matches a packet and decides. The first match wins; a packet that
// matches none goes on as if the chain were not there.
type Rule struct {
	Mark    uint32 // packet mark: match if mark&Mark == Mark; 0 = any
	Src     Match
	Dst     Match
	Verdict Verdict
}

// Matches says whether a packet with this mark and these addresses satisfies r.
func (r Rule) Matches(mark uint32, src, dst netip.Addr) bool {
	return mark&r.Mark == r.Mark && r.Src.Holds(src) && r.Dst.Holds(dst)
}

// Match is a condition on an address. Its zero value matches everything.
type Match struct {
	Prefix netip.Prefix
	Not    bool
}

// Holds says whether a satisfies m.
func (m Match) Holds(a netip.Addr) bool {
	return !m.Prefix.IsValid() || m.Prefix.Contains(a) != m.Not
}

// Verdict is what happens to a matched packet.
type Verdict string

// The verdicts.
const (
	Return           Verdict = "return"            // leave our chain
	Accept           Verdict = "accept"            // forward
	Masquerade       Verdict = "masquerade"        // source becomes the outgoing link's address
	MasqueradeRandom Verdict = "masquerade-random" // the same with fully random ports
)

// Key implements Object.
func (f Filter) Key() Key {
	return Key{Kind: KindFilter, Name: string(f.Mode) + "/" + f.Family.String()}
}

func (f Filter) String() string {
	return fmt.Sprintf("filter %s %s: %d masquerade rules, %d forward rules",
		f.Mode, f.Family, len(f.Postrouting), len(f.Forward))
}
