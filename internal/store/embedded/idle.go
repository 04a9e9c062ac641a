package embedded

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// ErrBusy says that a process uses the data directory now.
var ErrBusy = errors.New("a running etcd or flanneld uses this data directory")

// idle fails with ErrBusy if a member runs on the data directory.
func idle(dir string) error {
	db := filepath.Join(dir, "member", "snap", "db")
	f, err := os.OpenFile(db, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("data of the embedded etcd: %w", err)
	}
	defer func() { _ = f.Close() }() // which unlocks it
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return fmt.Errorf("%s: %w", dir, ErrBusy)
	}
	if err != nil {
		return fmt.Errorf("lock %s: %w", db, err)
	}
	return nil
}
