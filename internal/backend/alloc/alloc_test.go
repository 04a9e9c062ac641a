package alloc_test

import (
	"strings"
	"testing"

	"github.com/flannel-ng/flannel-ng/internal/backend"
	"github.com/flannel-ng/flannel-ng/internal/backend/alloc"
	"github.com/flannel-ng/flannel-ng/internal/backend/backendtest"
	"github.com/flannel-ng/flannel-ng/internal/config"
)

func newAlloc(t *testing.T, n config.Network) backend.Backend {
	t.Helper()
	b, warnings, err := alloc.New(backend.Setup{Options: n.Backend, Families: n.Families()})
	if err != nil || len(warnings) > 0 {
		t.Fatal(err, warnings)
	}
	return b
}

func TestConform(t *testing.T) {
	backendtest.Conform(t, newAlloc,
		`{"Network":"10.5.0.0/16","Backend":{"Type":"alloc"}}`,
		`{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fc00:5::/48","Backend":{"Type":"alloc"}}`,
		`{"Network":"10.5.0.0/16","EnableIPv6":true,"IPv6Network":"fc00:5::/48","Backend":{"Type":"alloc"}}`)
}

func TestGolden(t *testing.T) { backendtest.Golden(t, newAlloc) }

func TestUnknownOptionWarns(t *testing.T) {
	_, warnings, err := alloc.New(backend.Setup{Options: config.Backend{Options: []byte(`{"Type":"alloc","MTU":9}`)}})
	if err != nil || len(warnings) != 1 || !strings.Contains(warnings[0], "MTU") {
		t.Errorf("%v, %v", warnings, err)
	}
}
