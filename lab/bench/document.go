package bench

import (
	_ "embed" // the page's template
	"fmt"
	"strings"
	"text/template"
)

//go:generate go run ../docgen bench ../../docs/performance.json ../../docs/performance.md

//go:embed page.md.tmpl
var page string

// Document renders docs/performance.md from a result, so that its figures are
// those of one run.
func Document(r *Result) (string, error) {
	t, err := template.New("page").Funcs(template.FuncMap{
		"perPacket": r.perPacket,
		"crowd":     r.crowdOf,
		"times":     times,
	}).Parse(page)
	if err != nil {
		return "", fmt.Errorf("page: %w", err)
	}
	var b strings.Builder
	if err := t.Execute(&b, r); err != nil {
		return "", fmt.Errorf("page: %w", err)
	}
	return b.String(), nil
}

// packetBits is what a full packet of a TCP stream carries, in bits.
const packetBits = 8 * 1400

// perPacket is the CPU time of a path for each full packet of a TCP stream, over
// all that takes part: both hosts, both containers.
func (r *Result) perPacket(name string) string {
	p, ok := r.path(name)
	if !ok || len(p.Figures[Whole][CPU]) == 0 {
		return "–"
	}
	value, _, _ := r.figure(column{mode: Whole, figure: CPU}, p.Figures[Whole][CPU], nil)
	return fmt.Sprintf("%.2f µs", value*packetBits/1e9*1e6)
}

// Crowd is a row of convergence with what follows from it for one peer.
type Crowd struct {
	Convergence
	DaemonKB, KernelKB, CPUMicros float64
}

// Huge scales a cost of one peer to so many.
func (c Crowd) Huge(perPeer, peers float64) string { return fmt.Sprintf("%.0f", perPeer*peers) }

// crowdOf finds a row by its backend; without it all figures are zero.
func (r *Result) crowdOf(backend string) Crowd {
	for _, c := range r.Convergence {
		if c.Backend == backend && c.Peers > 0 {
			n := float64(c.Peers)
			return Crowd{
				Convergence: c, DaemonKB: (c.RSS - c.Alone) * 1000 / n, KernelKB: c.Slab.Median(),
				CPUMicros: c.Start.Median() * 1e6 / n,
			}
		}
	}
	return Crowd{}
}

// times multiplies, also an int with a float.
func times(a any, b float64) float64 {
	if n, ok := a.(int); ok {
		return float64(n) * b
	}
	n, _ := a.(float64)
	return n * b
}
