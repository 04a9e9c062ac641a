package embedded_test

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/flannel-ng/flannel-ng/internal/store/embedded"
)

// What somebody else put where a temporary file could be is not written to.
func TestSnapshotWritesNothingElse(t *testing.T) {
	t.Parallel()
	h := newHost(t, "h1")
	h.start(t)
	h.serving(t)
	dir := t.TempDir()
	victim, file := filepath.Join(t.TempDir(), "victim"), filepath.Join(dir, "store.db")
	if err := os.WriteFile(victim, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(victim, file+".part"); err != nil {
		t.Fatal(err)
	}
	if _, err := admin(t, h).Snapshot(t.Context(), file); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(victim); err != nil || string(got) != "precious" {
		t.Errorf("the other file: %d bytes, %v", len(got), err)
	}
	if info, err := os.Lstat(file); err != nil || info.Mode() != 0o600 {
		t.Errorf("the snapshot: %v, %v", info, err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 2 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}

// moves is what becomes of the names in a directory.
type moves struct{ fd int }

func watchMoves(t *testing.T, dir string) moves {
	t.Helper()
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	if _, err := unix.InotifyAddWatch(fd, dir, unix.IN_MOVED_FROM|unix.IN_MOVED_TO|unix.IN_DELETE); err != nil {
		t.Fatal(err)
	}
	return moves{fd}
}

// first is the first thing that happened to name.
func (m moves) first(t *testing.T, name string) uint32 {
	t.Helper()
	buf := make([]byte, 64<<10)
	n, err := unix.Read(m.fd, buf)
	if err != nil {
		t.Fatal(err)
	}
	for buf = buf[:n]; len(buf) >= unix.SizeofInotifyEvent; {
		mask, length := binary.NativeEndian.Uint32(buf[4:]), binary.NativeEndian.Uint32(buf[12:])
		end := unix.SizeofInotifyEvent + int(length)
		if string(bytes.TrimRight(buf[unix.SizeofInotifyEvent:end], "\x00")) == name {
			return mask
		}
		buf = buf[end:]
	}
	t.Fatalf("nothing happened to %s", name)
	return 0
}

// saved is a snapshot of the store that h serves.
func saved(t *testing.T, h *host) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "store.db")
	if _, err := admin(t, h).Snapshot(t.Context(), file); err != nil {
		t.Fatal(err)
	}
	return file
}

// At no moment of a restore is there no data directory, for a start in that
// moment would begin an empty store. A link to it stays.
func TestRestoreExchanges(t *testing.T) {
	t.Parallel()
	h := newHost(t, "h1")
	h.start(t)
	h.serving(t)
	file := saved(t, h)
	h.stop(t)
	dir, link := h.config.Dir, filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	seen := watchMoves(t, filepath.Dir(dir))
	h.config.Dir = link
	done, err := restored(t, h, embedded.RestoreConfig{File: file, Force: true})
	if err != nil {
		t.Fatal(err)
	}
	if mask := seen.first(t, filepath.Base(dir)); mask&unix.IN_MOVED_TO == 0 {
		t.Errorf("the first that happened to the directory is %x: it was away", mask)
	}
	if !strings.HasPrefix(done.Aside, dir+".until-") {
		t.Errorf("what was there is at %s", done.Aside)
	}
	h.start(t)
	h.serving(t)
}
