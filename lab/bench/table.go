package bench

import (
	"fmt"
	"strings"
)

// column is a figure as the table shows it.
type column struct {
	mode   Mode
	figure Figure
	head   string
	digits int
}

func columns() []column {
	return []column{
		{Whole, TCP1, "TCP, Gbit/s", 1},
		{Whole, TCP4, "4 × TCP, Gbit/s", 1},
		{Whole, Rate, "64-byte datagrams, 1,000/s", 0},
		{Whole, RTT, "round trip p50, µs", 0},
		{Whole, RTTT, "p99, µs", 0},
		{Whole, CPU, "CPU s per Gbit", 3},
		{Cut, TCP1, "cut: TCP", 1},
		{Cut, TCP4, "cut: 4 × TCP", 1},
		{Cut, Rate, "cut: datagrams", 0},
	}
}

// PathTable is the table of data paths in Markdown: each figure with its ratio to
// the yardstick.
func (r *Result) PathTable() string {
	var b strings.Builder
	heads := []string{"Data path"}
	for _, c := range columns() {
		heads = append(heads, c.head)
	}
	tableHead(&b, heads)
	var notes []string
	for _, p := range r.Paths {
		if p.Missing != "" {
			notes = append(notes, fmt.Sprintf("%s: not measured: %s", p.Title, p.Missing))
			continue
		}
		if p.Note != "" {
			notes = append(notes, fmt.Sprintf("%s: %s", p.Title, p.Note))
		}
		cells := []string{p.Title}
		for _, c := range columns() {
			cells = append(cells, r.cell(p, c))
		}
		tableRow(&b, cells)
	}
	for _, n := range notes {
		fmt.Fprintf(&b, "\n%s\n", n)
	}
	return b.String()
}

// cell is the median, and the ratio to the yardstick.
func (r *Result) cell(p Path, c column) string {
	series := p.Figures[c.mode][c.figure]
	if len(series) == 0 {
		return "–"
	}
	yardstick, ok := r.path(p.Yardstick)
	value, ratio, compared := r.figure(c, series, yardstick.Figures[c.mode][c.figure])
	text := fmt.Sprintf("%.*f", c.digits, value)
	if ok && compared && p.Yardstick != p.Name {
		text += fmt.Sprintf(" (%.2f×)", ratio)
	}
	return text
}

// figure is a value and its ratio to the yardstick: medians, or in a disturbed
// run the best of all rounds, since others can only take away.
func (r *Result) figure(c column, series, yardstick Series) (value, ratio float64, compared bool) {
	if !r.Disturbed() {
		ratio, compared = series.Over(yardstick)
		return series.Median(), ratio, compared
	}
	less := c.figure == RTT || c.figure == RTTT || c.figure == CPU
	value = series.Best(less)
	base := yardstick.Best(less)
	if base <= 0 {
		return value, 0, false
	}
	return value, value / base, true
}

// Disturbed says whether others used so much of the machine that medians say
// more about them.
func (r *Result) Disturbed() bool { return r.Others.Median() > disturbed }

func tableHead(b *strings.Builder, heads []string) {
	tableRow(b, heads)
	b.WriteString("|---" + strings.Repeat("|--:", len(heads)-1) + "|\n")
}

func tableRow(b *strings.Builder, cells []string) {
	b.WriteString("| " + strings.Join(cells, " | ") + " |\n")
}

// Conditions are where and how the run took place, in a sentence.
func (r *Result) Conditions() string {
	m := r.Machine
	text := fmt.Sprintf("%s, %d cores, %.0f GiB, Linux %s, %s/%s, flannel-ng %s, %d rounds, %s, %.0f s.",
		orUnknown(m.CPU), m.Cores, float64(m.Memory)/1024, m.Kernel, m.Go, m.Arch, r.Version, r.Rounds,
		r.When.Format("2006-01-02"), float64(r.Took))
	if len(r.Others) > 0 {
		text += fmt.Sprintf(" Other processes used %.0f %% of the machine in the median measurement, %.0f %% at worst.",
			100*r.Others.Median(), 100*r.Others.Max())
		if r.Disturbed() {
			text += " That is too much for medians: the table of data paths has the best of all rounds."
		}
	}
	return text
}

