package torture_test

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/flannel-ng/flannel-ng/lab"
	"github.com/flannel-ng/flannel-ng/lab/torture"
)

// TestTorture is the short form, over all data paths that this flanneld has.
// FLANNEL_BIN names a directory with the built programs; without it they are
// built.
func TestTorture(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip(lab.ErrNotRoot)
	}
	for _, tool := range []string{"nsenter", "ip", "nft", "ping", "ethtool"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("needs %s (scripts/deps.sh installs it): %v", tool, err)
		}
	}
	dir := os.Getenv("FLANNEL_BIN")
	if dir == "" {
		dir = t.TempDir()
		build := exec.Command("go", "build", "-o", dir, "../../cmd/flanneld", "../../cmd/flannelctl", "../cmd/lab")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			t.Fatalf("build: %v\n%s", err, out)
		}
	}
	bin, err := lab.BinariesIn(dir)
	if err != nil {
		t.Fatal(err)
	}
	all, err := torture.Run(t.Context(), torture.Options{Binaries: bin, Progress: testWriter{t}})
	t.Log("\n" + torture.Summary(all))
	if err != nil {
		t.Fatal(err)
	}
	for _, tally := range all {
		if tally.Mismatches > 0 || tally.Left == "" && tally.Compared < 10000 {
			t.Errorf("%s: %d mismatches, %d packets compared", tally.Name, tally.Mismatches, tally.Compared)
		}
	}
}

type testWriter struct{ t *testing.T }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Log(string(bytes.TrimSpace(p)))
	return len(p), nil
}

