package config

import (
	"errors"
	"fmt"
	"strings"
)

// Decode fills the options struct of a backend from the Backend object,
// defaults included. The package comment describes the struct. warnings name
// keys that the struct does not have. err joins every broken rule; the struct
// is then not to be used.
func (b Backend) Decode(into any) (warnings []string, err error) {
	d := decoder{path: "Backend.", known: []string{typeKey}}
	if len(b.Options) > 0 {
		if d.members, err = readObject(b.Options); err != nil {
			return nil, fmt.Errorf("network config key Backend: %w", err)
		}
	}
	d.fill("", into)
	d.findUnknown()
	return d.warnings, errors.Join(d.errs...)
}

// decoder reads one JSON object into one or more structs.
type decoder struct {
	path     string // before every key in messages
	members  []member
	known    []string // keys of all structs so far
	broken   []string // keys whose value broke a rule
	errs     []error
	warnings []string
}

// fill sets the fields of a struct whose keys all start with prefix.
func (d *decoder) fill(prefix string, into any) {
	for _, f := range fieldsOf(into) {
		f.key = prefix + f.key
		d.known = append(d.known, f.key)
		f.reset()
		raw, ok := lookup(d.members, f.key)
		if !ok {
			continue
		}
		if rule := f.set(raw); rule != "" {
			d.reject(f.key, string(raw), rule)
		}
	}
}

// reject notes a value that breaks a rule. value is as the user wrote it.
func (d *decoder) reject(key, value, rule string) {
	d.broken = append(d.broken, key)
	d.errs = append(d.errs, fmt.Errorf("%s%s %s: %s", d.path, key, shorten([]byte(value)), rule))
}

// present says whether the object has the key with a value.
func (d *decoder) present(key string) bool {
	_, ok := lookup(d.members, key)
	return ok
}

// findUnknown warns of keys that no struct has, and of keys given twice.
func (d *decoder) findUnknown() {
	seen := make(map[string]bool)
	for _, m := range d.members {
		folded := strings.ToLower(m.key)
		switch {
		case !containsFold(d.known, m.key):
			d.warn(m.key, "unknown key, ignored"+didYouMean(m.key, d.known))
		case seen[folded]:
			d.warn(m.key, "given more than once, the last one counts")
		}
		seen[folded] = true
	}
}

func (d *decoder) warn(key, text string) {
	d.warnings = append(d.warnings, d.path+shorten([]byte(key))+": "+text)
}

func containsFold(list []string, s string) bool {
	for _, x := range list {
		if strings.EqualFold(x, s) {
			return true
		}
	}
	return false
}

func didYouMean(word string, known []string) string {
	if near, ok := Nearest(word, known); ok {
		return "; did you mean " + near + "?"
	}
	return ""
}
