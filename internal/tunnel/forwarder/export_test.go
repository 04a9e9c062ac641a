package forwarder

import "time"

// NewLimit is the limit on error messages.
func NewLimit(perSecond int) func(now time.Time) bool {
	l := &limit{perSecond: perSecond}
	return l.allow
}
