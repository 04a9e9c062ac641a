package etcdtest_test

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/flannel-ng/flannel-ng/internal/lease"
	"github.com/flannel-ng/flannel-ng/internal/store/etcd"
	"github.com/flannel-ng/flannel-ng/internal/store/etcd/kv"
	"github.com/flannel-ng/flannel-ng/internal/store/etcd/kvtest"
	"github.com/flannel-ng/flannel-ng/internal/store/etcdtest"
	"github.com/flannel-ng/flannel-ng/internal/store/storetest"
	"github.com/flannel-ng/flannel-ng/internal/store/subnetkey"
)

func dial(t *testing.T, c etcd.ClientConfig) *etcd.Client {
	t.Helper()
	client, err := etcd.Dial(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := client.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return client
}

func TestKVConformance(t *testing.T) {
	server := etcdtest.Start(t, etcdtest.Options{})
	admin := server.Client(t)
	kvtest.Run(t, kvtest.Cluster{
		Conn: func(t *testing.T) kv.Conn {
			return dial(t, etcd.ClientConfig{Endpoints: []string{server.Endpoint()}}).Conn()
		},
		Compact: func(t *testing.T, rev int64) {
			if _, err := admin.Compact(t.Context(), rev); err != nil {
				t.Fatal(err)
			}
		},
		Patience: time.Minute,
		ShortTTL: 4 * time.Second, // etcd gives no less with this election timeout
	})
}

// hosts are stores of one fabric over a real etcd, each behind its own link.
type hosts struct {
	server *etcdtest.Server
	admin  *clientv3.Client
	prefix string
	links  map[string]*etcdtest.Proxy
	stores map[string]*etcd.Store
}

func (h *hosts) store(t *testing.T, host string) lease.Store {
	t.Helper()
	if s := h.stores[host]; s != nil {
		return s
	}
	h.links[host] = h.server.Proxy(t)
	c := dial(t, etcd.ClientConfig{Endpoints: []string{h.links[host].Endpoint()}, Prefix: h.prefix})
	h.stores[host] = etcd.New(c, etcd.Options{HostID: host, BootID: "boot-" + host})
	return h.stores[host]
}

func (h *hosts) foreign(t *testing.T, l lease.Lease) {
	t.Helper()
	value, err := etcd.FormatValue(l.Public, l.Offer)
	if err != nil {
		t.Fatal(err)
	}
	grant, err := h.admin.Grant(t.Context(), 86400)
	if err != nil {
		t.Fatal(err)
	}
	key := h.prefix + "/subnets/" + subnetkey.Format(l.Subnets)
	if _, err := h.admin.Put(t.Context(), key, value, clientv3.WithLease(grant.ID)); err != nil {
		t.Fatal(err)
	}
}

func (h *hosts) grants(t *testing.T) int {
	t.Helper()
	r, err := h.admin.Leases(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return len(r.Leases)
}

func (h *hosts) link(_ *testing.T, host string, up bool) {
	if up {
		h.links[host].Heal()
	} else {
		h.links[host].Cut()
	}
}

func TestStoreConformance(t *testing.T) {
	server := etcdtest.Start(t, etcdtest.Options{})
	admin := server.Client(t)
	var fabrics atomic.Int64
	storetest.Suite{Open: func(t *testing.T) storetest.Fabric {
		h := &hosts{
			server: server, admin: admin, prefix: fmt.Sprintf("/fabric-%d", fabrics.Add(1)),
			links: map[string]*etcdtest.Proxy{}, stores: map[string]*etcd.Store{},
		}
		return storetest.Fabric{
			Store: h.store,
			Kill: func(t *testing.T, host string) {
				if err := h.stores[host].Close(t.Context()); err != nil {
					t.Fatal(err)
				}
			},
			Foreign: h.foreign, Link: h.link, Grants: h.grants,
		}
	}}.Run(t)
}

const secret = "correct-horse-battery"

// enableAuth leaves one user who may only touch the prefix.
func enableAuth(t *testing.T, server *etcdtest.Server, prefix string) {
	t.Helper()
	c, ctx := server.Client(t), t.Context()
	steps := []func() error{
		func() error { _, err := c.RoleAdd(ctx, "root"); return err },
		func() error { _, err := c.UserAdd(ctx, "root", secret); return err },
		func() error { _, err := c.UserGrantRole(ctx, "root", "root"); return err },
		func() error { _, err := c.RoleAdd(ctx, "fabric"); return err },
		func() error {
			_, err := c.RoleGrantPermission(ctx, "fabric", prefix+"/", clientv3.GetPrefixRangeEnd(prefix+"/"),
				clientv3.PermissionType(clientv3.PermReadWrite))
			return err
		},
		func() error { _, err := c.UserAdd(ctx, "flannel", secret); return err },
		func() error { _, err := c.UserGrantRole(ctx, "flannel", "fabric"); return err },
		func() error { _, err := c.AuthEnable(ctx); return err },
	}
	for i, step := range steps {
		if err := step(); err != nil {
			t.Fatalf("auth step %d: %v", i, err)
		}
	}
}

func TestPassword(t *testing.T) {
	server := etcdtest.Start(t, etcdtest.Options{})
	enableAuth(t, server, "/net")
	config := etcd.ClientConfig{
		Endpoints: []string{server.Endpoint()}, Prefix: "/net", Username: "flannel", Password: secret,
	}
	s := etcd.New(dial(t, config), etcd.Options{HostID: "h1", BootID: "b"})
	h, err := s.Claim(t.Context(), lease.Claim{
		Subnets: storetest.Subnets("10.5.1.0/24"), Public: storetest.Public("192.0.2.1"),
	})
	if err != nil {
		t.Fatalf("claim by password: %v", err)
	}
	v := storetest.Watch(t, s)
	v.Await(t, "the lease", func(p lease.Snapshot) bool { return len(p.Leases) == 1 })
	if err := s.Release(t.Context(), h); err != nil {
		t.Errorf("release: %v", err)
	}
	config.Password = secret + "-wrong"
	_, _, err = etcd.NewAdmin(dial(t, config)).Config(t.Context())
	if err == nil {
		t.Fatal("a wrong password was accepted")
	}
	if strings.Contains(err.Error(), secret) {
		t.Errorf("the error tells the password: %v", err)
	}
}
