package file_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/flannel-ng/flannel-ng/internal/driver/file"
	"github.com/flannel-ng/flannel-ng/internal/reconcile"
	"github.com/flannel-ng/flannel-ng/internal/state"
)

// run applies what differs and returns how much that was.
func run(t *testing.T, files ...state.File) int {
	t.Helper()
	// Without removals, as before the store is in sync: an outright absence
	// is no inference.
	out := reconcile.Execute(t.Context(), []reconcile.Driver{file.New()}, &state.Set{Files: files}, false)
	for kind, err := range out.Unread {
		t.Fatalf("read %s: %v", kind, err)
	}
	for _, r := range out.Failed() {
		t.Errorf("%s %s: %v", r.Op, r.Object, r.Err)
	}
	return len(out.Results)
}

func check(t *testing.T, path, content string, mode fs.FileMode) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil || string(b) != content {
		t.Errorf("%s holds %q, %v", path, b, err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != mode {
		t.Errorf("%s: mode %v, not %v, %v", path, info.Mode(), mode, err)
	}
}

func TestFile(t *testing.T) {
	defer unix.Umask(unix.Umask(0o077)) // as strict services run
	dir := t.TempDir()
	f := state.File{Path: filepath.Join(dir, "run", "flannel", "subnet.env"), Content: "A=1\n"}
	if n := run(t, f); n != 1 {
		t.Errorf("new file: %d changes", n)
	}
	check(t, f.Path, "A=1\n", 0o644)
	if n := run(t, f); n != 0 {
		t.Errorf("second pass: %d changes", n)
	}
	if err := os.Chmod(f.Path, 0o600); err != nil {
		t.Fatal(err)
	}
	f.Content = "A=2\n"
	if n := run(t, f); n != 1 {
		t.Errorf("changed content: %d changes", n)
	}
	check(t, f.Path, "A=2\n", 0o600)
	entries, err := os.ReadDir(filepath.Dir(f.Path))
	if err != nil || len(entries) != 1 {
		t.Errorf("left beside it: %v, %v", entries, err)
	}
	gone := state.File{Path: f.Path, Absent: true}
	if n := run(t, gone); n != 1 {
		t.Errorf("absent: %d changes", n)
	}
	if n := run(t, gone); n != 0 {
		t.Errorf("absent, second pass: %d changes", n)
	}
	if _, err := os.Stat(f.Path); !os.IsNotExist(err) {
		t.Errorf("still there: %v", err)
	}
}

// A reader that holds the old file open never sees half of the new one.
func TestReplacesWhole(t *testing.T) {
	path := filepath.Join(t.TempDir(), "subnet.env")
	run(t, state.File{Path: path, Content: "old"})
	open, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = open.Close() }()
	run(t, state.File{Path: path, Content: "new and longer"})
	b := make([]byte, 32)
	if n, err := open.Read(b); err != nil || string(b[:n]) != "old" {
		t.Errorf("the open file became %q, %v", b[:n], err)
	}
}

func TestUnreadableIsAnError(t *testing.T) {
	dir := t.TempDir()
	_, err := file.New().Plan(t.Context(), &state.Set{Files: []state.File{{Path: dir, Content: "x"}}})
	if err == nil {
		t.Error("a directory in its place passed for a missing file")
	}
}

func TestOneBadFileFailsAlone(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "plain"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	good := state.File{Path: filepath.Join(dir, "good"), Content: "x"}
	bad := state.File{Path: "/proc/nowhere/bad", Content: "x"}
	out := reconcile.Execute(t.Context(), []reconcile.Driver{file.New()}, &state.Set{Files: []state.File{bad, good}}, true)
	if failed := out.Failed(); len(failed) != 1 || failed[0].Object.Key() != bad.Key() {
		t.Errorf("failed: %v, unread: %v", failed, out.Unread)
	}
	check(t, good.Path, "x", 0o644)
}

// A retry that fails as before must say the same, or it is logged as news.
func TestSameFailureSameWords(t *testing.T) {
	dir := t.TempDir()
	for _, path := range []string{
		filepath.Join("/proc/self", "subnet.env"), // no file can be made there
		filepath.Join(dir, "taken"),               // the rename meets a directory
	} {
		if err := os.MkdirAll(filepath.Join(dir, "taken", "x"), 0o700); err != nil {
			t.Fatal(err)
		}
		change := reconcile.Change{Op: reconcile.Add, Object: state.File{Path: path, Content: "x"}}
		var texts []string
		for range 2 {
			err := file.New().Apply(t.Context(), []reconcile.Change{change})[0].Err
			if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrExist) {
				t.Fatalf("%s: %v", path, err)
			}
			texts = append(texts, err.Error())
		}
		if texts[0] != texts[1] {
			t.Errorf("%s:\n%q", path, texts)
		}
	}
}
