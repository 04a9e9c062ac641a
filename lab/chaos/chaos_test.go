package chaos_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/flannel-ng/flannel-ng/lab"
	"github.com/flannel-ng/flannel-ng/lab/chaos"
)

// binaries skips where the lab cannot be.
func binaries(t *testing.T) lab.Binaries {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip(lab.ErrNotRoot)
	}
	for _, tool := range []string{"nsenter", "ip", "bridge", "nft", "iptables", "ip6tables", "ping", "ethtool", "bash"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("needs %s (scripts/deps.sh installs it): %v", tool, err)
		}
	}
	dir := os.Getenv("FLANNEL_BIN")
	if dir == "" {
		t.Skip("needs the built programs: set FLANNEL_BIN, or use make lab")
	}
	b, err := lab.BinariesIn(dir)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestFaults is the short form of the bench: a few faults of each kind, some
// without notifications, and a few seconds at random. Each must be repaired,
// with everything else untouched, whatever time that takes on a busy machine.
func TestFaults(t *testing.T) {
	b := binaries(t)
	for _, c := range []struct {
		name, faults       string
		carriers, families []string
		modes              []chaos.Mode
		least              int // faults that must have been tried
	}{
		{
			"vxlan", `(route|neighbour|FDB entry) (deleted|altered)|nexthop deleted|device (deleted|down and up)|MAC|our accepts|unconditional|garbage in the store|lease deleted`,
			[]string{"vxlan"},
			[]string{"dual"},
			[]chaos.Mode{chaos.Told},
			14,
		},
		{
			"deaf", `^(peer's neighbour altered|bridge fdb flush|our table deleted)$`,
			[]string{"vxlan"},
			[]string{"dual"},
			[]chaos.Mode{chaos.Deaf},
			3,
		},
		{
			"host-gw and udp", `route deleted|uplink down|nft flush|forwarder killed|tunnel device deleted`,
			[]string{"host-gw", "udp"},
			[]string{"4"},
			[]chaos.Mode{chaos.Told},
			7,
		},
		{"soak", `^peer's .*(deleted|altered)|device|flush|FORWARD|DROP|uplink's MTU`, []string{"vxlan"}, nil, []chaos.Mode{chaos.Soaks}, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r, err := chaos.Run(t.Context(), chaos.Options{
				Binaries: b, Carriers: c.carriers, Families: c.families, Faults: regexp.MustCompile(c.faults), Modes: c.modes,
				Plain: true, Runs: 1, DeafRuns: 1, Soak: 5 * time.Second, Seed: 5, Progress: t.Output(),
			})
			if err != nil {
				t.Fatal(err)
			}
			tried := 0
			for _, f := range r.Fabrics {
				for _, row := range f.Faults {
					tried += row.Told.Runs() + row.Deaf.Runs()
				}
			}
			if n := r.Unrepaired(); n > 0 || tried < c.least || r.Soak != nil && r.Soak.Steps == 0 {
				t.Errorf("%d not repaired, %d tried, of at least %d:\n%s", n, tried, c.least, r.Text())
			}
		})
	}
}

// A run of nothing would find no fault, too.
func TestNothingToRun(t *testing.T) {
	b := binaries(t)
	_, err := chaos.Run(t.Context(), chaos.Options{Binaries: b, Faults: regexp.MustCompile("no such"), Modes: chaos.Modes()[:2]})
	if err == nil || !strings.Contains(err.Error(), "no such thing to run") {
		t.Errorf("%v", err)
	}
}

// Every carrier has faults of its own, and no fault is without a place.
func TestTable(t *testing.T) {
	t.Parallel()
	used := map[string]bool{}
	for name, faults := range chaos.Table() {
		if len(faults) < 3 {
			t.Errorf("%s: %d faults", name, len(faults))
		}
		sorted := slices.Clone(faults)
		slices.Sort(sorted)
		if len(slices.Compact(sorted)) != len(faults) {
			t.Errorf("%s: a name twice in %v", name, faults)
		}
		for _, f := range faults {
			used[f] = true
		}
	}
	for _, f := range chaos.Names() {
		if !used[f] {
			t.Errorf("%s is never tried", f)
		}
	}
	if len(used) < 40 {
		t.Errorf("only %d faults", len(used))
	}
}

