package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// member is one key of a JSON object, in the order of the text.
type member struct {
	key string
	raw json.RawMessage
}

// readObject splits a JSON object into its members without looking into the
// values. Doubles are kept: a map would hide them.
func readObject(b []byte) ([]member, error) {
	var whole json.RawMessage
	if err := json.Unmarshal(b, &whole); err != nil {
		return nil, syntaxError(b, err)
	}
	dec := json.NewDecoder(bytes.NewReader(b))
	if open, err := dec.Token(); err != nil || open != json.Delim('{') {
		return nil, fmt.Errorf("%s: must be a JSON object", shorten(b))
	}
	var out []member
	for dec.More() {
		key, err := dec.Token()
		if err != nil {
			return nil, syntaxError(b, err)
		}
		m := member{}
		m.key, _ = key.(string)
		if err := dec.Decode(&m.raw); err != nil {
			return nil, syntaxError(b, err)
		}
		out = append(out, m)
	}
	return out, nil
}

// lookup finds a key as encoding/json does for flannel: whatever its case,
// the last one counts. null is absent.
func lookup(ms []member, key string) (json.RawMessage, bool) {
	for _, m := range slices.Backward(ms) {
		if strings.EqualFold(m.key, key) {
			return m.raw, string(m.raw) != "null"
		}
	}
	return nil, false
}

// syntaxError says where in the document the mistake is.
func syntaxError(b []byte, err error) error {
	var syntax *json.SyntaxError
	if !errors.As(err, &syntax) || len(b) == 0 {
		return fmt.Errorf("JSON document: %w", err)
	}
	before := b[:min(int(syntax.Offset), len(b))]
	line := bytes.Count(before, []byte("\n")) + 1
	column := len(before) - (bytes.LastIndexByte(before, '\n') + 1)
	return fmt.Errorf("JSON document, line %d, column %d: %w", line, column, err)
}

// shorten makes a value fit into a one-line message.
func shorten(raw []byte) string {
	const longest = 60
	text := strings.Join(strings.Fields(string(raw)), " ")
	if runes := []rune(text); len(runes) > longest {
		return string(runes[:longest]) + "…"
	}
	return text
}
