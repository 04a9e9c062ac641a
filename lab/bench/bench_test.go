package bench_test

import (
	"encoding/binary"
	"math"
	"net/netip"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/flannel-ng/flannel-ng/lab/bench"
)

func TestQuantile(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		values []float64
		q      float64
		want   float64
	}{
		{nil, 0.5, 0},
		{[]float64{7}, 0.99, 7},
		{[]float64{3, 1, 2}, 0.5, 2},
		{[]float64{4, 1, 3, 2}, 0.5, 2.5},
		{[]float64{1, 2, 3, 4, 5}, 0.25, 2},
		{[]float64{5, 4, 3, 2, 1}, 1, 5},
	} {
		values := slices.Clone(c.values)
		if got := bench.Quantile(c.values, c.q); math.Abs(got-c.want) > 1e-9 {
			t.Errorf("quantile %v of %v: %v, want %v", c.q, c.values, got, c.want)
		}
		if !slices.Equal(values, c.values) {
			t.Errorf("%v became %v", values, c.values)
		}
	}
}

// A round in which the machine was half as fast must not move the ratio.
func TestOver(t *testing.T) {
	t.Parallel()
	yard := bench.Series{{0, 10}, {1, 5}, {2, 10}, {3, 8}}
	ours := bench.Series{{0, 9}, {1, 4.5}, {2, 9}, {4, 100}}
	if ratio, ok := ours.Over(yard); !ok || math.Abs(ratio-0.9) > 1e-9 {
		t.Errorf("ratio %v %v, want 0.9", ratio, ok)
	}
	if _, ok := ours.Over(bench.Series{{9, 1}, {0, 0}}); ok {
		t.Error("a ratio without a common round")
	}
}

func TestChoose(t *testing.T) {
	t.Parallel()
	paths, peers, err := bench.Choose()
	if err != nil || !slices.Contains(paths, "vxlan-masq") || !slices.Contains(paths, "udp-bpf") || len(peers) != 2 {
		t.Errorf("all: %v %v %v", paths, peers, err)
	}
	paths, peers, err = bench.Choose("udp", "peers-vxlan")
	if err != nil || !slices.Equal(paths, []string{"kernel-vxlan", "udp"}) || !slices.Equal(peers, []string{"peers-vxlan"}) {
		t.Errorf("udp and its yardstick: %v %v %v", paths, peers, err)
	}
	if paths, peers, err = bench.Choose("peers-host-gw"); err != nil || len(paths) != 0 || len(peers) != 1 {
		t.Errorf("convergence alone: %v %v %v", paths, peers, err)
	}
	if _, _, err = bench.Choose("zebra"); err == nil || !strings.Contains(err.Error(), "zebra") {
		t.Errorf("unknown row: %v", err)
	}
}

