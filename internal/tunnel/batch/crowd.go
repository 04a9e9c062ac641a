package batch

import (
	"time"

	"golang.org/x/sys/unix"
)

// crowd lets packets gather when many come one by one. A reader that sleeps
// after each is woken for each, on the time of who sends them, and never finds
// two at once: then moving many with one call gains nothing.
type crowd struct {
	since time.Time // begin of the window
	seen  int       // in it
	dense bool      // the last window was
}

const (
	// window is over what the rate is measured, and crowded is the rate: that
	// of questions and answers, and of full streams, is below.
	window  = 500 * time.Microsecond
	crowded = 20
	// nap is how long packets gather: queues of devices hold many times what
	// comes meanwhile.
	nap = 120 * time.Microsecond
)

// Gather has Wait let packets gather where they are many. The reader calls it, on
// the thread that will wait.
func (h *Handle) Gather() {
	// Naps end up to this much later, by default as much as they last.
	_ = unix.Prctl(unix.PR_SET_TIMERSLACK, uintptr(time.Microsecond), 0, 0, 0)
	h.crowd = &crowd{since: time.Now()}
}

// gathers is told how many packets there were before there were none, and says
// whether it waited for more of them.
func (c *crowd) gathers(found int) bool {
	if c == nil || !c.shall(time.Now(), found) {
		return false
	}
	ts := unix.NsecToTimespec(nap.Nanoseconds())
	return unix.ClockNanosleep(unix.CLOCK_MONOTONIC, 0, &ts, nil) == nil
}

// shall says whether to wait for more. It is false if nothing came since, so that
// the end of a stream costs one nap.
func (c *crowd) shall(now time.Time, found int) bool {
	c.seen += found
	if past := now.Sub(c.since); past >= window {
		c.dense = c.seen >= crowded*int(past/window)
		c.since, c.seen = now, 0
	}
	return c.dense && found > 0
}
