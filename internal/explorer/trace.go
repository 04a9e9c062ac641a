package explorer

import (
	"fmt"
	"hash/fnv"
	"strings"
	"time"
)

// shown is how many steps before a violation are shown.
const shown = 120

// step is one entry; its text is made only when somebody reads it.
type step struct {
	at     time.Duration
	who    string
	format string
	args   []any
}

func (s step) String() string {
	return fmt.Sprintf("%12s  %-6s %s", s.at.Round(time.Microsecond), s.who, fmt.Sprintf(s.format, s.args...))
}

// trace keeps the last steps and a hash over the times and actors of all.
type trace struct {
	steps [shown]step
	n     int
	sum   uint64
}

func (t *trace) add(s step) {
	t.steps[t.n%shown] = s
	t.n++
	h := fnv.New64a()
	fmt.Fprint(h, t.sum, int64(s.at), s.who, s.format)
	t.sum = h.Sum64()
}

func (t *trace) String() string {
	var b strings.Builder
	for i := max(0, t.n-shown); i < t.n; i++ {
		fmt.Fprintln(&b, t.steps[i%shown])
	}
	return b.String()
}
