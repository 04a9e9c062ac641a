package engine

import (
	"testing"
	"time"
)

// How long passes rest: little after a quick one, and on a host that has no time
// to spare, nine times what they take.
func TestRest(t *testing.T) {
	t.Parallel()
	const ms = time.Millisecond
	for name, c := range map[string]struct {
		took []time.Duration
		want time.Duration
	}{
		"quick":          {[]time.Duration{ms, ms}, spacing},
		"large once":     {[]time.Duration{ms, 700 * ms}, burst},
		"after that":     {[]time.Duration{700 * ms, ms}, spacing},
		"slow twice":     {[]time.Duration{30 * ms, 20 * ms}, 180 * ms},
		"very slow":      {[]time.Duration{time.Minute, time.Minute}, patience},
		"the first pass": {[]time.Duration{700 * ms}, burst},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var p pace
			var rest time.Duration
			now := time.Now()
			for _, took := range c.took {
				rest = p.passed(wakePicture, now, now.Add(took), 5*time.Second)
				now = now.Add(took + rest)
			}
			if rest != c.want {
				t.Errorf("rest of %s, want %s", rest, c.want)
			}
		})
	}
}
