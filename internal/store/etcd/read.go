package etcd

import (
	"context"

	"github.com/flannel-ng/flannel-ng/internal/lease"
	"github.com/flannel-ng/flannel-ng/internal/store/etcd/kv"
)

// Snapshot reads the whole picture once, without a session and without leaving
// a trace in the store.
func (c *Client) Snapshot(ctx context.Context) (lease.Snapshot, error) {
	first, err := c.first(ctx, configKey)
	if err != nil {
		return lease.Snapshot{}, err
	}
	v := newView("")
	take := func(_ kv.Header, es []kv.Entry) {
		for _, e := range es {
			v.listed(c.relative(e.Key), e, true)
		}
	}
	take(first.Header, first.leases)
	if err := c.rest(ctx, first, take); err != nil {
		return lease.Snapshot{}, err
	}
	v.finish(first.Header)
	v.config = first.config
	s, _ := v.snapshot()
	s.Changed = nil
	return s, nil
}
