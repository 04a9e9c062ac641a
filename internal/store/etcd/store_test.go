package etcd_test

import (
	"math/rand/v2"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/flannel-ng/flannel-ng/internal/lease"
	"github.com/flannel-ng/flannel-ng/internal/store/etcd"
	"github.com/flannel-ng/flannel-ng/internal/store/etcd/fake"
	"github.com/flannel-ng/flannel-ng/internal/store/etcd/kv"
	"github.com/flannel-ng/flannel-ng/internal/store/storetest"
	"github.com/flannel-ng/flannel-ng/internal/store/subnetkey"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	prefix   = "/coreos.com/network"
	leaseTTL = 24 * time.Hour
)

// world is a fake cluster with hosts.
type world struct {
	*fake.Server
	conns  map[string]*fake.Client
	stores map[string]*etcd.Store
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{Server: fake.NewServer(), conns: map[string]*fake.Client{}, stores: map[string]*etcd.Store{}}
	t.Cleanup(w.Close)
	return w
}

func (w *world) conn(host string) *fake.Client {
	if w.conns[host] == nil {
		w.conns[host] = w.Client(host)
	}
	return w.conns[host]
}

// boot starts a store of host; again is a restart.
func (w *world) boot(host, bootID string) *etcd.Store {
	s := etcd.New(etcd.NewClient(w.conn(host), prefix), etcd.Options{
		HostID: host, BootID: bootID, Rand: rand.New(rand.NewPCG(1, uint64(len(w.stores)))),
	})
	w.stores[host] = s
	return s
}

func (w *world) store(host string) *etcd.Store {
	if s := w.stores[host]; s != nil {
		return s
	}
	return w.boot(host, "boot-"+host)
}

func (w *world) put(t *testing.T, key, value string, grant kv.LeaseID) {
	t.Helper()
	op := kv.Op{Action: kv.Put, Span: kv.One(prefix + "/" + key), Value: value, Lease: grant}
	if _, err := w.Client("").Txn(t.Context(), kv.Txn{Then: []kv.Op{op}}); err != nil {
		t.Fatal(err)
	}
}

func (w *world) delete(t *testing.T, key string) {
	t.Helper()
	op := kv.Op{Action: kv.Delete, Span: kv.One(prefix + "/" + key)}
	if _, err := w.Client("").Txn(t.Context(), kv.Txn{Then: []kv.Op{op}}); err != nil {
		t.Fatal(err)
	}
}

func (w *world) get(key string) (kv.Entry, bool) {
	for _, e := range w.Entries() {
		if e.Key == prefix+"/"+key {
			return e, true
		}
	}
	return kv.Entry{}, false
}

// foreign puts l as a plain flannel does.
func (w *world) foreign(t *testing.T, l lease.Lease) {
	t.Helper()
	value, err := etcd.FormatValue(l.Public, l.Offer)
	if err != nil {
		t.Fatal(err)
	}
	grant, err := w.Client("").Grant(t.Context(), leaseTTL)
	if err != nil {
		t.Fatal(err)
	}
	w.put(t, "subnets/"+subnetkey.Format(l.Subnets), value, grant)
}

func TestStoreConformance(t *testing.T) {
	storetest.Suite{Bubble: true, Open: func(t *testing.T) storetest.Fabric {
		w := newWorld(t)
		return storetest.Fabric{
			Store: func(_ *testing.T, host string) lease.Store { return w.store(host) },
			Kill: func(t *testing.T, host string) {
				if err := w.store(host).Close(t.Context()); err != nil {
					t.Fatal(err)
				}
			},
			Foreign: w.foreign,
			Link: func(_ *testing.T, host string, up bool) {
				if up {
					w.conn(host).Heal()
				} else {
					w.conn(host).Cut()
				}
			},
			Grants: func(*testing.T) int { return w.Grants() },
		}
	}}.Run(t)
}
