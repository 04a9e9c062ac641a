package recorded

import (
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
)

// Table is what may differ, and why.
type Table struct {
	Reasons []Reason
	Entries []Entry
}

// Reason is why something differs.
type Reason struct {
	ID    string
	Title string
	Text  string // sentences for people
}

// Entry is one difference: the same lines in every case that it names, at both
// hosts if they are lines of a host.
type Entry struct {
	Row     int      // of the file, from 1
	Cases   []string // patterns of case names
	Section string
	Reasons []string // ids, the first is the main one
	Edits   []Edit
}

// errSyntax is returned for a table that cannot be read.
var errSyntax = errors.New(`want "reason ID | TITLE" or "in CASES | SECTION | REASONS"`)

// ParseTable reads differences.txt. Blocks end with an empty line:
//
//	reason ID | Title
//	Sentences.
//
//	in CASE PATTERN… | SECTION | ID…
//	-line only recorded
//	+line only ours
func ParseTable(text string) (Table, error) {
	var t Table
	in := lines(text)
	for i := 0; i < len(in); {
		if in[i] == "" || strings.HasPrefix(in[i], "#") {
			i++
			continue
		}
		end := i
		for end < len(in) && in[end] != "" {
			end++
		}
		if err := t.block(i+1, in[i:end]); err != nil {
			return t, fmt.Errorf("differences, line %d: %w", i+1, err)
		}
		i = end
	}
	return t, t.check()
}

func (t *Table) block(row int, in []string) error {
	head := strings.Split(in[0], " | ")
	switch {
	case strings.HasPrefix(in[0], "reason ") && len(head) == 2:
		t.Reasons = append(t.Reasons, Reason{
			ID:    strings.TrimPrefix(head[0], "reason "),
			Title: head[1], Text: strings.Join(in[1:], "\n"),
		})
		return nil
	case strings.HasPrefix(in[0], "in ") && len(head) == 3:
		e := Entry{
			Row: row, Cases: strings.Fields(head[0])[1:],
			Section: head[1], Reasons: strings.Fields(head[2]),
		}
		for _, line := range in[1:] {
			if line[0] != '-' && line[0] != '+' {
				return fmt.Errorf("line %q starts with neither - nor +", line)
			}
			e.Edits = append(e.Edits, Edit{Ours: line[0] == '+', Line: line[1:]})
		}
		t.Entries = append(t.Entries, e)
		return nil
	}
	return errSyntax
}

// check finds entries without a known reason and reasons without an entry.
func (t Table) check() error {
	used := map[string]bool{}
	for _, r := range t.Reasons {
		if _, ok := used[r.ID]; ok || r.Text == "" {
			return fmt.Errorf("reason %s: given twice, or without words", r.ID)
		}
		used[r.ID] = false
	}
	for _, e := range t.Entries {
		if err := e.check(used); err != nil {
			return fmt.Errorf("differences, line %d: %w", e.Row, err)
		}
	}
	for _, r := range t.Reasons {
		if !used[r.ID] {
			return fmt.Errorf("reason %s: no difference has it", r.ID)
		}
	}
	return nil
}

// check marks the reasons that the entry uses.
func (e Entry) check(known map[string]bool) error {
	if len(e.Reasons) == 0 || len(e.Cases) == 0 || len(e.Edits) == 0 {
		return errors.New("without case, reason or lines")
	}
	for _, id := range e.Reasons {
		if _, ok := known[id]; !ok {
			return fmt.Errorf("reason %s is not known", id)
		}
		known[id] = true
	}
	return nil
}

// Covers says whether the entry speaks of a case.
func (e Entry) Covers(name string) bool {
	return slices.ContainsFunc(e.Cases, func(pattern string) bool {
		ok, err := path.Match(pattern, name)
		return ok && err == nil
	})
}

// expected are the entries that speak of a place of a case.
func (t Table) expected(name, place string) []Entry {
	var out []Entry
	for _, e := range t.Entries {
		wide := e.Section == EtcdSection || e.Section == PacketsSection
		if e.Covers(name) && wide == (place == bothHosts) {
			out = append(out, e)
		}
	}
	return out
}

// Judge returns what is wrong at one place of one case: differences that no
// entry lists, and entries that do not occur.
func (t Table) Judge(name string, recorded, ours View) []string {
	differ := Compare(recorded, ours)
	var wrong []string
	for _, e := range t.expected(name, ours.Place) {
		for _, edit := range e.Edits {
			i := slices.Index(differ[e.Section], edit)
			if i < 0 {
				wrong = append(wrong, fmt.Sprintf("%s: no longer so, but in line %d of the table: %s\n%s",
					ours.Place, e.Row, e.Section, edit))
				continue
			}
			differ[e.Section] = slices.Delete(differ[e.Section], i, i+1)
		}
	}
	for _, section := range slices.Sorted(maps.Keys(differ)) {
		if len(differ[section]) > 0 {
			wrong = append(wrong, fmt.Sprintf("%s: not in the table:\nin %s | %s | REASON\n%s",
				ours.Place, name, section, text(differ[section])))
		}
	}
	return wrong
}

func text(edits []Edit) string {
	var b strings.Builder
	for _, e := range edits {
		b.WriteString(e.String() + "\n")
	}
	return b.String()
}
