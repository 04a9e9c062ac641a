package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// What happens to an etcd in its life. Its data lie on the node.

// Data is where etcd keeps its data, inside the node; `lab etcd` uses it.
const Data = "/run/etcd"

const backup = "/run/etcd.saved"

var errEmbedded = errors.New("the store is embedded: it has no process of its own")

// Kill ends etcd as a crash would; its data stay.
func (e *Etcd) Kill(ctx context.Context) error {
	if e.server == nil {
		return errEmbedded
	}
	_ = e.server.end(ctx, syscall.SIGKILL) // that it was killed is no news
	return ctx.Err()
}

// Freeze lets etcd hang: its connections stay, and nobody answers.
func (e *Etcd) Freeze() error { return e.signal(syscall.SIGSTOP) }

// Thaw lets a frozen etcd go on.
func (e *Etcd) Thaw() error { return e.signal(syscall.SIGCONT) }

func (e *Etcd) signal(s syscall.Signal) error {
	if e.server == nil {
		return errEmbedded
	}
	if err := e.server.cmd.Process.Signal(s); err != nil {
		return fmt.Errorf("%s for etcd: %w", s, err)
	}
	return nil
}

// Revive starts a killed etcd again, on what data there are.
func (e *Etcd) Revive(ctx context.Context) error {
	if e.server == nil {
		return errEmbedded
	}
	return e.serve(context.WithoutCancel(ctx))
}

// Wipe removes the data of a killed etcd.
func (e *Etcd) Wipe() error {
	if err := os.RemoveAll(e.Path(Data)); err != nil {
		return fmt.Errorf("wipe etcd: %w", err)
	}
	return nil
}

// Save keeps a copy of the data as they are now.
func (e *Etcd) Save(ctx context.Context) error {
	if err := e.Freeze(); err != nil {
		return err
	}
	_, err := e.Run(ctx, "cp", "-a", Data, backup)
	return errors.Join(err, e.Thaw())
}

// Restore gives a killed etcd the data that were saved.
func (e *Etcd) Restore(ctx context.Context) error {
	if err := e.Wipe(); err != nil {
		return err
	}
	_, err := e.Run(ctx, "cp", "-a", backup, Data)
	return err
}

// Compact forgets all revisions but the last.
func (e *Etcd) Compact(ctx context.Context) error {
	got, err := e.Client.Get(ctx, "compact")
	if err != nil {
		return fmt.Errorf("etcd revision: %w", err)
	}
	if _, err := e.Client.Compact(ctx, got.Header.Revision, clientv3.WithCompactPhysical()); err != nil {
		return fmt.Errorf("etcd compact: %w", err)
	}
	return nil
}

// Expire ends the grant that a host's lease lives on, as a day without a renewal
// would.
func (e *Etcd) Expire(ctx context.Context, h *Host) error {
	got, err := e.Client.Get(ctx, Prefix+"/subnets/", clientv3.WithPrefix())
	if err != nil {
		return fmt.Errorf("etcd leases: %w", err)
	}
	public := fmt.Sprintf("%q", h.Underlay(h.fabric.Options.Families[0]))
	for _, kv := range got.Kvs {
		if !strings.Contains(string(kv.Value), public) || kv.Lease == 0 {
			continue
		}
		if _, err := e.Client.Revoke(ctx, clientv3.LeaseID(kv.Lease)); err != nil {
			return fmt.Errorf("etcd revoke: %w", err)
		}
		return nil
	}
	return fmt.Errorf("%s has no lease that expires", h.Name)
}
