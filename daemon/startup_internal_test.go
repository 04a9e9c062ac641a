package daemon

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/flannel-ng/flannel-ng/internal/command"
	"github.com/flannel-ng/flannel-ng/internal/state"
)

// runStartup runs a startup whose command is done by attempt.
func runStartup(t *testing.T, attempt func(context.Context, state.Command) (string, error), script func(*startup)) (rings int, log string) {
	t.Helper()
	var text bytes.Buffer
	s := newStartup(slog.New(slog.NewTextHandler(&text, nil)), func() { rings++ })
	s.run = attempt
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	synctest.Wait()
	script(s)
	stop()
	if err := <-done; err != nil && !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	return rings, text.String()
}

// pass lets the time of the bubble go by.
func pass(d time.Duration) {
	time.Sleep(d) //nolint:forbidigo // the time of the bubble
	synctest.Wait()
}

func wantAnswer(t *testing.T, s *startup, output, pending string) {
	t.Helper()
	if o, p := s.ask(state.Command{Words: []string{"pre"}}); o != output || p != pending {
		t.Errorf("output %q, pending %q; want %q, %q", o, p, output, pending)
	}
}

func TestStartupRunsOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		runs := 0
		rings, _ := runStartup(t, func(_ context.Context, c state.Command) (string, error) {
			runs++
			pass(3 * time.Second)
			return " \n" + c.Words[0] + " printed\nthis\n", nil
		}, func(s *startup) {
			wantAnswer(t, s, "", "it is running")
			pass(time.Second)
			wantAnswer(t, s, "", "it is running")
			pass(time.Minute)
			for range 3 {
				wantAnswer(t, s, "pre printed\nthis", "")
				pass(time.Hour)
			}
		})
		if runs != 1 || rings != 1 {
			t.Errorf("%d runs, %d rings", runs, rings)
		}
	})
}

// A failure is the reason until another attempt succeeds; attempts grow rare.
func TestStartupIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var runs atomic.Int64
		var room atomic.Bool
		rings, log := runStartup(t, func(context.Context, state.Command) (string, error) {
			runs.Add(1)
			if !room.Load() {
				return "", errors.New("no room")
			}
			return "", nil
		}, func(s *startup) {
			wantAnswer(t, s, "", "it is running")
			pass(10 * time.Minute)
			wantAnswer(t, s, "", "no room")
			if n := runs.Load(); n < 15 || n > 30 {
				t.Errorf("%d runs in 10 minutes", n)
			}
			room.Store(true)
			pass(time.Minute)
			wantAnswer(t, s, "", "")
		})
		if int64(rings) != runs.Load() {
			t.Errorf("%d rings for %d runs", rings, runs.Load())
		}
		if n := strings.Count(log, "no room"); n != 1 {
			t.Errorf("told %d times", n)
		}
	})
}

func TestStartupOutputIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		runStartup(t, func(context.Context, state.Command) (string, error) {
			return strings.Repeat("x", command.MaxOutput), nil
		}, func(s *startup) {
			wantAnswer(t, s, "", "it is running")
			pass(time.Second)
			if _, pending := s.ask(state.Command{}); !strings.Contains(pending, errTooLong.Error()) {
				t.Errorf("pending %q", pending)
			}
		})
	})
}

// A backend without such a command waits for nothing.
func TestNoStartup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		runStartup(t, func(context.Context, state.Command) (string, error) {
			t.Error("ran")
			return "", nil
		}, func(s *startup) {
			if o, p := s.ask(state.Command{}); o+p != "" {
				t.Errorf("%q %q", o, p)
			}
			pass(time.Hour)
		})
	})
}

// A stop gives the command a few seconds.
func TestStartupAtStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var lasted time.Duration
		var why error
		runStartup(t, func(ctx context.Context, _ state.Command) (string, error) {
			begin := time.Now()
			<-ctx.Done()
			lasted, why = time.Since(begin), context.Cause(ctx)
			return "", why
		}, func(s *startup) {
			wantAnswer(t, s, "", "it is running")
			synctest.Wait()
		})
		if lasted != stopGrace || !errors.Is(why, command.ErrStopped) {
			t.Errorf("lasted %s, %v", lasted, why)
		}
	})
}
