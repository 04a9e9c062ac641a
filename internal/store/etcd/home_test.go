package etcd_test

import (
	"net/netip"
	"testing"

	"github.com/flannel-ng/flannel-ng/internal/store/etcd"
	"github.com/flannel-ng/flannel-ng/internal/store/etcdtest"
)

// A connection from an address that is gone is replaced at once, one from an
// address that is there stays.
func TestMoved(t *testing.T) {
	server := etcdtest.Start(t, etcdtest.Options{})
	link := server.Proxy(t)
	c, err := etcd.Dial(t.Context(), etcd.ClientConfig{Endpoints: []string{link.Endpoint()}, Prefix: "/net"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if _, err := c.Snapshot(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.Moved([]netip.Addr{netip.MustParseAddr("192.0.2.1")}) // never from loopback
	if _, err := c.Snapshot(t.Context()); err != nil || link.Accepted() != 1 {
		t.Errorf("%d connections after nothing has changed, want 1; %v", link.Accepted(), err)
	}
}
