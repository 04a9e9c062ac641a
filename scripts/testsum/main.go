// Command testsum makes the output of `go test -json` readable: one line for
// each package, the output of what failed, one line for each slow subtest, and
// a closing count that names every reason why something was skipped.
//
// Usage: go test -json … | testsum -save FILE, and at the end testsum -total FILE…
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
)

// event is one line of test2json.
type event struct {
	Action     string
	Package    string
	ImportPath string // of build output
	Test       string
	Elapsed    float64
	Output     string
}

// slow is from when on a passed subtest gets a line, in seconds.
const slow = 1.0

// summary counts what happened.
type summary struct {
	w       io.Writer
	quiet   bool // count only
	passed  int
	failed  []string
	skipped map[string]int // by reason
	output  map[string]string
	parents map[string]bool // tests with subtests are not counted
}

func newSummary(w io.Writer) *summary {
	return &summary{w: w, skipped: map[string]int{}, output: map[string]string{}, parents: map[string]bool{}}
}

var errFailed = errors.New("tests failed")

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "testsum:", err)
		os.Exit(1)
	}
}

func run() error {
	save := flag.String("save", "", "keep the raw events in this file")
	total := flag.Bool("total", false, "sum up the files given")
	flag.Parse()
	s := newSummary(os.Stdout)
	s.quiet = *total
	if *total {
		return s.files(flag.Args())
	}
	var in io.Reader = os.Stdin
	if *save != "" {
		f, err := os.Create(*save)
		if err != nil {
			return fmt.Errorf("save events: %w", err)
		}
		defer func() { _ = f.Close() }()
		in = io.TeeReader(in, f)
	}
	if err := s.read(in); err != nil {
		return err
	}
	return s.close()
}

func (s *summary) files(names []string) error {
	for _, name := range names {
		f, err := os.Open(name)
		if err != nil {
			return fmt.Errorf("read events: %w", err)
		}
		if err := errors.Join(s.read(f), f.Close()); err != nil {
			return err
		}
	}
	return s.close()
}

func (s *summary) read(r io.Reader) error {
	lines := bufio.NewReader(r)
	for {
		line, err := lines.ReadBytes('\n')
		if len(line) > 0 {
			s.line(line)
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read events: %w", err)
		}
	}
}

func (s *summary) line(line []byte) {
	var e event
	if json.Unmarshal(line, &e) != nil {
		s.printf("%s", line) // not an event: say it as it is
		return
	}
	key := e.Package + " " + e.Test
	switch e.Action {
	case "run":
		if i := strings.LastIndex(e.Test, "/"); i >= 0 {
			s.parents[e.Package+" "+e.Test[:i]] = true
		}
	case "output":
		s.output[key] += e.Output
	case "build-output":
		s.printf("%s", e.Output)
	case "pass", "fail", "skip":
		s.end(e, key)
		delete(s.output, key)
	}
}

func (s *summary) end(e event, key string) {
	if e.Test == "" {
		s.printf("%-4s %6.1fs  %s\n", e.Action, e.Elapsed, e.Package)
		if e.Action == "fail" {
			s.printf("%s", s.output[key])
			s.packageFailed(e.Package)
		}
		return
	}
	leaf := !s.parents[key]
	switch e.Action {
	case "pass":
		if leaf {
			s.passed++
		}
		if leaf && e.Elapsed >= slow {
			s.printf("     %6.1fs  %s\n", e.Elapsed, e.Test)
		}
	case "skip":
		s.skipped[reason(s.output[key])]++
	case "fail":
		if leaf {
			s.failed = append(s.failed, e.Package+" "+e.Test)
		}
		s.printf("FAIL %6.1fs  %s %s\n%s", e.Elapsed, e.Package, e.Test, s.output[key])
	}
}

// packageFailed counts a package that failed by itself: a build, a panic.
func (s *summary) packageFailed(name string) {
	if !slices.ContainsFunc(s.failed, func(test string) bool { return strings.HasPrefix(test, name+" ") }) {
		s.failed = append(s.failed, name)
	}
}

// reason is the text of a t.Skip, without where it stands.
func reason(output string) string {
	for line := range strings.Lines(output) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "===") || strings.HasPrefix(line, "---") || line == "" {
			continue
		}
		if _, text, ok := strings.Cut(line, ".go:"); ok {
			if _, text, ok = strings.Cut(text, ": "); ok {
				return text
			}
		}
		return line
	}
	return "no reason given"
}

func (s *summary) close() error {
	s.quiet = false
	skips := 0
	for _, n := range s.skipped {
		skips += n
	}
	s.printf("%d passed, %d failed, %d skipped\n", s.passed, len(s.failed), skips)
	for _, name := range s.failed {
		s.printf("  failed: %s\n", name)
	}
	for _, why := range slices.Sorted(maps.Keys(s.skipped)) {
		s.printf("  skipped %d: %s\n", s.skipped[why], why)
	}
	if len(s.failed) > 0 {
		return errFailed
	}
	return nil
}

func (s *summary) printf(format string, args ...any) {
	if !s.quiet {
		_, _ = fmt.Fprintf(s.w, format, args...)
	}
}
