package metrics_test

import (
	"flag"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/flannel-ng/flannel-ng/internal/metrics"
	"github.com/flannel-ng/flannel-ng/internal/report"
)

const doc = "../../docs/metrics.md"

func now() time.Time { return time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC) }

func collector(s report.Status) *metrics.Collector {
	return metrics.New(func() report.Status { return s }, now)
}

func busy() report.Status {
	return report.Status{
		Version: "v1.2.3",
		Ready:   true,
		Change:  report.Transit{Phase: "held"},
		Lease:   report.Lease{Expires: now().Add(90 * time.Minute)},
		Store:   report.Store{Revision: 42, Synced: true, Age: 1500 * time.Millisecond},
		Pass: report.Pass{
			Passes: 9, Duration: 12 * time.Millisecond, Contested: 1,
			Repairs:  map[string]report.Repairs{"route": {Found: 6, Done: 5, Took: 1200 * time.Millisecond, Within: within(1, 3, 4)}},
			Changes:  map[string]int64{"route add": 3, "link update": 1},
			Failures: []report.Failure{{Object: "route x", Error: "y"}},
		},
		PeerCount: report.PeerCount{Programmed: 2, Failing: 1},
		Rejected:  []report.Rejected{{Key: "k"}, {Key: "l"}},
		Tunnel: &report.Tunnel{
			KernelSentPackets: 2, KernelReceivedPackets: 3, SentPackets: 5, SentBytes: 500, ReceivedPackets: 4, ReceivedBytes: 400,
			Dropped: map[string]uint64{"stranger": 2},
		},
	}
}

// within are the counts of the first few bounds; of the others all five.
func within(first ...int64) []int64 {
	out := make([]int64, len(report.RepairBounds()))
	for i := range out {
		out[i] = 5
	}
	copy(out, first)
	return out
}

// samples drops the comment lines of an exposition.
func samples(t *testing.T, s report.Status) string {
	t.Helper()
	w := httptest.NewRecorder()
	req := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/metrics", http.NoBody)
	metrics.Handler(collector(s)).ServeHTTP(w, req)
	if w.Code != http.StatusOK {
		t.Fatalf("answer %d: %s", w.Code, w.Body)
	}
	return regexp.MustCompile(`(?m)^#.*\n`).ReplaceAllString(w.Body.String(), "")
}

func TestSamples(t *testing.T) {
	t.Parallel()
	want := `flannel_build_info{version="v1.2.3"} 1
flannel_change_phase{phase="blocked"} 0
flannel_change_phase{phase="held"} 1
flannel_change_phase{phase="keeping"} 0
flannel_change_phase{phase="preparing"} 0
flannel_change_phase{phase="receiving"} 0
flannel_change_phase{phase="sending"} 0
flannel_change_phase{phase="steady"} 0
flannel_changes_total{kind="link",op="update"} 1
flannel_changes_total{kind="route",op="add"} 3
flannel_contested_objects 1
flannel_drift_total{kind="route"} 6
flannel_failing_objects 1
flannel_lease_expires_seconds 5400
flannel_pass_duration_seconds 0.012
flannel_pass_total 9
flannel_peers{state="failing"} 1
flannel_peers{state="programmed"} 2
flannel_ready 1
flannel_rejected_keys 2
flannel_repair_seconds_bucket{kind="route",le="0.005"} 1
flannel_repair_seconds_bucket{kind="route",le="0.01"} 3
flannel_repair_seconds_bucket{kind="route",le="0.025"} 4
flannel_repair_seconds_bucket{kind="route",le="0.05"} 5
flannel_repair_seconds_bucket{kind="route",le="0.1"} 5
flannel_repair_seconds_bucket{kind="route",le="0.25"} 5
flannel_repair_seconds_bucket{kind="route",le="0.5"} 5
flannel_repair_seconds_bucket{kind="route",le="1"} 5
flannel_repair_seconds_bucket{kind="route",le="2.5"} 5
flannel_repair_seconds_bucket{kind="route",le="5"} 5
flannel_repair_seconds_bucket{kind="route",le="10"} 5
flannel_repair_seconds_bucket{kind="route",le="30"} 5
flannel_repair_seconds_bucket{kind="route",le="60"} 5
flannel_repair_seconds_bucket{kind="route",le="300"} 5
flannel_repair_seconds_bucket{kind="route",le="+Inf"} 5
flannel_repair_seconds_sum{kind="route"} 1.2
flannel_repair_seconds_count{kind="route"} 5
flannel_snapshot_age_seconds 1.5
flannel_store_revision 42
flannel_store_synced 1
flannel_tunnel_bytes_total{direction="received"} 400
flannel_tunnel_bytes_total{direction="sent"} 500
flannel_tunnel_dropped_total{reason="stranger"} 2
flannel_tunnel_kernel_packets_total{direction="received"} 3
flannel_tunnel_kernel_packets_total{direction="sent"} 2
flannel_tunnel_packets_total{direction="received"} 4
flannel_tunnel_packets_total{direction="sent"} 5
`
	if got := samples(t, busy()); got != want {
		t.Errorf("got:\n%swant:\n%s", got, want)
	}
}

// Before the first pass there are numbers too, but no expiry.
func TestSamplesAtStart(t *testing.T) {
	t.Parallel()
	got := samples(t, report.Status{})
	if strings.Contains(got, "lease_expires") || !strings.Contains(got, "flannel_ready 0\n") ||
		!strings.Contains(got, `flannel_peers{state="failing"} 0`) {
		t.Errorf("got:\n%s", got)
	}
}

func TestLint(t *testing.T) {
	t.Parallel()
	r := prometheus.NewPedanticRegistry()
	r.MustRegister(collector(busy()))
	problems, err := testutil.GatherAndLint(r)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}

// update rewrites the table of docs/metrics.md.
func update() bool { return flag.Lookup("update").Value.String() == "true" }

func TestMain(m *testing.M) {
	flag.Bool("update", false, "rewrite the table of "+doc)
	flag.Parse()
	os.Exit(m.Run())
}

// table is the documentation of what busy shows: everything there is.
func table(t *testing.T) string {
	t.Helper()
	r := prometheus.NewRegistry()
	r.MustRegister(collector(busy()))
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	b.WriteString("| Metric | Type | Labels | Meaning |\n|---|---|---|---|\n")
	for _, f := range families {
		var labels []string
		for _, l := range f.GetMetric()[0].GetLabel() {
			labels = append(labels, "`"+l.GetName()+"`")
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", f.GetName(),
			strings.ToLower(f.GetType().String()), strings.Join(labels, ", "), f.GetHelp())
	}
	return b.String()
}

func TestDocumented(t *testing.T) {
	t.Parallel()
	have, err := os.ReadFile(filepath.FromSlash(doc))
	if err != nil {
		t.Fatal(err)
	}
	want := table(t)
	if n := strings.Count(want, "\n") - 2; n != described() {
		t.Errorf("the example shows %d metrics of %d", n, described())
	}
	if strings.Contains(string(have), want) {
		return
	}
	if !update() {
		t.Fatalf("%s differs from the code; run this test with -update. It should have:\n%s", doc, want)
	}
	old := regexp.MustCompile(`(?m)^\|(?:.*\n)+?(?:$|\z)`)
	if err := os.WriteFile(doc, old.ReplaceAllLiteral(have, []byte(want)), 0o644); err != nil {
		t.Fatal(err)
	}
}

func described() int {
	out := make(chan *prometheus.Desc, 100)
	collector(report.Status{}).Describe(out)
	return len(out)
}
