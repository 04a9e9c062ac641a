package etcd

import (
	"testing"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/lease"
	"github.com/flannel-ng/flannel-ng/internal/store/etcd/kv"
)

// Whatever stands in a claim, the lease beside it is read, and what is shown
// of the claim is bounded.
func FuzzClaimRecord(f *testing.F) {
	f.Add(`{"host":"h1","extra":{"udp":{"bpf":1}}}`)
	f.Add(`{"host":"h1","extra":null}`)
	f.Add(`{"host":"h1","extra":"<&>"}`)
	f.Add(`{"extra":[1, 2]}`)
	f.Add(`{"host":["h1"]}`)
	f.Fuzz(func(t *testing.T, text string) {
		const key, claim = subnetsDir + "10.5.1.0-24", claimsDir + "10.5.1.0-24"
		v := newView("")
		v.begin()
		v.listed(key, kv.Entry{Key: key, Value: `{"PublicIP":"192.0.2.7"}`, Create: 1, Mod: 1, Lease: 5}, false)
		v.listed(claim, kv.Entry{Key: claim, Value: text, Create: 1, Mod: 1, Lease: 5}, false)
		v.finish(kv.Header{Rev: 1})
		s, _ := v.snapshot()
		if len(s.Leases) != 1 || s.Leases[0].Public.At(addr.IPv4).String() != "192.0.2.7" {
			t.Fatalf("leases %+v", s.Leases)
		}
		l := s.Leases[0]
		extra, err := lease.FormatExtra(l.Offer.Extra)
		if err != nil || extra != l.Offer.Extra || l.Owner == "" && extra != "" || len(l.Owner) > maxName {
			t.Errorf("owner %q, extra %q: %v", l.Owner, l.Offer.Extra, err)
		}
	})
}
