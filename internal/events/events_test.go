package events_test

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/flannel-ng/flannel-ng/internal/events"
	"github.com/flannel-ng/flannel-ng/internal/report"
)

// clock ticks one second at every reading.
func clock() func() time.Time {
	at := time.Date(2026, 1, 2, 3, 4, 0, 0, time.UTC)
	return func() time.Time {
		at = at.Add(time.Second)
		return at
	}
}

func texts(es []report.Event) []string {
	var out []string
	for _, e := range es {
		out = append(out, fmt.Sprintf("%s %s x%d", e.At.Format("05"), e.Text, e.Repeat))
	}
	return out
}

func TestEqualNeighboursAreCounted(t *testing.T) {
	t.Parallel()
	r := events.New(10, clock())
	for _, text := range []string{"a", "b", "b", "b", "a"} {
		r.Add("change", text)
	}
	r.Add("failure", "a")
	want := []string{"01 a x0", "04 b x2", "05 a x0", "06 a x0"}
	if got := texts(r.List(time.Time{})); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestOldestGoFirst(t *testing.T) {
	t.Parallel()
	r := events.New(3, clock())
	for i := range 8 {
		r.Add("change", fmt.Sprint(i))
		r.Add("change", fmt.Sprint(i))
	}
	want := []string{"12 5 x1", "14 6 x1", "16 7 x1"}
	if got := texts(r.List(time.Time{})); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestSince(t *testing.T) {
	t.Parallel()
	r := events.New(3, clock())
	for i := range 5 {
		r.Add("change", fmt.Sprint(i))
	}
	since := r.List(time.Time{})[1].At
	if got, want := texts(r.List(since)), []string{"04 3 x0", "05 4 x0"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestListIsACopy(t *testing.T) {
	t.Parallel()
	r := events.New(0, clock())
	if got := r.List(time.Time{}); len(got) != 0 {
		t.Fatalf("an empty ring lists %v", got)
	}
	r.Add("lease", "held")
	r.List(time.Time{})[0].Text = "changed"
	if got := r.List(time.Time{})[0].Text; got != "held" {
		t.Errorf("the caller changed the ring: %q", got)
	}
}

func TestConcurrentUse(t *testing.T) {
	t.Parallel()
	r := events.New(50, time.Now)
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for j := range 200 {
				r.Add("change", fmt.Sprint(i, j))
				r.List(time.Time{})
			}
		})
	}
	wg.Wait()
	if n := len(r.List(time.Time{})); n != 50 {
		t.Errorf("%d events kept, want 50", n)
	}
}
