package ipt_test

import (
	"strings"
	"testing"
	"time"

	"github.com/flannel-ng/flannel-ng/internal/driver/filter/ipt"
)

// A program that hangs, and leaves behind another that holds its output, ends
// in time and with the likely reason.
func TestHangingProgramIsEnded(t *testing.T) {
	start := time.Now()
	_, err := ipt.System{Patience: 50 * time.Millisecond}.Run(t.Context(), "", []string{"sh", "-c", "sleep 20; true"})
	if err == nil || !strings.Contains(err.Error(), "xtables lock") {
		t.Errorf("got %v", err)
	}
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("took %s", took)
	}
}

func TestProgramsOwnWordsAreKept(t *testing.T) {
	_, err := ipt.System{}.Run(t.Context(), "", []string{"sh", "-c", "echo the lock is held >&2; exit 4"})
	if err == nil || !strings.Contains(err.Error(), "the lock is held") || strings.Contains(err.Error(), "hangs") {
		t.Errorf("got %v", err)
	}
}
