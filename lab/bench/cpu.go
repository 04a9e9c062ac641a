package bench

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// tick is the unit of CPU times in /proc: USER_HZ is 100 on every architecture
// that Go knows.
const tick = 10 * time.Millisecond

// meter tells what CPU time the lab uses from that of others on the machine.
// Kernel threads count as the lab's: packets are handled there too.
type meter struct{ namespaces map[string]bool }

// reading is CPU time so far.
type reading struct {
	at     time.Time
	busy   time.Duration         // of the whole machine
	others map[int]time.Duration // by process outside the lab
}

// newMeter counts what runs in the network namespaces of these processes, and
// this process, as the lab's.
func newMeter(pids []int) (*meter, error) {
	m := &meter{namespaces: map[string]bool{}}
	for _, pid := range pids {
		ns, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", pid))
		if err != nil {
			return nil, fmt.Errorf("namespace of process %d: %w", pid, err)
		}
		m.namespaces[ns] = true
	}
	return m, nil
}

func (m *meter) read() (reading, error) {
	r := reading{at: time.Now(), others: map[int]time.Duration{}}
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return r, fmt.Errorf("CPU time: %w", err)
	}
	if r.busy, err = busy(string(text)); err != nil {
		return r, err
	}
	files, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return r, fmt.Errorf("list processes: %w", err)
	}
	for _, file := range files {
		pid, err := strconv.Atoi(strings.Split(file, "/")[2])
		if err != nil || pid == os.Getpid() {
			continue
		}
		// Outside are those whose namespace is another; of kernel threads it
		// cannot be read.
		ns, err := os.Readlink(filepath.Dir(file) + "/ns/net")
		if err != nil || m.namespaces[ns] || kernelThread(file) {
			continue
		}
		if used, err := used(file); err == nil { // else it has just ended
			r.others[pid] = used
		}
	}
	return r, nil
}

func kernelThread(stat string) bool {
	line, err := os.ReadFile(filepath.Dir(stat) + "/cmdline")
	return err == nil && len(line) == 0
}

// since is what the lab and what others used from a to b. A process that came
// and went in between is counted as the lab's.
func (r reading) since(a reading) (lab, others, wall time.Duration) {
	busy := r.busy - a.busy
	for pid, now := range r.others {
		if before, known := a.others[pid]; known { // others have just come, or were just being read
			others += now - before
		}
	}
	others = min(max(others, 0), busy)
	return busy - others, others, r.at.Sub(a.at)
}

var errProc = errors.New("unreadable")

// busy is the time in which a CPU did something, over all CPUs: user, nice,
// system, irq and softirq of the first line of /proc/stat.
func busy(stat string) (time.Duration, error) {
	line, _, _ := strings.Cut(stat, "\n")
	fields := strings.Fields(line)
	if len(fields) < 8 || fields[0] != "cpu" {
		return 0, fmt.Errorf("/proc/stat: %w: %q", errProc, line)
	}
	var ticks int64
	for _, i := range []int{1, 2, 3, 6, 7} {
		n, err := strconv.ParseInt(fields[i], 10, 64)
		if err != nil {
			return 0, fmt.Errorf("/proc/stat: %w: %q", errProc, line)
		}
		ticks += n
	}
	return time.Duration(ticks) * tick, nil
}

// used is the CPU time of a process from its /proc/PID/stat.
func used(file string) (time.Duration, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return 0, fmt.Errorf("CPU time: %w", err)
	}
	return usedIn(string(text))
}

// usedIn reads utime and stime, which come 12th and 13th behind the name, which
// itself may contain anything.
func usedIn(stat string) (time.Duration, error) {
	i := strings.LastIndex(stat, ")")
	if i < 0 {
		return 0, fmt.Errorf("process: %w: %q", errProc, stat)
	}
	fields := strings.Fields(stat[i+1:])
	if len(fields) < 13 {
		return 0, fmt.Errorf("process: %w: %q", errProc, stat)
	}
	user, err1 := strconv.ParseInt(fields[11], 10, 64)
	system, err2 := strconv.ParseInt(fields[12], 10, 64)
	if err := errors.Join(err1, err2); err != nil {
		return 0, fmt.Errorf("process: %w: %q", errProc, stat)
	}
	return time.Duration(user+system) * tick, nil
}
