package mesh

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Result is one run, as it is kept in a file.
type Result struct {
	When    time.Time `json:"when"`
	Hosts   int       `json:"hosts"`
	Leavers int       `json:"leavers"`
	Backend string    `json:"backend"`
	Cores   int       `json:"cores"`
	Kernel  string    `json:"kernel"`
	Failed  int       `json:"failed"` // daemons that ended

	Env     Spread  `json:"env"` // start to subnet.env, s
	Steps   []Step  `json:"steps"`
	RSS     Spread  `json:"rss"` // of a daemon, MB
	PSS     Spread  `json:"pss"`
	EtcdRSS float64 `json:"etcd_rss"`
}

// Spread is what all hosts had.
type Spread struct {
	Least  float64 `json:"least"`
	Median float64 `json:"median"`
	Most   float64 `json:"most"`
}

// Step is a part of a run. What etcd did is counted from its beginning to its
// end.
type Step struct {
	Name  string  `json:"name"`
	Pairs int     `json:"pairs"` // programmed at its end
	Half  float64 `json:"half"`  // seconds until half of the changes were there
	Last  float64 `json:"last"`  // seconds until the last was
	Took  float64 `json:"took"`  // seconds between the readings

	DaemonCPU float64 `json:"daemon_cpu"` // seconds, all daemons together
	EtcdCPU   float64 `json:"etcd_cpu"`
	Busy      float64 `json:"busy"` // of all processors

	Requests      int     `json:"requests"`       // unary
	Writes        int     `json:"writes"`         // of keys
	WatchRequests int     `json:"watch_requests"` // to create, cancel, or prove life
	WatchMessages int     `json:"watch_messages"` // to hosts
	Received      float64 `json:"received"`       // by etcd, bytes
	Sent          float64 `json:"sent"`
	Watchers      int     `json:"watchers"` // at the end
	Streams       int     `json:"streams"`
}

func newResult(o Options) *Result {
	r := &Result{When: time.Now().UTC().Truncate(time.Second), Hosts: o.Hosts, Backend: o.Backend, Cores: runtime.NumCPU()}
	if r.Backend == "" {
		r.Backend = "vxlan"
	}
	var name unix.Utsname
	if unix.Uname(&name) == nil {
		r.Kernel = unix.ByteSliceToString(name.Release[:])
	}
	return r
}

func spread(values []float64) Spread {
	if len(values) == 0 {
		return Spread{}
	}
	slices.Sort(values)
	return Spread{values[0], values[len(values)/2], values[len(values)-1]}
}

func (s Spread) String() string { return fmt.Sprintf("%.1f (%.1f to %.1f)", s.Median, s.Least, s.Most) }

// Text is the result in Markdown.
func (r *Result) Text() string {
	var b strings.Builder
	head, line := "| Mesh of "+fmt.Sprint(r.Hosts)+" hosts |", "|---|"
	for _, s := range r.Steps {
		head += " " + s.title(r) + " |"
		line += "--:|"
	}
	fmt.Fprintf(&b, "%s\n%s\n", head, line)
	for _, l := range lines() {
		fmt.Fprintf(&b, "| %s |", l.head)
		for _, s := range r.Steps {
			fmt.Fprintf(&b, " %s |", l.cell(s))
		}
		b.WriteString("\n")
	}
	fmt.Fprintf(&b, "\nDaemons that failed: %d. Start to subnet.env, s: %s. Memory of a daemon, MB: RSS %s, PSS %s; of etcd: %.0f.\n",
		r.Failed, r.Env, r.RSS, r.PSS, r.EtcdRSS)
	fmt.Fprintf(&b, "%s, %d cores for all hosts and etcd together, Linux %s, %s.\n",
		r.Backend, r.Cores, r.Kernel, r.When.Format("2006-01-02"))
	return b.String()
}

func (s Step) title(r *Result) string {
	switch s.Name {
	case "join":
		return "all join"
	case "rest":
		return fmt.Sprintf("at rest, %.0f s", s.Took)
	case "leave":
		return fmt.Sprintf("%d leave", r.Leavers)
	default:
		return "they return"
	}
}

type row struct {
	head string
	cell func(Step) string
}

func lines() []row {
	rate := func(n int, s Step) string { return fmt.Sprintf("%d (%.0f/s)", n, float64(n)/s.Took) }
	return []row{
		{"pairs programmed at the end", func(s Step) string { return fmt.Sprint(s.Pairs) }},
		{"half, all of the changes after, s", func(s Step) string { return fmt.Sprintf("%.2f, %.2f", s.Half, s.Last) }},
		{"CPU of the daemons, etcd, everything, s", func(s Step) string {
			return fmt.Sprintf("%.1f, %.1f, %.1f", s.DaemonCPU, s.EtcdCPU, s.Busy)
		}},
		{"requests to etcd", func(s Step) string { return rate(s.Requests, s) }},
		{"keys written", func(s Step) string { return rate(s.Writes, s) }},
		{"watch requests", func(s Step) string { return rate(s.WatchRequests, s) }},
		{"watch messages", func(s Step) string { return rate(s.WatchMessages, s) }},
		{"etcd received, sent, MB", func(s Step) string { return fmt.Sprintf("%.2f, %.2f", s.Received/1e6, s.Sent/1e6) }},
		{"watches (streams)", func(s Step) string { return fmt.Sprintf("%d (%d)", s.Watchers, s.Streams) }},
	}
}

// Save writes the result as JSON.
func (r *Result) Save(file string) error {
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("result: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return fmt.Errorf("result: %w", err)
	}
	if err := os.WriteFile(file, append(text, '\n'), 0o644); err != nil {
		return fmt.Errorf("result: %w", err)
	}
	return nil
}
