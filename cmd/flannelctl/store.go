package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/flannel-ng/flannel-ng/internal/ctl"
	"github.com/flannel-ng/flannel-ng/internal/store/embedded"
	"github.com/flannel-ng/flannel-ng/internal/store/etcd"
)

// dial opens etcd as the store of the commands.
func dial(ctx context.Context, o ctl.StoreOptions) (*ctl.Store, error) {
	config := etcd.ClientConfig(o)
	client, err := etcd.Dial(ctx, config)
	if err != nil {
		return nil, config.NameFiles(err, "--etcd-")
	}
	a := etcd.NewAdmin(client)
	return &ctl.Store{Admin: leases{a}, Configs: configs{a}, Cluster: cluster{config}, Close: client.Close}, nil
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

// cluster is the members of etcd with the words of the commands.
type cluster struct{ config etcd.ClientConfig }

// with opens a connection for one command.
func (c cluster) with(do func(*embedded.Admin) error) error {
	config, err := c.config.Checked()
	if err != nil {
		return err
	}
	a, err := embedded.NewAdmin(config)
	if err != nil {
		return err
	}
	return errors.Join(do(a), a.Close())
}

func (c cluster) Members(ctx context.Context) ([]ctl.Member, error) {
	var out []ctl.Member
	err := c.with(func(a *embedded.Admin) error {
		infos, err := a.Members(ctx)
		for _, i := range infos {
			out = append(out, ctl.Member{
				ID: i.ID, Name: i.Name, Addresses: i.Peers, State: string(i.Role), Answers: i.Role != embedded.Unreachable && i.Role != embedded.NotStarted,
				Voter: i.Voter, DBSize: i.DBSize, Err: i.Err,
			})
		}
		return err
	})
	return out, err
}

func (c cluster) Remove(ctx context.Context, id uint64) error {
	return c.with(func(a *embedded.Admin) error { return a.Remove(ctx, id) })
}

func (c cluster) Snapshot(ctx context.Context, file string) (ctl.SnapshotInfo, error) {
	var out ctl.SnapshotInfo
	err := c.with(func(a *embedded.Admin) error {
		s, err := a.Snapshot(ctx, file)
		out = ctl.SnapshotInfo(s)
		return err
	})
	return out, err
}

// restore makes a data directory of a snapshot.
func restore(r ctl.Restore) (ctl.SnapshotInfo, string, error) {
	c := embedded.RestoreConfig{File: r.File, Dir: r.Dir, Name: r.Name, TLS: r.TLS, Force: r.Force, Now: time.Now}
	for _, m := range r.Cluster {
		c.Cluster = append(c.Cluster, embedded.Peer{Name: m.Name, At: netip.AddrPortFrom(m.Address, 0)})
	}
	done, err := embedded.Restore(c)
	switch {
	case errors.Is(err, embedded.ErrBusy):
		err = ctl.ErrBusy
	case errors.Is(err, embedded.ErrNotEmpty):
		err = ctl.ErrNotEmpty
	}
	return ctl.SnapshotInfo(done.Summary), done.Aside, err
}
