package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/flannel-ng/flannel-ng/internal/tunnel"
)

// TestMain is flanneld, if the tests have started it as a forwarder.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == tunnel.Subcommand {
		os.Exit(run(os.Args[1:]))
	}
	os.Exit(m.Run())
}

// The program is its own forwarder: what ends flanneld does not end it, and it
// is told apart from flanneld.
func TestForward(t *testing.T) {
	r, w, err := os.Pipe()
	if err == nil { // not closed on exec, as a careless supervisor leaves it
		_, err = unix.FcntlInt(w.Fd(), unix.F_SETFD, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	p := tunnel.Process{Socket: filepath.Join(t.TempDir(), "a.sock"), Build: "v1.2.3", Flags: []string{"--log-format", "json"}}
	c, err := tunnel.Start(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	pid := c.Hello().PID
	if c.Hello().Build != "v1.2.3" {
		t.Errorf("hello %+v", c.Hello())
	}
	proc := fmt.Sprintf("/proc/%d/", pid)
	if got := read(t, proc+"comm"); got != processName+"\n" {
		t.Errorf("name %q", got)
	}
	if got := read(t, proc+"cmdline"); !strings.HasPrefix(got, "flanneld\x00forward\x00--socket\x00"+p.Socket+"\x00") {
		t.Errorf("command line %q", got)
	}
	if err := errors.Join(w.Close(), r.SetReadDeadline(time.Now().Add(10*time.Second))); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(r); err != nil { // until the forwarder's copy is closed
		t.Error(err)
	}
	for _, sig := range []unix.Signal{unix.SIGINT, unix.SIGHUP, unix.SIGPIPE} {
		if err := unix.Kill(pid, sig); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := c.Status(t.Context()); err != nil {
		t.Errorf("after signals: %v", err)
	}
	if err := c.Quit(t.Context()); err != nil {
		t.Error(err)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestForwardUsage(t *testing.T) {
	for _, c := range []struct {
		args string
		want int
	}{
		{"--help", 0},
		{"", exitUsage},
		{"--socket", exitUsage},
		{"--socket /a.sock more", exitUsage},
		{"--socket /a.sock --log-format xml", exitUsage},
		{"--port 8285", exitUsage},
	} {
		if got := run(append([]string{tunnel.Subcommand}, strings.Fields(c.args)...)); got != c.want {
			t.Errorf("forward %s: exit code %d, want %d", c.args, got, c.want)
		}
	}
}
