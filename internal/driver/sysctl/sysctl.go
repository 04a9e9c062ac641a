// Package sysctl sets kernel switches below /proc/sys.
//
// Switches have no owner: one that differs is set, none is ever set back. A
// switch below net/ is that of the network namespace of the calling thread. One
// that does not exist is an addition that fails with fs.ErrNotExist, unless it
// is optional or its link has come meanwhile. Called by the engine through
// reconcile.
package sysctl

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/flannel-ng/flannel-ng/internal/reconcile"
	"github.com/flannel-ng/flannel-ng/internal/state"
)

// Driver sets switches.
type Driver struct{}

// New makes a driver. It needs no owner: nothing of it is ever removed.
func New() *Driver { return &Driver{} }

// Kind implements reconcile.Driver.
func (*Driver) Kind() state.Kind { return state.KindSysctl }

// Plan implements reconcile.Driver.
func (*Driver) Plan(ctx context.Context, want *state.Set) ([]reconcile.Change, error) {
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
		}
	}
	reconcile.Sort(out)
	return out, nil
}

// Apply implements reconcile.Driver.
func (*Driver) Apply(ctx context.Context, changes []reconcile.Change) []reconcile.Result {
	return reconcile.Each(ctx, changes, apply)
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

func apply(ch reconcile.Change) error {
	s, ok := ch.Object.(state.Sysctl)
	if !ok {
		return fmt.Errorf("sysctl driver got %T", ch.Object)
	}
	if ch.Op == reconcile.Remove {
		return fmt.Errorf("remove sysctl %s: %w", s.Path, errors.ErrUnsupported)
	}
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
