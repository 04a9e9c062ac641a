package memory_test

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/flannel-ng/flannel-ng/internal/lease"
	"github.com/flannel-ng/flannel-ng/internal/store/memory"
	"github.com/flannel-ng/flannel-ng/internal/store/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestConformance(t *testing.T) {
	storetest.Suite{Bubble: true, Open: func(*testing.T) storetest.Fabric {
		f := memory.New()
		return storetest.Fabric{
			Store:   func(_ *testing.T, host string) lease.Store { return f.Host(host) },
			Kill:    func(_ *testing.T, host string) { f.Host(host).Close() },
			Foreign: func(_ *testing.T, l lease.Lease) { f.Put(l) },
		}
	}}.Run(t)
}

func TestConfigAndDelete(t *testing.T) {
	f := memory.New()
	v := storetest.Watch(t, f.Host("h1"))
	f.SetConfig([]byte(`{"Network":"10.5.0.0/16"}`))
	v.Await(t, "the config", func(s lease.Snapshot) bool { return string(s.Config) == `{"Network":"10.5.0.0/16"}` })
	f.Put(lease.Lease{Subnets: storetest.Subnets("10.5.1.0/24"), Public: storetest.Public("192.0.2.1"), Reserved: true})
	v.Await(t, "the lease", func(s lease.Snapshot) bool { return len(s.Leases) == 1 && s.Leases[0].Reserved })
	f.Delete("10.5.1.0-24")
	v.Await(t, "no lease", func(s lease.Snapshot) bool { return len(s.Leases) == 0 })
}

func TestReservationStays(t *testing.T) {
	f := memory.New()
	f.Put(lease.Lease{Subnets: storetest.Subnets("10.5.1.0/24"), Public: storetest.Public("192.0.2.1"), Reserved: true})
	h, err := f.Host("h1").Claim(t.Context(), lease.Claim{
		Token: 2, Takeover: true,
		Subnets: storetest.Subnets("10.5.1.0/24"), Public: storetest.Public("192.0.2.1"),
	})
	if err != nil || !h.Reserved || !h.Expires.IsZero() {
		t.Errorf("held %+v, %v", h, err)
	}
}
