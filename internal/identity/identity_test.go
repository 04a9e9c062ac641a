package identity_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/flannel-ng/flannel-ng/internal/identity"
)

func TestIdentityIsKept(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	first, err := identity.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := identity.Open(dir); err == nil || !strings.Contains(err.Error(), "--state-dir") {
		t.Errorf("second daemon in one state directory: %v, want a refusal that names --state-dir", err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := identity.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = again.Close() }()
	if again.Host != first.Host || len(again.Host) != 32 {
		t.Errorf("host id %q after %q", again.Host, first.Host)
	}
}

func TestIdentityRefusesDamage(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "host-id"), []byte("short"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := identity.Open(dir); err == nil || !strings.Contains(err.Error(), "host-id") {
		t.Errorf("damaged host id: %v, want an error naming the file", err)
	}
}

func TestOneDaemonASubnetFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "run", "subnet.env")
	first, err := identity.Lock(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := identity.Lock(path); err == nil || !strings.Contains(err.Error(), "--subnet-file") {
		t.Errorf("second daemon with one subnet file: %v, want a refusal that names --subnet-file", err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	if again, err := identity.Lock(path); err != nil || again.Close() != nil {
		t.Errorf("after the first has ended: %v", err)
	}
}

func TestPeekLeavesNoTrace(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	if id, err := identity.Peek(dir); err != nil || len(id) != 32 {
		t.Fatalf("%q, %v", id, err)
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("state directory was made: %v", err)
	}
	id, err := identity.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = id.Close() }()
	if host, err := identity.Peek(dir); err != nil || host != id.Host {
		t.Errorf("beside a running daemon: %q, %v; want %q", host, err, id.Host)
	}
}
