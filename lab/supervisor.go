package lab

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
)

// supervisor takes the place of systemd: it hears what a daemon says of itself
// (sd_notify(3)).
type supervisor struct {
	conn *net.UnixConn
	done chan struct{}

	mu    sync.Mutex
	heard []string // messages, oldest first; READY=1 marked if there was no subnet file
}

// tooEarly is appended to a READY=1 that came before subnet.env.
const tooEarly = " before subnet.env"

// supervise listens in the host's file system.
func supervise(h *Host) (*supervisor, error) {
	path := h.Path(h.notifySocket())
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("notify socket of %s: %w", h.Name, err)
	}
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return nil, fmt.Errorf("notify socket of %s: %w", h.Name, err)
	}
	s := &supervisor{conn: conn, done: make(chan struct{})}
	go s.listen(h.Path(h.SubnetFile()))
	return s, nil
}

func (s *supervisor) listen(subnetFile string) {
	defer close(s.done)
	buf := make([]byte, 4096)
	for {
		n, err := s.conn.Read(buf)
		if err != nil {
			return // closed
		}
		text := strings.TrimSpace(string(buf[:n]))
		if _, err := os.Stat(subnetFile); err != nil && text == "READY=1" {
			text += tooEarly
		}
		s.mu.Lock()
		s.heard = append(s.heard, text)
		s.mu.Unlock()
	}
}

func (s *supervisor) close() {
	_ = s.conn.Close()
	<-s.done
}

// Heard says whether the running or last flanneld told its supervisor message.
func (h *Host) Heard(message string) error {
	if h.supervisor == nil {
		return fmt.Errorf("no flanneld on %s", h.Name)
	}
	h.supervisor.mu.Lock()
	defer h.supervisor.mu.Unlock()
	if !slices.Contains(h.supervisor.heard, message) {
		return fmt.Errorf("%s told its supervisor %q, not %q", h.Name, h.supervisor.heard, message)
	}
	return nil
}
