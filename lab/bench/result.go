package bench

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// Result is one run, as it is kept in a file.
type Result struct {
	When    time.Time `json:"when"`
	Took    Seconds   `json:"took"`
	Version string    `json:"version"` // of flanneld
	Machine Machine   `json:"machine"`
	Rounds  int       `json:"rounds"`

	Paths []Path `json:"paths,omitempty"`
	// Others is the share of the machine that processes outside the lab used
	// while paths were measured: 1 is all of it.
	Others Series `json:"others,omitempty"`

	Convergence []Convergence `json:"convergence,omitempty"`
}

// Seconds are written with a resolution of a millisecond.
type Seconds float64

// MarshalJSON rounds.
func (s Seconds) MarshalJSON() ([]byte, error) { return fmt.Appendf(nil, "%.3f", float64(s)), nil }

func seconds(d time.Duration) Seconds { return Seconds(d.Seconds()) }

// Path is one way to carry packets.
type Path struct {
	Name      string `json:"name"`
	Title     string `json:"title"`
	Yardstick string `json:"yardstick"` // name of the row to compare with
	Missing   string `json:"missing,omitempty"`
	Note      string `json:"note,omitempty"`

	Figures map[Mode]map[Figure]Series `json:"figures,omitempty"`
}

// Mode is how the uplink treats large packets.
type Mode string

// The modes.
const (
	// Whole lets packets of 64 KB cross the underlay unsegmented, as veth does.
	Whole Mode = "whole"
	// Cut segments before the wire, as a network card does that knows no tunnels.
	Cut Mode = "cut"
)

// Figure is what is measured on a path.
type Figure string

// The figures.
const (
	TCP1 Figure = "tcp1"  // Gbit/s of one stream
	TCP4 Figure = "tcp4"  // Gbit/s of four streams
	Rate Figure = "rate"  // thousand 64-byte datagrams received a second
	RTT  Figure = "rtt"   // µs, median round trip of a 64-byte datagram
	RTTT Figure = "rtt99" // µs, 99th percentile of it
	CPU  Figure = "cpu"   // CPU seconds of the whole machine per Gbit of one stream
)

func (p *Path) add(m Mode, f Figure, s Sample) {
	if p.Figures == nil {
		p.Figures = map[Mode]map[Figure]Series{}
	}
	if p.Figures[m] == nil {
		p.Figures[m] = map[Figure]Series{}
	}
	p.Figures[m][f] = append(p.Figures[m][f], s)
}

// path finds a row by name.
func (r *Result) path(name string) (Path, bool) {
	for _, p := range r.Paths {
		if p.Name == name {
			return p, true
		}
	}
	return Path{}, false
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

// Load reads what Save wrote.
func Load(file string) (*Result, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("result: %w", err)
	}
	var r Result
	if err := json.Unmarshal(text, &r); err != nil {
		return nil, fmt.Errorf("result %s: %w", file, err)
	}
	return &r, nil
}
