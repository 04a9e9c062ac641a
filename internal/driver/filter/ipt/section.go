package ipt

import (
	"fmt"
	"slices"
	"strings"

	"github.com/flannel-ng/flannel-ng/internal/driver/filter"
	"github.com/flannel-ng/flannel-ng/internal/state"
)

// section is our part of one table: a chain of ours and the jump to it.
type section struct {
	table, base, chain string
	comment            string
	rules              func(state.Filter) []state.Rule
	// places: the jump must stand before rules that stop every packet. In nat
	// it stays where it was appended: a rule before it that translates has
	// decided about its packets, and is meant to.
	places bool
}

func sections(suffix string) []section {
	return []section{
		{
			table: "nat", base: "POSTROUTING", chain: "FLANNEL-POSTRTG" + suffix,
			comment: filter.MasqueradeComment, rules: func(f state.Filter) []state.Rule { return f.Postrouting },
		},
		{
			table: "filter", base: "FORWARD", chain: "FLANNEL-FWD" + suffix, places: true,
			comment: filter.ForwardComment, rules: func(f state.Filter) []state.Rule { return f.Forward },
		},
	}
}

// edit is what a section needs to become as wanted.
type edit struct {
	section
	found int      // objects of ours
	drift []string // differences in words
	lines []string // for iptables-restore; nil: nothing to do
}

func (s section) edit(have table, want []state.Rule) edit {
	e := edit{section: s}
	content, exists := have[s.chain]
	if exists {
		e.found += 1 + len(content)
	}
	jumps := s.jumps(have[s.base])
	e.found += len(jumps)
	if len(want) == 0 {
		e.remove(have, jumps)
		return e
	}
	if what := s.compareChain(content, exists, want); what != "" {
		e.drift = append(e.drift, what)
		// Naming the chain makes it, or empties it.
		e.lines = append(e.lines, ":"+s.chain+" - [0:0]")
		for _, r := range want {
			e.lines = append(e.lines, "-A "+s.chain+" "+render(r, s.comment))
		}
	}
	if what := s.compareJumps(have[s.base], jumps); what != "" {
		e.drift = append(e.drift, what)
		e.deleteJumps(jumps)
		e.lines = append(e.lines, s.addJump(have[s.base]))
	}
	return e
}

// remove takes the jumps and the chain away. A chain that somebody else jumps
// to cannot go; it is emptied, which is as good.
func (e *edit) remove(have table, jumps []savedRule) {
	content, exists := have[e.chain]
	used := e.usedElsewhere(have)
	if len(jumps) == 0 && (!exists || used && len(content) == 0) {
		return
	}
	e.drift = append(e.drift, fmt.Sprintf("chain %s is not wanted", e.chain))
	e.deleteJumps(jumps)
	if exists {
		e.lines = append(e.lines, "-F "+e.chain)
	}
	if exists && !used {
		e.lines = append(e.lines, "-X "+e.chain)
	}
}

func (e *edit) deleteJumps(jumps []savedRule) {
	for _, j := range jumps {
		e.lines = append(e.lines, "-D "+e.base+" "+j.text)
	}
}

func (s section) isJump(r savedRule) bool {
	return slices.Contains(r.words, s.chain) && read(r.words).target == s.chain
}

func (s section) jumps(base []savedRule) []savedRule {
	var out []savedRule
	for _, r := range base {
		if s.isJump(r) {
			out = append(out, r)
		}
	}
	return out
}

func (s section) usedElsewhere(have table) bool {
	for name, rules := range have {
		if name != s.base && slices.ContainsFunc(rules, func(r savedRule) bool { return slices.Contains(r.words, s.chain) }) {
			return true
		}
	}
	return false
}

func (s section) compareChain(have []savedRule, exists bool, want []state.Rule) string {
	if !exists {
		return "chain " + s.chain + " is missing"
	}
	if len(have) != len(want) {
		return fmt.Sprintf("chain %s has %d rules instead of %d", s.chain, len(have), len(want))
	}
	for i, w := range want {
		m := read(have[i].words)
		if r, ok := m.decode(); !ok || r != w || m.comment != s.comment {
			return fmt.Sprintf("chain %s: rule %d is another", s.chain, i+1)
		}
	}
	return ""
}

func (s section) compareJumps(base, jumps []savedRule) string {
	if len(jumps) != 1 {
		return fmt.Sprintf("chain %s has %d jumps to %s instead of one", s.base, len(jumps), s.chain)
	}
	m := read(jumps[0].words)
	if m.conditional || m.other || m.comment != s.comment || len(m.options) > 0 {
		return fmt.Sprintf("chain %s: the jump to %s is another", s.base, s.chain)
	}
	if s.places && !filter.Reached(s.lines(base)) {
		return fmt.Sprintf("chain %s: the jump to %s is not reached", s.base, s.chain)
	}
	return ""
}

func (s section) lines(base []savedRule) []filter.Line {
	out := make([]filter.Line, len(base))
	for i, r := range base {
		out[i] = filter.Line{Ours: s.isJump(r), Stops: read(r.words).stops()}
	}
	return out
}

// addJump appends, or inserts before what stops every packet. Positions count
// from one and after our old jumps are gone.
func (s section) addJump(base []savedRule) string {
	jump := renderComment(s.comment) + " -j " + s.chain
	lines := s.lines(base)
	foreign := len(base) - len(s.jumps(base))
	if at := filter.Place(lines); s.places && at < foreign {
		return fmt.Sprintf("-I %s %d %s", s.base, at+1, jump)
	}
	return "-A " + s.base + " " + jump
}

// script joins edits into one input for iptables-restore; "" if there are none.
func script(edits []edit) string {
	var b strings.Builder
	for _, e := range edits {
		if len(e.lines) > 0 {
			b.WriteString("*" + e.table + "\n" + strings.Join(e.lines, "\n") + "\nCOMMIT\n")
		}
	}
	return b.String()
}
