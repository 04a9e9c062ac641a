package explorer

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/lease"
	"github.com/flannel-ng/flannel-ng/internal/store/etcd"
	"github.com/flannel-ng/flannel-ng/internal/store/etcd/fake"
	"github.com/flannel-ng/flannel-ng/internal/store/etcd/kv"
)

// flannel is a plain flannel host as it behaves (recorded behaviour, not its
// code): it lists, picks, creates if the very key is absent, and from then on
// overwrites.
type flannel struct {
	world    *world
	name     string
	public   addr.ByFamily[netip.Addr]
	seed     uint64
	starts   int
	run      *flanneld                   // nil: down
	previous addr.ByFamily[netip.Prefix] // subnet.env; guarded by world.mu
}

// flanneld is one run of it.
type flanneld struct {
	*flannel
	conn   *fake.Client
	cancel context.CancelFunc
	rng    *rand.Rand
}

var (
	errConflict = errors.New("the key exists")
	errNoFree   = errors.New("out of subnets")
	errGone     = errors.New("own lease is gone")
)

func (f *flannel) start(ctx context.Context) {
	f.starts++
	r := &flanneld{flannel: f, conn: f.world.server.Client(f.name)}
	r.rng = rand.New(rand.NewPCG(f.seed, uint64(f.starts))) //nolint:gosec // a simulation must be repeatable
	ctx, r.cancel = context.WithCancel(ctx)
	f.run = r
	f.world.say(f.name, "starts")
	f.world.running.Go(func() {
		for ctx.Err() == nil {
			// A lost race is fatal and so is the end of the own lease; then
			// the service manager starts it again.
			err := r.serve(ctx)
			if ctx.Err() != nil {
				return
			}
			f.world.say(f.name, "exits: %v", err)
			sleep(ctx, time.Second+time.Duration(r.rng.Int64N(int64(4*time.Second))))
		}
	})
}

func (f *flannel) crash() {
	if f.run != nil {
		f.world.say(f.name, "crashes")
		f.run.conn.Cut()
		f.run.cancel()
		f.run = nil
	}
}

func (f *flanneld) serve(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	key, rev, err := f.acquire(ctx)
	if err != nil {
		return err
	}
	subnets, _ := etcd.ParseKey(strings.TrimPrefix(key, subnetsDir))
	f.world.mu.Lock()
	f.previous = subnets
	f.world.mu.Unlock()
	events := f.conn.Watch(ctx, kv.One(key), rev+1)
	renew := time.NewTimer(leaseTTL - renewMargin)
	defer renew.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err() //nolint:wrapcheck // the caller stopped us
		case b, ok := <-events:
			if !ok || b.Err != nil { // what happened meanwhile goes unnoticed
				sleep(ctx, time.Second)
				events = f.conn.Watch(ctx, kv.One(key), f.world.server.Rev()+1)
			}
			if slices.ContainsFunc(b.Events, func(e kv.Event) bool { return e.Deleted }) {
				return errGone
			}
		case <-renew.C:
			next := leaseTTL - renewMargin
			if _, err := f.put(ctx, key); err != nil {
				next = 10 * time.Second
			}
			renew.Reset(next)
		}
	}
}

// put writes the lease on a new grant whatever is there.
func (f *flanneld) put(ctx context.Context, key string, conditions ...kv.Cmp) (int64, error) {
	value, err := etcd.FormatValue(f.public, lease.Offer{Backend: "host-gw"})
	if err != nil {
		return 0, err //nolint:wrapcheck // cannot happen
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	grant, err := f.conn.Grant(ctx, leaseTTL)
	if err != nil {
		return 0, err //nolint:wrapcheck // shown as it is
	}
	r, err := f.conn.Txn(ctx, kv.Txn{
		If:   conditions,
		Then: []kv.Op{{Action: kv.Put, Span: kv.One(key), Value: value, Lease: grant}},
	})
	if err == nil && !r.OK {
		err = errConflict
	}
	return r.Rev, err //nolint:wrapcheck // shown as it is
}

func (f *flanneld) acquire(ctx context.Context) (key string, rev int64, err error) {
	listing, cancel := context.WithTimeout(ctx, 10*time.Second)
	r, err := f.conn.Range(listing, kv.Query{Span: kv.Prefix(subnetsDir)})
	cancel()
	if err != nil {
		return "", 0, err //nolint:wrapcheck // shown as it is
	}
	var taken []lease.Lease
	for _, e := range r.Entries {
		l := newRecord("", nil, e).Lease
		if l.Public.At(addr.IPv4) != f.public.At(addr.IPv4) {
			taken = append(taken, l)
			continue
		}
		if f.fits(l.Subnets) {
			rev, err := f.put(ctx, e.Key)
			return e.Key, rev, err
		}
		_, err := f.conn.Txn(ctx, kv.Txn{Then: []kv.Op{{Action: kv.Delete, Span: kv.One(e.Key)}}})
		if err != nil {
			return "", 0, err //nolint:wrapcheck // shown as it is
		}
	}
	subnets, err := f.pick(taken)
	if err != nil {
		return "", 0, err
	}
	key = subnetsDir + etcd.FormatKey(subnets)
	rev, err = f.put(ctx, key, kv.Cmp{Span: kv.One(key), Target: kv.Version, Relation: kv.Equal})
	return key, rev, err
}

func (f *flannel) fits(subnets addr.ByFamily[netip.Prefix]) bool {
	for _, fam := range addr.Families() {
		enabled := f.world.network.Pools.At(fam).Network.IsValid()
		if p := subnets.At(fam); p.IsValid() != enabled || enabled && !slices.Contains(f.world.blocks(fam), p) {
			return false
		}
	}
	return true
}

func (f *flanneld) pick(taken []lease.Lease) (addr.ByFamily[netip.Prefix], error) {
	free := func(subnets addr.ByFamily[netip.Prefix]) bool {
		return !slices.ContainsFunc(taken, lease.Lease{Subnets: subnets}.Overlaps)
	}
	f.world.mu.Lock()
	previous := f.previous
	f.world.mu.Unlock()
	if f.fits(previous) && free(previous) {
		return previous, nil
	}
	var picked addr.ByFamily[netip.Prefix]
	for _, fam := range f.world.network.Families() {
		var choice []netip.Prefix
		for _, p := range f.world.blocks(fam) {
			var one addr.ByFamily[netip.Prefix]
			one.Put(fam, p)
			if free(one) {
				choice = append(choice, p)
			}
		}
		if len(choice) == 0 {
			return picked, fmt.Errorf("%s: %w", fam, errNoFree)
		}
		picked.Put(fam, choice[f.rng.IntN(len(choice))])
	}
	return picked, nil
}
