package etcd

import (
	"net/netip"
	"strings"
	"time"
	"unique"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/lease"
	"github.com/flannel-ng/flannel-ng/internal/store/etcd/kv"
	"github.com/flannel-ng/flannel-ng/internal/store/subnetkey"
)

// strayReason is why a key beside subnets/ is bad.
const strayReason = "a key beside subnets/ makes plain flannel hosts drop all their routes: remove it"

// parseLease reads a lease. Its Owner is left empty: it depends on other keys.
func parseLease(key string, e kv.Entry) (lease.Lease, error) {
	name := strings.TrimPrefix(key, subnetsDir)
	subnets, err := ParseKey(name)
	if err != nil {
		return lease.Lease{}, err
	}
	public, offer, err := ParseValue(e.Value)
	if err != nil {
		return lease.Lease{}, err
	}
	return lease.Lease{
		Key: name, Subnets: subnets, Public: public, Offer: offer,
		Reserved: e.Lease == 0, Created: e.Create, Modified: e.Mod,
	}, nil
}

// holder is a claim or address record that could be read.
type holder struct {
	host   string
	extra  string       // of the offer; "" for most
	public []netip.Addr // of the lease
	grant  kv.LeaseID
	mod    int64
}

// parseHolder reads a claim or address record. With an error and a mod only
// the extra is bad: who holds it counts all the same.
func parseHolder(e kv.Entry) (holder, error) {
	b, err := decode[binding](e.Value)
	if err != nil {
		return holder{}, err
	}
	if err := atMost(maxName, "host id", b.Host); err != nil {
		return holder{}, err
	}
	h := holder{host: b.Host, public: b.Public[:min(len(b.Public), maxPublic)], grant: e.Lease, mod: e.Mod}
	h.extra, err = lease.FormatExtra(string(b.Extra))
	h.extra = unique.Make(h.extra).Value() // nearly all hosts say the same
	return h, err
}

// parseHalf reads the family key that ends key after dir.
func parseHalf(key, dir string) (netip.Prefix, error) {
	name := strings.TrimPrefix(key, dir)
	f := addr.IPv4
	if strings.Contains(name, ":") {
		f = addr.IPv6
	}
	return subnetkey.ParseHalf(name, f)
}

func parseRecent(key string, e kv.Entry) (lease.Recent, error) {
	subnet, err := parseHalf(key, recentDir)
	if err != nil {
		return lease.Recent{}, err
	}
	stone, err := decode[tombstone](e.Value)
	if err != nil {
		// The key counts; without a readable time it stands at the end.
		stone.Until = time.Now().Add(recentTTL)
	}
	return lease.Recent{Subnet: subnet, Until: stone.Until}, nil
}

// ownerOf is the host id that the claims on l name, or "", and the extra of its
// offer. A claim on another grant than the lease's is the trace of an earlier
// holder whom a plain flannel overwrote. A reservation has no grant to tell by,
// and its claims may have one (it was put back by hand): there the address in
// the claim tells.
func ownerOf(l lease.Lease, grant kv.LeaseID, claim func(netip.Prefix) (holder, bool)) (host, extra string) {
	for i, subnet := range l.Prefixes() {
		h, ok := claim(subnet)
		switch {
		case !ok, i > 0 && h.host != host:
			return "", ""
		case !l.Reserved && h.grant != grant:
			return "", ""
		case i == 0 && l.Reserved && !shareAddress(h.public, addresses(l.Public)):
			return "", ""
		case i == 0:
			host, extra = h.host, h.extra
		}
	}
	if host == "" {
		return "", ""
	}
	return host, extra
}

func isStray(key string) bool {
	return strings.HasPrefix(key, strayDir) && !strings.HasPrefix(key, subnetsDir)
}
