package etcd_test

import (
	"net/netip"
	"testing"
	"time"

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
	read := func() {
		t.Helper()
		if _, err := c.Snapshot(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	read()
	if n := link.Accepted(); n != 1 {
		t.Fatalf("%d connections, want 1", n)
	}
	c.Moved(func(a netip.Addr) bool { return a.IsLoopback() })
	read()
	if n := link.Accepted(); n != 1 {
		t.Errorf("%d connections after nothing has changed, want 1", n)
	}
	c.Moved(func(netip.Addr) bool { return false })
	deadline := time.Now().Add(5 * time.Second)
	for link.Accepted() != 2 {
		if time.Now().After(deadline) {
			t.Fatalf("%d connections, want another one", link.Accepted())
		}
		_, _ = c.Snapshot(t.Context())
	}
	read()
}
