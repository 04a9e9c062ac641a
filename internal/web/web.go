// Package web is the optional health port: /healthz, /readyz and /metrics.
//
// It owns the listener and the words of the answers. It measures nothing
// itself, serves no secrets, and imports no store, backend or driver. The
// daemon opens it before anything else, so that a start that hangs can be
// seen from outside.
package web

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"

	"github.com/flannel-ng/flannel-ng/internal/httpd"
	"github.com/flannel-ng/flannel-ng/internal/report"
)

// Answers are made from the report at the time of each question. Every field
// is needed; the functions must be safe for concurrent use.
type Answers struct {
	// Stuck names the loops that do not go round any more, one reason each;
	// empty means that the process is well. What a restart cannot cure (the
	// store is away, a peer is bad) does not belong here: a supervisor
	// restarts a daemon that fails /healthz.
	Stuck   func() []string
	Status  func() report.Status
	Metrics http.Handler
}

// Handler answers the three paths.
func Handler(a Answers) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		if stuck := a.Stuck(); len(stuck) > 0 {
			say(w, http.StatusServiceUnavailable, "flanneld is stuck", stuck)
			return
		}
		say(w, http.StatusOK, "flanneld is running", nil)
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if s := a.Status(); !s.Ready {
			say(w, http.StatusServiceUnavailable, "flanneld is not ready yet", s.NotReady)
			return
		}
		say(w, http.StatusOK, "flanneld is ready", nil)
	})
	mux.Handle("GET /metrics", a.Metrics)
	return mux
}

// say writes the first line as flannel does, without a newline, because
// probes compare it; reasons follow, one a line.
func say(w http.ResponseWriter, code int, first string, reasons []string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(code)
	// A client that went away is its own affair.
	_, _ = io.WriteString(w, strings.Join(append([]string{first}, reasons...), "\n"))
}

// Server is the health port, or nothing if it is switched off.
type Server struct{ l net.Listener }

// Listen opens the health port at at. Port 0 means that no port is wanted.
func Listen(ctx context.Context, at netip.AddrPort) (*Server, error) {
	if at.Port() == 0 {
		return &Server{}, nil
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", at.String())
	if err != nil {
		return nil, fmt.Errorf("health port (--healthz-ip, --healthz-port): %w", err)
	}
	return &Server{l: l}, nil
}

// Serve answers by h until ctx ends and then returns nil. Without a port it
// only waits.
func (s *Server) Serve(ctx context.Context, h http.Handler, log *slog.Logger) error {
	if s.l == nil {
		<-ctx.Done()
		return nil
	}
	return httpd.Serve(ctx, s.l, h, log)
}
