package recorded

import (
	_ "embed"
	"fmt"
	"strings"
	"text/template"
)

//go:embed page.md.tmpl
var page string

// Tally is how much of a case is the same.
type Tally struct {
	Case                       string
	Recorded, Same, Gone, Ours int // lines of both hosts, etcd and the wire
}

// Tallies counts the lines of each case.
func (t Table) Tallies(cases []Case) ([]Tally, error) {
	var all []Tally
	for _, c := range cases {
		views, err := c.Facts.Views()
		if err != nil {
			return nil, fmt.Errorf("recording %s: %w", c.Name, err)
		}
		sum := Tally{Case: c.Name}
		for _, v := range views {
			for _, section := range v.Sections {
				sum.Recorded += len(section)
			}
			sum.count(t.expected(c.Name, v.Place))
		}
		sum.Same = sum.Recorded - sum.Gone
		all = append(all, sum)
	}
	return all, nil
}

func (s *Tally) count(entries []Entry) {
	for _, e := range entries {
		for _, edit := range e.Edits {
			if edit.Ours {
				s.Ours++
			} else {
				s.Gone++
			}
		}
	}
}

// Document is docs/recorded-facts.md: the table for people, by reason.
func Document(t Table, cases []Case) (string, error) {
	tallies, err := t.Tallies(cases)
	if err != nil {
		return "", err
	}
	page, err := template.New("page").Funcs(template.FuncMap{
		"diff": text, "words": func(w []string) string { return strings.Join(w, ", ") },
		"covered": func(e Entry) []string { return covered(e, cases) },
		"also":    t.also, "under": t.under,
	}).Parse(page)
	if err != nil {
		return "", fmt.Errorf("template of the page: %w", err)
	}
	var b strings.Builder
	if err := page.Execute(&b, map[string]any{"Tallies": tallies, "Reasons": t.Reasons}); err != nil {
		return "", fmt.Errorf("fill in the page: %w", err)
	}
	return b.String(), nil
}

// covered are the names of the cases that an entry speaks of.
func covered(e Entry, cases []Case) []string {
	var names []string
	for _, c := range cases {
		if e.Covers(c.Name) {
			names = append(names, c.Name)
		}
	}
	if len(names) == len(cases) {
		return []string{"every case"}
	}
	return names
}

// under are the entries that have a reason as their main one.
func (t Table) under(id string) []Entry {
	var out []Entry
	for _, e := range t.Entries {
		if e.Reasons[0] == id {
			out = append(out, e)
		}
	}
	return out
}

// also are the titles of an entry's further reasons.
func (t Table) also(e Entry) []string {
	var titles []string
	for _, id := range e.Reasons[1:] {
		for _, r := range t.Reasons {
			if r.ID == id {
				titles = append(titles, r.Title)
			}
		}
	}
	return titles
}
