package lab_test

import (
	"cmp"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
)

// variant is one combination of a matrix.
type variant map[string]string

func (v variant) String() string {
	var parts []string
	for _, key := range slices.Sorted(maps.Keys(v)) {
		parts = append(parts, v[key])
	}
	return strings.Join(parts, "-")
}

// name is that of the subtest.
func (v variant) name() string { return cmp.Or(v.String(), "once") }

// backend is the Backend of the network config for the axis "carrier".
func (v variant) backend() string {
	if v["carrier"] == "vxlan-direct" {
		return `{"Type":"vxlan","DirectRouting":true}`
	}
	return v["carrier"]
}

// seen is how h1 appears where it has to masquerade towards another host: with
// the address of the device that it sends by.
func (v variant) seen() string {
	if v["carrier"] == "host-gw" || v["carrier"] == "vxlan-direct" {
		return "h1"
	}
	return "h1.tunnel"
}

// mtu is what flanneld says in its subnet file for an uplink of 1500.
func (v variant) mtu() string {
	ipv6 := v["family"] != "4"
	switch {
	case v["carrier"] == "host-gw" || v["carrier"] == "alloc":
		return "1500"
	case v["carrier"] == "udp" && ipv6:
		return "1452"
	case v["carrier"] == "udp":
		return "1472"
	case ipv6:
		return "1430"
	default:
		return "1450"
	}
}

// matrix is how often a script runs: once for each combination of the values in
// its first line, "# matrix: key=a,b other=c,d", except those that match a line
// "# except: key=a other=c,d: REASON". Without such lines it runs once.
type matrix struct {
	variants []variant
	without  map[string][]variant // what is left out, by reason
}

func readMatrix(t *testing.T, file string) matrix {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	m, err := parseMatrix(string(text))
	if err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	return m
}

func parseMatrix(text string) (matrix, error) {
	m := matrix{variants: []variant{{}}, without: map[string][]variant{}}
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if rest, ok := strings.CutPrefix(line, "# matrix: "); ok {
			axes, err := parseAxes(rest)
			if err != nil {
				return m, err
			}
			m.variants = product(axes)
		}
		if rest, ok := strings.CutPrefix(line, "# except: "); ok {
			if err := m.except(rest); err != nil {
				return m, err
			}
		}
	}
	return m, nil
}

// axis is a key with its values.
type axis struct {
	key    string
	values []string
}

func parseAxes(text string) ([]axis, error) {
	var axes []axis
	for field := range strings.FieldsSeq(text) {
		key, values, ok := strings.Cut(field, "=")
		if !ok {
			return nil, fmt.Errorf("axis %q of the matrix has no =", field)
		}
		axes = append(axes, axis{key, strings.Split(values, ",")})
	}
	return axes, nil
}

func product(axes []axis) []variant {
	all := []variant{{}}
	for _, a := range axes {
		var next []variant
		for _, v := range all {
			for _, value := range a.values {
				w := maps.Clone(v)
				w[a.key] = value
				next = append(next, w)
			}
		}
		all = next
	}
	return all
}

// except takes out the variants that have one of the values on every axis named.
func (m *matrix) except(text string) error {
	where, reason, ok := strings.Cut(text, ": ")
	if !ok {
		return fmt.Errorf("except %q: without a reason", text)
	}
	axes, err := parseAxes(where)
	if err != nil {
		return err
	}
	before := len(m.variants)
	m.variants = slices.DeleteFunc(m.variants, func(v variant) bool {
		for _, a := range axes {
			if !slices.Contains(a.values, v[a.key]) {
				return false
			}
		}
		m.without[reason] = append(m.without[reason], v)
		return true
	})
	if len(m.variants) == before {
		return fmt.Errorf("except %q: matches nothing", text)
	}
	return nil
}