func orUnknown(s string) string {
	if s == "" {
		return "CPU of unknown name"
	}
	return s
}

// Text is the whole result in Markdown.
func (r *Result) Text() string {
	var b strings.Builder
	if len(r.Paths) > 0 {
		b.WriteString(r.PathTable() + "\n")
	}
	if len(r.Convergence) > 0 {
		b.WriteString(r.ConvergenceTable() + "\n")
	}
	return b.String() + r.Conditions() + "\n"
}

// ConvergenceTable has a line for each figure and a column for each backend.
func (r *Result) ConvergenceTable() string {
	var b strings.Builder
	heads := []string{"Following many peers"}
	for _, c := range r.Convergence {
		heads = append(heads, fmt.Sprintf("%s, %d peers", c.Backend, c.Peers))
	}
	tableHead(&b, heads)
	for _, line := range convergenceLines() {
		cells := []string{line.head}
		for _, c := range r.Convergence {
			cells = append(cells, line.cell(c))
		}
		tableRow(&b, cells)
	}
	return b.String()
}

type convergenceLine struct {
	head string
	cell func(Convergence) string
}

func convergenceLines() []convergenceLine {
	return []convergenceLine{
		{"cold start to subnet.env, s", func(c Convergence) string { return fmt.Sprintf("%.2f", c.Env.Median()) }},
		{"cold start to the last peer's route, s", func(c Convergence) string {
			ratio, _ := c.Last.Over(c.Floor)
			return fmt.Sprintf("%.2f (%.1f× `ip -batch`)", c.Last.Median(), ratio)
		}},
		{"`ip -batch` for the same objects, s", func(c Convergence) string { return fmt.Sprintf("%.2f", c.Floor.Median()) }},
		{"CPU of the daemon until then, s", func(c Convergence) string { return fmt.Sprintf("%.2f", c.Start.Median()) }},
		{"memory at rest, MB (at most; without peers)", func(c Convergence) string {
			return fmt.Sprintf("%.0f (%.0f; %.0f)", c.RSS, c.RSSMost, c.Alone)
		}},
		{"lines in the log", func(c Convergence) string { return fmt.Sprint(c.Lines) }},
		{"CPU at rest, full readings of the kernel included", func(c Convergence) string {
			return fmt.Sprintf("%.2f %%", 100*c.Idle)
		}},
		{"CPU of a full reading, ms", func(c Convergence) string { return fmt.Sprintf("%.0f", 1000*float64(c.Reading)) }},
		{"one peer joins: event to route p50, p99, ms", func(c Convergence) string {
			return fmt.Sprintf("%.1f, %.1f", c.Change50, c.Change99)
		}},
		{"CPU for that, ms", func(c Convergence) string { return fmt.Sprintf("%.1f", c.ChangeCPU) }},
		{"1,000 changes/s for 30 s: event to route p50, p99, ms", func(c Convergence) string {
			return fmt.Sprintf("%.1f, %.1f", c.Burst50, c.Burst99)
		}},
		{"CPU for that", func(c Convergence) string { return fmt.Sprintf("%.0f %%", 100*c.BurstCPU) }},
		{"link goes down: the kernel's own time for it, s", func(c Convergence) string { return fmt.Sprintf("%.2f", float64(c.Down)) }},
		{"from then until all routes are back, s", func(c Convergence) string { return fmt.Sprintf("%.2f", float64(c.Repair)) }},
		{"half of the peers leave: last route gone after, s", func(c Convergence) string { return fmt.Sprintf("%.2f", float64(c.Leaving)) }},
		{"list read again after compaction: kernel objects written", func(c Convergence) string { return fmt.Sprint(c.Relist) }},
	}
}
