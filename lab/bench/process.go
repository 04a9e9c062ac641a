package bench

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Memory is the resident size of a process, now and at most, in MB.
func Memory(pid int) (now, most float64, err error) {
	status := fmt.Sprintf("/proc/%d/status", pid)
	for _, f := range []struct {
		name string
		to   *float64
	}{{"VmRSS", &now}, {"VmHWM", &most}} {
		kib, err := strconv.Atoi(field(status, `(?m)^`+f.name+`:\s*(\d+) kB`))
		if err != nil {
			return 0, 0, fmt.Errorf("memory of process %d: %w", pid, err)
		}
		*f.to = float64(kib) / 1000 * 1.024
	}
	return now, most, nil
}

// ThreadTime is the CPU time of all threads of a process, which the scheduler
// counts to the nanosecond. Of threads that ended it knows nothing; those of a
// Go program rarely do.
func ThreadTime(pid int) (time.Duration, error) {
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	if err != nil || len(files) == 0 {
		return 0, fmt.Errorf("CPU time of process %d: no threads: %w", pid, os.ErrNotExist)
	}
	var sum time.Duration
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // the thread has just ended
		}
		first, _, _ := strings.Cut(string(text), " ")
		ns, err := strconv.ParseInt(first, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("CPU time of process %d: %w", pid, err)
		}
		sum += time.Duration(ns)
	}
	return sum, nil
}
