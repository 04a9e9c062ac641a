package ctl

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"unicode"
)

// format is the value of --output.
type format string

const (
	asTable format = "table"
	asJSON  format = "json"
)

// String, Set and Type implement pflag.Value.
func (f *format) String() string { return string(*f) }

// Type names the choices in the help.
func (f *format) Type() string { return "table|json" }

// Set refuses anything but the two formats.
func (f *format) Set(s string) error {
	switch format(s) {
	case asTable, asJSON:
		*f = format(s)
		return nil
	default:
		return fmt.Errorf("want %s or %s", asTable, asJSON)
	}
}

// show writes v as JSON, or calls people to write for people.
func (a *app) show(v any, people func(io.Writer)) error {
	var b bytes.Buffer
	if a.output == asJSON {
		enc := json.NewEncoder(&b)
		enc.SetEscapeHTML(false) // lease keys have an & in them
		enc.SetIndent("", "  ")
		if err := enc.Encode(v); err != nil {
			return err
		}
	} else {
		people(&b)
	}
	_, err := a.Stdout.Write(b.Bytes())
	return err
}

// put writes for people. w is a buffer, which cannot fail.
func put(w io.Writer, text string, args ...any) {
	for i, x := range args {
		if s, ok := x.(string); ok {
			args[i] = clean(s)
		}
	}
	_, _ = fmt.Fprintf(w, text, args...)
}

// table writes aligned rows; the first is the heading. Nothing at the end of
// a line but its newline, so that output can be compared.
func table(w io.Writer, rows [][]string) {
	var b bytes.Buffer
	t := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	for _, row := range rows {
		for i, cell := range row {
			if row[i] = clean(cell); cell == "" {
				row[i] = "-"
			}
		}
		_, _ = fmt.Fprintln(t, strings.Join(row, "\t"))
	}
	_ = t.Flush() // b cannot fail
	for line := range strings.Lines(b.String()) {
		_, _ = io.WriteString(w, strings.TrimRight(line, " \n")+"\n")
	}
}

// clean makes text from the store harmless for a terminal: whoever writes to
// the store must not be able to move the cursor of whoever reads it.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n':
			return r
		case r == '\t':
			return ' '
		case !unicode.IsPrint(r):
			return unicode.ReplacementChar
		default:
			return r
		}
	}, s)
}

// oneLine is for table cells.
func oneLine(s string) string { return strings.ReplaceAll(s, "\n", "; ") }
