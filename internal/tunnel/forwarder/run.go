package forwarder

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime"

	"github.com/flannel-ng/flannel-ng/internal/tunnel"
)

// Options are those of one forwarder process.
type Options struct {
	Socket string // path
	Build  string // of the binary
	Log    *slog.Logger
}

// Run is the life of a forwarder process: it takes over from the one on the
// socket, if any, and answers there until it is told to end or ctx ends, and
// then returns nil. Errors: ErrDeviceGone, tunnel.ErrSucceeded, or what keeps
// it from working.
func Run(ctx context.Context, o Options) error {
	widen()
	preferSession()
	f, last, err := begin(ctx, o)
	if err != nil {
		return err
	}
	defer f.Stop()
	server, err := tunnel.Listen(ctx, tunnel.Serving{
		Socket: o.Socket, Forwarder: f, Log: o.Log,
		Hello: tunnel.Hello{Version: tunnel.Version, Build: o.Build, PID: os.Getpid()},
	})
	if err != nil {
		if last != nil {
			err = errors.Join(err, last.Abandon())
		}
		return err
	}
	if last != nil {
		// From here on only we read, as we do already.
		counters, err := last.Quit()
		f.GoOn(counters)
		if err != nil {
			o.Log.Warn("last forwarder may still be there", "pid", last.Status.PID, "err", err)
		}
		o.Log.Info("forwarder took over", "pid", os.Getpid(), "from", last.Status.PID, "build", o.Build)
	} else {
		o.Log.Info("forwarder started", "pid", os.Getpid(), "build", o.Build)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stopped := make(chan error, 1)
	go func() { stopped <- f.wait(ctx, cancel) }()
	err = server.Serve(ctx)
	cancel()
	return errors.Join(err, <-stopped)
}

// wait ends the process's work when the forwarder cannot go on.
func (f *Forwarder) wait(ctx context.Context, cancel context.CancelFunc) error {
	select {
	case <-f.Done():
		cancel()
		return f.Err()
	case <-ctx.Done():
		return nil
	}
}

// begin makes a forwarder that works already if a predecessor did, which is
// then still to be told to quit.
func begin(ctx context.Context, o Options) (*Forwarder, *tunnel.Predecessor, error) {
	last, err := tunnel.Succeed(ctx, o.Socket, o.Log)
	switch {
	case errors.Is(err, tunnel.ErrNoForwarder):
		return New(ctx, o.Log), nil, nil
	case err != nil:
		return nil, nil, err
	}
	f := New(ctx, o.Log)
	err = f.Inherit(ctx, last.Status, last.Descriptors)
	if err == nil {
		return f, last, nil
	}
	// It holds the device, so it must end before anybody can attach anew.
	o.Log.Warn("forwarder starts without what the last one had", "from", last.Status.PID, "err", err)
	f.Stop()
	if _, err := last.Quit(); err != nil {
		return nil, nil, fmt.Errorf("last forwarder: %w", err)
	}
	return New(ctx, o.Log), nil, nil
}

// loops are those that may wait for packets without giving their place in the
// Go scheduler away: one for the device, one for each family's socket.
const loops = 3

// widen gives all else of this process places of its own.
func widen() { runtime.GOMAXPROCS(runtime.GOMAXPROCS(0) + loops) }
