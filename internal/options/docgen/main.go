// Command docgen writes docs/configuration.md from the tables that parse the
// flags, the network config and the options of the backends.
//
// It owns the text around the tables (page.md.tmpl). It never runs in a
// daemon; called by go generate.
package main

import (
	_ "embed"
	"fmt"
	"log"
	"os"
	"strings"
	"text/template"

	"github.com/flannel-ng/flannel-ng/internal/backend/all"
	"github.com/flannel-ng/flannel-ng/internal/config"
	"github.com/flannel-ng/flannel-ng/internal/options"
)

//go:embed page.md.tmpl
var page string

func main() {
	if len(os.Args) != 2 {
		log.Fatal("usage: docgen FILE")
	}
	text, err := render()
	if err == nil {
		err = os.WriteFile(os.Args[1], []byte(text), 0o644)
	}
	if err != nil {
		log.Fatal(err)
	}
}

// content is what the page shows.
type content struct {
	Groups   []group
	Network  []config.KeyDoc
	Backends []keys
}

type group struct {
	Title string
	Flags []options.FlagDoc
}

type keys struct {
	Type string
	Keys []config.KeyDoc
}

func render() (string, error) {
	t, err := template.New("page").Funcs(template.FuncMap{"cell": cell, "code": code}).Parse(page)
	if err != nil {
		return "", fmt.Errorf("template of the page: %w", err)
	}
	c := content{Groups: groups(), Network: config.NetworkKeys()}
	for _, e := range all.Backends() {
		c.Backends = append(c.Backends, keys{Type: e.Type, Keys: config.Describe(e.Options)})
	}
	var b strings.Builder
	if err := t.Execute(&b, c); err != nil {
		return "", fmt.Errorf("fill in the page: %w", err)
	}
	return b.String(), nil
}

func groups() []group {
	var out []group
	for _, f := range options.Flags() {
		if n := len(out); n == 0 || out[n-1].Title != f.Group {
			out = append(out, group{Title: f.Group})
		}
		last := &out[len(out)-1]
		last.Flags = append(last.Flags, f)
	}
	return out
}

// cell makes text fit into a cell of a table.
func cell(s string) string {
	return strings.NewReplacer("|", `\|`, "<", "&lt;", "{", "`{", "}", "}`").Replace(s)
}

// code sets a value as code, and nothing as a dash.
func code(s string) string {
	if s == "" {
		return "–"
	}
	return "`" + s + "`"
}
