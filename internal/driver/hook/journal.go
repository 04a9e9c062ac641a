package hook

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/renameio/v2"
	"golang.org/x/sys/unix"

	"github.com/flannel-ng/flannel-ng/internal/driver/steady"
	"github.com/flannel-ng/flannel-ng/internal/state"
)

// errBroken says that a journal cannot be used.
var errBroken = errors.New("broken")

// version of the file's form; another one is not read.
const version = 1

// journal is what commands were run for and has to be undone one day.
type journal struct {
	path    string
	boot    string
	entries map[string]entry // by name of hook
	changed bool             // since it was saved
}

// entry is one hook of the journal.
type entry struct {
	Hook state.Hook `json:"hook"`
	// Before are the undoings of earlier hooks of this name that have not been
	// tried yet, the oldest first.
	Before []state.Command `json:"before,omitempty"`
	doubt  string          // why the hook has to be run again
}

// file is the form on disk. Words and input may be secret: root alone reads it.
type file struct {
	Version int     `json:"version"`
	Boot    string  `json:"boot"` // what was made did not survive another one
	Entries []entry `json:"entries"`
}

// readJournal returns what the file has for this boot; none is an empty journal.
// With errBroken there is an empty journal, too.
func readJournal(path string) (*journal, error) {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return nil, fmt.Errorf("boot id: %w", err)
	}
	j := &journal{path: path, boot: strings.TrimSpace(string(boot)), entries: map[string]entry{}}
	raw, err := readPrivate(path)
	if errors.Is(err, fs.ErrNotExist) {
		return j, nil
	}
	if err != nil {
		return j, fmt.Errorf("journal of commands: %w", err)
	}
	entries, err := decode(raw, j.boot)
	for _, e := range entries {
		e.doubt = "run by an earlier start of flanneld"
		j.entries[e.Hook.Name] = e
	}
	return j, err
}

// readPrivate reads a file that nobody but us could have written: what it names
// is run as root.
func readPrivate(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if errors.Is(err, unix.ELOOP) {
		return nil, fmt.Errorf("%w: %s is a symbolic link", errBroken, path)
	}
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return nil, fmt.Errorf("look at %s: %w", path, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG || int(st.Uid) != os.Geteuid() || st.Mode&0o077 != 0 {
		return nil, fmt.Errorf("%w: %s is not a private file of ours", errBroken, path)
	}
	return io.ReadAll(f)
}

// decode reads the form on disk. A journal of another boot has no entries.
func decode(raw []byte, boot string) ([]entry, error) {
	var f file
	if err := json.Unmarshal(raw, &f); err != nil {
		return nil, fmt.Errorf("%w: %w", errBroken, err)
	}
	if f.Version != version {
		return nil, fmt.Errorf("%w: version %d, not %d", errBroken, f.Version, version)
	}
	if f.Boot != boot {
		return nil, nil
	}
	return f.Entries, nil
}

// saveChanged saves what is not saved yet.
func (j *journal) saveChanged() error {
	if !j.changed {
		return nil
	}
	return j.save()
}

// save writes the journal whole.
func (j *journal) save() error {
	err := steady.Error(j.write())
	j.changed = err != nil
	return err
}

// write replaces the file. An empty journal is no file.
func (j *journal) write() error {
	if len(j.entries) == 0 {
		if err := os.Remove(j.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	}
	f := file{Version: version, Boot: j.boot, Entries: make([]entry, 0, len(j.entries))}
	for _, e := range j.entries {
		f.Entries = append(f.Entries, e)
	}
	slices.SortFunc(f.Entries, func(a, b entry) int { return cmp.Compare(a.Hook.Name, b.Hook.Name) })
	raw, err := json.Marshal(f)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(j.path), 0o755); err != nil {
		return err
	}
	t, err := renameio.NewPendingFile(j.path, renameio.WithStaticPermissions(0o600)) // whatever the old one had
	if err != nil {
		return err
	}
	defer func() { _ = t.Cleanup() }()
	if _, err := t.Write(raw); err != nil {
		return err
	}
	return t.CloseAtomicallyReplace()
}
