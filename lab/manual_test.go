package lab_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// Every script and every command of the scripts is in docs/testing.md, and no
// others are.
func TestManual(t *testing.T) {
	text, err := os.ReadFile("../docs/testing.md")
	if err != nil {
		t.Fatal(err)
	}
	scripts := map[string]bool{}
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		scripts[strings.TrimSuffix(filepath.Base(f), ".txtar")] = true
	}
	words := map[string]bool{}
	for name := range commands() {
		words[name] = true
	}
	for header, want := range map[string]map[string]bool{"| Script |": scripts, "| Command | Does |\n|---|---|\n| `fabric": words} {
		found := namesIn(t, string(text), header)
		for name := range want {
			if !found[name] {
				t.Errorf("%s of %q is not in docs/testing.md", name, header)
			}
		}
		for name := range found {
			if !want[name] {
				t.Errorf("docs/testing.md has %s under %q, which does not exist", name, header)
			}
		}
	}
}

// namesIn are the first words of what is in backquotes in the first column of
// the table that begins with header.
func namesIn(t *testing.T, text, header string) map[string]bool {
	t.Helper()
	_, table, ok := strings.Cut(text, header)
	if !ok {
		t.Fatalf("no table %q", header)
	}
	table, _, _ = strings.Cut(table, "\n\n")
	quoted, names := regexp.MustCompile("`(?:\\[!\\] )?([a-z0-9-]+)"), map[string]bool{}
	for line := range strings.Lines(header[strings.LastIndex(header, "|"):] + table) {
		cell, _, _ := strings.Cut(strings.TrimPrefix(strings.ReplaceAll(line, `\|`, "/"), "|"), " | ")
		for _, m := range quoted.FindAllStringSubmatch(cell, -1) {
			names[m[1]] = true
		}
	}
	return names
}
