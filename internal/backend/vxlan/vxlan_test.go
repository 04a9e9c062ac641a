package vxlan_test

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/backend"
	"github.com/flannel-ng/flannel-ng/internal/backend/backendtest"
	"github.com/flannel-ng/flannel-ng/internal/backend/vxlan"
	"github.com/flannel-ng/flannel-ng/internal/config"
	"github.com/flannel-ng/flannel-ng/internal/facts"
	"github.com/flannel-ng/flannel-ng/internal/lease"
)

func newVXLAN(t *testing.T, n config.Network) backend.Backend {
	t.Helper()
	b, warnings, err := vxlan.New(backend.Setup{Options: n.Backend, Families: n.Families()})
	if err != nil || len(warnings) > 0 {
		t.Fatal(err, warnings)
	}
	return b
}

func TestConform(t *testing.T) {
	backendtest.Conform(t, newVXLAN,
		`{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}`,
		`{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fc00:5::/48","Backend":{"Type":"vxlan"}}`,
		`{"Network":"10.5.0.0/16","EnableIPv6":true,"IPv6Network":"fc00:5::/48","Backend":{"Type":"vxlan"}}`,
		`{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan","DirectRouting":true}}`)
}

func TestGolden(t *testing.T) { backendtest.Golden(t, newVXLAN) }

func TestOptions(t *testing.T) {
	for _, tt := range []struct{ options, want string }{
		{`{"Type":"vxlan","VNI":16777216}`, "Backend.VNI 16777216: must be 1..16777215"},
		{`{"Type":"vxlan","Port":70000}`, "Backend.Port 70000: must be 0..65535"},
		{`{"Type":"vxlan","MTU":-1}`, "Backend.MTU -1: must be 0..65535"},
		{`{"Type":"vxlan","DirectRouting":"yes"}`, "Backend.DirectRouting"},
		{`{"Type":"vxlan","GBP":1}`, "Backend.GBP 1: must be true or false"},
		{`{"Type":"vxlan","Learning":"no"}`, `Backend.Learning "no": must be true or false, without quotes`},
		{`{"Type":"vxlan","ChecksumOffload":"off"}`, `Backend.ChecksumOffload "off": must be true or false, without quotes`},
	} {
		_, _, err := vxlan.New(backend.Setup{Options: config.Backend{Type: "vxlan", Options: []byte(tt.options)}})
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", tt.options, err, tt.want)
		}
	}
}

// The MAC that peers know survives a lost device, and a found device's MAC a
// lost lease.
func TestMACOfFoundDevice(t *testing.T) {
	families := []addr.Family{addr.IPv4}
	b, _, err := vxlan.New(backend.Setup{Options: config.Backend{Type: "vxlan"}, Families: families})
	if err != nil {
		t.Fatal(err)
	}
	n := backendtest.Node(families, 1)
	found := facts.Link{Name: "flannel.1", Type: "vxlan", VNI: 1, Port: 8472, MAC: addr.MAC{0x0e, 0x0a, 0x79, 0x98, 0x7f, 0x30}}
	n.Links = append(n.Links, found)
	o, err := b.Offer(n, nil)
	if want := `{"VNI":1,"VtepMAC":"0e:0a:79:98:7f:30"}`; err != nil || o.Data.At(addr.IPv4) != want {
		t.Errorf("offer %s, %v; want %s", o.Data.At(addr.IPv4), err, want)
	}
}

// A tunnel that cannot carry IPv6 is refused: the kernel would make it, without
// IPv6, and every address of it would fail.
func TestTooSmallForIPv6(t *testing.T) {
	for _, tt := range []struct {
		uplink, option int
		family         addr.Family
		ok             bool
	}{
		{1349, 0, addr.IPv6, false},
		{1350, 0, addr.IPv6, true},
		{1500, 1349, addr.IPv6, false},
		{1349, 9000, addr.IPv6, false},
		{1000, 0, addr.IPv4, true},
	} {
		families := []addr.Family{tt.family}
		options := fmt.Appendf(nil, `{"Type":"vxlan","MTU":%d}`, tt.option)
		b, _, err := vxlan.New(backend.Setup{Options: config.Backend{Type: "vxlan", Options: options}, Families: families})
		if err != nil {
			t.Fatal(err)
		}
		n := backendtest.Node(families, 1)
		n.Uplink.MTU = tt.uplink
		self := lease.Lease{Subnets: addr.Pair(netip.MustParsePrefix("10.5.1.0/24"), netip.MustParsePrefix("fc00:5:0:1::/64"))}
		if self.Offer, err = b.Offer(n, nil); err != nil {
			t.Fatal(err)
		}
		if _, err = b.Local(self, n); errors.Is(err, vxlan.ErrMTU) == tt.ok || tt.ok && err != nil {
			t.Errorf("%s, uplink %d, option %d: %v", tt.family, tt.uplink, tt.option, err)
		}
	}
}

func TestOverhead(t *testing.T) {
	for f, want := range map[addr.Family]int{addr.IPv4: 50, addr.IPv6: 70} {
		if got := vxlan.Overhead(f); got != want {
			t.Errorf("%s: %d, want %d", f, got, want)
		}
	}
}
