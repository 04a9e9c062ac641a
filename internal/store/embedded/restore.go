package embedded

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"go.etcd.io/etcd/etcdutl/v3/snapshot"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"
)

// revisionBump is how far the revision of a restored store jumps: beyond
// whatever a daemon has seen after the snapshot was taken, so that none takes
// the restored store for an old state of the lost one.
const revisionBump = 1_000_000_000

var (
	// ErrNotEmpty says that the data directory has something in it.
	ErrNotEmpty = errors.New("data directory is not empty")

	errNoHash = errors.New("it has no hash at its end, so it was cut short or copied from a data directory " +
		"(that is for etcdutl snapshot restore --skip-hash-check)")
	errBadHash = errors.New("its hash is wrong: it is damaged")
	errNoStore = errors.New("it is a database, but not of an etcd")
)

// Summary is what a snapshot holds.
type Summary struct {
	Revision int64
	Keys     int
	Size     int64 // bytes
}

// Inspect checks the hash of a snapshot and tells what it holds.
func Inspect(file string) (Summary, error) {
	if _, err := checkHash(file); err != nil {
		return Summary{}, err
	}
	// etcd's own reader ends the process on a file that is no store.
	info, err := os.Stat(file)
	if err != nil {
		return Summary{}, fmt.Errorf("snapshot: %w", err)
	}
	found, err := readWhole(file, info.Size()-sha256.Size)
	if err == nil && !found.store {
		err = errNoStore
	}
	if err != nil {
		return Summary{}, fmt.Errorf("snapshot %s: %w", file, err)
	}
	s, err := snapshot.NewV3(zap.NewNop()).Status(file)
	if err != nil {
		return Summary{}, fmt.Errorf("snapshot %s: %w", file, err)
	}
	return Summary{Revision: s.Revision, Keys: s.TotalKey, Size: s.TotalSize}, nil
}

// checkHash compares the SHA-256 of the content with the one that etcd put
// behind it, and returns it.
func checkHash(file string) ([]byte, error) {
	const sector = 512 // the content is a multiple of
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("snapshot: %w", err)
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("snapshot: %w", err)
	}
	content := info.Size() - sha256.Size
	if content <= 0 || content%sector != 0 {
		return nil, fmt.Errorf("snapshot %s: %w", file, errNoHash)
	}
	h := sha256.New()
	if _, err := io.CopyN(h, f, content); err != nil {
		return nil, fmt.Errorf("snapshot %s: %w", file, err)
	}
	want, err := io.ReadAll(f)
	if err != nil {
		return nil, fmt.Errorf("snapshot %s: %w", file, err)
	}
	if !bytes.Equal(h.Sum(nil), want) {
		return nil, fmt.Errorf("snapshot %s: %w", file, errBadHash)
	}
	return want, nil
}

// RestoreConfig says what to make of a snapshot.
type RestoreConfig struct {
	File    string
	Dir     string // data directory to make
	Name    string // of this member
	Cluster []Peer // all members of the restored cluster; empty: this one alone
	TLS     bool   // members speak TLS to one another
	// Force moves what is in Dir aside.
	Force bool
	Now   func() time.Time
}

// Restored is what became of it.
type Restored struct {
	Summary
	Aside string // where the former data directory is now; "" if there was none
}

// Restore makes a data directory of a snapshot. The members that are made of
// the same file are a cluster with a new id, to which none of the old can talk.
// It fails with ErrBusy and ErrNotEmpty, and leaves what was there until all
// of the new is there.
func Restore(c RestoreConfig) (Restored, error) {
	hash, err := checkHash(c.File)
	if err != nil {
		return Restored{}, err
	}
	summary, err := Inspect(c.File)
	if err != nil {
		return Restored{}, err
	}
	if at, err := filepath.EvalSymlinks(c.Dir); err == nil {
		c.Dir = at // beside the data, not beside the link
	}
	if err := idle(c.Dir); err != nil {
		return Restored{}, err
	}
	empty, err := isEmpty(c.Dir)
	if err != nil {
		return Restored{}, err
	}
	if !empty && !c.Force {
		return Restored{}, fmt.Errorf("%s: %w", c.Dir, ErrNotEmpty)
	}
	fresh, err := c.build(hash)
	if err != nil {
		return Restored{}, err
	}
	if err := idle(c.Dir); err != nil { // the supervisor may have started it meanwhile
		return Restored{}, err
	}
	out := Restored{Summary: summary}
	if !empty {
		out.Aside = c.Dir + ".until-" + c.Now().UTC().Format("20060102T150405")
	}
	return out, put(fresh, c.Dir, out.Aside)
}

// put puts fresh at dir, and what is there aside unless aside is "". A crash at
// any moment leaves a member's data at dir, the old or the new: without any
// flanneld would begin an empty store.
func put(fresh, dir, aside string) error {
	var err error
	if aside == "" {
		err = os.Rename(fresh, dir)
	} else {
		err = exchange(fresh, dir, aside)
	}
	if err != nil {
		return fmt.Errorf("put the restored data in place: %w", err)
	}
	parent, err := os.Open(filepath.Dir(dir))
	if err != nil {
		return fmt.Errorf("put the restored data in place: %w", err)
	}
	return errors.Join(parent.Sync(), parent.Close())
}

func exchange(fresh, dir, aside string) error {
	if err := os.Rename(fresh, aside); err != nil {
		return err
	}
	err := unix.Renameat2(unix.AT_FDCWD, aside, unix.AT_FDCWD, dir, unix.RENAME_EXCHANGE)
	if err != nil {
		return errors.Join(fmt.Errorf("exchange it with %s: %w: move that away by hand and try again", dir, err),
			os.RemoveAll(aside))
	}
	return nil
}

// build makes the data beside its place and returns where.
func (c RestoreConfig) build(hash []byte) (string, error) {
	var files Files
	if c.TLS {
		files.Cert = "yes" // only the scheme of the addresses depends on it
	}
	own := Config{Name: c.Name, Cluster: c.Cluster, TLS: files}
	own, err := own.complete()
	if err != nil {
		return "", err
	}
	fresh := c.Dir + ".restoring"
	if err := os.RemoveAll(fresh); err != nil { // of a restore that was cut short
		return "", fmt.Errorf("restore: %w", err)
	}
	if err := os.MkdirAll(fresh, 0o700); err != nil {
		return "", fmt.Errorf("restore: %w", err)
	}
	at := own.ownURL()
	err = snapshot.NewV3(zap.NewNop()).Restore(snapshot.RestoreConfig{
		SnapshotPath: c.File, OutputDataDir: fresh, Name: c.Name,
		PeerURLs: []string{at}, InitialCluster: own.initialCluster(),
		InitialClusterToken: clusterToken + "-" + hex.EncodeToString(hash[:8]),
		RevisionBump:        revisionBump, MarkCompacted: true,
	})
	if err != nil {
		return "", errors.Join(fmt.Errorf("restore %s: %w", c.File, err), os.RemoveAll(fresh))
	}
	return fresh, nil
}

// ownURL is where the cluster expects this member.
func (c Config) ownURL() string {
	at := netip.AddrPortFrom(c.address(), c.PeerPort)
	for _, p := range c.Cluster {
		if p.Name == c.Name {
			at = p.At
		}
	}
	u := c.url(at.Addr(), at.Port())
	return u.String()
}

// isEmpty says whether there is nothing at dir, or an empty directory.
func isEmpty(dir string) (bool, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("data directory: %w", err)
	}
	return len(entries) == 0, nil
}
