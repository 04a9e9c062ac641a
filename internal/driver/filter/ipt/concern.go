package ipt

import (
	"slices"

	"github.com/flannel-ng/flannel-ng/internal/state"
)

// Concerns says whether a change in a chain, made by iptables-nft or nft, may be
// one of the owner's rules, or of the rules beside its jumps. Chain "" is the
// table itself.
func Concerns(owner state.Owner, table, chain string) bool {
	return slices.ContainsFunc(sections(owner.Suffix()), func(s section) bool {
		return table == s.table && (chain == "" || chain == s.base || chain == s.chain)
	})
}
