package etcd_test

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/flannel-ng/flannel-ng/internal/lease"
	"github.com/flannel-ng/flannel-ng/internal/store/etcd"
	"github.com/flannel-ng/flannel-ng/internal/store/storetest"
)

const someExtra = `{"udp":{"bpf":1}}`

// A plain flannel sees nothing of it: the value of the lease is the same, and
// the extra lives as long as the lease does.
func TestExtraStaysOutOfTheLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		c := ask("192.0.2.1", "10.5.1.0/24")
		c.Subnets = storetest.Subnets("10.5.1.0/24", "fc00:5:0:1::/64")
		plain, err := etcd.FormatValue(c.Public, c.Offer)
		if err != nil {
			t.Fatal(err)
		}
		c.Offer.Extra = someExtra
		if _, err := w.store("h1").Claim(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		l, _ := w.get("subnets/10.5.1.0-24&fc00:5:0:1::-64")
		first, _ := w.get("ng/claims/10.5.1.0-24")
		second, _ := w.get("ng/claims/fc00:5:0:1::-64")
		if l.Value != plain {
			t.Errorf("value %s, want %s", l.Value, plain)
		}
		if first.Value != `{"host":"h1","public":["192.0.2.1"],"extra":`+someExtra+`}` || second.Value != `{"host":"h1"}` {
			t.Errorf("claims %s and %s", first.Value, second.Value)
		}
		if first.Lease != l.Lease || first.Mod != l.Mod {
			t.Errorf("claim %+v was not written with lease %+v", first, l)
		}
	})
}

// An extra that nobody could keep costs its host nothing else.
func TestBadExtraHarmsOnlyItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		v := storetest.Watch(t, w.store("h2"))
		c := ask("192.0.2.1", "10.5.1.0/24")
		c.Offer.Extra = someExtra
		h, err := w.store("h1").Claim(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		record, _ := w.get("ng/claims/10.5.1.0-24")
		long := fmt.Sprintf(`{"host":"h1","extra":"%s"}`, strings.Repeat("a", lease.MaxExtra))
		w.put(t, "ng/claims/10.5.1.0-24", long, record.Lease)
		s := v.Await(t, "the bad claim", func(s lease.Snapshot) bool { return len(s.Bad) == 1 })
		if len(s.Leases) != 1 || s.Leases[0].Owner != "h1" || s.Leases[0].Offer.Extra != "" || s.Bad[0].Key != "ng/claims/10.5.1.0-24" {
			t.Errorf("picture %+v, bad %+v", s.Leases, s.Bad)
		}
		stranger := ask("192.0.2.2", "10.5.1.0/24")
		stranger.Token, stranger.Takeover = h.Token, true
		if _, err := w.store("h2").Claim(t.Context(), stranger); err == nil {
			t.Error("a stranger took the lease")
		}
		c.Token = h.Token
		if _, err := w.store("h1").Claim(t.Context(), c); err != nil {
			t.Errorf("its host cannot renew: %v", err)
		}
		v.Await(t, "the extra again", func(s lease.Snapshot) bool {
			return len(s.Bad) == 0 && len(s.Leases) == 1 && s.Leases[0].Offer.Extra == someExtra
		})
	})
}
