// Package httpd runs one HTTP server from its listener to an orderly stop.
//
// It owns the limits on what a client may cost us. It never listens and knows
// no path. The control socket and the health listener call it.
package httpd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"
)

const (
	// headerTimeout and maxHeader stop a client that sends nothing, or
	// without end, from holding a connection: the health port is open to
	// the network.
	headerTimeout = 5 * time.Second
	maxHeader     = 16 << 10
	// answerTimeout bounds one answer; a plan of a large fabric is the longest.
	answerTimeout = time.Minute
	// grace is what answers under way get when the daemon stops.
	grace = time.Second
)

// Serve answers on l until ctx ends, then closes l, lets answers under way
// finish for a second, and returns nil. Any other end is an error. Requests'
// contexts end with ctx.
func Serve(ctx context.Context, l net.Listener, h http.Handler) error {
	srv := &http.Server{
		Handler:           h,
		ReadHeaderTimeout: headerTimeout,
		WriteTimeout:      answerTimeout,
		MaxHeaderBytes:    maxHeader,
		BaseContext:       func(net.Listener) context.Context { return ctx },
	}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(l) }()
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
