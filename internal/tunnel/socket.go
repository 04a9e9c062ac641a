package tunnel

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	// socketMode: who may speak here decides where packets go.
	socketMode = 0o600
	// maxPath is what sockaddr_un can carry with its closing NUL (unix(7)).
	maxPath = 107
)

// socket is a listener and the file that led to it when it was made.
type socket struct {
	listener *net.UnixListener
	file     fs.FileInfo
}

// bind makes a socket under a name of its own and then puts it at path: there
// is no moment without one, and none in which others may connect.
func bind(ctx context.Context, path string, place func(from, to string) error) (socket, error) {
	temporary := fmt.Sprintf("%s.%d", path, os.Getpid())
	if len(temporary) > maxPath {
		return socket{}, fmt.Errorf("the path has %d bytes, here it may have %d", len(path), maxPath-len(temporary)+len(path))
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return socket{}, err
	}
	if err := os.Remove(temporary); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return socket{}, err
	}
	l, err := (&net.ListenConfig{Control: restrict}).Listen(ctx, "unix", temporary)
	if err != nil {
		return socket{}, err
	}
	s := socket{listener: l.(*net.UnixListener)}
	s.listener.SetUnlinkOnClose(false) // by then the name is another's
	if s.file, err = os.Lstat(temporary); err == nil {
		err = place(temporary, path)
	}
	if gone := os.Remove(temporary); !errors.Is(gone, fs.ErrNotExist) {
		err = errors.Join(err, gone)
	}
	if err != nil {
		return socket{}, errors.Join(err, l.Close())
	}
	return s, nil
}

// restrict sets the mode before bind gives the socket a name: Linux takes the
// mode of the name from the socket.
func restrict(_, _ string, c syscall.RawConn) error {
	var mode error
	if err := c.Control(func(fd uintptr) { mode = unix.Fchmod(int(fd), socketMode) }); err != nil {
		return err
	}
	return mode
}

// isAt says whether path still leads here.
func (s socket) isAt(path string) bool {
	file, err := os.Lstat(path)
	return err == nil && os.SameFile(file, s.file)
}
