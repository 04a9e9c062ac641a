package etcd

import (
	"context"
	"hash/fnv"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/flannel-ng/flannel-ng/internal/lease"
	"github.com/flannel-ng/flannel-ng/internal/store/etcd/kv"
	"github.com/flannel-ng/flannel-ng/internal/store/subnetkey"
)

const (
	// Every host sees a lease vanish, and one is to write that down. They take
	// turns, another one first for every subnet, rankStep apart: who comes later
	// finds it done. Those after the first maxWait are many, or have no lease, and
	// spread over waitPerHost for each host there is.
	rankStep    = 200 * time.Millisecond
	maxWait     = 10 * time.Second
	waitPerHost = 10 * time.Millisecond
)

// recorder writes down subnets whose lease vanished.
type recorder struct {
	client *Client
	host   string
	dice   *dice
	log    *slog.Logger
	wake   chan struct{}

	mu    sync.Mutex
	epoch int64
	due   map[netip.Prefix]time.Time
}

func newRecorder(c *Client, d *dice, o Options) *recorder {
	return &recorder{
		client: c, host: o.HostID, dice: d, log: o.Log, wake: make(chan struct{}, 1), due: map[netip.Prefix]time.Time{},
	}
}

// observe takes in s and how it differs from the picture before.
func (r *recorder) observe(s lease.Snapshot, d delta) {
	r.mu.Lock()
	defer r.mu.Unlock()
	// In a restored or wiped store nothing expired.
	expired := s.Epoch == r.epoch
	r.epoch = s.Epoch
	var vanished []netip.Prefix
	for p, leased := range d.leased {
		if leased {
			delete(r.due, p)
		} else if expired {
			vanished = append(vanished, p)
		}
	}
	slices.SortFunc(vanished, lease.ComparePrefix) // equal dice, equal waits
	if len(vanished) > 0 {
		r.schedule(s.Leases, vanished)
	}
	for _, p := range d.noted {
		delete(r.due, p)
	}
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// noted takes in that others wrote down these subnets.
func (r *recorder) noted(subnets []netip.Prefix) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, p := range subnets {
		delete(r.due, p)
	}
}

// schedule gives this host its turn for each subnet.
func (r *recorder) schedule(leases []*lease.Lease, vanished []netip.Prefix) {
	n := len(leases)
	own := slices.IndexFunc(leases, func(l *lease.Lease) bool { return l.Owner == r.host })
	for _, p := range vanished {
		wait := maxWait
		if own >= 0 {
			turn := (own + n - turnOf(p, n)) % n
			wait = min(maxWait, time.Duration(turn)*rankStep)
		}
		spread := rankStep
		if wait == maxWait {
			spread = max(rankStep, time.Duration(n)*waitPerHost)
		}
		r.due[p] = time.Now().Add(wait + r.dice.upTo(spread))
	}
}

// turnOf is who of n is the first to write that p vanished.
func turnOf(p netip.Prefix, n int) int {
	h := fnv.New32a()
	b := p.Addr().As16()
	h.Write(b[:])
	return int(h.Sum32() % uint32(n)) //nolint:gosec // n is the number of leases
}

// run writes what is due until ctx ends.
func (r *recorder) run(ctx context.Context) error {
	for {
		wait := time.Hour
		subnets, next := r.take(time.Now())
		r.record(ctx, subnets)
		if !next.IsZero() {
			wait = time.Until(next)
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		case <-r.wake:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// take removes what is due, in order, and says when the next is.
func (r *recorder) take(now time.Time) (subnets []netip.Prefix, next time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for p, at := range r.due {
		switch {
		case !at.After(now):
			subnets = append(subnets, p)
			delete(r.due, p)
		case next.IsZero() || at.Before(next):
			next = at
		}
	}
	slices.SortFunc(subnets, func(a, b netip.Prefix) int { return a.Addr().Compare(b.Addr()) })
	return subnets, next
}

// record is best effort: the note guards against a plain flannel that comes
// back, and no note is what every flannel fabric has today.
func (r *recorder) record(ctx context.Context, subnets []netip.Prefix) {
	if len(subnets) == 0 {
		return
	}
	grant, err := r.client.grant(ctx, recentTTL)
	if err != nil {
		r.log.Debug("expired subnets are not recorded", "error", err)
		return
	}
	used := false
	for _, p := range subnets {
		written, err := r.write(ctx, p, grant)
		if err != nil {
			r.log.Debug("expired subnet is not recorded", "subnet", p, "error", err)
		}
		used = used || written || err != nil
	}
	if !used {
		r.client.revoke(ctx, grant)
	}
}

func (r *recorder) write(ctx context.Context, p netip.Prefix, grant kv.LeaseID) (bool, error) {
	key := recentDir + subnetkey.FormatHalf(p)
	conditions := []kv.Cmp{kv.Absent(kv.One(key)), kv.Absent(kv.One(claimsDir + subnetkey.FormatHalf(p)))}
	if p.Addr().Is4() {
		conditions = append(conditions, kv.Absent(kv.Prefix(subnetsDir+subnetkey.FormatHalf(p))))
	}
	value := encode(tombstone{Until: time.Now().Add(recentTTL).UTC().Truncate(time.Second)})
	res, err := r.client.txn(ctx, kv.Txn{If: conditions, Then: []kv.Op{put(key, value, grant)}})
	return err == nil && res.OK, err
}
