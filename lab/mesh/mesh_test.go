package mesh_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/flannel-ng/flannel-ng/lab"
	"github.com/flannel-ng/flannel-ng/lab/mesh"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestFew is the whole bench with few hosts: none fails, and the figures are of
// a run that took place.
func TestFew(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: the lab makes network namespaces")
	}
	dir := os.Getenv("FLANNEL_BIN")
	if dir == "" {
		t.Skip("needs the built programs: set FLANNEL_BIN, or use make lab")
	}
	binaries, err := lab.BinariesIn(dir)
	if err != nil {
		t.Fatal(err)
	}
	const hosts = 8
	r, err := mesh.Run(t.Context(), mesh.Options{
		Binaries: binaries, Hosts: hosts, Leave: 25, Limit: time.Minute, Progress: t.Output(),
	})
	if err != nil {
		t.Fatal(err)
	}
	pairs := map[string]int{"join": hosts * (hosts - 1), "rest": hosts * (hosts - 1), "leave": hosts*(hosts-1) - 2*(hosts-2), "return": hosts * (hosts - 1)}
	for _, s := range r.Steps {
		if s.Pairs != pairs[s.Name] || s.Took <= 0 || s.Last > s.Took {
			t.Errorf("step %+v, want %d pairs", s, pairs[s.Name])
		}
		if changes := s.Name != "rest"; changes && (s.Requests == 0 || s.WatchMessages == 0 || s.Sent == 0) {
			t.Errorf("step %s moved nothing: %+v", s.Name, s)
		}
	}
	if len(r.Steps) != len(pairs) || r.Failed != 0 || r.Leavers != 2 || r.Env.Most <= 0 || r.PSS.Least <= 0 || r.RSS.Least < r.PSS.Least {
		t.Errorf("result %+v", r)
	}
	if s := r.Steps[0]; s.Watchers != 3*hosts || s.Streams != hosts {
		t.Errorf("%d watches on %d streams of %d hosts", s.Watchers, s.Streams, hosts)
	}
	file := filepath.Join(t.TempDir(), "bench", "mesh.json")
	if err := r.Save(file); err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(file); err != nil || !strings.Contains(string(text), `"name": "return"`) {
		t.Errorf("file %.200s, %v", text, err)
	}
	if text := r.Text(); strings.Count(text, "\n") < 12 || !strings.Contains(text, "2 leave") {
		t.Errorf("table:\n%s", text)
	}
}
