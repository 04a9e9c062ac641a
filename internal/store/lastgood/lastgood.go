// Package lastgood remembers the last complete picture of a lease store in a
// file, so that a host that boots while the store is away keeps its fabric.
//
// It owns that one file. A picture from it is never Synced: nothing may be
// deleted on its word, and nothing is claimed or released by it. Called by the
// daemon, around any lease.Store.
package lastgood

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/google/renameio/v2"
	"golang.org/x/sync/errgroup"

	"github.com/flannel-ng/flannel-ng/internal/lease"
)

const (
	defaultPatience = 3 * time.Second
	// saveEvery bounds the writes of a busy fabric.
	saveEvery = time.Second
	// refreshEvery is how often a picture from the file is given again, with
	// its new age.
	refreshEvery = 10 * time.Second
	// settleFor is how long hosts get to claim again what a store that went back
	// does not know: they look for it every five seconds, and connecting takes
	// its time.
	settleFor = 20 * time.Second
)

// Options say which file to use, and for what.
type Options struct {
	Path string // required
	// Identity is what is known of the fabric before it answers: endpoints and
	// prefix. A file of another identity is refused.
	Identity string
	// Patience is how long to wait for the store before the file is used;
	// zero is 3 s.
	Patience time.Duration
	Log      *slog.Logger     // nil is silent
	Now      func() time.Time // nil is time.Now; for the age of a picture
}

// Store is a lease.Store that also remembers.
type Store struct {
	lease.Store // Claim and Release are the inner store's
	options     Options
}

// New puts the memory around inner.
func New(inner lease.Store, o Options) *Store {
	if o.Patience == 0 {
		o.Patience = defaultPatience
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Store{Store: inner, options: o}
}

// Watch implements lease.Store. If the inner store is silent for Patience, the
// picture from the file comes first: not Synced, Origin with its age, Epoch 0.
func (s *Store) Watch(ctx context.Context, put func(lease.Snapshot)) error {
	saved, err := s.load()
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.options.Log.Warn("last known good picture is refused", "file", s.options.Path, "error", err)
	}
	w := &watch{store: s, put: put, saved: saved, live: make(chan lease.Snapshot), settled: time.NewTimer(0)}
	if saved != nil {
		w.known = position{cluster: saved.Cluster, rev: saved.Rev}
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		return s.Store.Watch(ctx, func(p lease.Snapshot) {
			select {
			case w.live <- p:
			case <-ctx.Done():
			}
		})
	})
	g.Go(func() error { return w.run(ctx) })
	return g.Wait()
}

// load is nil and fs.ErrNotExist before the first save.
func (s *Store) load() (*picture, error) {
	text, err := os.ReadFile(s.options.Path)
	if err != nil {
		return nil, fmt.Errorf("read last known good picture: %w", err)
	}
	p, err := decode(text)
	if err != nil {
		return nil, err
	}
	if p.Identity != s.options.Identity {
		return nil, fmt.Errorf("%w: %s, not of %s", errIdentity, p.Identity, s.options.Identity)
	}
	return p, nil
}

func (s *Store) save(p lease.Snapshot) error {
	text, err := encode(newPicture(p, s.options.Identity, s.options.Now()))
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(s.options.Path), 0o755); err != nil {
		return fmt.Errorf("directory of last known good picture: %w", err)
	}
	// The picture holds keys of the fabric, such as WireGuard's public ones
	// and an extension's data: root's business.
	if err := renameio.WriteFile(s.options.Path, text, 0o600); err != nil {
		return fmt.Errorf("write last known good picture: %w", err)
	}
	return nil
}

// watch is one run of Store.Watch; all of it belongs to one goroutine.
type watch struct {
	store *Store
	put   func(lease.Snapshot)
	saved *picture // nil: none, or a live picture was seen
	live  chan lease.Snapshot

	known    position       // of the last live picture, or of the saved one
	last     lease.Snapshot // the last live picture
	settling bool           // the store went back; until settled rings
	settled  *time.Timer

	unsaved *lease.Snapshot
	failing bool // the last save failed
}

func (w *watch) run(ctx context.Context) error {
	remind := time.NewTimer(w.store.options.Patience)
	defer remind.Stop()
	save := time.NewTimer(0)
	defer save.Stop()
	defer w.settled.Stop()
	ready := false // a save may happen now
	defer w.flush()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case p := <-w.live:
			w.accept(p)
		case <-remind.C:
			w.remind()
			remind.Reset(refreshEvery)
		case <-save.C:
			ready = true
		case <-w.settled.C:
			w.settle()
		}
		if ready && w.unsaved != nil {
			w.flush()
			ready = false
			save.Reset(saveEvery)
		}
	}
}

// accept takes a live picture.
func (w *watch) accept(p lease.Snapshot) {
	if w.saved != nil && w.saved.Cluster != p.Cluster {
		w.store.options.Log.Warn("last known good picture was of another cluster and is replaced",
			"file", w.store.options.Path, "was", w.saved.Cluster, "is", p.Cluster)
	}
	w.saved = nil
	w.watchOut(p)
	w.last = p
	w.give()
}

// remind gives the picture from the file while there is no live one.
func (w *watch) remind() {
	if w.saved == nil {
		return
	}
	p := w.saved.snapshot()
	p.Origin = lease.Origin{LastKnownGood: true, Age: max(0, w.store.options.Now().Sub(w.saved.Saved))}
	w.put(p)
}

// flush writes what is unsaved. A failure is told once, not every second.
func (w *watch) flush() {
	if w.unsaved == nil {
		return
	}
	err := w.store.save(*w.unsaved)
	if err != nil && !w.failing {
		w.store.options.Log.Warn("picture is not remembered", "error", err)
	}
	w.failing = err != nil
	w.unsaved = nil
}
