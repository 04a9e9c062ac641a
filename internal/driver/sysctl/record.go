package sysctl

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/renameio/v2"
	"golang.org/x/sys/unix"

	"github.com/flannel-ng/flannel-ng/internal/driver/steady"
	"github.com/flannel-ng/flannel-ng/internal/reconcile"
	"github.com/flannel-ng/flannel-ng/internal/state"
)

// version of the record's form; another one is not read.
const version = 1

// everywhere is the switch that sets those of all devices, and with them what
// new devices get.
const everywhere = "net/ipv6/conf/all/forwarding"

// record is the values found before, in the order of noting. It is the form on
// disk. Switches do not outlive a boot, so neither does it.
type record struct {
	Version  int     `json:"version"`
	Boot     string  `json:"boot"`
	Switches []entry `json:"switches"`
}

// entry is one switch.
type entry struct {
	Path   string `json:"path"` // as state.Sysctl has it
	Link   string `json:"link,omitempty"`
	Before string `json:"before"`
	Set    string `json:"set"`
	// With is the path of the switch that sets this one, too.
	With string `json:"with,omitempty"`
	// Users are the aliases of the owners that want it.
	Users []string `json:"users"`
}

// readRecord returns what the file has for this boot. None, and one that is
// damaged or of another version, is an empty record: what switches were before
// is not known then, so they stay.
func readRecord(path string) (*record, error) {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return nil, fmt.Errorf("boot id: %w", err)
	}
	empty := &record{Version: version, Boot: strings.TrimSpace(string(boot))}
	if path == "" {
		return empty, nil
	}
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return empty, nil
	}
	if err != nil {
		return nil, fmt.Errorf("record of switches: %w", err)
	}
	r := &record{}
	if err := json.Unmarshal(raw, r); err != nil || r.Version != version || r.Boot != empty.Boot {
		return empty, nil //nolint:nilerr // as the comment says
	}
	return r, nil
}

// changeRecord lets change work on the record, which no other daemon reads or
// writes meanwhile. An empty record is no file.
func changeRecord(path string, change func(*record) error) error {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("directory of the record of switches: %w", err)
	}
	lock, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("directory of the record of switches: %w", err)
	}
	defer func() { _ = lock.Close() }()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return fmt.Errorf("record of switches %s is in use: %w", path, err)
	}
	r, err := readRecord(path)
	if err != nil {
		return err
	}
	if err := change(r); err != nil {
		return err
	}
	if len(r.Switches) == 0 {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("record of switches: %w", err)
		}
		return nil
	}
	raw, err := json.Marshal(r)
	if err != nil {
		return err
	}
	if err := renameio.WriteFile(path, append(raw, '\n'), 0o644); err != nil {
		return fmt.Errorf("record of switches %s: %w", path, steady.Error(err))
	}
	return nil
}

func (r *record) find(path string) *entry {
	i := slices.IndexFunc(r.Switches, func(e entry) bool { return e.Path == path })
	if i < 0 {
		return nil
	}
	return &r.Switches[i]
}

// lacks says whether another daemon had to set s, and owner wants it, too: the
// other one's cleanup must leave it.
func (r *record) lacks(s state.Sysctl, owner state.Owner) bool {
	e := r.find(s.Path)
	return e != nil && e.Set == normal(s.Value) && !slices.Contains(e.Users, owner.Alias())
}

// note adds s as it is now, unless it is there: the first value counts.
func (r *record) note(s state.Sysctl, owner state.Owner) error {
	now := entry{Path: s.Path, Link: s.Link, Set: normal(s.Value)}
	if s.Path == everywhere {
		others, err := filepath.Glob(path("net/ipv6/conf/*/forwarding"))
		if err != nil {
			return err
		}
		for _, o := range others {
			o = strings.TrimPrefix(o, path("")+"/")
			if o == everywhere {
				continue
			}
			now := now
			now.Path, now.Link, now.With = o, filepath.Base(filepath.Dir(o)), s.Path
			if err := r.add(now, owner); err != nil {
				return err
			}
		}
	}
	return r.add(now, owner)
}

func (r *record) add(now entry, owner state.Owner) error {
	if e := r.find(now.Path); e != nil {
		e.Set = now.Set
		if !slices.Contains(e.Users, owner.Alias()) {
			e.Users = append(e.Users, owner.Alias())
		}
		return nil
	}
	before, err := read(now.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // to come with its link, and to go with it
	}
	if err != nil {
		return fmt.Errorf("read sysctl %s: %w", now.Path, err)
	}
	now.Before, now.Users = before, []string{owner.Alias()}
	r.Switches = append(r.Switches, now)
	return nil
}

// restore is what sets the switches back, the last one noted first: while a host
// forwards, a link with accept_ra 1 would lose its default routes.
func (r *record) restore(owner state.Owner) []reconcile.Change {
	var out []reconcile.Change
	for _, e := range slices.Backward(r.Switches) {
		if r.keeps(e, owner) != "" {
			continue
		}
		if all := r.find(e.With); all != nil && all.Before == e.Before && r.keeps(*all, owner) == "" {
			continue // set back by that one
		}
		out = append(out, reconcile.Change{Op: reconcile.Remove, Object: state.Sysctl{
			Path: e.Path, Value: e.Before, Link: e.Link, Optional: true,
		}})
	}
	return out
}

// gone is the reason of keeps when there is nothing to set back.
const gone = "gone"

// keeps says why owner does not set e back; "" if it does.
func (r *record) keeps(e entry, owner state.Owner) string {
	have, err := read(e.Path)
	switch {
	case !slices.Contains(e.Users, owner.Alias()), errors.Is(err, fs.ErrNotExist):
		return gone
	case err != nil:
		return err.Error()
	case have == e.Before && !r.covered(e, owner):
		return gone
	case have != e.Set:
		return fmt.Sprintf("it is %s now, not the %s that flanneld set: somebody else changed it", have, e.Set)
	case len(e.Users) > 1:
		return "another flanneld of this host wants it"
	default:
		return ""
	}
}

// covered says whether e will change when the switch is set back that it was
// noted with.
func (r *record) covered(e entry, owner state.Owner) bool {
	all := r.find(e.With)
	return all != nil && all.Before != e.Before && r.keeps(*all, owner) == ""
}

// Kept is a switch that stays.
type Kept struct{ Path, Why string }

// Keeps says which switches a driver with Restore leaves as they are although
// owner changed them, and why.
func Keeps(file string, owner state.Owner) ([]Kept, error) {
	r, err := readRecord(file)
	if err != nil {
		return nil, err
	}
	var out []Kept
	for _, e := range r.Switches {
		if why := r.keeps(e, owner); why != "" && why != gone && e.With == "" {
			out = append(out, Kept{Path: "sysctl " + e.Path, Why: why})
		}
	}
	return out, nil
}

// Known says whether the record has anything of owner.
func Known(file string, owner state.Owner) (bool, error) {
	r, err := readRecord(file)
	if err != nil {
		return false, err
	}
	return slices.ContainsFunc(r.Switches, func(e entry) bool { return slices.Contains(e.Users, owner.Alias()) }), nil
}

// Forget takes owner out of the record: what it changed and did not set back
// stays for good.
func Forget(file string, owner state.Owner) error {
	return changeRecord(file, func(r *record) error {
		for i := range r.Switches {
			e := &r.Switches[i]
			e.Users = slices.DeleteFunc(e.Users, func(u string) bool { return u == owner.Alias() })
		}
		r.Switches = slices.DeleteFunc(r.Switches, func(e entry) bool { return len(e.Users) == 0 })
		return nil
	})
}
