package probe_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

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
