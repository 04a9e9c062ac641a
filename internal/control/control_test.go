package control_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/flannel-ng/flannel-ng/internal/control"
	"github.com/flannel-ng/flannel-ng/internal/httpd"
	"github.com/flannel-ng/flannel-ng/internal/report"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// source is a fixed daemon.
type source struct {
	status  report.Status
	plan    []report.Change
	planErr error
	events  []report.Event
}

func (s source) Status() report.Status                         { return s.status }
func (s source) Plan(context.Context) ([]report.Change, error) { return s.plan, s.planErr }
func (s source) Events() []report.Event                        { return s.events }

// socket is a path whose directory does not exist yet.
func socket(t *testing.T) string {
	t.Helper()
	return filepath.Join(t.TempDir(), "run", "subnet.env.sock")
}

// start serves h on a control socket at path until stop is called.
func start(t *testing.T, path string, h http.Handler) (stop func()) {
	t.Helper()
	l, err := control.Listen(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- httpd.Serve(ctx, l, h, slog.New(slog.DiscardHandler)) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return stop
}

// fill sets every field it can reach to something that is not zero, so that
// a field lost on the way shows.
func fill(v reflect.Value) {
	switch v.Kind() {
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[time.Time]() {
			v.Set(reflect.ValueOf(time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)))
			return
		}
		for _, f := range v.Fields() {
			fill(f)
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		fill(v.Index(0))
		fill(v.Index(1))
	case reflect.Map:
		key, val := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
		fill(key)
		fill(val)
		v.Set(reflect.MakeMap(v.Type()))
		v.SetMapIndex(key, val)
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem())
	case reflect.Uint64:
		v.SetUint(7)
	case reflect.String:
		v.SetString("10.5.0.0-24&<x>")
	case reflect.Bool:
		v.SetBool(true)
	default:
		v.SetInt(7)
	}
}

func TestRoundTrip(t *testing.T) {
	var s source
	fill(reflect.ValueOf(&s.status).Elem())
	fill(reflect.ValueOf(&s.plan).Elem())
	fill(reflect.ValueOf(&s.events).Elem())
	path := socket(t)
	start(t, path, control.Handler(s))
	c := control.NewClient(path)

	status, err := c.Status(t.Context())
	if err != nil || !reflect.DeepEqual(status, s.status) {
		t.Errorf("status: got %+v, %v, want %+v", status, err, s.status)
	}
	plan, err := c.Plan(t.Context())
	if err != nil || !reflect.DeepEqual(plan, s.plan) {
		t.Errorf("plan: got %+v, %v, want %+v", plan, err, s.plan)
	}
	events, err := c.Events(t.Context())
	if err != nil || !reflect.DeepEqual(events, s.events) {
		t.Errorf("events: got %+v, %v, want %+v", events, err, s.events)
	}
}

func TestSocketIsForRoot(t *testing.T) {
	path := socket(t)
	stop := start(t, path, control.Handler(source{}))
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if got := info.Mode().Perm(); got != 0o600 {
		t.Errorf("mode %o, want 600", got)
	}
	stop()
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the socket stays after the end: %v", err)
	}
}

func TestLivingSocketIsNotReplaced(t *testing.T) {
	path := socket(t)
	start(t, path, control.Handler(source{status: report.Status{Hostname: "first"}}))
	if _, err := control.Listen(t.Context(), path); !errors.Is(err, control.ErrInUse) {
		t.Fatalf("second listener: %v, want ErrInUse", err)
	}
	s, err := control.NewClient(path).Status(t.Context())
	if err != nil || s.Hostname != "first" {
		t.Errorf("the first daemon answers %q, %v", s.Hostname, err)
	}
}

