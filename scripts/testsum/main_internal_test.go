package main

import (
	"errors"
	"strings"
	"testing"
)

const events = `{"Action":"start","Package":"p"}
{"Action":"run","Package":"p","Test":"TestA"}
{"Action":"run","Package":"p","Test":"TestA/one"}
{"Action":"output","Package":"p","Test":"TestA/one","Output":"    a_test.go:7: no luck\n"}
{"Action":"fail","Package":"p","Test":"TestA/one","Elapsed":0.1}
{"Action":"run","Package":"p","Test":"TestA/two"}
{"Action":"pass","Package":"p","Test":"TestA/two","Elapsed":2.5}
{"Action":"fail","Package":"p","Test":"TestA","Elapsed":2.6}
{"Action":"run","Package":"p","Test":"TestB"}
{"Action":"output","Package":"p","Test":"TestB","Output":"=== RUN   TestB\n"}
{"Action":"output","Package":"p","Test":"TestB","Output":"    b_test.go:9: needs root: namespaces\n"}
{"Action":"skip","Package":"p","Test":"TestB","Elapsed":0}
{"Action":"fail","Package":"p","Elapsed":2.7}
not an event
`

func TestSummary(t *testing.T) {
	var out strings.Builder
	s := newSummary(&out)
	if err := s.read(strings.NewReader(events)); err != nil {
		t.Fatal(err)
	}
	if err := s.close(); !errors.Is(err, errFailed) {
		t.Errorf("a failed test ends with %v", err)
	}
	want := "1 passed, 1 failed, 1 skipped\n  failed: p TestA/one\n  skipped 1: needs root: namespaces\n"
	if !strings.HasSuffix(out.String(), want) {
		t.Errorf("closing count:\n%s\nwant\n%s", out.String(), want)
	}
	for _, line := range []string{"a_test.go:7: no luck", "not an event", "  2.5s  TestA/two"} {
		if !strings.Contains(out.String(), line) {
			t.Errorf("%q is not shown in\n%s", line, out.String())
		}
	}
}

// A package that fails by itself (a build, a panic) counts.
func TestPackageAlone(t *testing.T) {
	var out strings.Builder
	s := newSummary(&out)
	if err := s.read(strings.NewReader(`{"Action":"fail","Package":"q","Elapsed":0}` + "\n")); err != nil {
		t.Fatal(err)
	}
	if err := s.close(); !errors.Is(err, errFailed) {
		t.Errorf("a failed package ends with %v", err)
	}
}
