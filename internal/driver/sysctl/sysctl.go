// Package sysctl sets kernel switches below /proc/sys.
//
// Switches have no owner: one that differs is set, and one that is not wanted
// any more stays. What a switch was before anybody of us set it is noted in a
// record (Options.Record); a driver with Options.Restore, which a cleanup makes
// once the links are gone, sets them back by it. The daemons of a host share the
// record, and the last one's cleanup counts.
//
// A switch below net/ is that of the network namespace of the calling thread. One
// that does not exist is an addition that fails with fs.ErrNotExist, unless it
// is optional or its link has come meanwhile. Called by the engine and by
// cleanups through reconcile.
package sysctl

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/flannel-ng/flannel-ng/internal/reconcile"
	"github.com/flannel-ng/flannel-ng/internal/state"
)

// Options are the settings of a Driver.
type Options struct {
	// Record is the file with the values found before; "" for none.
	Record string
	// Owner is who wants the switches.
	Owner state.Owner
	// Restore sets switches back that are in the record and not wanted.
	Restore bool
}

// Driver sets switches.
type Driver struct{ o Options }

// New makes a driver.
func New(o Options) *Driver { return &Driver{o} }

// Kind implements reconcile.Driver.
func (*Driver) Kind() state.Kind { return state.KindSysctl }

// Plan implements reconcile.Driver.
func (d *Driver) Plan(ctx context.Context, want *state.Set) ([]reconcile.Change, error) {
	before, err := readRecord(d.o.Record)
	if err != nil {
		return nil, err
	}
	var out []reconcile.Change
	for _, s := range want.Sysctls {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		have, err := read(s.Path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			if !s.Optional || comes(s) {
				out = append(out, reconcile.Change{Op: reconcile.Add, Object: s})
			}
		case err != nil:
			return nil, fmt.Errorf("read sysctl %s: %w", s.Path, err)
		case have != normal(s.Value):
			out = append(out, reconcile.Change{Op: reconcile.Update, Object: s, Was: have})
		case before.lacks(s, d.o.Owner):
			out = append(out, reconcile.Change{Op: reconcile.Update, Object: s, Was: have + ", for another flanneld alone"})
		}
	}
	reconcile.Sort(out)
	if d.o.Restore && len(want.Sysctls) == 0 {
		out = append(out, before.restore(d.o.Owner)...)
	}
	return out, nil
}

// Apply implements reconcile.Driver.
func (d *Driver) Apply(ctx context.Context, changes []reconcile.Change) []reconcile.Result {
	results := make([]reconcile.Result, len(changes))
	var puts []state.Sysctl
	for i, ch := range changes {
		results[i].Change = ch
		s, ok := ch.Object.(state.Sysctl)
		if !ok {
			results[i].Err = fmt.Errorf("sysctl driver got %T", ch.Object)
		} else if ch.Op != reconcile.Remove {
			puts = append(puts, s)
		}
	}
	// First noted, then set: a crash between forgets nothing. Forwarding waits
	// for another daemon that writes the record at this moment, but not for a
	// file system: without a note it is set, and stays for good.
	unnoted := d.note(puts)
	for i := range results {
		r := &results[i]
		if r.Err == nil {
			r.Err = ctx.Err()
		}
		if r.Err == nil {
			r.Err = set(r.Change, unnoted)
		}
	}
	return results
}

// set makes one change, unnoted being the error of its note.
func set(ch reconcile.Change, unnoted error) error {
	s, _ := ch.Object.(state.Sysctl)
	if ch.Op == reconcile.Remove {
		return write(s)
	}
	if errors.Is(unnoted, unix.EWOULDBLOCK) {
		return unnoted
	}
	err := write(s)
	if err == nil && unnoted != nil {
		err = fmt.Errorf("set, but not noted: %w", unnoted)
	}
	return err
}

// note writes into the record what these switches are now.
func (d *Driver) note(puts []state.Sysctl) error {
	if d.o.Record == "" || len(puts) == 0 {
		return nil
	}
	return changeRecord(d.o.Record, func(r *record) error {
		for _, s := range puts {
			if err := r.note(s, d.o.Owner); err != nil {
				return err
			}
		}
		return nil
	})
}

// comes says whether a missing switch will be there with its link. A kernel
// without IPv6 has none for any link, and never will; a link that is there has
// all it gets, and that is none of IPv6 with an MTU below 1280.
func comes(s state.Sysctl) bool {
	if s.Link == "" || exists(filepath.Join("net/ipv4/conf", s.Link)) {
		return false
	}
	return exists(filepath.Dir(filepath.Dir(s.Path)))
}

func exists(p string) bool {
	_, err := os.Stat(path(p))
	return err == nil
}

func write(s state.Sysctl) error {
	err := os.WriteFile(path(s.Path), []byte(s.Value), 0)
	if s.Optional && errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func path(p string) string { return filepath.Join("/proc/sys", p) }

func read(p string) (string, error) {
	b, err := os.ReadFile(path(p))
	return normal(string(b)), err
}

// normal makes "1\t2\n" equal to "1 2".
func normal(s string) string { return strings.Join(strings.Fields(s), " ") }