func TestRuleLines(t *testing.T) {
	t.Parallel()
	got := chaos.RuleLines(`table ip flannel-ipv4 {
	chain forward {
		type filter hook forward priority filter; policy accept;
		ip saddr 10.5.0.0/16 accept
	}
}
# Warning: table ip filter is managed by iptables-nft, do not touch!
table ip filter {
	chain FORWARD {
		type filter hook forward priority filter; policy accept;
		tcp dport 1 counter jump STRANGER
	}
}
`)
	want := []string{
		"nft table ip flannel-ipv4 chain forward: type filter hook forward priority filter; policy accept;; ip saddr 10.5.0.0/16 accept",
		"nft table ip filter chain FORWARD: type filter hook forward priority filter; policy accept;",
		"nft table ip filter chain FORWARD: tcp dport 1 counter jump STRANGER",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
}

func TestDifference(t *testing.T) {
	t.Parallel()
	before, now := []string{"a", "b", "d"}, []string{"a", "c", "d", "e"}
	if got := chaos.Difference(before, now); !slices.Equal(got, []string{"- b", "+ c", "+ e"}) {
		t.Errorf("%q", got)
	}
	if got := chaos.Difference(before, before); got != nil {
		t.Errorf("%q", got)
	}
	lines := []string{"fdb x dst 192.0.2.1", "route 192.0.2.1/32 via 192.0.2.10"}
	if got := chaos.Readdressed(lines, "192.0.2.1", "192.0.2.7"); !slices.Equal(got, []string{"fdb x dst 192.0.2.7", "route 192.0.2.7/32 via 192.0.2.10"}) {
		t.Errorf("%q", got)
	}
}

func FuzzAttributes(f *testing.F) {
	f.Add([]byte{8, 0, 1, 0, 1, 2, 3, 4, 5, 0, 2, 0, 9})
	f.Fuzz(func(_ *testing.T, b []byte) { chaos.Attributes(b) })
}

func FuzzRuleLines(f *testing.F) {
	f.Add("table ip a {\n chain b {\n x\n }\n}\n}")
	f.Fuzz(func(_ *testing.T, text string) { chaos.RuleLines(text) })
}

func result() *chaos.Result {
	return &chaos.Result{
		When: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Took: 60, Version: "v1",
		Fabrics: []*chaos.Fabric{{
			Name: "vxlan 4", Carrier: "vxlan", Peers: 3, Took: 30, CPU: 0.5, Lines: 12,
			Faults: []*chaos.Row{
				{Name: "one", Told: chaos.Times{Millis: []float64{10, 20, 30}, Lost: []float64{0, 1, 5}}, Deaf: chaos.Times{Millis: []float64{4000}}},
				{Name: "two", Slow: true, Told: chaos.Times{Failed: 1}, Fails: []chaos.Fail{{Host: "h1", Why: "- route"}}},
			},
		}},
		Soak: &chaos.Soak{Seed: 7, Steps: 1, Kinds: []*chaos.Kind{{Name: "etcd stopped", Took: []float64{12}, Lost: []float64{0}}}},
	}
}

func TestText(t *testing.T) {
	t.Parallel()
	r := result()
	if r.Unrepaired() != 1 {
		t.Errorf("%d not repaired", r.Unrepaired())
	}
	page, err := chaos.Document(r)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"| one | 3 | 20 / 30 | 1 / 5 | 0 | 4000 / 4000 (1) |", "| two * | 1 | – | – | 1 | – |",
		"used 0.5 s of CPU and wrote 12 log lines", "**two** on h1: - route", "| etcd stopped | 1 | 12 / 12 | 0 / 0 |",
	} {
		if !strings.Contains(r.Text(), want) || !strings.Contains(page, want) {
			t.Errorf("no %q in\n%s", want, page)
		}
	}
	if empty, err := chaos.Document(&chaos.Result{}); err != nil || strings.Contains(empty, "<no value>") || strings.Contains(empty, "NaN") {
		t.Errorf("%v\n%s", err, empty)
	}
}

func TestSaveAndLoad(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "new", "chaos.json")
	if err := result().Save(file); err != nil {
		t.Fatal(err)
	}
	again, err := chaos.Load(file)
	if err != nil || !reflect.DeepEqual(again, result()) {
		t.Errorf("%v %+v", err, again)
	}
	if _, err := chaos.Load(file + ".not"); err == nil {
		t.Error("a missing file was loaded")
	}
}
