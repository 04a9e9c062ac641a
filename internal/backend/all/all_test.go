package all_test

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/flannel-ng/flannel-ng/internal/backend"
	"github.com/flannel-ng/flannel-ng/internal/backend/all"
	"github.com/flannel-ng/flannel-ng/internal/config"
)

// Folders beside the backends that are no backends.
func others() []string { return []string{"all", "backendtest", "transit"} }

func TestEveryFolderIsListed(t *testing.T) {
	entries, err := os.ReadDir("..")
	if err != nil {
		t.Fatal(err)
	}
	var folders, listed []string
	for _, e := range entries {
		if e.IsDir() && !slices.Contains(others(), e.Name()) {
			folders = append(folders, e.Name())
		}
	}
	for _, b := range all.Backends() {
		listed = append(listed, strings.ReplaceAll(b.Type, "-", ""))
	}
	if !slices.Equal(folders, listed) {
		t.Errorf("folders %v, listed %v", folders, listed)
	}
}

func TestUnknownBackendNamesTheKnown(t *testing.T) {
	_, _, err := all.New(backend.Setup{Options: config.Backend{Type: "gre"}})
	if err == nil || !strings.Contains(err.Error(), `"gre"`) || !strings.Contains(err.Error(), "vxlan") {
		t.Errorf("%v", err)
	}
}

func TestAdjacency(t *testing.T) {
	for options, want := range map[string]bool{
		`{"Type":"vxlan"}`:                      false,
		`{"Type":"vxlan","DirectRouting":true}`: true,
		`{"Type":"vxlan","DirectRouting":1}`:    false,
	} {
		if got := all.Adjacency(config.Backend{Type: "vxlan", Options: []byte(options)}); got != want {
			t.Errorf("%s: %v", options, got)
		}
	}
	for name, want := range map[string]bool{"host-gw": true, "alloc": false, "unknown": false} {
		if got := all.Adjacency(config.Backend{Type: name}); got != want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestStartup(t *testing.T) {
	for options, want := range map[string]int{
		`{"Type":"vxlan","PreStartupCommand":"a b"}`:                   0,
		`{"Type":"unknown"}`:                                           0,
		`{"Type":"extension"}`:                                         0,
		`{"Type":"extension","PreStartupCommand":"a b","Timeout":600}`: 2,
	} {
		o := config.Backend{Options: []byte(options)}
		o.Type = strings.Split(options, `"`)[3]
		if c, err := all.Startup(o); err != nil || len(c.Words) != want {
			t.Errorf("%s: %v, %v", options, c, err)
		}
	}
}