func TestCPUTime(t *testing.T) {
	t.Parallel()
	const stat = "cpu  100 20 30 9999 5 6 7 400 0 0\ncpu0 1 2 3 4\n"
	if got, err := bench.Busy(stat); err != nil || got != 1630*time.Millisecond {
		t.Errorf("busy %v %v, want user+nice+system+irq+softirq, without idle, iowait, steal", got, err)
	}
	for _, bad := range []string{"", "cpu 1 2 3", "intr 1 2 3 4 5 6 7 8", "cpu a b c d e f g h"} {
		if _, err := bench.Busy(bad); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
	const process = "42 (a (b) c) S 1 42 42 0 -1 4194560 1 2 3 4 150 50 0 0 20 0 1 0 5 6 7"
	if got, err := bench.Used(process); err != nil || got != 2*time.Second {
		t.Errorf("used %v %v", got, err)
	}
	for _, bad := range []string{"", "42 (x", "42 (x) S 1", "42 (x) S 1 42 42 0 -1 4194560 1 2 3 4 a 50 0"} {
		if _, err := bench.Used(bad); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

// A process of others counts if it was there before and after, and what they
// used is never more than all that was used.
func TestShares(t *testing.T) {
	t.Parallel()
	s := time.Second
	lab, others := bench.Since(10*s, 14*s, map[int]time.Duration{1: 5 * s, 2: s}, map[int]time.Duration{1: 6 * s, 3: s})
	if lab != 3*s || others != s {
		t.Errorf("lab %v, others %v, want 3s and 1s", lab, others)
	}
	if lab, _ = bench.Since(0, s, map[int]time.Duration{1: 0}, map[int]time.Duration{1: 2 * s}); lab != 0 {
		t.Errorf("lab %v", lab)
	}
}

// message is an RTM_NEWROUTE for a.b.c.0/24 with an attribute before it.
func message(kind uint16, dst [4]byte) []byte {
	msg := make([]byte, 28, 44)
	binary.NativeEndian.PutUint16(msg[4:], kind)
	msg[17] = 24
	msg = append(msg, 8, 0, 15, 0, 254, 0, 0, 0)
	if binary.NativeEndian.Uint16([]byte{1, 0}) != 1 { // big-endian
		msg = append(msg[:28], 0, 8, 0, 15, 0, 0, 0, 254)
	}
	msg = binary.NativeEndian.AppendUint16(msg, 8)
	msg = binary.NativeEndian.AppendUint16(msg, 1) // RTA_DST
	msg = append(msg, dst[:]...)
	binary.NativeEndian.PutUint32(msg, uint32(len(msg)))
	return msg
}

func TestWatch(t *testing.T) {
	t.Parallel()
	const added, deleted = 24, 25
	one, two := netip.MustParsePrefix("10.1.2.0/24"), netip.MustParsePrefix("10.1.3.0/24")
	first, second := message(added, one.Addr().As4()), message(added, two.Addr().As4())
	if got, ok := bench.NewRoute(first); !ok || got != one {
		t.Errorf("%v %v, want %s", got, ok, one)
	}
	if _, ok := bench.NewRoute(message(deleted, one.Addr().As4())); ok {
		t.Error("a route that went is new")
	}
	if !bench.Heard(slices.Concat(first, second), one, two) {
		t.Error("two routes in one message, and not both heard")
	}
	if bench.Heard(slices.Concat(first, first), one, two) || bench.Heard(first, two) {
		t.Error("heard of a route that never came")
	}
}

func FuzzHeard(f *testing.F) {
	f.Add(message(24, [4]byte{10, 1, 2, 0}))
	f.Fuzz(func(_ *testing.T, b []byte) { bench.Heard(b, netip.MustParsePrefix("10.1.2.0/24")) })
}

// Peers never share anything, and never take what the lab's own hosts have.
func TestPeers(t *testing.T) {
	t.Parallel()
	seen := map[any]int{}
	wide := netip.MustParsePrefix("198.18.0.0/15")
	for i := range bench.MaxPeers {
		subnet, public, mac := bench.PeerAt(i)
		for _, v := range []any{subnet, public, mac} {
			if before, ok := seen[v]; ok {
				t.Fatalf("peers %d and %d have %v", before, i, v)
			}
			seen[v] = i
		}
		if !wide.Contains(public) || !netip.MustParsePrefix("10.0.0.0/8").Contains(subnet.Addr()) ||
			subnet != subnet.Masked() || subnet.Addr().Compare(netip.MustParseAddr("10.200.0.0")) >= 0 {
			t.Fatalf("peer %d: %s %s", i, subnet, public)
		}
	}
}

func TestWrites(t *testing.T) {
	t.Parallel()
	subnet, public, mac := bench.PeerAt(300)
	said := "10.9.0.0/24 via 10.9.0.0 dev flannel.1 proto 70 onlink\n" +
		"198.18.0.1 dev eth0 lladdr 0e:00:00:00:00:01 REACHABLE\n198.18.0.1 dev eth0 FAILED\n\n" +
		subnet.String() + " nhid 5 proto 70\nid 5 via " + subnet.Addr().String() + " dev flannel.1\n" +
		"dev flannel.1 lladdr " + mac + " PERMANENT\n" + public.String() + " dev eth0 lladdr 0e:00:00:00:00:02 PERMANENT\n"
	if got := bench.Writes(said, 300); got != 1 {
		t.Errorf("%d writes, want 1", got)
	}
}

func result() *bench.Result {
	r := &bench.Result{
		When: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Took: 61.5, Version: "v1", Rounds: 2,
		Machine: bench.Machine{Cores: 2, Memory: 2048, Kernel: "6.1", Go: "go1.26", Arch: "amd64"},
		Others:  bench.Series{{0, 0.02}, {1, 0.08}, {2, 0.3}},
		Paths: []bench.Path{
			{Name: "yard", Title: "plain", Yardstick: "yard", Figures: map[bench.Mode]map[bench.Figure]bench.Series{
				bench.Whole: {bench.TCP1: {{0, 10}, {1, 12}}},
			}},
			{Name: "ours", Title: "ours", Yardstick: "yard", Note: "a note", Figures: map[bench.Mode]map[bench.Figure]bench.Series{
				bench.Whole: {bench.TCP1: {{0, 5}, {1, 6}}, bench.Rate: {{0, 100}}},
			}},
			{Name: "none", Title: "absent", Yardstick: "yard", Missing: "no such option"},
		},
		Convergence: []bench.Convergence{{
			Backend: "vxlan", Peers: 10, Last: bench.Series{{0, 1}, {1, 3}}, Floor: bench.Series{{0, 0.5}, {1, 1}}, Repair: 0.25,
		}},
	}
	return r
}

func TestTables(t *testing.T) {
	t.Parallel()
	text := result().Text()
	for _, want := range []string{
		"| plain | 11.0 | – |", "| ours | 5.5 (0.50×) | – | 100 |", "absent: not measured: no such option", "ours: a note",
		"| Following many peers | vxlan, 10 peers |", "| 2.00 (2.5× `ip -batch`) |", "| 0.25 |",
		"2 cores, 2 GiB, Linux 6.1", "8 % of the machine", "30 % at worst",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	if strings.Contains(text, "| absent |") {
		t.Error("a row without figures is in the table")
	}
}

// When others take much, the best of all rounds counts.
func TestDisturbed(t *testing.T) {
	t.Parallel()
	r := result()
	r.Others = bench.Series{{0, 0.5}}
	ours := r.Paths[1].Figures[bench.Whole]
	ours[bench.TCP1], ours[bench.RTT] = bench.Series{{0, 3}, {1, 6}}, bench.Series{{0, 50}, {1, 40}}
	r.Paths[0].Figures[bench.Whole][bench.RTT] = bench.Series{{0, 90}, {1, 20}}
	text := r.PathTable()
	if !strings.Contains(text, "| ours | 6.0 (0.50×) |") || !strings.Contains(text, "| 40 (2.00×) |") {
		t.Errorf("not the best:\n%s", text)
	}
	if !strings.Contains(r.Conditions(), "best of all rounds") {
		t.Error(r.Conditions())
	}
}

func TestSaveAndLoad(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "new", "bench.json")
	r := result()
	if err := r.Save(file); err != nil {
		t.Fatal(err)
	}
	again, err := bench.Load(file)
	if err != nil || !reflect.DeepEqual(r, again) {
		t.Errorf("%v\nsaved  %+v\nloaded %+v", err, r, again)
	}
	if _, err := bench.Load(file + ".not"); err == nil {
		t.Error("a missing file was loaded")
	}
}

// The page must render whatever a run has left out.
func TestDocument(t *testing.T) {
	t.Parallel()
	for name, r := range map[string]*bench.Result{"some": result(), "nothing": {}} {
		text, err := bench.Document(r)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if strings.Contains(text, "NaN") || strings.Contains(text, "Inf") || strings.Contains(text, "<no value>") || strings.Contains(text, "%!") {
			t.Errorf("%s:\n%s", name, text)
		}
	}
	text, _ := bench.Document(result())
	if !strings.Contains(text, "| ours | 5.5 (0.50×)") {
		t.Errorf("the table is missing in\n%s", text)
	}
}
