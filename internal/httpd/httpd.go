// Package httpd runs one HTTP server from its listener to an orderly stop.
//
// It owns the limits on what a client may cost us. It never listens and knows
// no path. The control socket and the health listener call it.
package httpd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"golang.org/x/net/netutil"
)

const (
	// silence and maxHeader stop a client that sends nothing, or without end,
	// from holding a connection, be it a new one or one that had an answer:
	// the health port is open to the network.
	silence   = 5 * time.Second
	maxHeader = 16 << 10
	// maxConns keeps clients from eating the file descriptors that the store
	// and the kernel need. More of them wait in the kernel's queue.
	maxConns = 64
	// answerTimeout bounds one answer; a plan of a large fabric is the longest.
	answerTimeout = time.Minute
	// grace is what answers under way get when the daemon stops.
	grace = time.Second
)

// Serve answers on l until ctx ends, then closes l, lets answers under way
// finish for a second, and returns nil. Any other end is an error. Requests'
// contexts end with ctx. What goes wrong with a single client is logged.
func Serve(ctx context.Context, l net.Listener, h http.Handler, log *slog.Logger) error {
	srv := &http.Server{
		Handler:        patient(h),
		ReadTimeout:    silence,
		IdleTimeout:    silence,
		WriteTimeout:   answerTimeout,
		MaxHeaderBytes: maxHeader,
		ErrorLog:       slog.NewLogLogger(log.Handler(), slog.LevelWarn),
		BaseContext:    func(net.Listener) context.Context { return ctx },
	}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(netutil.LimitListener(l, maxConns)) }()
	select {
	case err := <-served:
		return fmt.Errorf("serve %s: %w", l.Addr(), err)
	case <-ctx.Done():
	}
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), grace)
	defer cancel()
	err := srv.Shutdown(stop)
	if errors.Is(err, context.DeadlineExceeded) {
		err = srv.Close()
	}
	if stopped := <-served; !errors.Is(stopped, http.ErrServerClosed) {
		err = errors.Join(err, stopped)
	}
	if err != nil {
		return fmt.Errorf("stop serving %s: %w", l.Addr(), err)
	}
	return nil
}

// patient lifts the limit on reading when there is nothing left to read: the
// server watches for a client that goes away by reading on, and would take the
// limit for that and end the context of an answer that takes longer.
func patient(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ContentLength == 0 {
			// A connection without deadlines has none to lift.
			_ = http.NewResponseController(w).SetReadDeadline(time.Time{})
		}
		h.ServeHTTP(w, r)
	})
}
