package forwarder

import (
	"os"
	"runtime"
	"strconv"

	"golang.org/x/sys/unix"
)

// priority of what moves packets, as a nice value. Kernel carriers work in
// interrupts, before any process; behind the containers' own work packets would
// wait, and their senders with them.
const priority = -10

// hurry gives this goroutine a thread of its own, with priority: each wake-up
// goes to the thread, not to the Go scheduler. The thread ends with the
// goroutine. Without CAP_SYS_NICE it has no priority.
func hurry() {
	runtime.LockOSThread()
	_ = unix.Setpriority(unix.PRIO_PROCESS, 0, priority)
}

// preferSession gives the same priority to this process as a whole where the
// kernel shares processors out by sessions (CONFIG_SCHED_AUTOGROUP): the
// forwarder is one by itself.
func preferSession() {
	_ = os.WriteFile("/proc/self/autogroup", []byte(strconv.Itoa(priority)), 0)
}
