package nft

import (
	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/state"
)

// Concerns says whether a change in a chain may be one of the owner's rules, or
// of where they belong. Chain "" is the table itself.
func Concerns(owner state.Owner, f addr.Family, table, chain string) bool {
	switch table {
	case names{suffix: owner.Suffix()}.table(f).Name:
		return true
	case hostTable:
		return chain == "" || chain == hostForward || chain == hostDocker
	default:
		return false
	}
}
