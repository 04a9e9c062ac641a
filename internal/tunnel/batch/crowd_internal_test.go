package batch

import (
	"testing"
	"time"
)

// Packets gather only where they come faster than any dialogue, and no longer
// than they do.
func TestCrowd(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		every time.Duration // a packet
		want  bool
	}{
		"a flood":      {10 * time.Microsecond, true},
		"a dialogue":   {60 * time.Microsecond, false},
		"now and then": {time.Second, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			now := time.Now()
			w := crowd{since: now}
			for range 200 {
				now = now.Add(c.every)
				w.shall(now, 1)
			}
			if got := w.shall(now, 1); got != c.want {
				t.Errorf("gathers: %v, want %v", got, c.want)
			}
			if w.shall(now, 0) {
				t.Error("waits for more where there was nothing")
			}
			if w.shall(now.Add(time.Second), 1) {
				t.Error("the flood is over")
			}
		})
	}
}
