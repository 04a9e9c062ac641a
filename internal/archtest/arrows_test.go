package archtest_test

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/flannel-ng/flannel-ng/"

// pkg is what `go list -json` tells of a package.
type pkg struct {
	ImportPath string
	Imports    []string
	Deps       []string // transitive
}

// name is the path inside the module.
func (p pkg) name() string { return strings.TrimPrefix(p.ImportPath, module) }

func packages(t *testing.T) []pkg {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-json=ImportPath,Imports,Deps", module+"...")
	cmd.Env = append(os.Environ(), "GOOS=linux", "GOFLAGS=-buildvcs=false")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var all []pkg
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
	if len(all) == 0 {
		t.Fatal("go list found no package")
	}
	return all
}

// below says whether path is prefix or lies under it.
func below(path string, prefixes ...string) bool {
	return slices.ContainsFunc(prefixes, func(prefix string) bool {
		return path == prefix || strings.HasPrefix(path, prefix+"/")
	})
}

// pure packages hold values and decisions: no process, no socket, no kernel.
func pure() []string {
	return []string{
		"internal/addr", "internal/facts", "internal/state", "internal/report",
		"internal/lease", "internal/config", "internal/reconcile",
		"internal/backend", "internal/traffic", "internal/engine", "internal/keeper",
		"internal/subnetenv", "internal/events", "internal/tunnel/packet",
		"internal/tunnel/checksum", "internal/tunnel/segment",
	}
}

// arrow forbids packages below from to know packages below to.
type arrow struct {
	from, to []string
	except   []string // of from
	deep     bool     // not even through others
	why      string
}

func arrows() []arrow {
	own := func(names ...string) []string {
		for i, n := range names {
			names[i] = module + "internal/" + n
		}
		return names
	}
	everything := []string{"cmd", "daemon", "internal", "lab"}
	return []arrow{
		{
			from: pure(), deep: true, why: "pure packages touch no process, network or kernel",
			to: append(own("store", "driver", "nl", "web", "control", "probe"), "os/exec", "net/http", "golang.org/x/sys",
				"go.etcd.io", "github.com/mdlayher/netlink", "github.com/vishvananda/netlink", "github.com/google/nftables"),
		},
		{from: []string{"internal/store"}, to: own("backend", "driver", "web", "control", "nl"), deep: true, why: "stores carry backend data unread"},
		{from: []string{"internal/backend"}, to: own("store", "driver", "web", "control"), deep: true, why: "backends decide, drivers do"},
		{from: []string{"internal/driver"}, to: own("backend", "store", "web", "control", "lease"), deep: true, why: "drivers make states true and ask not why"},
		{from: []string{"internal/web", "internal/control", "internal/metrics"}, to: own("backend", "store", "driver", "nl"), deep: true, why: "what shows sees only reports"},
		{
			from: everything, except: []string{"internal/nl", "internal/driver"}, why: "internal/nl and the drivers alone talk netlink",
			to: []string{"github.com/mdlayher/netlink", "github.com/vishvananda/netlink"},
		},
		{from: everything, except: []string{"internal/driver/filter"}, to: []string{"github.com/google/nftables"}, why: "one place speaks nftables"},
		{from: []string{"internal/ctl"}, to: own("store", "driver", "nl", "cleanup"), deep: true, why: "flannelctl's words know no kernel and no store: cmd/flannelctl hands them in"},
		{from: everything, except: []string{"cmd/flannelctl", "daemon"}, to: own("cleanup"), why: "who runs flanneld or stands in for it takes it off a host"},
		{from: []string{"internal", "daemon"}, to: []string{module + "cmd", module + "lab"}, deep: true, why: "commands and the lab stand on top"},
		{from: []string{"internal"}, to: []string{module + "daemon"}, deep: true, why: "the daemon wires, nothing below knows it"},
		{
			from: []string{"cmd/flanneld", "daemon", "internal"}, deep: true, why: "the typed clientset doubles the binary",
			to: []string{"k8s.io/client-go/kubernetes", "k8s.io/client-go/informers", "k8s.io/client-go/metadata"},
		},
	}
}

// broken lists the imports of p that a forbids.
func (a arrow) broken(p pkg) []string {
	if !below(p.name(), a.from...) || below(p.name(), a.except...) {
		return nil
	}
	imports := p.Imports
	if a.deep {
		imports = p.Deps
	}
	return slices.DeleteFunc(slices.Clone(imports), func(path string) bool { return !below(path, a.to...) })
}

func TestArrows(t *testing.T) {
	all := packages(t)
	for _, a := range arrows() {
		for _, p := range all {
			for _, path := range a.broken(p) {
				t.Errorf("%s imports %s: %s", p.name(), path, a.why)
			}
		}
	}
}

// The rules themselves can fail: each catches a package made to break it.
func TestArrowsCatch(t *testing.T) {
	for _, a := range arrows() {
		bad := pkg{ImportPath: module + a.from[0] + "/x", Imports: []string{a.to[0]}, Deps: []string{a.to[0]}}
		if len(a.broken(bad)) != 1 {
			t.Errorf("not caught: %s", a.why)
		}
		innocent := pkg{ImportPath: module + a.from[0] + "/x", Imports: []string{a.to[0] + "x"}, Deps: []string{a.to[0] + "x"}}
		if len(a.broken(innocent)) != 0 {
			t.Errorf("caught a package of another name: %s", a.why)
		}
	}
}

// TestPureElsewhere builds the pure packages for a system that is not Linux.
func TestPureElsewhere(t *testing.T) {
	if testing.Short() {
		t.Skip("short: compiles the standard library for darwin")
	}
	var paths []string
	for _, p := range packages(t) {
		if below(p.name(), pure()...) {
			paths = append(paths, p.ImportPath)
		}
	}
	cmd := exec.CommandContext(t.Context(), "go", append([]string{"build"}, paths...)...)
	cmd.Env = append(os.Environ(), "GOOS=darwin", "GOARCH=arm64", "CGO_ENABLED=0", "GOFLAGS=-buildvcs=false")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("GOOS=darwin: %v\n%s", err, out)
	}
}
