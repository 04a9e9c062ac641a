package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/flannel-ng/flannel-ng/internal/backend/all"
	"github.com/flannel-ng/flannel-ng/internal/config"
	"github.com/flannel-ng/flannel-ng/internal/options"
)

func TestPageIsCurrent(t *testing.T) {
	want, err := render()
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(filepath.Join("..", "..", "..", "docs", "configuration.md"))
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Error("docs/configuration.md is stale: run go generate ./internal/options")
	}
}

// TestPageIsComplete guards the template: a table that it forgets would be
// current and empty.
func TestPageIsComplete(t *testing.T) {
	page, err := render()
	if err != nil {
		t.Fatal(err)
	}
	var rows []string
	for _, f := range options.Flags() {
		rows = append(rows, "| `--"+f.Name+"` | "+f.Type)
	}
	for _, k := range config.NetworkKeys() {
		rows = append(rows, "| `"+k.Key+"` | "+k.Type)
	}
	for _, e := range all.Backends() {
		rows = append(rows, "### Backend `"+e.Type+"`\n")
		for _, k := range config.Describe(e.Options) {
			if k.Doc == "" {
				t.Errorf("backend %s: key %s has no doc tag", e.Type, k.Key)
			}
			rows = append(rows, "| `"+k.Key+"` | "+k.Type)
		}
	}
	for _, r := range rows {
		if !strings.Contains(page, r) {
			t.Errorf("page lacks %q", r)
		}
	}
}
