package etcd_test

import (
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/flannel-ng/flannel-ng/internal/lease"
	"github.com/flannel-ng/flannel-ng/internal/store/etcd"
	"github.com/flannel-ng/flannel-ng/internal/store/storetest"
)

const networkConfig = `{"Network":"10.5.0.0/16","Backend":{"Type":"host-gw"}}`

func (w *world) admin() *etcd.Admin {
	return etcd.NewAdmin(etcd.NewClient(w.Client("admin"), prefix+"/"))
}

func TestConfigIsComparedAndSet(t *testing.T) {
	w := newWorld(t)
	a, ctx := w.admin(), t.Context()
	if data, rev, err := a.Config(ctx); data != nil || rev != 0 || err != nil {
		t.Errorf("no config: %q, %d, %v", data, rev, err)
	}
	if err := a.SetConfig(ctx, []byte("1"), 0); err != nil {
		t.Fatal(err)
	}
	if err := a.SetConfig(ctx, []byte("2"), 0); !errors.Is(err, etcd.ErrChanged) {
		t.Errorf("overwrote a config that appeared meanwhile: %v", err)
	}
	data, rev, err := a.Config(ctx)
	if string(data) != "1" || rev == 0 || err != nil {
		t.Errorf("config: %q, %d, %v", data, rev, err)
	}
	if err := a.SetConfig(ctx, []byte("3"), rev); err != nil {
		t.Error(err)
	}
	if err := a.SetConfig(ctx, []byte("4"), rev); !errors.Is(err, etcd.ErrChanged) {
		t.Errorf("set with an old revision: %v", err)
	}
}

func TestLeaseList(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		claim(t, w.store("h1"), ask("192.0.2.1", "10.5.1.0/24"))
		claim(t, w.store("h2"), ask("192.0.2.2", "10.5.2.0/24"))
		if err := w.store("h2").Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		w.foreign(t, lease.Lease{Subnets: storetest.Subnets("10.5.3.0/24"), Public: storetest.Public("192.0.2.7")})
		w.put(t, "subnets/10.5.4.0-24", someValue, 0)
		wait(time.Hour)
		infos, err := w.admin().Leases(t.Context())
		if err != nil || len(infos) != 4 {
			t.Fatalf("%+v, %v", infos, err)
		}
		for i, want := range []struct {
			owner           string
			alive, reserved bool
		}{{"h1", false, false}, {"h2", false, false}, {"", false, false}, {"", false, true}} {
			got := infos[i]
			ttl := 23 * time.Hour
			if want.reserved {
				ttl = 0
			}
			if got.Owner != want.owner || got.Alive != want.alive || got.Reserved != want.reserved || got.TTL != ttl {
				t.Errorf("lease %d: %+v", i, got)
			}
		}
		claim(t, w.store("h1"), ask("192.0.2.1", "10.5.9.0/24"))
		infos, err = w.admin().Leases(t.Context())
		if err != nil || !infos[0].Alive || infos[1].Alive {
			t.Errorf("%+v, %v", infos, err)
		}
	})
}

func TestReserveAheadOfTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.put(t, "config", networkConfig, 0)
		a := w.admin()
		for range 2 { // it may be repeated
			if err := a.Reserve(t.Context(), storetest.Subnets("10.5.1.0/24"), storetest.Public("192.0.2.1")); err != nil {
				t.Fatal(err)
			}
		}
		e, _ := w.get("subnets/10.5.1.0-24")
		if e.Value != `{"PublicIP":"192.0.2.1","PublicIPv6":null}` || e.Lease != 0 || e.Version != 1 {
			t.Errorf("reservation %+v", e)
		}
		wait(100 * time.Hour)
		other := ask("192.0.2.9", "10.5.1.0/24")
		if _, err := w.store("h9").Claim(t.Context(), other); !errors.Is(err, lease.ErrTaken) {
			t.Errorf("another node got it: %v", err)
		}
		// The node starts, restarts, renews and changes its offer.
		c := ask("192.0.2.1", "10.5.1.0/24")
		c.Token, c.Takeover = lease.Token(e.Mod), true
		for i := range 3 {
			h := claim(t, w.boot("h1", "boot-h1"), c)
			if !h.Reserved {
				t.Errorf("round %d made it an ordinary lease: %+v", i, h)
			}
			c.Token, c.Takeover, c.Offer = h.Token, false, lease.Offer{Backend: "vxlan"}
		}
		w.boot("h1", "boot-h1") // dead from here
		wait(100 * time.Hour)
		if e, ok := w.get("subnets/10.5.1.0-24"); !ok || e.Lease != 0 {
			t.Errorf("after days: %+v", e)
		}
	})
}

func TestReserveExistingLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.put(t, "config", networkConfig, 0)
		s := w.store("h1")
		v := storetest.Watch(t, s)
		claim(t, s, ask("192.0.2.1", "10.5.1.0/24"))
		before, _ := w.get("subnets/10.5.1.0-24")
		if err := w.admin().Reserve(t.Context(), storetest.Subnets("10.5.1.0/24"), storetest.Public("192.0.2.1")); err != nil {
			t.Fatal(err)
		}
		after, _ := w.get("subnets/10.5.1.0-24")
		if after.Value != before.Value || after.Lease != 0 {
			t.Errorf("reservation %+v of %+v", after, before)
		}
		p := v.Await(t, "the reservation", func(s lease.Snapshot) bool { return len(s.Leases) == 1 && s.Leases[0].Reserved })
		if p.Leases[0].Owner != "h1" {
			t.Errorf("the host lost its lease: %+v", p.Leases[0])
		}
		if n := w.Grants(); n != 1 {
			t.Errorf("%d grants, want the session's", n)
		}
	})
}

func TestReserveRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.admin()
		if err := a.Reserve(t.Context(), storetest.Subnets("10.5.1.0/24"), storetest.Public("192.0.2.1")); err == nil {
			t.Error("reserved without a network config")
		}
		w.put(t, "config", networkConfig, 0)
		claim(t, w.store("h1"), ask("192.0.2.1", "10.5.1.0/24"))
		w.foreign(t, lease.Lease{Subnets: storetest.Subnets("10.5.2.0/23"), Public: storetest.Public("192.0.2.7")})
		for _, tc := range []struct {
			subnets []string
			public  string
			want    error
		}{
			{[]string{"10.5.1.0/24"}, "192.0.2.9", etcd.ErrOverlap},
			{[]string{"10.5.3.0/24"}, "192.0.2.9", etcd.ErrOverlap},
			{[]string{"10.5.9.7/24"}, "192.0.2.9", etcd.ErrSubnet},
			{[]string{"10.5.9.0/25"}, "192.0.2.9", etcd.ErrSubnet},
			{[]string{"10.6.9.0/24"}, "192.0.2.9", etcd.ErrSubnet},
			{[]string{"fc00::/64"}, "192.0.2.9", etcd.ErrSubnet},
			{[]string{"10.5.9.0/24", "fc00::/64"}, "192.0.2.9", etcd.ErrSubnet},
		} {
			if err := a.Reserve(t.Context(), storetest.Subnets(tc.subnets...), storetest.Public(tc.public)); !errors.Is(err, tc.want) {
				t.Errorf("%v for %s: %v, want %v", tc.subnets, tc.public, err, tc.want)
			}
		}
		if err := a.Reserve(t.Context(), storetest.Subnets("10.5.9.0/24"), storetest.Public()); err == nil {
			t.Error("reserved for nobody")
		}
	})
}

func TestAdminRelease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.put(t, "config", networkConfig, 0)
		a, ctx := w.admin(), t.Context()
		left := func() []string {
			var keys []string
			for _, e := range w.Entries() {
				keys = append(keys, e.Key[len(prefix)+1:])
			}
			return keys
		}
		if err := a.Release(ctx, "10.5.1.0-24", true); !errors.Is(err, etcd.ErrNoLease) {
			t.Errorf("nothing to release: %v", err)
		}
		s := w.store("h1")
		claim(t, s, ask("192.0.2.1", "10.5.1.0/24"))
		if err := a.Release(ctx, "10.5.1.0-24", false); !errors.Is(err, etcd.ErrAlive) {
			t.Errorf("released a live host's lease: %v", err)
		}
		// Reservation of a live host → ordinary lease, that the host keeps.
		if err := a.Reserve(ctx, storetest.Subnets("10.5.1.0/24"), storetest.Public("192.0.2.1")); err != nil {
			t.Fatal(err)
		}
		if err := a.Release(ctx, "10.5.1.0-24", true); err != nil {
			t.Fatal(err)
		}
		e, _ := w.get("subnets/10.5.1.0-24")
		if infos, err := a.Leases(ctx); err != nil || infos[0].Reserved || infos[0].Owner != "h1" || infos[0].TTL != 24*time.Hour {
			t.Errorf("%+v, %v", infos, err)
		}
		c := ask("192.0.2.1", "10.5.1.0/24")
		c.Token = lease.Token(e.Mod)
		claim(t, s, c)
		// Ordinary lease of a live host → gone with all that belongs to it.
		if err := a.Release(ctx, "subnets/10.5.1.0-24", true); err != nil {
			t.Fatal(err)
		}
		if got, want := left(), []string{"config", "ng/alive/h1"}; !slices.Equal(got, want) {
			t.Errorf("left %v, want %v", got, want)
		}
		// Dead host and plain flannel need no force.
		claim(t, s, ask("192.0.2.1", "10.5.1.0/24"))
		if err := s.Close(ctx); err != nil {
			t.Fatal(err)
		}
		w.foreign(t, lease.Lease{Subnets: storetest.Subnets("10.5.3.0/24"), Public: storetest.Public("192.0.2.7")})
		for _, key := range []string{"10.5.1.0-24", "10.5.3.0-24"} {
			if err := a.Release(ctx, key, false); err != nil {
				t.Errorf("%s: %v", key, err)
			}
		}
		if got, want := left(), []string{"config"}; !slices.Equal(got, want) {
			t.Errorf("left %v, want %v", got, want)
		}
		if n := w.Grants(); n != 0 {
			t.Errorf("%d grants left", n)
		}
	})
}
