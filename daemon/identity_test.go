package daemon

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestIdentityIsKept(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	first, err := openIdentity(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := openIdentity(dir); err == nil || !strings.Contains(err.Error(), "--state-dir") {
		t.Errorf("second daemon in one state directory: %v, want a refusal that names --state-dir", err)
	}
	if err := first.close(); err != nil {
		t.Fatal(err)
	}
	again, err := openIdentity(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = again.close() }()
	if again.host != first.host || len(again.host) != 32 {
		t.Errorf("host id %q after %q", again.host, first.host)
	}
}

func TestIdentityRefusesDamage(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "host-id"), []byte("short"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := openIdentity(dir); err == nil || !strings.Contains(err.Error(), "host-id") {
		t.Errorf("damaged host id: %v, want an error naming the file", err)
	}
}
