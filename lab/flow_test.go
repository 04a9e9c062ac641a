package lab_test

import (
	"math"
	"testing"

	"github.com/flannel-ng/flannel-ng/lab"
)

func TestNumbers(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		from           uint64
		came           []uint64
		missing, count uint64
	}{
		{0, nil, 0, 0},
		{0, []uint64{0, 1, 2}, 0, 3},
		{0, []uint64{0, 3, 3, 200}, 198, 3},
		{3, []uint64{0, 3, 5}, 1, 3},
		{300, []uint64{200}, 0, 1},
		{0, []uint64{0, math.MaxUint64}, 0, 1}, // a stranger's
	} {
		if missing, count := lab.Numbers(c.from, c.came...); missing != c.missing || count != c.count {
			t.Errorf("%v from %d: %d missing of %d, want %d of %d", c.came, c.from, missing, count, c.missing, c.count)
		}
	}
}
