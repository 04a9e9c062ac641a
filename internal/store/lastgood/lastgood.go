// Package lastgood remembers the last complete picture of a lease store in a
// file, so that a host that boots while the store is away keeps its fabric.
//
// It owns that one file. A picture from it is never Synced: nothing may be
// deleted on its word, and nothing is claimed or released by it. Called by the
// daemon, around any lease.Store.
package lastgood

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
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
	// saveEvery bounds the writes of a busy fabric, and saveDuty those of a large
	// one or to a slow disk: the next comes not before so many times the last one
	// took, unless hosts change how they are reached.
	saveEvery = time.Second
	saveDuty  = 500
	// renewalsEvery is how often a picture is written that differs only in
	// revisions.
	renewalsEvery = 10 * time.Minute
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
	// HostID is the owner of the own lease; "" is nobody.
	HostID string
	// Patience is how long to wait for the store before the file is used;
	// zero is 3 s.
	Patience time.Duration
	Log      *slog.Logger     // nil is silent
	Now      func() time.Time // nil is time.Now; for the age of a picture, and how long a save takes
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
	saved, err := s.load(false)
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

// load reads the head of the file, or all of it. It is fs.ErrNotExist before the
// first save.
func (s *Store) load(all bool) (*picture, error) {
	file, err := os.Open(s.options.Path)
	if err != nil {
		return nil, fmt.Errorf("read last known good picture: %w", err)
	}
	defer func() { _ = file.Close() }()
	p := &picture{}
	err = decode(file, func(body io.Reader) (err error) {
		if all {
			return json.NewDecoder(body).Decode(p)
		}
		p.head, err = readHead(body)
		return err
	})
	if err != nil {
		return nil, err
	}
	if p.Identity != s.options.Identity {
		return nil, fmt.Errorf("%w: %s, not of %s", errIdentity, p.Identity, s.options.Identity)
	}
	return p, nil
}

func (s *Store) save(p lease.Snapshot) error {
	if err := os.MkdirAll(filepath.Dir(s.options.Path), 0o755); err != nil {
		return fmt.Errorf("directory of last known good picture: %w", err)
	}
	// The picture holds keys of the fabric, such as WireGuard's public ones
	// and an extension's data: root's business.
	file, err := renameio.NewPendingFile(s.options.Path, renameio.WithPermissions(0o600))
	if err != nil {
		return fmt.Errorf("write last known good picture: %w", err)
	}
	defer func() { _ = file.Cleanup() }()
	h := head{Saved: s.options.Now().UTC(), Identity: s.options.Identity, Cluster: p.Cluster, Rev: p.Rev}
	if err := write(file, p, h); err != nil {
		return fmt.Errorf("write last known good picture: %w", err)
	}
	if err := file.CloseAtomicallyReplace(); err != nil {
		return fmt.Errorf("write last known good picture: %w", err)
	}
	return nil
}

// watch is one run of Store.Watch; all of it belongs to one goroutine.
type watch struct {
	store *Store
	put   func(lease.Snapshot)
	saved *picture // nil: none, or a live picture was seen
	whole bool     // saved was read to its end
	live  chan lease.Snapshot

	known    position       // of the last live picture, or of the saved one
	last     lease.Snapshot // the last live picture
	settling bool           // absence means nothing; until settled rings
	settled  *time.Timer

	remembered *lease.Snapshot // the last that was or is to be written

	unsaved *lease.Snapshot
	urgent  bool // it differs in more than revisions
	// pressing: in how hosts are reached. Two seconds after all have changed, the
	// old way leads nowhere, so who boots by it would reach nobody until the store
	// answers.
	pressing bool
	written  time.Time
	took     time.Duration // the last save
	failing  bool          // the last save failed
}

func (w *watch) run(ctx context.Context) error {
	remind := time.NewTimer(w.store.options.Patience)
	defer remind.Stop()
	save := time.NewTimer(0)
	defer save.Stop()
	defer w.settled.Stop()
	defer w.flush()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case p := <-w.live:
			w.accept(p)
			save.Reset(time.Until(w.next()))
		case <-remind.C:
			w.remind()
			remind.Reset(refreshEvery)
		case <-save.C:
		case <-w.settled.C:
			w.settle()
			save.Reset(time.Until(w.next()))
		}
		if w.unsaved != nil && time.Until(w.next()) <= 0 && (w.urgent || time.Since(w.written) >= renewalsEvery) {
			w.flush()
		}
	}
}

// next is when a save may happen.
func (w *watch) next() time.Time {
	if w.pressing {
		return w.written.Add(saveEvery)
	}
	return w.written.Add(max(saveEvery, saveDuty*w.took))
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
	if !w.whole {
		saved, err := w.store.load(true)
		if err != nil {
			w.store.options.Log.Warn("last known good picture is refused", "file", w.store.options.Path, "error", err)
			w.saved = nil
			return
		}
		w.saved, w.whole = saved, true
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
	began := w.store.options.Now()
	err := w.store.save(*w.unsaved)
	w.took = w.store.options.Now().Sub(began)
	if err != nil && !w.failing {
		w.store.options.Log.Warn("picture is not remembered", "error", err)
	}
	w.failing = err != nil
	w.unsaved, w.urgent, w.pressing, w.written = nil, false, false, time.Now()
}
