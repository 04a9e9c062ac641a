package options

import (
	"fmt"
	"strings"
)

// FlagDoc is what a reader of the documentation learns about one flag.
type FlagDoc struct {
	Group   string
	Name    string // without dashes
	Env     string // environment variable, "" if it has no effect
	Type    string
	Default string // "" if none, or computed as Doc says
	Doc     string
	Many    bool // may be repeated
}

// Flags documents every flag, group by group.
func Flags() []FlagDoc {
	var out []FlagDoc
	for _, g := range table() {
		for _, r := range g.rows {
			d := FlagDoc{
				Group: g.title, Name: r.name, Env: r.env(), Type: r.kind,
				Default: r.preset, Doc: r.doc, Many: r.many && r.set != nil,
			}
			if r.noEnv || r.set == nil {
				d.Env = ""
			}
			out = append(out, d)
		}
	}
	return out
}

// Usage is the text of --help.
func Usage() string {
	var b strings.Builder
	b.WriteString("Usage: flanneld [flags]\n\n" +
		"One or two dashes do. A flag can also be given as environment variable:\n" +
		"FLANNELD_ and its name in capitals, with _ for -. The command line wins.\n")
	title := ""
	for _, f := range Flags() {
		if f.Group != title {
			title = f.Group
			fmt.Fprintf(&b, "\n%s:\n", title)
		}
		fmt.Fprintf(&b, "  --%s", f.Name)
		if f.Type != boolean {
			fmt.Fprintf(&b, " <%s>", f.Type)
		}
		fmt.Fprintf(&b, "\n        %s", f.Doc)
		if f.Default != "" {
			fmt.Fprintf(&b, " (default %s)", f.Default)
		}
		if f.Many {
			b.WriteString(" (repeatable)")
		}
		b.WriteByte('\n')
	}
	return b.String()
}
