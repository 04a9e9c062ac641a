package chaos

import (
	_ "embed" // the page's template
	"fmt"
	"strings"
	"text/template"
)

//go:generate go run ../docgen chaos ../../docs/chaos.json ../../docs/chaos.md

//go:embed page.md.tmpl
var page string

// Document renders docs/chaos.md from a result, so that its figures are those of
// one run.
func Document(r *Result) (string, error) {
	t, err := template.New("page").Parse(page)
	if err != nil {
		return "", fmt.Errorf("page: %w", err)
	}
	var b strings.Builder
	if err := t.Execute(&b, r); err != nil {
		return "", fmt.Errorf("page: %w", err)
	}
	return b.String(), nil
}
