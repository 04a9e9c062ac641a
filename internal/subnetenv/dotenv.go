package subnetenv

import (
	"fmt"
	"strings"
)

// variable is one NAME=value line.
type variable struct {
	name, value string
	line        int // from 1
}

// variables reads the dotenv syntax that people use in such files: comments,
// "export", quotes. Lines that are no assignment become errors.
func variables(b []byte) (vars []variable, errs []error) {
	line := 0
	for text := range strings.Lines(string(b)) {
		line++
		text = strings.TrimSpace(text)
		if text == "" || text[0] == '#' {
			continue
		}
		name, value, ok := strings.Cut(strings.TrimPrefix(text, "export "), "=")
		if !ok {
			errs = append(errs, fmt.Errorf("subnet.env line %d: no NAME=value in %q", line, text))
			continue
		}
		vars = append(vars, variable{name: strings.TrimSpace(name), value: unquote(value), line: line})
	}
	return vars, errs
}

// unquote takes quotes, or a comment behind an unquoted value, away.
func unquote(s string) string {
	s = strings.TrimSpace(s)
	if s != "" && (s[0] == '"' || s[0] == '\'') {
		if end := strings.IndexByte(s[1:], s[0]); end >= 0 {
			return s[1 : 1+end]
		}
	}
	if i := strings.Index(s, " #"); i >= 0 {
		s = s[:i]
	}
	return strings.TrimSpace(s)
}
