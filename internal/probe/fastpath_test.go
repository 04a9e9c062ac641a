package probe_test

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/flannel-ng/flannel-ng/internal/probe"
)

func TestFastPath(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "nothing")
	if a := probe.FastPath(missing); a.OK || a.Why == "" {
		t.Errorf("without a file system: %+v", a)
	}
	a := probe.FastPath(t.TempDir())
	switch {
	case a.OK != (a.Why == ""):
		t.Errorf("%+v: a reason and no ability, or neither", a)
	case os.Geteuid() != 0 && a.OK:
		t.Error("possible without root")
	case os.Geteuid() == 0 && !a.OK && !strings.Contains(a.Why, "6.6"):
		t.Errorf("as root: %s", a.Why)
	}
}

// Who may not is told which rights are missing, not which map could not be made.
func TestFastPathWithoutRights(t *testing.T) {
	dir := t.TempDir()
	why := make(chan string)
	go func() {
		runtime.LockOSThread() // and never unlocked: this thread ends without its rights
		head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var none [2]unix.CapUserData
		if err := unix.Capset(&head, &none[0]); err != nil {
			why <- err.Error()
			return
		}
		why <- probe.FastPath(dir).Why
	}()
	got := <-why
	if strings.Contains(got, "6.6") {
		t.Skip(got)
	}
	if !strings.HasPrefix(got, "flanneld may not load programs: it needs CAP_BPF") {
		t.Error(got)
	}
}