// leaveStale makes a socket file as a killed daemon leaves it.
func leaveStale(t *testing.T, path string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "unix", path)
	if err != nil {
		t.Fatal(err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestStaleSocketIsReplaced(t *testing.T) {
	path := socket(t)
	leaveStale(t, path)
	if _, err := control.NewClient(path).Status(t.Context()); !errors.Is(err, control.ErrNotRunning) ||
		!strings.Contains(err.Error(), "nobody answers on "+path) {
		t.Errorf("client on a dead socket: %v", err)
	}
	start(t, path, control.Handler(source{}))
	if _, err := control.NewClient(path).Status(t.Context()); err != nil {
		t.Error(err)
	}
}

// Of daemons that start at once on one stale socket, exactly one wins.
func TestOnlyOneReplacesAStaleSocket(t *testing.T) {
	path := socket(t)
	leaveStale(t, path)
	const daemons = 8
	listeners := make(chan net.Listener, daemons)
	var wg sync.WaitGroup
	for range daemons {
		wg.Go(func() {
			l, err := control.Listen(t.Context(), path)
			if err == nil {
				listeners <- l
			} else if !errors.Is(err, control.ErrInUse) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	close(listeners)
	if n := len(listeners); n != 1 {
		t.Errorf("%d daemons have the socket", n)
	}
	for l := range listeners {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestForeignFileIsNotRemoved(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := control.Listen(t.Context(), path); err == nil || !strings.Contains(err.Error(), "no socket is there") {
		t.Errorf("got %v", err)
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != "precious" {
		t.Errorf("the file is now %q, %v", b, err)
	}
}

func TestPathTooLong(t *testing.T) {
	_, err := control.Listen(t.Context(), "/run/"+strings.Repeat("x", 110))
	if err == nil || !strings.Contains(err.Error(), "115 bytes") {
		t.Errorf("got %v", err)
	}
}

func TestNotRunning(t *testing.T) {
	_, err := control.NewClient("/nonexistent/x.sock").Events(t.Context())
	want := "flanneld is not running here (no socket /nonexistent/x.sock): start it or pass --socket"
	if err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestRefusals(t *testing.T) {
	reply := func(code int, body string) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(code)
			_, _ = io.WriteString(w, body)
		})
	}
	for name, c := range map[string]struct {
		daemon http.Handler
		want   string
	}{
		"plan fails":    {control.Handler(source{planErr: errors.New("route dump was interrupted")}), "flanneld: route dump was interrupted"},
		"older daemon":  {http.NotFoundHandler(), "different versions"},
		"no JSON error": {reply(http.StatusTeapot, "short and stout"), "flanneld: 418 I'm a teapot short and stout"},
		"garbage":       {reply(http.StatusOK, "{"), "unexpected EOF"},
	} {
		t.Run(name, func(t *testing.T) {
			path := socket(t)
			start(t, path, c.daemon)
			if _, err := control.NewClient(path).Plan(t.Context()); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

// The daemon serves the version 1 paths under their names, read-only.
func TestPaths(t *testing.T) {
	path := socket(t)
	start(t, path, control.Handler(source{status: report.Status{Hostname: "h1"}}))
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", path)
	}
	client := http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}
	for _, c := range []struct {
		method, path string
		want         int
	}{
		{http.MethodGet, "/v1/status", http.StatusOK},
		{http.MethodGet, "/v1/plan", http.StatusOK},
		{http.MethodGet, "/v1/events", http.StatusOK},
		{http.MethodPost, "/v1/status", http.StatusMethodNotAllowed},
		{http.MethodGet, "/status", http.StatusNotFound},
	} {
		req, err := http.NewRequestWithContext(t.Context(), c.method, "http://x"+c.path, http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		if err := errors.Join(err, resp.Body.Close()); err != nil {
			t.Fatal(err)
		}
		if resp.StatusCode != c.want {
			t.Errorf("%s %s: %s, want %d", c.method, c.path, resp.Status, c.want)
		}
		if c.want == http.StatusOK && !json.Valid(body) {
			t.Errorf("%s: no JSON: %q", c.path, body)
		}
	}
}
