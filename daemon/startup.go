package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/flannel-ng/flannel-ng/internal/command"
	"github.com/flannel-ng/flannel-ng/internal/state"
)

// lastWait is the longest time between two attempts of the startup command.
const lastWait = 30 * time.Second

// stopGrace is how long the startup command may go on when the daemon stops.
const stopGrace = 5 * time.Second

// errTooLong says that the output cannot be backend data.
var errTooLong = errors.New("printed too much for backend data")

// startup runs the backend's startup command until it has succeeded once, beside
// the engine's loop. What it printed is a fact of this host from then on.
type startup struct {
	log  *slog.Logger
	ring func()
	run  func(context.Context, state.Command) (string, error)

	asked chan state.Command // the command, once

	mu      sync.Mutex
	wanted  bool
	output  string
	pending string
}

func newStartup(log *slog.Logger, ring func()) *startup {
	return &startup{log: log, ring: ring, run: command.Run, asked: make(chan state.Command, 1)}
}

// ask returns what the command printed or, while that is not known, why. The
// first call names the command; none of them waits.
func (s *startup) ask(c state.Command) (output, pending string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.wanted && len(c.Words) > 0 {
		s.wanted, s.pending = true, "it is running"
		s.asked <- c
	}
	return s.output, s.pending
}

// Run waits for the command to be named, and runs it with a growing wait after
// each failure. The engine is woken each time.
func (s *startup) Run(ctx context.Context) error {
	var c state.Command
	select {
	case <-ctx.Done():
		return ctx.Err()
	case c = <-s.asked:
	}
	for wait := time.Second; ; wait = min(2*wait, lastWait) {
		err := s.attempt(ctx, c)
		s.ring()
		if err == nil {
			return nil
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		case <-timer.C:
		}
	}
}

func (s *startup) attempt(ctx context.Context, c state.Command) error {
	longer, cancel := command.Linger(ctx, stopGrace)
	defer cancel()
	output, err := s.run(longer, c)
	if err == nil && len(output) >= command.MaxOutput {
		err = fmt.Errorf("%w: %d bytes or more", errTooLong, len(output))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		if text := err.Error(); text != s.pending {
			s.pending = text
			s.log.Error("startup command failed, will retry", "err", err)
		}
		return err
	}
	s.output, s.pending = strings.TrimSpace(output), ""
	s.log.Info("startup command done", "bytes", len(s.output))
	return nil
}
