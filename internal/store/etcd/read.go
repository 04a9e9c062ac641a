package etcd

import (
	"context"

	"github.com/flannel-ng/flannel-ng/internal/lease"
)

// Snapshot reads the whole picture once, without a session and without leaving
// a trace in the store.
func (c *Client) Snapshot(ctx context.Context) (lease.Snapshot, error) {
	t, err := c.load(ctx)
	if err != nil {
		return lease.Snapshot{}, err
	}
	return newPicture(t).snapshot(), nil
}
