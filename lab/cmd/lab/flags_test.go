package main

import (
	"flag"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A mistake in a flag is told by the error alone, which says where to look.
func TestFlags(t *testing.T) {
	for _, tt := range []struct {
		args []string
		want string
	}{
		{[]string{"demo", "--hosts", "abc"}, `invalid value "abc" for flag -hosts: parse error: see lab demo --help`},
		{[]string{"demo", "--host", "3"}, "flag provided but not defined: -host: see lab demo --help"},
		{[]string{"demo", "3"}, `unexpected argument "3": see lab demo --help`},
		{[]string{"bench", "--rounds", "abc"}, "see lab bench --help"},
		{[]string{"mesh", "--hosts", "abc"}, "see lab mesh --help"},
		{[]string{"mesh", "--backend", "foo"}, "--backend=foo: want one of vxlan, host-gw, udp, or a JSON object with one of them as its Type"},
		{[]string{"mesh", "--backend", `{"Type":"foo"}`}, "want one of vxlan"},
		{[]string{"mesh", "--backend", `{"Type":`}, "want one of vxlan"},
		{[]string{"torture", "--full=abc"}, "see lab torture --help"},
	} {
		var err error
		if said := printed(t, func() { err = run(t.Context(), tt.args) }); said != "" {
			t.Errorf("lab %v printed %q", tt.args, said)
		}
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("lab %v: %v, want %q", tt.args, err, tt.want)
		}
	}
}

// What a user asked for is no mistake.
func TestHelp(t *testing.T) {
	for _, name := range []string{"demo", "bench", "mesh", "torture"} {
		var err error
		said := printed(t, func() { err = run(t.Context(), []string{name, "--help"}) })
		if !strings.HasPrefix(said, "Usage of lab "+name) {
			t.Errorf("lab %s --help printed %q", name, said)
		}
		if err != flag.ErrHelp { //nolint:errorlint // main compares with errors.Is; here it is the thing itself
			t.Errorf("lab %s --help: %v", name, err)
		}
	}
}

// printed is what do writes to standard output and standard error.
func printed(t *testing.T, do func()) string {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "printed"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	stdout, stderr := os.Stdout, os.Stderr
	os.Stdout, os.Stderr = f, f
	do()
	os.Stdout, os.Stderr = stdout, stderr
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(f)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
