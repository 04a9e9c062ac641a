package etcd

import (
	"context"
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
	// Every host sees a lease vanish; each waits a random part of
	// waitPerHost times the number of hosts, so that about one writes.
	waitPerHost = 50 * time.Millisecond
	maxWait     = 10 * time.Second
)

// recorder writes down subnets whose lease vanished.
type recorder struct {
	client *Client
	dice   *dice
	log    *slog.Logger
	wake   chan struct{}

	mu      sync.Mutex
	epoch   int64 // of known
	members int64 // of known
	known   map[netip.Prefix]bool
	due     map[netip.Prefix]time.Time
}

func newRecorder(c *Client, d *dice, log *slog.Logger) *recorder {
	return &recorder{client: c, dice: d, log: log, wake: make(chan struct{}, 1), due: map[netip.Prefix]time.Time{}}
}

// observe compares s with the picture before it. Equal members say that the
// two have the same leases, which is so for every renewal.
func (r *recorder) observe(s lease.Snapshot, members int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	defer func() {
		for _, recorded := range s.Recent {
			delete(r.due, recorded.Subnet)
		}
	}()
	if s.Epoch == r.epoch && members == r.members {
		return
	}
	r.members = members
	if s.Epoch != r.epoch {
		// A restored or wiped store: nothing expired there.
		r.epoch, r.known = s.Epoch, nil
	}
	now := make(map[netip.Prefix]bool, len(s.Leases))
	for _, l := range s.Leases {
		for _, p := range l.Prefixes() {
			now[p] = true
			delete(r.due, p)
		}
	}
	var vanished []netip.Prefix
	for p := range r.known {
		if !now[p] {
			vanished = append(vanished, p)
		}
	}
	slices.SortFunc(vanished, lease.ComparePrefix) // equal dice, equal waits
	for _, p := range vanished {
		r.due[p] = time.Now().Add(r.dice.upTo(min(maxWait, time.Duration(len(s.Leases)+1)*waitPerHost)))
	}
	r.known = now
	select {
	case r.wake <- struct{}{}:
	default:
	}
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
