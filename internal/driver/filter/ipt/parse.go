package ipt

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// The ways in which the output of iptables-save cannot be trusted.
var (
	errSyntax    = errors.New("unexpected line")
	errTruncated = errors.New("table without COMMIT")
	errForeign   = errors.New("table holds nftables rules that iptables cannot show")
)

// tables is the content of iptables-save by table name.
type tables map[string]table

// table is one table's rules by chain. A chain without rules has an entry too.
type table map[string][]savedRule

// savedRule is one rule: its text behind "-A CHAIN ", and the words of it.
type savedRule struct {
	text  string
	words []string
}

// parse reads the output of iptables-save. An incomplete output is an error:
// what is absent from it might be there.
func parse(text string) (tables, error) {
	out := tables{}
	name := ""
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\n")
		switch {
		case strings.HasPrefix(line, "# Table `"):
			return nil, fmt.Errorf("%w: %s", errForeign, line)
		case line == "" || line[0] == '#':
		case line[0] == '*' && name == "":
			name = line[1:]
			out[name] = table{}
		case line == "COMMIT" && name != "":
			name = ""
		case name != "":
			if err := out[name].add(line); err != nil {
				return nil, err
			}
		default:
			return nil, fmt.Errorf("%w: %q", errSyntax, line)
		}
	}
	if name != "" {
		return nil, fmt.Errorf("table %s: %w", name, errTruncated)
	}
	return out, nil
}

// add reads a chain (":NAME POLICY [packets:bytes]") or a rule ("-A NAME …").
func (t table) add(line string) error {
	if chain, ok := strings.CutPrefix(line, ":"); ok {
		name, _, ok := strings.Cut(chain, " ")
		if !ok || name == "" {
			return fmt.Errorf("%w: %q", errSyntax, line)
		}
		t[name] = slices.Clip(t[name])
		return nil
	}
	rule, ok := strings.CutPrefix(line, "-A ")
	if !ok {
		return fmt.Errorf("%w: %q", errSyntax, line)
	}
	name, spec, _ := strings.Cut(rule, " ")
	words, err := split(spec)
	if err != nil {
		return fmt.Errorf("%w: %q", err, line)
	}
	t[name] = append(t[name], savedRule{text: spec, words: words})
	return nil
}

// split cuts a rule into words. iptables-save quotes with double quotes and
// escapes inside them with a backslash.
func split(s string) ([]string, error) {
	var out []string
	var word strings.Builder
	started, quoted := false, false
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case c == '"':
			quoted, started = !quoted, true
		case c == '\\' && quoted && i+1 < len(s):
			i++
			word.WriteByte(s[i])
		case c == ' ' && !quoted:
			if started {
				out = append(out, word.String())
			}
			word.Reset()
			started = false
		default:
			word.WriteByte(c)
			started = true
		}
	}
	if quoted {
		return nil, errSyntax
	}
	if started {
		out = append(out, word.String())
	}
	return out, nil
}
