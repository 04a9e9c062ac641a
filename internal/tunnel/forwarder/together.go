package forwarder

import (
	"sync/atomic"
	"time"
)

const (
	// failuresToRest is how often in a row a run of datagrams may be refused.
	failuresToRest = 3
	// rest is for how long they are not tried again then: the device that
	// refuses may be exchanged.
	rest = time.Minute
)

// together is whether runs of datagrams go out as one message. Some devices
// refuse them. Its zero value says they may; one goroutine asks and tells, any
// may ask why not.
type together struct {
	failures int
	until    time.Time
	why      atomic.Pointer[string] // not; nil: they do
}

// allowed says whether to try.
func (t *together) allowed(now func() time.Time) bool {
	return t.failures < failuresToRest || now().After(t.until)
}

// worked takes note of a run that went out.
func (t *together) worked() {
	if t.failures > 0 {
		t.failures = 0
		t.why.Store(nil)
	}
}

// failed takes note of one that did not, for a reason that lies in the device.
func (t *together) failed(err error, now time.Time) {
	if t.failures++; t.failures >= failuresToRest {
		why := err.Error()
		t.until = now.Add(rest)
		t.why.Store(&why)
	}
}
