package lab

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// Usage is what a daemon has used so far.
type Usage struct {
	Lines int           // of its log, over all its starts
	CPU   time.Duration // of the process that runs now, in steps of 10 ms
}

// Usage reads what the daemon has used.
func (h *Host) Usage() (Usage, error) {
	u := Usage{Lines: strings.Count(h.Log(), "\n")}
	pid := h.DaemonPID()
	if pid == 0 {
		return u, nil
	}
	var err error
	u.CPU, err = cpuTime(pid)
	return u, err
}

// cpuTime is the processor time of a process, in the system and for itself.
func cpuTime(pid int) (time.Duration, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, fmt.Errorf("processor time: %w", err)
	}
	// The name may hold anything; after it come fields 3, 4, ….
	const user, system = 14 - 3, 15 - 3
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	var ticks int64
	for _, i := range []int{user, system} {
		if i >= len(fields) {
			return 0, fmt.Errorf("processor time of %d: %q", pid, text)
		}
		n, err := strconv.ParseInt(fields[i], 10, 64)
		if err != nil {
			return 0, fmt.Errorf("processor time of %d: %w", pid, err)
		}
		ticks += n
	}
	const tick = 10 * time.Millisecond // USER_HZ is 100 everywhere
	return time.Duration(ticks) * tick, nil
}
