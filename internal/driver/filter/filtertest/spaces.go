// Package filtertest is the conformance suite of the filter drivers: what
// every driver must do, checked against a real kernel in network namespaces
// of its own, with real packets.
//
// It owns the namespaces that it makes and never touches the host's. Called by
// the tests of the drivers.
package filtertest

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Space is a network namespace: an OS thread that lives in it and runs what it
// is given. The namespace ends with the test.
type Space struct {
	path string // of the namespace, for "ip link set netns"
	work chan func()
}

// NewSpace makes a namespace with the loopback up, or skips the test.
func NewSpace(t *testing.T) *Space {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes network namespaces")
	}
	s := &Space{work: make(chan func())}
	started := make(chan error)
	go func() {
		// Never unlocked: the thread dies with the goroutine, and the
		// namespace with the thread.
		runtime.LockOSThread()
		err := unix.Unshare(unix.CLONE_NEWNET)
		s.path = fmt.Sprintf("/proc/%d/task/%d/ns/net", os.Getpid(), unix.Gettid())
		started <- err
		for f := range s.work {
			f()
		}
	}()
	if err := <-started; err != nil {
		t.Skipf("needs network namespaces: %v", err)
	}
	t.Cleanup(func() { close(s.work) })
	s.Sh(t, "ip link set lo up")
	return s
}

// Do runs f on the namespace's thread and waits for it. f must not end the
// test: it is on another goroutine.
func (s *Space) Do(f func()) {
	done := make(chan struct{})
	s.work <- func() {
		defer close(done)
		f()
	}
	<-done
}

// Sh runs shell lines in the namespace and returns what they print.
func (s *Space) Sh(t *testing.T, lines ...string) string {
	t.Helper()
	var out []byte
	var err error
	s.Do(func() {
		cmd := exec.CommandContext(t.Context(), "sh", "-ec", strings.Join(lines, "\n"))
		out, err = cmd.CombinedOutput()
	})
	if err != nil {
		t.Fatalf("%s\n%v: %s", strings.Join(lines, "\n"), err, out)
	}
	return string(out)
}

// Need skips the test if a program is missing.
func Need(t *testing.T, programs ...string) {
	t.Helper()
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			t.Skipf("needs %s: %v", p, err)
		}
	}
}
