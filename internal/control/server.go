package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/flannel-ng/flannel-ng/internal/httpd"
)

// socketMode: the answers show the fabric's layout, so they are for root.
const socketMode = 0o600

// maxPath is what sockaddr_un can carry with its closing NUL (unix(7)).
const maxPath = 107

// ErrInUse says that another daemon answers on the socket.
var ErrInUse = errors.New("another flanneld answers there")

// Listen makes the control socket at path and its parent directory. A socket
// that a dead daemon left behind is replaced; one on which somebody answers
// is not, and the error is ErrInUse. Closing the listener removes the socket.
func Listen(ctx context.Context, path string) (net.Listener, error) {
	l, err := listen(ctx, path)
	if err != nil {
		return nil, fmt.Errorf("control socket %s: %w", path, err)
	}
	return l, nil
}

func listen(ctx context.Context, path string) (net.Listener, error) {
	if len(path) > maxPath {
		return nil, fmt.Errorf("the path has %d bytes, a unix socket's may have %d", len(path), maxPath)
	}
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	unlock, err := lock(dir)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := removeStale(ctx, path); err != nil {
		return nil, err
	}
	lc := net.ListenConfig{Control: restrict}
	return lc.Listen(ctx, "unix", path)
}

// lock holds off other daemons that start in the same directory: between
// finding a socket dead and binding anew, two would remove each other's.
func lock(dir string) (unlock func(), err error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(d.Fd()), unix.LOCK_EX); err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", dir, err), d.Close())
	}
	// Closing releases the lock, and a read-only directory has nothing to flush.
	return func() { _ = d.Close() }, nil
}

func removeStale(ctx context.Context, path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.Mode().Type() != fs.ModeSocket:
		return errors.New("something that is no socket is there; move it away")
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", path)
	if err == nil {
		return errors.Join(ErrInUse, conn.Close())
	}
	// Only a refusal proves that nobody listens; a full backlog does not.
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return err
	}
	return os.Remove(path)
}

// restrict sets the mode of the socket before bind gives it a name: Linux
// takes the mode of the name from the socket, so there is no moment in which
// others could connect.
func restrict(_, _ string, c syscall.RawConn) error {
	var mode error
	if err := c.Control(func(fd uintptr) { mode = unix.Fchmod(int(fd), socketMode) }); err != nil {
		return err
	}
	return mode
}

// Serve answers on l from s until ctx ends and then returns nil.
func Serve(ctx context.Context, l net.Listener, s Source, log *slog.Logger) error {
	return httpd.Serve(ctx, l, Handler(s), log)
}

// Handler is the conversation without its socket.
func Handler(s Source) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+pathStatus, func(w http.ResponseWriter, _ *http.Request) {
		answer(w, http.StatusOK, s.Status())
	})
	mux.HandleFunc("GET "+pathEvents, func(w http.ResponseWriter, _ *http.Request) {
		answer(w, http.StatusOK, s.Events())
	})
	mux.HandleFunc("GET "+pathPlan, func(w http.ResponseWriter, r *http.Request) {
		plan, err := s.Plan(r.Context())
		if err != nil {
			answer(w, http.StatusServiceUnavailable, problem{Error: err.Error()})
			return
		}
		answer(w, http.StatusOK, plan)
	})
	return mux
}

func answer(w http.ResponseWriter, code int, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	// A client that went away is its own affair.
	_, _ = w.Write(append(body, '\n'))
}
