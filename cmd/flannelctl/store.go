package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/flannel-ng/flannel-ng/internal/ctl"
	"github.com/flannel-ng/flannel-ng/internal/store/etcd"
)

// dial opens etcd as the store of the commands.
func dial(ctx context.Context, o ctl.StoreOptions) (*ctl.Store, error) {
	client, err := etcd.Dial(ctx, etcd.ClientConfig(o))
	if err != nil {
		return nil, err
	}
	a := etcd.NewAdmin(client)
	return &ctl.Store{Admin: leases{a}, Configs: configs{a}, Close: client.Close}, nil
}

// leases is etcd's Admin with the words of the commands.
type leases struct{ *etcd.Admin }

func (l leases) Leases(ctx context.Context) ([]ctl.Lease, error) {
	infos, err := l.Admin.Leases(ctx)
	out := make([]ctl.Lease, 0, len(infos))
	for _, i := range infos {
		out = append(out, ctl.Lease(i))
	}
	return out, err
}

func (l leases) Release(ctx context.Context, key string, force bool) error {
	err := l.Admin.Release(ctx, key, force)
	if errors.Is(err, etcd.ErrAlive) {
		return fmt.Errorf("release %s: %w", key, ctl.ErrAlive)
	}
	return err
}

type configs struct{ admin *etcd.Admin }

func (c configs) Get(ctx context.Context) ([]byte, int64, error) { return c.admin.Config(ctx) }

func (c configs) Set(ctx context.Context, data []byte, rev int64) error {
	err := c.admin.SetConfig(ctx, data, rev)
	if errors.Is(err, etcd.ErrChanged) {
		return ctl.ErrChanged
	}
	return err
}
