package nft

import (
	"encoding/binary"
	"fmt"

	"github.com/google/nftables"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/driver/filter"
	"github.com/flannel-ng/flannel-ng/internal/state"
)

// difference says, in words, what is not as wanted: in our own table, and
// among our rules in chains of others.
type difference struct{ table, host []string }

func (n names) compare(f addr.Family, want state.Filter, have ruleset) difference {
	return difference{table: n.compareTable(f, want, have), host: n.compareHost(f, want, have)}
}

// finding counts what is ours, so that the first installation is told from a
// repair.
func (d difference) finding(f addr.Family, have ruleset) filter.Finding {
	out := filter.Finding{
		Mode: state.ModeNFTables, Family: f, Found: len(have.chains),
		Drift: append(append([]string{}, d.table...), d.host...),
	}
	if have.table != nil {
		out.Found++
	}
	return out
}

func (n names) compareTable(f addr.Family, want state.Filter, have ruleset) []string {
	name := "table " + n.table(f).Name
	switch {
	case filter.Empty(want) && have.table == nil:
		return nil
	case filter.Empty(want):
		return []string{name + " is not wanted"}
	case have.table == nil:
		return []string{name + " is missing"}
	}
	var out []string
	if have.table.Flags != 0 {
		out = append(out, fmt.Sprintf("%s has flags %#x", name, have.table.Flags))
	}
	if foreign := objects(have.table) - len(have.chains); foreign != 0 {
		out = append(out, fmt.Sprintf("%s has %d foreign objects", name, foreign))
	}
	found := map[string]chain{}
	for _, c := range have.chains {
		found[c.Name] = c
	}
	for _, w := range n.chains(f, want) {
		out = append(out, compareChain(f, w, found[w.chain.Name])...)
		delete(found, w.chain.Name)
	}
	for other := range found {
		out = append(out, "chain "+other+" is not wanted")
	}
	return out
}

// objects counts the chains, sets and other objects of a table. The library
// takes the kernel's big-endian number for one in host order.
func objects(t *nftables.Table) int {
	return int(binary.BigEndian.Uint32(binary.NativeEndian.AppendUint32(nil, t.Use)))
}

func compareChain(f addr.Family, want wantedChain, have chain) []string {
	name := "chain " + want.chain.Name
	if have.Chain == nil {
		return []string{name + " is missing"}
	}
	var out []string
	if !sameHook(want.chain, have.Chain) {
		out = append(out, name+" has another type, hook, priority or policy")
	}
	if len(have.rules) != len(want.rules) {
		return append(out, fmt.Sprintf("%s has %d rules instead of %d", name, len(have.rules), len(want.rules)))
	}
	for i, w := range want.rules {
		if h, ok := decode(f, have.rules[i].Exprs); !ok || h != w {
			out = append(out, fmt.Sprintf("%s: rule %d is another", name, i+1))
		}
	}
	return out
}

func sameHook(a, b *nftables.Chain) bool {
	return a.Type == b.Type && equal(a.Hooknum, b.Hooknum) &&
		equal(a.Priority, b.Priority) && equal(a.Policy, b.Policy)
}

func equal[T comparable](a, b *T) bool { return a != nil && b != nil && *a == *b }

func (n names) replaceTable(conn *nftables.Conn, f addr.Family, want state.Filter, have ruleset) {
	replaceTable(conn, n.table(f), n.chains(f, want), have.table != nil)
}
