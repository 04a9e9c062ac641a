package daemon

import (
	"context"
	"errors"
	"fmt"
	"time"

	systemd "github.com/coreos/go-systemd/v22/daemon"

	"github.com/flannel-ng/flannel-ng/internal/cleanup"
	"github.com/flannel-ng/flannel-ng/internal/lease"
)

const (
	// releasing is how long an orderly stop may take to give the lease back.
	releasing = 10 * time.Second
	// cleaning is how long the rest may take. With releasing and closing it stays
	// below the 90 s after which systemd kills.
	cleaning = 60 * time.Second
)

// errUnclean says that a cleanup was not complete; the log names what is left.
var errUnclean = errors.New("cleanup: some objects could not be removed, flannelctl cleanup tries again")

// parting is how a daemon left the store.
type parting struct {
	cleans   bool // and the host is to be cleaned up
	released []string
	reserved []string
	err      error // of the release
}

// leave gives the lease back before the host stops to answer for it.
func (p *parts) leave(ctx context.Context) parting {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), releasing)
	defer cancel()
	p.log.Info("flanneld stops and cleans up: the lease goes first")
	out := parting{cleans: true}
	held := p.world.keeper.Holding().Lease
	names := make([]string, 0, len(held.Prefixes()))
	for _, prefix := range held.Prefixes() {
		names = append(names, prefix.String())
	}
	switch {
	case len(names) == 0:
	case held.Reserved:
		out.reserved = names
	default:
		err := p.stores.watched.Release(ctx, held)
		switch {
		case err == nil:
			out.released = names
		case !errors.Is(err, lease.ErrTaken): // taken by another it is none of ours
			out.err = err
		}
	}
	return out
}

// cleanUp removes what this daemon made on the host. A second signal ends the
// process at once.
func cleanUp(ctx context.Context, c Config, left parting) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleaning)
	defer cancel()
	began := time.Now()
	_, _ = systemd.SdNotify(false, "STATUS=removing what flanneld made on this host")
	report, err := cleanup.Run(ctx, cleanup.Options{
		SubnetFile: c.Options.SubnetFile, StateDir: c.Options.StateDir, ControlSocket: c.Options.ControlSocket,
		AllowExtension: c.Options.AllowExtension, Held: true, Build: c.Version, Log: c.Log,
		Release: func(context.Context, string) (released, reserved []string, err error) {
			return left.released, left.reserved, left.err
		},
		Say: func(l cleanup.Line) {
			switch l.Act {
			case cleanup.Failed, cleanup.Left:
				c.Log.Warn("cleanup", "act", l.Act, "object", l.Object, "why", l.Why)
			default:
				c.Log.Debug("cleanup", "act", l.Act, "object", l.Object)
			}
		},
	})
	if err != nil {
		return fmt.Errorf("cleanup: %w", err)
	}
	c.Log.Info("cleanup done", "removed", report.Done, "left", report.Left, "failed", report.Failed,
		"took", time.Since(began).Round(time.Millisecond))
	if report.Failed > 0 {
		return errUnclean
	}
	return nil
}
