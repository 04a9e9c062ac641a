package forwarder

import "time"

// NewLimit is the limit on error messages.
func NewLimit(perSecond int) func(now time.Time) bool {
	l := &limit{perSecond: perSecond}
	return l.allow
}

// Together is whether runs of datagrams go out as one.
type Together struct{ t together }

// NewTogether makes one.
func NewTogether() *Together { return new(Together) }

// Allowed says whether to try.
func (g *Together) Allowed(now func() time.Time) bool { return g.t.allowed(now) }

// Worked and Failed tell what became of a run.
func (g *Together) Worked() { g.t.worked() }

// Failed is for a reason that lies in the device.
func (g *Together) Failed(err error, now time.Time) { g.t.failed(err, now) }

// Why is why not, or "".
func (g *Together) Why() string {
	if why := g.t.why.Load(); why != nil {
		return *why
	}
	return ""
}
