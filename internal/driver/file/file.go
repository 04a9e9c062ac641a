// Package file keeps small files whole: content compared, written beside and
// renamed over, so that a reader sees the old or the new one.
//
// Ours are the wanted paths and no others: a file that is not wanted any more
// is named with state.File.Absent. Such a removal is an update, because it is
// said outright and not inferred from an absence. Called by the engine through
// reconcile.
package file

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/google/renameio/v2"

	"github.com/flannel-ng/flannel-ng/internal/driver/steady"
	"github.com/flannel-ng/flannel-ng/internal/reconcile"
	"github.com/flannel-ng/flannel-ng/internal/state"
)

const (
	newFile fs.FileMode = 0o644
	newDir  fs.FileMode = 0o755
)

// Driver writes files.
type Driver struct{}

// New makes a driver. It needs no owner: paths are given.
func New() *Driver { return &Driver{} }

// Kind implements reconcile.Driver.
func (*Driver) Kind() state.Kind { return state.KindFile }

// Plan implements reconcile.Driver.
func (*Driver) Plan(ctx context.Context, want *state.Set) ([]reconcile.Change, error) {
	var out []reconcile.Change
	for _, f := range want.Files {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		content, err := os.ReadFile(f.Path)
		missing := errors.Is(err, fs.ErrNotExist)
		switch {
		case err != nil && !missing:
			return nil, fmt.Errorf("read file: %w", err)
		case f.Absent && !missing:
			out = append(out, reconcile.Change{Op: reconcile.Update, Object: f, Was: "present"})
		case f.Absent:
		case missing:
			out = append(out, reconcile.Change{Op: reconcile.Add, Object: f})
		case string(content) != f.Content:
			was := fmt.Sprintf("%d bytes of other content", len(content))
			out = append(out, reconcile.Change{Op: reconcile.Update, Object: f, Was: was})
		}
	}
	reconcile.Sort(out)
	return out, nil
}

// Apply implements reconcile.Driver.
func (*Driver) Apply(ctx context.Context, changes []reconcile.Change) []reconcile.Result {
	return reconcile.Each(ctx, changes, apply)
}

func apply(ch reconcile.Change) error {
	f, ok := ch.Object.(state.File)
	if !ok {
		return fmt.Errorf("file driver got %T", ch.Object)
	}
	if f.Absent {
		if err := os.Remove(f.Path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(f.Path), newDir); err != nil {
		return err
	}
	// WriteFile syncs before it renames: after a crash the file is whole.
	return steady.Error(renameio.WriteFile(f.Path, []byte(f.Content), newFile,
		renameio.IgnoreUmask(), renameio.WithExistingPermissions()))
}
