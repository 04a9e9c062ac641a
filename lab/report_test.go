package lab_test

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"

	"github.com/rogpeppe/go-internal/testscript"
)

// report shows which carriers carried, and what was measured. FLANNEL_REPORT
// names the file; without it the test's log has it.
type report struct {
	mu      sync.Mutex
	rows    map[string]map[string]string // by carrier and mix, then family and firewall: what came of it
	reasons map[string]string            // why not, by footnote mark
	figures []string
	count   int // variants that ran, or were skipped
}

func newReport() *report {
	return &report{rows: map[string]map[string]string{}, reasons: map[string]string{}}
}

func (r *report) put(v variant, mark string) {
	if v["carrier"] == "" || v["mix"] == "" {
		return
	}
	row := v["carrier"] + "\t" + v["mix"]
	if r.rows[row] == nil {
		r.rows[row] = map[string]string{}
	}
	r.rows[row][v["family"]+" "+v["firewall"]] = mark
}

// leftOut takes down what a matrix does not contain, and why.
func (r *report) leftOut(m matrix) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, reason := range slices.Sorted(maps.Keys(m.without)) {
		mark := "–"
		for _, v := range m.without[reason] {
			r.put(v, mark)
		}
		r.reasons[reason] = mark
	}
}

// ran takes down how a variant went.
func (r *report) ran(v variant, t testscript.T, figures []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.count++
	mark := "ok"
	if sub, ok := t.(shim); ok && sub.Failed() {
		mark = "FAILED"
	}
	r.put(v, mark)
	for _, f := range figures {
		r.figures = append(r.figures, t.(shim).Name()+": "+f)
	}
}

var errNoScenario = errors.New("no such scenario")

// chosen fails when the flag -run chose none of the scenarios: go test would
// call that success.
func (r *report) chosen(there []string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.count > 0 {
		return nil
	}
	return fmt.Errorf("%w; there are:\n  %s", errNoScenario, strings.Join(there, "\n  "))
}

// write prints the table, or nothing when no carrier ran.
func (r *report) write(t *testing.T) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	text := r.String()
	t.Log("\n" + text)
	if file := os.Getenv("FLANNEL_REPORT"); file != "" {
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Error(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Error(err)
		}
	}
}

func (r *report) String() string {
	columns := map[string]bool{}
	for _, row := range r.rows {
		for c := range row {
			columns[c] = true
		}
	}
	heads := slices.Sorted(maps.Keys(columns))
	var b strings.Builder
	table := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	if len(r.rows) > 0 {
		_, _ = fmt.Fprintf(table, "carrier\tmix\t%s\n", strings.Join(heads, "\t"))
	}
	for _, name := range slices.Sorted(maps.Keys(r.rows)) {
		line := []string{name}
		for _, c := range heads {
			line = append(line, r.rows[name][c])
		}
		_, _ = fmt.Fprintln(table, strings.Join(line, "\t"))
	}
	_ = table.Flush()
	for _, reason := range slices.Sorted(maps.Keys(r.reasons)) {
		fmt.Fprintf(&b, "%s %s\n", r.reasons[reason], reason)
	}
	slices.Sort(r.figures)
	for _, f := range r.figures {
		fmt.Fprintln(&b, f)
	}
	return b.String()
}

func TestChosen(t *testing.T) {
	r := newReport()
	if err := r.chosen([]string{"cut/vxlan", "cut/udp"}); !errors.Is(err, errNoScenario) || !strings.Contains(err.Error(), "cut/udp") {
		t.Errorf("nothing ran: %v", err)
	}
	r.ran(variant{}, nil, nil)
	if err := r.chosen(nil); err != nil {
		t.Errorf("one ran: %v", err)
	}
}
