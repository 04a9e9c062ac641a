package engine

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/flannel-ng/flannel-ng/internal/reconcile"
	"github.com/flannel-ng/flannel-ng/internal/state"
)

func routeTo(i int) state.Route {
	return state.Route{Dst: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), 32)}
}

func start() time.Time { return time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC) }

func everything(state.Key) bool { return true }

// undo lets a stranger undo o for so long, as soon as it is repaired, and returns
// when it was repaired. The bell rings every 10 ms.
func undo(fs fights, o state.Object, from time.Time, long time.Duration) []time.Duration {
	var at []time.Duration
	for d := time.Duration(0); d < long; d += 10 * time.Millisecond {
		now := from.Add(d)
		if fs.holds(o.Key(), now) {
			fs.left([]reconcile.Change{{Op: reconcile.Add, Object: o}}, everything, now)
			continue
		}
		fs.repaired(o, "somebody", now)
		at = append(at, d)
	}
	return at
}

// Repairs of one object become ever rarer, and it is named.
func TestFightBacksOff(t *testing.T) {
	fs := fights{}
	at := undo(fs, routeTo(1), start(), 3*time.Minute)
	var waits []string
	for i := 1; i < len(at); i++ {
		waits = append(waits, (at[i] - at[i-1]).Round(time.Second).String())
	}
	if got, want := strings.Join(waits, " "), "0s 0s 0s 0s 0s 1s 2s 4s 8s 16s 30s 30s 30s 30s"; got != want {
		t.Errorf("waits %s, want %s", got, want)
	}
	end := start().Add(3 * time.Minute)
	if fs.holds(routeTo(2).Key(), end) {
		t.Error("another object has to wait")
	}
	if w := fs.warnings(end); len(w) != 1 || !strings.Contains(w[0], "again and again (15 times, last by somebody): next attempt in ") {
		t.Errorf("warnings %q", w)
	}
}

// What is repaired now and then is never delayed; often enough, it is named.
func TestSlowFightIsNotDelayed(t *testing.T) {
	fs, o := fights{}, routeTo(1)
	for i := range 20 {
		now := start().Add(time.Duration(i) * 1500 * time.Millisecond)
		if fs.holds(o.Key(), now) {
			t.Fatalf("repair %d has to wait", i)
		}
		if _, begins := fs.repaired(o, "", now); begins != (i == fightSlow-1) {
			t.Errorf("repair %d: begins %v", i, begins)
		}
	}
}

func TestFightEnds(t *testing.T) {
	fs, o := fights{}, routeTo(1)
	at := undo(fs, o, start(), 5*time.Second)
	last := start().Add(at[len(at)-1])
	if wrong := fs.next(); !wrong.Equal(last.Add(4 * time.Second)) {
		t.Errorf("next attempt %s after the last", wrong.Sub(last))
	}
	now := last.Add(4 * time.Second)
	if since, _ := fs.repaired(o, "", now); !since.Equal(last.Add(10 * time.Millisecond)) {
		t.Errorf("it was wrong since %s after the last repair", since.Sub(last))
	}
	if ended := fs.forget(now.Add(27 * time.Second)); len(ended) != 0 || len(fs.contested()) != 1 {
		t.Errorf("over too early: %v", ended)
	}
	if over := fs.next(); !over.Equal(now.Add(28 * time.Second)) {
		t.Errorf("over %s after the last repair", over.Sub(now))
	}
	if ended := fs.forget(fs.next()); len(ended) != 1 || len(fs) != 0 || !fs.next().IsZero() {
		t.Errorf("not over: %v, %v", ended, fs)
	}
}

// An object that is left wrong and then found right without a repair waits no
// longer.
func TestLeftAndFoundRight(t *testing.T) {
	fs, o := fights{}, routeTo(1)
	undo(fs, o, start(), time.Second/2)
	fs.left(nil, func(state.Key) bool { return false }, start())
	if len(fs.waiting()) != 1 {
		t.Error("forgotten by a pass that did not look")
	}
	fs.left(nil, everything, start())
	if len(fs.waiting()) != 0 {
		t.Error("waits although it was found right")
	}
}

// Whoever undoes everything is a fight for each kind, and costs no more memory.
func TestFightOverEverything(t *testing.T) {
	fs := fights{}
	const objects = 2 * fightLimit
	tries := 0
	for d := time.Duration(0); d < time.Minute; d += 500 * time.Millisecond {
		now := start().Add(d)
		var free []state.Object
		for i := range objects {
			if o := routeTo(i); !fs.holds(o.Key(), now) {
				free = append(free, o)
			}
		}
		tries += len(free)
		for _, o := range free {
			fs.repaired(o, "", now)
		}
	}
	if len(fs) > fightLimit+1 || tries > 15*objects {
		t.Errorf("%d remembered, %d repairs of %d objects", len(fs), tries, objects)
	}
	if w := fs.warnings(start()); len(w) != shownFights+1 {
		t.Errorf("%d warnings", len(w))
	}
}

func TestDoubtsAreBounded(t *testing.T) {
	var d doubts
	for i := range 100 {
		d.ring(fmt.Sprintf("process %d %s", i, strings.Repeat("ü", 300)), start().Add(time.Duration(i)))
	}
	d.ring("", start().Add(time.Hour))
	told := d.take(true, true)
	if by := told.all.String(); len(by) > 1000 || !strings.HasPrefix(by, "one of: process 0 ") || !told.all.since.Equal(start()) {
		t.Errorf("since %s: %s", told.all.since, by)
	}
	for i := range suspectLimit {
		if !d.suspect(routeTo(i).Key(), "", start()) {
			t.Fatalf("no room for %d", i)
		}
	}
	if d.suspect(routeTo(suspectLimit).Key(), "zebra", start()) || !d.suspect(routeTo(1).Key(), "ip", start()) {
		t.Error("suspects are not bounded, or one is not known again")
	}
	part := d.take(false, false)
	if len(part.of) != suspectLimit || part.about(routeTo(1).Key(), true).String() != "ip" || !part.all.since.IsZero() {
		t.Errorf("%d suspects, %+v", len(part.of), part.all)
	}
	if rest := d.take(true, true); rest.about(routeTo(9).Key(), true).String() != "zebra" {
		t.Errorf("%+v", rest)
	}
}

// All is read every few seconds in a fabric of a few thousand, whatever that
// costs, and seldom enough in a larger one.
func TestProofs(t *testing.T) {
	for _, c := range []struct {
		cost    time.Duration
		objects int
		resync  time.Duration
		want    time.Duration
	}{
		{time.Millisecond, 9, 5 * time.Second, 5 * time.Second},
		{50 * time.Millisecond, 12000, 5 * time.Second, 8 * time.Second},
		{500 * time.Millisecond, 12000, 5 * time.Second, 8 * time.Second},
		{50 * time.Millisecond, 12000, time.Minute, time.Minute},
		{100 * time.Millisecond, 30000, 5 * time.Second, 100 * time.Second},
		{400 * time.Millisecond, 60000, 5 * time.Second, 5 * time.Minute},
	} {
		m := mirror{proved: start(), cost: c.cost}
		if got := m.proofAt(c.resync, c.objects).Sub(start()); got != c.want {
			t.Errorf("%s for %d objects, resync %s: every %s, want %s", c.cost, c.objects, c.resync, got, c.want)
		}
	}
}
