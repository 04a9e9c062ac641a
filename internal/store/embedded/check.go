package embedded

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"time"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

var (
	// ErrDamaged says that the data directory cannot be used as it is.
	ErrDamaged = errors.New("damaged data")

	errCut     = errors.New("the file is cut short")
	errOrder   = errors.New("keys are out of order")
	errNoFile  = errors.New("it is no regular file")
	errLostWAL = errors.New("there is a database but not the log that belongs to it (member/wal)")
)

// check reads the whole database before etcd does, and fails with ErrBusy if a
// member runs on it, for which etcd would wait silently and for ever. etcd would
// end the process on damage: it meets it in goroutines of its own, and a file
// that is cut short is a bus error there. Without its log a database has to be
// kept from etcd, too, which would begin a new log whose first entries it takes
// for applied.
func (c Config) check() error {
	path := filepath.Join(c.Dir, "member", "snap", "db")
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist) || err == nil && info.Size() == 0 && info.Mode().IsRegular():
		return nil // etcd makes it, from its log
	case err != nil:
		return fmt.Errorf("data of the embedded etcd: %w", err)
	case !info.Mode().IsRegular():
		return unusable(path, errNoFile)
	}
	found, err := readWhole(path, info.Size())
	switch {
	case errors.Is(err, bolterrors.ErrTimeout):
		return fmt.Errorf("%s: %w", c.Dir, ErrBusy)
	case err != nil:
		return unusable(path, err)
	}
	if found.applied > 0 && !c.filled() {
		return unusable(c.Dir, errLostWAL)
	}
	return nil
}

func unusable(path string, err error) error {
	return fmt.Errorf("%w in %s: %w: stop flanneld and restore a snapshot (flannelctl store restore --help), or, as one "+
		"of several members, remove this one, move the data directory away and join anew", ErrDamaged, path, err)
}

// contents is what a database is.
type contents struct {
	store   bool   // it is one of etcd
	applied uint64 // number of the last entry of the log that is in it
}

// readWhole walks through a database of size bytes.
func readWhole(path string, size int64) (found contents, err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true)) // a bad sector is one
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%v", p)
		}
	}()
	db, err := bolt.Open(path, 0, &bolt.Options{ReadOnly: true, Timeout: time.Second})
	if err != nil {
		return found, err
	}
	defer func() { _ = db.Close() }() // it was only read
	err = db.View(func(tx *bolt.Tx) error {
		if tx.Size() > size {
			return fmt.Errorf("%w: %d of %d bytes", errCut, size, tx.Size())
		}
		if b := tx.Bucket([]byte("meta")); b != nil {
			found.store = tx.Bucket([]byte("key")) != nil
			if v := b.Get([]byte("consistent_index")); len(v) == 8 {
				found.applied = binary.BigEndian.Uint64(v)
			}
		}
		return tx.ForEach(func(_ []byte, b *bolt.Bucket) error { return walk(b) })
	})
	return found, err
}

// walk looks at each key below b; bolt panics on pages that are something else.
func walk(b *bolt.Bucket) error {
	var last []byte
	return b.ForEach(func(key, value []byte) error {
		if last != nil && bytes.Compare(last, key) >= 0 {
			return errOrder
		}
		last = key
		if nested := b.Bucket(key); value == nil && nested != nil {
			return walk(nested)
		}
		return nil
	})
}
