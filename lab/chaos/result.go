package chaos

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/flannel-ng/flannel-ng/lab/bench"
)

// Result is a run, as it is kept in a file.
type Result struct {
	When    time.Time     `json:"when"`
	Took    bench.Seconds `json:"took"`
	Version string        `json:"version"`
	Machine bench.Machine `json:"machine"`
	Fabrics []*Fabric     `json:"fabrics"`
	Soak    *Soak         `json:"soak,omitempty"`
}

// Fabric is what one kind of fabric went through.
type Fabric struct {
	Name     string        `json:"name"`
	Carrier  string        `json:"carrier"`
	Peers    int           `json:"peers"`
	Took     bench.Seconds `json:"took"`
	CPU      bench.Seconds `json:"cpu"`   // of the three daemons
	Lines    int           `json:"lines"` // of their logs
	Faults   []*Row        `json:"faults"`
	Breakage string        `json:"breakage,omitempty"` // why it could not go on
}

// Row is one fault in one kind of fabric.
type Row struct {
	Name  string `json:"name"`
	Slow  bool   `json:"slow,omitempty"` // the kernel tells nobody of it
	Told  Times  `json:"told"`           // with notifications
	Deaf  Times  `json:"deaf"`           // without
	Fails []Fail `json:"fails,omitempty"`
}

// Times are the repairs of one fault.
type Times struct {
	Millis []float64 `json:"ms,omitempty"`
	Lost   []float64 `json:"lost,omitempty"` // packets
	Failed int       `json:"failed,omitempty"`
}

// Fail is a repair that did not happen, or something foreign that changed.
type Fail struct {
	Deaf bool   `json:"deaf,omitempty"`
	Host string `json:"host"`
	Why  string `json:"why"`
	Dump string `json:"dump,omitempty"` // file with the state of all hosts
}

// Runs is how often the fault was done.
func (t Times) Runs() int { return len(t.Millis) + t.Failed }

// Unrepaired counts over the whole run what was not repaired, or what was
// changed and is not flannel-ng's.
func (r *Result) Unrepaired() (n int) {
	for _, f := range r.Fabrics {
		for _, row := range f.Faults {
			n += len(row.Fails)
		}
		if f.Breakage != "" {
			n++
		}
	}
	if r.Soak != nil {
		n += len(r.Soak.Fails)
	}
	return n
}

// Save writes the result as JSON.
func (r *Result) Save(file string) error {
	text, err := json.MarshalIndent(r, "", " ")
	if err == nil {
		err = os.MkdirAll(filepath.Dir(file), 0o755)
	}
	if err == nil {
		err = os.WriteFile(file, append(text, '\n'), 0o644)
	}
	if err != nil {
		return fmt.Errorf("result: %w", err)
	}
	return nil
}

// Load reads what Save wrote.
func Load(file string) (*Result, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("result: %w", err)
	}
	r := &Result{}
	if err := json.Unmarshal(text, r); err != nil {
		return nil, fmt.Errorf("result %s: %w", file, err)
	}
	return r, nil
}

// Text is the result in Markdown.
func (r *Result) Text() string {
	var b strings.Builder
	for _, f := range r.Fabrics {
		fmt.Fprintf(&b, "### %s\n\n%s\n%s\n\n", f.Name, f.Table(), f.Cost())
	}
	if r.Soak != nil {
		b.WriteString(r.Soak.Text())
	}
	fmt.Fprintf(&b, "Not repaired: %d. %s\n", r.Unrepaired(), r.Conditions())
	return b.String()
}

// Conditions say where and when.
func (r *Result) Conditions() string {
	return fmt.Sprintf("%s on %d cores, Linux %s, %s, in %.0f s.", r.Version, r.Machine.Cores, r.Machine.Kernel,
		r.When.Format("2006-01-02"), float64(r.Took))
}

// Table has a line for each fault.
func (f *Fabric) Table() string {
	var b strings.Builder
	b.WriteString("| fault | runs | repaired p50 / p99 ms | packets lost p50 / max | unrepaired | deaf p50 / p99 ms (runs) |\n|---|--:|--:|--:|--:|--:|\n")
	for _, row := range f.Faults {
		name := row.Name
		if row.Slow {
			name += " *"
		}
		fmt.Fprintf(&b, "| %s | %d | %s | %s | %d | %s |\n", name, row.Told.Runs(), pair(row.Told.Millis, 0.99), pair(row.Told.Lost, 1),
			len(row.Fails), row.deaf())
	}
	return b.String()
}

func (r *Row) deaf() string {
	if r.Deaf.Runs() == 0 {
		return "–"
	}
	return fmt.Sprintf("%s (%d)", pair(r.Deaf.Millis, 0.99), r.Deaf.Runs())
}

func pair(values []float64, q float64) string {
	if len(values) == 0 {
		return "–"
	}
	return fmt.Sprintf("%.0f / %.0f", bench.Quantile(values, 0.5), bench.Quantile(values, q))
}

// Cost is what the daemons took for it.
func (f *Fabric) Cost() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%.0f s; the three daemons used %.1f s of CPU and wrote %d log lines.", float64(f.Took), float64(f.CPU), f.Lines)
	for _, row := range f.Faults {
		for _, fail := range row.Fails {
			fmt.Fprintf(&b, "\n- **%s** on %s: %s %s", row.Name, fail.Host, strings.ReplaceAll(fail.Why, "\n", " / "), fail.Dump)
		}
	}
	if f.Breakage != "" {
		b.WriteString("\n- **broken off**: " + f.Breakage)
	}
	return b.String()
}
