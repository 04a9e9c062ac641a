package web_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"syscall"
	"testing"

	"go.uber.org/goleak"

	"github.com/flannel-ng/flannel-ng/internal/report"
	"github.com/flannel-ng/flannel-ng/internal/web"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestAnswers(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, path string
		stuck      []string
		status     report.Status
		code       int
		body       string
	}{
		{name: "well", path: "/healthz", code: 200, body: "flanneld is running"},
		{name: "well though not ready", path: "/healthz", status: report.Status{NotReady: []string{"no lease"}}, code: 200, body: "flanneld is running"},
		{
			name: "stuck", path: "/healthz", stuck: []string{"reconcile: no pass for 3m0s", "lease: no step for 2m0s"},
			code: 503, body: "flanneld is stuck\nreconcile: no pass for 3m0s\nlease: no step for 2m0s",
		},
		{name: "ready", path: "/readyz", status: report.Status{Ready: true}, code: 200, body: "flanneld is ready"},
		{
			name: "not ready", path: "/readyz", status: report.Status{NotReady: []string{"store: no answer", "lease: pending"}},
			code: 503, body: "flanneld is not ready yet\nstore: no answer\nlease: pending",
		},
		{name: "just started", path: "/readyz", code: 503, body: "flanneld is not ready yet"},
		{name: "metrics", path: "/metrics", code: 200, body: "flannel_ready 1\n"},
		{name: "elsewhere", path: "/", code: 404, body: "404 page not found\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			h := web.Handler(web.Answers{
				Stuck:  func() []string { return c.stuck },
				Status: func() report.Status { return c.status },
				Metrics: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
					_, _ = io.WriteString(w, "flannel_ready 1\n")
				}),
			})
			w := httptest.NewRecorder()
			h.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, c.path, http.NoBody))
			if w.Code != c.code || w.Body.String() != c.body {
				t.Errorf("got %d %q, want %d %q", w.Code, w.Body, c.code, c.body)
			}
		})
	}
}

// freePort finds a port that was free a moment ago.
func freePort(t *testing.T) netip.AddrPort {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return netip.MustParseAddrPort(l.Addr().String())
}

func TestPort(t *testing.T) {
	t.Parallel()
	at := freePort(t)
	s, err := web.Listen(t.Context(), at)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, http.NotFoundHandler(), slog.New(slog.DiscardHandler)) }()

	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+at.String(), http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	if err := resp.Body.Close(); err != nil || resp.StatusCode != http.StatusNotFound {
		t.Errorf("got %s, %v", resp.Status, err)
	}

	_, err = web.Listen(t.Context(), at)
	if !errors.Is(err, syscall.EADDRINUSE) || !strings.Contains(err.Error(), "--healthz-port") {
		t.Errorf("second listener: %v, want an error that names the flag", err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestPortZeroIsOff(t *testing.T) {
	t.Parallel()
	s, err := web.Listen(t.Context(), netip.MustParseAddrPort("0.0.0.0:0"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Serve(ctx, http.NotFoundHandler(), slog.New(slog.DiscardHandler)); err != nil {
		t.Error(err)
	}
}
