package ipt

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/flannel-ng/flannel-ng/internal/state"
)

// render says r in the canonical form of iptables-save, which is also
// flannel's: mark or addresses, comment, target.
func render(r state.Rule, comment string) string {
	var words []string
	if r.Mark != 0 {
		words = append(words, fmt.Sprintf("-m mark --mark %#x/%#x", r.Mark, r.Mark))
	}
	words = appendMatch(words, "-s", r.Src)
	words = appendMatch(words, "-d", r.Dst)
	words = append(words, renderComment(comment), "-j", renderVerdict(r.Verdict))
	return strings.Join(words, " ")
}

func appendMatch(words []string, flag string, m state.Match) []string {
	if !m.Prefix.IsValid() {
		return words
	}
	if m.Not {
		words = append(words, "!")
	}
	return append(words, flag, m.Prefix.Masked().String())
}

func renderComment(comment string) string { return `-m comment --comment "` + comment + `"` }

func renderVerdict(v state.Verdict) string {
	switch v {
	case state.Masquerade:
		return "MASQUERADE"
	case state.MasqueradeRandom:
		return "MASQUERADE --random-fully"
	case state.Accept:
		return "ACCEPT"
	default:
		return "RETURN"
	}
}

// meaning is what a saved rule says. Comparing meanings instead of texts keeps
// rules untouched that another version prints in another order.
type meaning struct {
	rule        state.Rule
	comment     string
	target      string
	options     []string // of the target
	conditional bool     // matches only some packets
	other       bool     // has conditions that we have no words for
}

// read takes a rule's words apart. Words that it does not know make the rule
// conditional; how many values belong to them does not matter then.
func read(words []string) meaning {
	var m meaning
	not := false
	for len(words) > 0 {
		word, value := words[0], ""
		words = words[1:]
		if len(words) > 0 {
			value = words[0]
		}
		switch word {
		case "!":
			not = true
			continue
		case "-j", "-g":
			m.target, m.other = value, m.other || word == "-g"
			m.options = words[min(1, len(words)):]
			return m
		case "-m":
			known := value == "comment" || value == "mark"
			m.conditional, m.other = m.conditional || !known, m.other || !known
		case "--comment":
			m.comment = value
		default:
			m.conditional = true
			if !m.condition(word, value, not) {
				m.other = true
				not = false
				continue
			}
		}
		words = words[min(1, len(words)):]
		not = false
	}
	return m
}

// condition reads one that we use ourselves.
func (m *meaning) condition(flag, value string, not bool) bool {
	switch flag {
	case "-s":
		return setMatch(&m.rule.Src, value, not)
	case "-d":
		return setMatch(&m.rule.Dst, value, not)
	case "--mark":
		mark, mask, _ := strings.Cut(value, "/")
		n, err := strconv.ParseUint(mark, 0, 32)
		m.rule.Mark = uint32(n)
		return err == nil && mark == mask && !not
	default:
		return false
	}
}

func setMatch(m *state.Match, value string, not bool) bool {
	p, err := netip.ParsePrefix(value)
	if err != nil {
		return false
	}
	*m = state.Match{Prefix: p, Not: not}
	return true
}

// decode returns the rule if it is one that we could have written.
func (m meaning) decode() (state.Rule, bool) {
	r := m.rule
	switch m.target + " " + strings.Join(m.options, " ") {
	case "RETURN ":
		r.Verdict = state.Return
	case "ACCEPT ":
		r.Verdict = state.Accept
	case "MASQUERADE ":
		r.Verdict = state.Masquerade
	case "MASQUERADE --random-fully":
		r.Verdict = state.MasqueradeRandom
	default:
		return state.Rule{}, false
	}
	return r, !m.other
}

// stops says that no packet gets past the rule.
func (m meaning) stops() bool {
	return !m.conditional && (m.target == "DROP" || m.target == "REJECT" || m.target == "RETURN")
}
