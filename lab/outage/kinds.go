package outage

import (
	"context"
	"errors"
	"time"

	"github.com/flannel-ng/flannel-ng/lab"
)

// kind is a way for a store to be out of reach, or to be another than before.
type kind struct {
	name       string
	tls, relay bool
	begin, end func(context.Context, *lab.Fabric) error
}

// slowness is the delay of a slow link, each way.
const slowness = 2500 * time.Millisecond

func kinds() []kind {
	kill := func(ctx context.Context, f *lab.Fabric) error { return f.Etcd.Kill(ctx) }
	revive := func(ctx context.Context, f *lab.Fabric) error { return f.Etcd.Revive(ctx) }
	cut := func(ctx context.Context, f *lab.Fabric) error { return f.Cut(ctx, f.Etcd.Node) }
	heal := func(ctx context.Context, f *lab.Fabric) error { return f.Heal(ctx, f.Etcd.Node) }
	return []kind{
		{name: "killed", begin: kill, end: revive},
		{
			name:  "hanging",
			begin: func(_ context.Context, f *lab.Fabric) error { return f.Etcd.Freeze() },
			end:   func(_ context.Context, f *lab.Fabric) error { return f.Etcd.Thaw() },
		},
		{name: "partitioned", begin: cut, end: heal},
		{
			name: "slow", relay: true,
			begin: func(_ context.Context, f *lab.Fabric) error { f.Etcd.Relay.Delay(slowness); return nil },
			end:   func(_ context.Context, f *lab.Fabric) error { f.Etcd.Relay.Delay(0); return nil },
		},
		{name: "compacted", begin: then(cut, compact), end: heal},
		{name: "leases expired", begin: then(cut, expire), end: heal},
		{
			name:  "restored",
			begin: then(func(ctx context.Context, f *lab.Fabric) error { return f.Etcd.Save(ctx) }, touch, kill),
			end:   then(func(ctx context.Context, f *lab.Fabric) error { return f.Etcd.Restore(ctx) }, revive),
		},
		{
			name: "wiped", begin: kill,
			end: then(func(_ context.Context, f *lab.Fabric) error { return f.Etcd.Wipe() }, revive,
				func(ctx context.Context, f *lab.Fabric) error { return f.Configure(ctx) }),
		},
		{
			name: "certificate ended", tls: true, begin: then(certify(-time.Minute), kill, revive), end: certify(time.Hour),
		},
	}
}

type step = func(context.Context, *lab.Fabric) error

func then(steps ...step) step {
	return func(ctx context.Context, f *lab.Fabric) error {
		for _, s := range steps {
			if err := s(ctx, f); err != nil {
				return err
			}
		}
		return nil
	}
}

func certify(life time.Duration) step {
	return func(_ context.Context, f *lab.Fabric) error { return f.Certify(f.Etcd.Node, life) }
}

// touch writes what a backup does not know.
func touch(ctx context.Context, f *lab.Fabric) error {
	const key = lab.Prefix + "/ng/touched"
	return errors.Join(f.Etcd.Put(ctx, key, "1"), f.Etcd.Delete(ctx, key))
}

func compact(ctx context.Context, f *lab.Fabric) error {
	return errors.Join(touch(ctx, f), f.Etcd.Compact(ctx))
}

func expire(ctx context.Context, f *lab.Fabric) error {
	for _, h := range f.Hosts {
		if err := f.Etcd.Expire(ctx, h); err != nil {
			return err
		}
	}
	return nil
}
