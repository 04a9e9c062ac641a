package alloc_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/backend"
	"github.com/flannel-ng/flannel-ng/internal/backend/alloc"
	"github.com/flannel-ng/flannel-ng/internal/backend/backendtest"
	"github.com/flannel-ng/flannel-ng/internal/config"
	"github.com/flannel-ng/flannel-ng/internal/engine"
	"github.com/flannel-ng/flannel-ng/internal/lease"
	"github.com/flannel-ng/flannel-ng/internal/store/etcd"
	"github.com/flannel-ng/flannel-ng/internal/traffic"
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

// throughStore is a lease as it comes back from etcd, whose values are
// flannel's: those of alloc name no backend.
func throughStore(t *testing.T, l lease.Lease) lease.Lease {
	t.Helper()
	text, err := etcd.FormatValue(l.Public, l.Offer)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(text, "Backend") {
		t.Errorf("the value names a backend: %s", text)
	}
	if l.Public, l.Offer, err = etcd.ParseValue(text); err != nil {
		t.Fatal(err)
	}
	return l
}

// A restarted host knows its own lease again, and no peer counts as one that
// should be reached: neither in the kernel nor in the report.
func TestThroughTheStore(t *testing.T) {
	network, err := config.Parse([]byte(`{"Network":"10.5.0.0/16","Backend":{"Type":"alloc"}}`))
	if err != nil {
		t.Fatal(err)
	}
	in := engine.Inputs{Network: network, Backend: backendtest.Alone(network, newAlloc(t, network)), Node: backendtest.Node([]addr.Family{addr.IPv4}, 1)}
	in.Policy.SubnetFile, in.Policy.Traffic = "/run/flannel/subnet.env", traffic.Options{Masquerade: true}
	offer, err := in.Backend.Offer(in.Node, nil)
	if err != nil {
		t.Fatal(err)
	}
	of := func(key, subnet, public, owner string) lease.Lease {
		l := lease.Lease{Key: key, Owner: owner, Offer: offer}
		l.Subnets.Put(addr.IPv4, netip.MustParsePrefix(subnet))
		l.Public.Put(addr.IPv4, netip.MustParseAddr(public))
		return throughStore(t, l)
	}
	own := of("10.5.1.0-24", "10.5.1.0/24", "198.51.100.1", in.Node.HostID)
	in.Snapshot.Leases = []*lease.Lease{
		&own, new(of("10.5.2.0-24", "10.5.2.0/24", "198.51.100.2", "c-host")), new(of("10.5.3.0-24", "10.5.3.0/24", "198.51.100.3", "")),
	}
	in.Own.State, in.Own.Lease.Lease = lease.Owned, own
	if again, err := in.Backend.Offer(in.Node, &own); err != nil || again != offer {
		t.Errorf("offer after a restart %+v, %v", again, err)
	}
	d, err := engine.Desire(in)
	if err != nil {
		t.Fatal(err)
	}
	if len(d.Peers) > 0 || len(d.Rejected) > 0 || len(d.Set.Routes)+len(d.Set.Links) > 0 {
		t.Errorf("peers %v, rejected %v, set %+v", d.Peers, d.Rejected, d.Set)
	}
	if !strings.Contains(d.File.Content, "FLANNEL_SUBNET=10.5.1.1/24") || !strings.Contains(d.File.Content, "FLANNEL_MTU=1500") {
		t.Errorf("subnet.env\n%s", d.File.Content)
	}
	if len(d.Set.Filters) != 1 {
		t.Errorf("containers reach the world through masquerading: %v", d.Set.Filters)
	}
}