func pairs() map[string][2]netip.Addr {
	return map[string][2]netip.Addr{
		"IPv4": {netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")},
		"IPv6": {netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8::2")},
	}
}

// A run of nothing would find no mismatch, too.
func TestNothingToRun(t *testing.T) {
	for want, o := range map[string]torture.Options{
		`path "kernal": no such thing to run; there are vxlan, reference, user, kernel`: {Paths: []string{"user", "kernal"}},
		`path "": no such thing`:           {Paths: []string{""}},
		`groups "nonsense": no such thing`: {Groups: "nonsense"},
		"groups: error parsing regexp":     {Groups: "("},
	} {
		all, err := torture.Run(t.Context(), o)
		if len(all) > 0 || err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %s", o, err, want)
		}
	}
}

func TestFragments(t *testing.T) {
	t.Parallel()
	for family, a := range pairs() {
		for _, size := range []int{1, 1399, 1400, 1401, 4000, 65000} {
			body := bytes.Repeat([]byte{1, 2, 3, 4, 5, 6, 7}, size/7+1)[:size]
			pieces := torture.Fragments(a[0], a[1], body, 1400)
			for _, p := range pieces {
				if len(p) > 1400 {
					t.Errorf("%s: a piece of %d bytes", family, len(p))
				}
			}
			slices.Reverse(pieces)
			got, complete, err := torture.Together(pieces)
			if err != nil || !complete || !bytes.Equal(got, body) {
				t.Errorf("%s: %d bytes in %d pieces: %v, %d bytes", family, size, len(pieces), err, len(got))
			}
			if _, complete, _ = torture.Together(pieces[1:]); complete && len(pieces) > 1 {
				t.Errorf("%s: complete without the last of %d pieces", family, len(pieces))
			}
		}
	}
}

// Every byte that changes on the way is seen in the checksum, or in the header.
func TestChecksums(t *testing.T) {
	t.Parallel()
	for family, a := range pairs() {
		for name, raw := range map[string][]byte{
			"UDP": torture.Datagram(a[0], a[1], 0, []byte("odd")),
			"TCP": torture.Segment(a[0], a[1], []byte{2, 4, 5, 0xb4}, []byte("data")),
		} {
			if ok, err := torture.Sums(raw); !ok || err != nil {
				t.Errorf("%s %s: %v %v", family, name, ok, err)
			}
			for i := len(raw) - 5; i < len(raw); i++ {
				bad := slices.Clone(raw)
				bad[i] ^= 0x10
				if ok, _ := torture.Sums(bad); ok {
					t.Errorf("%s %s: byte %d changed, and the sum is right", family, name, i)
				}
			}
			after := torture.Hop(raw, 2)
			if ok, err := torture.Sums(after); !ok || err != nil {
				t.Errorf("%s %s after two hops: %v %v", family, name, ok, err)
			}
			if bytes.Equal(after, raw) {
				t.Errorf("%s %s: hops change nothing", family, name)
			}
		}
	}
}

// TestCombine is the table of RFC 6040 §4.2, written out.
func TestCombine(t *testing.T) {
	t.Parallel()
	const notECT, ect1, ect0, ce, dropped = 0, 1, 2, 3, 9
	for inner, row := range map[byte][4]byte{ // by outer 0, 1, 2, 3
		notECT: {notECT, notECT, notECT, dropped},
		ect0:   {ect0, ect1, ect0, ce},
		ect1:   {ect1, ect1, ect1, ce},
		ce:     {ce, ce, ce, ce},
	} {
		for outer, want := range row {
			got, passes := torture.Combine(inner, byte(outer))
			if passes != (want != dropped) || passes && got != want {
				t.Errorf("inner %d outer %d: %d %v, want %d", inner, outer, got, passes, want)
			}
		}
	}
}

func TestLedger(t *testing.T) {
	t.Parallel()
	a, b, c := []byte("one packet"), []byte("another"), []byte("one Packet")
	expected, missing := torture.Settle(false, [][]byte{a, a, b}, [][]byte{a, c, b, b})
	if fmt.Sprint(expected) != "[true false true false]" || missing != 1 {
		t.Errorf("%v, %d missing", expected, missing)
	}
	at := pairs()["IPv4"]
	body := bytes.Repeat([]byte("x"), 3000)
	large, small := torture.Fragments(at[0], at[1], body, 1500), torture.Fragments(at[0], at[1], body, 600)
	expected, missing = torture.Settle(true, large, small)
	if slices.Contains(expected, false) || missing != 0 {
		t.Errorf("cut otherwise: %v, %d missing", expected, missing)
	}
	small[1][100] ^= 1
	if expected, missing = torture.Settle(true, large, small); !slices.Contains(expected, false) || missing != 1 {
		t.Errorf("changed: %v, %d missing", expected, missing)
	}
}

// The judge of the wire lets the right datagram pass, and nothing else.
func TestJudge(t *testing.T) {
	t.Parallel()
	for family, a := range pairs() {
		inner := torture.Datagram(a[0], a[1], 2, []byte("inner"))
		spoiled := slices.Clone(inner)
		spoiled[len(spoiled)-1] ^= 1
		for name, c := range map[string]struct {
			raw  []byte
			mark int
			ok   bool
		}{
			"right":              {torture.Datagram(a[0], a[1], 2, inner), 0, true},
			"marked":             {torture.Datagram(a[0], a[1], 3, inner), 3, true},
			"mark lost":          {torture.Datagram(a[0], a[1], 2, inner), 3, false},
			"ECN lost":           {torture.Datagram(a[0], a[1], 0, inner), 0, false},
			"strange DSCP":       {torture.Datagram(a[0], a[1], 2|8, inner), 0, false},
			"inner sum":          {torture.Datagram(a[0], a[1], 2, spoiled), 0, false},
			"inner cut":          {torture.Datagram(a[0], a[1], 2, inner[:len(inner)-1]), 0, false},
			"more than fits":     {torture.Datagram(a[0], a[1], 2, torture.Datagram(a[0], a[1], 2, make([]byte, 1460))), 0, false},
			"as much as may fit": {torture.Datagram(a[0], a[1], 2, torture.Datagram(a[0], a[1], 2, make([]byte, 1300))), 0, true},
		} {
			ours, err := torture.Judge(c.raw, c.mark)
			if !ours || (err == nil) != c.ok {
				t.Errorf("%s, %s: ours %v, %v", family, name, ours, err)
			}
		}
		if ours, err := torture.Judge(torture.Segment(a[0], a[1], nil, nil), 0); ours || err != nil {
			t.Errorf("%s: TCP is ours: %v %v", family, ours, err)
		}
		outer := torture.Datagram(a[0], a[1], 2, inner)
		outer[len(outer)-1] ^= 1
		if _, err := torture.Judge(outer, 0); err == nil {
			t.Errorf("%s: a wrong outer checksum passed", family)
		}
	}
}

func TestSummary(t *testing.T) {
	t.Parallel()
	text := torture.Summary([]torture.Tally{
		{Name: "a → b", Uplink: 1500, Sent: 3, Mismatches: 1, Details: []string{"sizes: lost"}},
		{Name: "a → c", Left: "no such option"},
	})
	for _, want := range []string{"| a → b | 1500 | 3 |", "not run: no such option", "a → b: sizes: lost", "through 1 combinations", "mismatches: 1\n"} {
		if !bytes.Contains([]byte(text), []byte(want)) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, a := range pairs() {
		f.Add(torture.Datagram(a[0], a[1], 0, []byte("data")))
		for _, p := range torture.Fragments(a[0], a[1], make([]byte, 100), 80) {
			f.Add(p)
		}
	}
	f.Fuzz(func(_ *testing.T, raw []byte) {
		torture.Parse(raw)
		_, _ = torture.Judge(raw, 0)
	})
}
