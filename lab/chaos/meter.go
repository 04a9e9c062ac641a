package chaos

import (
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/flannel-ng/flannel-ng/lab/bench"
)

// meter adds up what the daemons use, over their restarts and over fabrics.
type meter struct {
	used  time.Duration
	lines int
	last  map[int]time.Duration // by process
}

func (m *meter) enter(s *scene) {
	m.last = map[int]time.Duration{}
	m.read(s)
	m.used = max(0, m.used) // what the start took is not counted
	for _, h := range s.fabric.Hosts {
		m.lines -= strings.Count(h.Log(), "\n")
	}
}

// read adds what was used since the last reading; what a process used before
// its first reading is left out.
func (m *meter) read(s *scene) {
	for _, h := range s.fabric.Hosts {
		pid := h.DaemonPID()
		now, err := bench.ThreadTime(pid)
		if err != nil {
			continue // it does not run just now
		}
		if before, ok := m.last[pid]; ok && now > before {
			m.used += now - before
		}
		m.last[pid] = now
	}
}

func (m *meter) leave(s *scene) {
	if m.last == nil {
		return // it never stood
	}
	m.read(s)
	for _, h := range s.fabric.Hosts {
		m.lines += strings.Count(h.Log(), "\n")
	}
}

// entries counts what is in a directory of a process: open files, threads.
func entries(pid int, dir string) (int, error) {
	list, err := os.ReadDir(fmt.Sprintf("/proc/%d/%s", pid, dir))
	if err != nil {
		return 0, fmt.Errorf("process %d: %w", pid, err)
	}
	return len(list), nil
}
