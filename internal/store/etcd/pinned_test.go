package etcd_test

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/lease"
	"github.com/flannel-ng/flannel-ng/internal/store/etcd"
	"github.com/flannel-ng/flannel-ng/internal/store/etcd/fake"
	"github.com/flannel-ng/flannel-ng/internal/store/etcd/kv"
)

// TestPinnedWhileTheRenewalIsLost: an operator makes the lease a reservation
// just when our renewal is lost on the way. The value in the store is then ours
// and yet not our write: the claims would still run out.
func TestPinnedWhileTheRenewalIsLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := fake.NewServer()
		defer server.Close()
		store := etcd.New(etcd.NewClient(server.Client("host"), "/net"), etcd.Options{HostID: "me", BootID: "boot"})
		claim := lease.Claim{
			Subnets: addr.Pair(netip.MustParsePrefix("10.5.9.0/24"), netip.Prefix{}),
			Public:  addr.Pair(netip.MustParseAddr("192.0.2.1"), netip.Addr{}),
		}
		held, err := store.Claim(t.Context(), claim)
		if err != nil {
			t.Fatal(err)
		}
		pinned := false
		server.SetHook(func(c fake.Call) fake.Effect {
			i := slices.IndexFunc(c.Txn.Then, func(o kv.Op) bool { return strings.HasPrefix(o.Key, "/net/subnets/") })
			if pinned || i < 0 || c.Client != "host" {
				return fake.Effect{}
			}
			pinned = true
			pin := c.Txn.Then[i]
			pin.Lease = 0
			if _, err := server.Client("admin").Txn(t.Context(), kv.Txn{Then: []kv.Op{pin}}); err != nil {
				t.Error(err)
			}
			return fake.Effect{Fault: fake.DropRequest}
		})
		claim.Token = held.Token
		// Refused for now or bound anew, but never held on claims that run out.
		held, err = store.Claim(t.Context(), claim)
		if !pinned || err != nil && !errors.Is(err, lease.ErrTaken) {
			t.Fatalf("pinned %v, %v", pinned, err)
		}
		bound := slices.ContainsFunc(server.Entries(), func(e kv.Entry) bool {
			return e.Key == "/net/ng/claims/10.5.9.0-24" && (e.Lease == 0) == held.Reserved
		})
		if err == nil && !bound {
			t.Errorf("held, reserved %v, but the claim is gone or runs out: %+v", held.Reserved, server.Entries())
		}
	})
}

// TestPinnedAfterTheRenewalWentUnanswered: the renewal was applied, its answer
// lost, and then an operator made the lease a reservation. The refusal must not
// take the claims away: a host with our address could take the reservation.
func TestPinnedAfterTheRenewalWentUnanswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := fake.NewServer()
		defer server.Close()
		store := etcd.New(etcd.NewClient(server.Client("host"), "/net"), etcd.Options{HostID: "me", BootID: "boot"})
		claim := lease.Claim{
			Subnets: addr.Pair(netip.MustParsePrefix("10.5.9.0/24"), netip.Prefix{}),
			Public:  addr.Pair(netip.MustParseAddr("192.0.2.1"), netip.Addr{}),
		}
		held, err := store.Claim(t.Context(), claim)
		if err != nil {
			t.Fatal(err)
		}
		var renewal *kv.Op // put back by hand before the next reading
		server.SetHook(func(c fake.Call) fake.Effect {
			i := slices.IndexFunc(c.Txn.Then, func(o kv.Op) bool { return o.Key == "/net/subnets/10.5.9.0-24" })
			switch {
			case c.Client == "host" && i >= 0 && renewal == nil:
				renewal = &c.Txn.Then[i]
				return fake.Effect{Fault: fake.DropResponse}
			case c.Client == "host" && c.Method == fake.MethodRange && renewal != nil:
				pin := kv.Op{Action: kv.Put, Span: renewal.Span, Value: renewal.Value}
				if _, err := server.Client("admin").Txn(t.Context(), kv.Txn{Then: []kv.Op{pin}}); err != nil {
					t.Error(err)
				}
			}
			return fake.Effect{}
		})
		claim.Token = held.Token
		if _, err := store.Claim(t.Context(), claim); !errors.Is(err, lease.ErrTaken) {
			t.Fatalf("want a refusal, the next picture tells the rest; got %v", err)
		}
		if !slices.ContainsFunc(server.Entries(), func(e kv.Entry) bool { return e.Key == "/net/ng/claims/10.5.9.0-24" }) {
			t.Error("the claim is gone while its host lives")
		}
	})
}

// TestClaimsOfALostReservationAreDropped: they live on no grant and would keep
// everybody else from the subnet for ever.
func TestClaimsOfALostReservationAreDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := fake.NewServer()
		defer server.Close()
		admin := server.Client("admin")
		store := etcd.New(etcd.NewClient(server.Client("host"), "/net"), etcd.Options{HostID: "me", BootID: "boot"})
		const key = "/net/subnets/10.5.9.0-24"
		write := func(op kv.Op) int64 {
			r, err := admin.Txn(t.Context(), kv.Txn{Then: []kv.Op{op}})
			if err != nil {
				t.Fatal(err)
			}
			return r.Rev
		}
		reserved := write(kv.Op{Action: kv.Put, Span: kv.One(key), Value: `{"PublicIP":"192.0.2.1","PublicIPv6":null}`})
		claim := lease.Claim{
			Token: lease.Token(reserved), Takeover: true,
			Subnets: addr.Pair(netip.MustParsePrefix("10.5.9.0/24"), netip.Prefix{}),
			Public:  addr.Pair(netip.MustParseAddr("192.0.2.1"), netip.Addr{}),
		}
		if _, err := store.Claim(t.Context(), claim); err != nil {
			t.Fatal(err)
		}
		write(kv.Op{Action: kv.Put, Span: kv.One(key), Value: `{"PublicIP":"192.0.2.2","PublicIPv6":null}`})
		claim.Token, claim.Subnets = 0, addr.Pair(netip.MustParsePrefix("10.5.10.0/24"), netip.Prefix{})
		if _, err := store.Claim(t.Context(), claim); err != nil {
			t.Fatal(err)
		}
		for _, e := range server.Entries() {
			if e.Key == "/net/ng/claims/10.5.9.0-24" {
				t.Errorf("%s is left: %s", e.Key, e.Value)
			}
		}
	})
}
