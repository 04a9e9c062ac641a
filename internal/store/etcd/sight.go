package etcd

import (
	"context"
	"net/netip"
	"slices"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/store/etcd/kv"
)

// maxSight bounds the keys that one transaction may read; etcd's own limit is
// 128 operations.
const maxSight = 100

// sight reads what a claim or release of these subnets depends on, at one
// revision: the keys themselves and what the watch's view knows to be related.
// That the view may lag is made good after a create (verify). Without a live
// view everything is read.
func (s *Store) sight(ctx context.Context, subnets addr.ByFamily[netip.Prefix], public addr.ByFamily[netip.Addr]) (*picture, error) {
	related, ok := s.shared.related(s.options.HostID, subnets)
	if !ok {
		return s.read(ctx)
	}
	spans := []kv.Span{place(subnets), kv.One(s.session.key)}
	for _, half := range claimKeys(subnets) {
		spans = append(spans, kv.One(half), kv.One(recentDir+half[len(claimsDir):]))
	}
	spans = including(spans, append(related, addressKeys(public)...))
	for len(spans) <= maxSight {
		t, err := s.client.look(ctx, spans)
		if err != nil {
			return nil, err
		}
		p := newPicture(t)
		more := including(spans, p.leads(s.options.HostID, subnets))
		if len(more) == len(spans) {
			return p, nil
		}
		spans = more
	}
	return s.read(ctx)
}

// including is spans with those of keys that no span has.
func including(spans []kv.Span, keys []string) []kv.Span {
	for _, key := range keys {
		if !slices.ContainsFunc(spans, func(s kv.Span) bool { return s.Contains(key) }) {
			spans = append(spans, kv.One(key))
		}
	}
	return spans
}

// leads lists what else must be known because of what p holds: the sessions of
// the hosts that it names, and the claims and addresses of the leases that may
// be given up.
func (p *picture) leads(host string, subnets addr.ByFamily[netip.Prefix]) []string {
	var keys []string
	for _, h := range p.holders {
		if h.host != host && h.host != "" {
			keys = append(keys, sessionsDir+h.host)
		}
	}
	at := place(subnets)
	for key, l := range p.items {
		keys = append(keys, l.claims...)
		if at.Contains(key) || p.owner(l) == host {
			keys = append(keys, l.addresses...)
		}
	}
	slices.Sort(keys)
	return keys
}
