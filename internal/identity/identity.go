// Package identity is who a host is in the lease protocol: a random id kept in
// the state directory.
//
// It owns the files "lock" and "host-id" there. It knows no store. Called by
// the daemon and by cleanup.
package identity

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/renameio/v2"
	"golang.org/x/sys/unix"
)

// Identity is this host's, held until Close.
type Identity struct {
	Host string // 32 hex digits, kept in the state directory
	Boot string // the kernel's random boot id: tells a restart from a reboot
	lock *os.File
}

// hostIDBytes gives 128 bits: never two hosts with the same by chance.
const hostIDBytes = 16

// Open locks the state directory, so that two daemons never share an
// identity on one host, and reads or makes the host id in it. It is random,
// never derived from a machine id, which cloned machines share.
func Open(dir string) (*Identity, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("state directory: %w (choose another with --state-dir)", err)
	}
	lock, err := hold(filepath.Join(dir, LockFile))
	if err != nil {
		return nil, fmt.Errorf("state directory %s: %w", dir, err)
	}
	id := &Identity{lock: lock}
	if id.Host, err = hostID(filepath.Join(dir, HostIDFile)); err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return nil, errors.Join(fmt.Errorf("boot id: %w", err), lock.Close())
	}
	id.Boot = strings.TrimSpace(string(boot))
	return id, nil
}

// Names of the files in the state directory.
const (
	HostIDFile = "host-id"
	LockFile   = "lock"
)

// Hold locks the state directory as Open does, and makes no id.
func Hold(dir string) (io.Closer, error) {
	lock, err := hold(filepath.Join(dir, LockFile))
	if err != nil {
		return nil, fmt.Errorf("state directory %s: %w", dir, err)
	}
	return lock, nil
}

// Lock makes sure that one daemon alone serves a subnet file: what it owns on
// the host is told by the path of that file. The lock ends with Close or with
// the process; its file stays.
func Lock(subnetFile string) (io.Closer, error) {
	if err := os.MkdirAll(filepath.Dir(subnetFile), 0o755); err != nil {
		return nil, fmt.Errorf("directory of the subnet file: %w", err)
	}
	lock, err := hold(LockOf(subnetFile))
	if err != nil {
		return nil, fmt.Errorf("subnet file %s: %w", subnetFile, err)
	}
	return lock, nil
}

// LockOf is the file that Lock locks.
func LockOf(subnetFile string) string { return subnetFile + ".lock" }

// hold opens and locks a file, or says who may have it.
func hold(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		err = fmt.Errorf("used by another running flanneld: give this one its own --subnet-file and --state-dir: %w", err)
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// Close gives the state directory free.
func (id *Identity) Close() error { return id.lock.Close() }

// Peek reads the host id without making or locking anything. A host that has
// none gets one for this call only.
func Peek(dir string) (string, error) {
	path := filepath.Join(dir, HostIDFile)
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return randomID()
	}
	return hostID(path)
}

func hostID(path string) (string, error) {
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return newHostID(path)
	}
	if err != nil {
		return "", fmt.Errorf("host id: %w", err)
	}
	id := strings.TrimSpace(string(raw))
	if b, err := hex.DecodeString(id); err != nil || len(b) != hostIDBytes {
		return "", fmt.Errorf("host id: %s does not hold %d hex digits: remove it to get a new identity",
			path, 2*hostIDBytes)
	}
	return id, nil
}

func newHostID(path string) (string, error) {
	id, err := randomID()
	if err != nil {
		return "", err
	}
	if err := renameio.WriteFile(path, []byte(id+"\n"), 0o600); err != nil {
		return "", fmt.Errorf("host id: %w", err)
	}
	return id, nil
}

func randomID() (string, error) {
	b := make([]byte, hostIDBytes)
	if _, err := rand.Read(b); err != nil {
		return "", fmt.Errorf("host id: %w", err)
	}
	return hex.EncodeToString(b), nil
}
