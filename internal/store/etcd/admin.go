package etcd

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/config"
	"github.com/flannel-ng/flannel-ng/internal/lease"
	"github.com/flannel-ng/flannel-ng/internal/store/etcd/kv"
)

// What an operator may be told.
var (
	ErrNoLease = errors.New("no such lease")
	ErrAlive   = errors.New("its host is alive")
	ErrChanged = errors.New("it was changed by somebody else meanwhile")
	ErrOverlap = errors.New("subnet overlaps a lease of another node")
	ErrSubnet  = errors.New("subnet does not fit the network config")
)

// Admin is the operator's hand on the leases of a fabric, for flannelctl. It
// is no host: it has no session, and fences each write on what it has read.
type Admin struct{ client *Client }

// NewAdmin makes an Admin.
func NewAdmin(c *Client) *Admin { return &Admin{client: c} }

// LeaseInfo is a lease with what only an operator asks for.
type LeaseInfo struct {
	lease.Lease
	Alive bool          // its owner's session is there
	TTL   time.Duration // left; zero for a reservation
}

// Leases lists all leases that can be read. It asks etcd for the time to live
// of each, which is why nothing else does.
func (a *Admin) Leases(ctx context.Context) ([]LeaseInfo, error) {
	p, err := a.read(ctx)
	if err != nil {
		return nil, err
	}
	infos := make([]LeaseInfo, 0, len(p.order))
	for _, l := range p.order {
		info := LeaseInfo{Lease: l.Lease}
		info.Owner = p.owner(l)
		info.Alive = info.Owner != "" && p.alive(info.Owner)
		if l.grant != 0 {
			if info.TTL, err = a.left(ctx, l.grant); err != nil {
				return nil, fmt.Errorf("lease %s: %w", l.Key, err)
			}
		}
		infos = append(infos, info)
	}
	return infos, nil
}

func (a *Admin) left(ctx context.Context, id kv.LeaseID) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	left, err := a.client.conn.TimeToLive(ctx, id)
	if errors.Is(err, kv.ErrLeaseNotFound) {
		return 0, nil // it expired since it was listed
	}
	return left, err
}

// Config is the network config as it stands with its revision; without one it
// is nil and 0.
func (a *Admin) Config(ctx context.Context) (data []byte, rev int64, err error) {
	e, err := a.client.get(ctx, configKey)
	if err != nil || e.Mod == 0 {
		return nil, 0, err
	}
	return []byte(e.Value), e.Mod, nil
}

// SetConfig replaces the config of revision rev, 0 for none, or fails with
// ErrChanged. It does not judge data.
func (a *Admin) SetConfig(ctx context.Context, data []byte, rev int64) error {
	return a.commit(ctx, configKey, kv.Txn{
		If:   []kv.Cmp{kv.Unchanged(configKey, rev)},
		Then: []kv.Op{put(configKey, string(data), 0)},
	})
}

func (a *Admin) commit(ctx context.Context, what string, t kv.Txn) error {
	r, err := a.client.txn(ctx, t)
	if err != nil {
		return fmt.Errorf("write %s: %w", what, err)
	}
	if !r.OK {
		return fmt.Errorf("write %s: %w", what, ErrChanged)
	}
	return nil
}

func (a *Admin) read(ctx context.Context) (*picture, error) {
	t, err := a.client.load(ctx)
	if err != nil {
		return nil, err
	}
	return newPicture(t), nil
}

// Reserve gives subnets for good to the node with these public addresses,
// present or to come. A lease that the node has there becomes the reservation
// and goes on working. It may be repeated.
func (a *Admin) Reserve(ctx context.Context, subnets addr.ByFamily[netip.Prefix], public addr.ByFamily[netip.Addr]) error {
	p, err := a.read(ctx)
	if err != nil {
		return err
	}
	if err := fits(p.entries[configKey].Value, subnets, public); err != nil {
		return err
	}
	key := subnetsDir + FormatKey(subnets)
	if l, ok := p.items[key]; ok {
		if _, same := sharedAddress(l.Public, public); !same {
			return fmt.Errorf("reserve %s: held by %s: %w", l.Key, l.Node(), ErrOverlap)
		}
		if l.Reserved {
			return nil
		}
		return a.rebind(ctx, p, l, 0)
	}
	return a.reserveNew(ctx, p, key, lease.Lease{Key: FormatKey(subnets), Subnets: subnets, Public: public})
}

// fits judges a reservation by the network config.
func fits(text string, subnets addr.ByFamily[netip.Prefix], public addr.ByFamily[netip.Addr]) error {
	n, err := config.Parse([]byte(text))
	if err != nil {
		return fmt.Errorf("network config: %w", err)
	}
	for _, f := range addr.Families() {
		pool, p := n.Pools.At(f), subnets.At(f)
		switch {
		case pool.Network.IsValid() != p.IsValid():
			return fmt.Errorf("%w: want one subnet for each enabled family, %s is wrong", ErrSubnet, f)
		case !p.IsValid():
			continue
		case p != p.Masked():
			return fmt.Errorf("%w: %s has host bits, want %s", ErrSubnet, p, p.Masked())
		case p.Bits() != pool.SubnetLen:
			return fmt.Errorf("%w: %s is not a /%d", ErrSubnet, p, pool.SubnetLen)
		case !pool.Network.Contains(p.Addr()):
			return fmt.Errorf("%w: %s is not in %s", ErrSubnet, p, pool.Network)
		}
	}
	if len(addresses(public)) == 0 {
		return errNoPublic
	}
	return nil
}

// reserveNew writes a reservation for a node that is not there yet. It carries
// no backend, so that no plain flannel routes to it before the node comes.
func (a *Admin) reserveNew(ctx context.Context, p *picture, key string, l lease.Lease) error {
	for _, other := range p.order {
		if other.Overlaps(l) {
			return fmt.Errorf("reserve %s: %s of %s: %w", l.Key, other.Key, other.Node(), ErrOverlap)
		}
	}
	text, err := FormatValue(l.Public, lease.Offer{})
	if err != nil {
		return err
	}
	// Nothing may have appeared among the leases since they were read.
	unchanged := kv.Cmp{Span: kv.Prefix(subnetsDir), Target: kv.Mod, Relation: kv.Less, Num: p.Rev + 1}
	t := kv.Txn{If: []kv.Cmp{unchanged, kv.Absent(kv.One(key))}, Then: []kv.Op{put(key, text, 0)}}
	for _, claim := range claimKeys(l.Subnets) {
		t.If = append(t.If, kv.Absent(kv.One(claim)))
	}
	return a.commit(ctx, "reservation "+l.Key, t)
}

// rebind puts a lease and what belongs to it, unchanged, on another grant, 0
// for none. Its holder goes on with it.
func (a *Admin) rebind(ctx context.Context, p *picture, l *item, grant kv.LeaseID) error {
	key := subnetsDir + l.Key
	t := kv.Txn{
		If:   []kv.Cmp{kv.Unchanged(key, l.Modified)},
		Then: []kv.Op{put(key, p.entries[key].Value, grant)},
	}
	owner := p.owner(l)
	for _, k := range append(append([]string{}, l.claims...), l.addresses...) {
		if h, ok := p.holders[k]; ok && owner != "" && h.host == owner {
			t.If = append(t.If, kv.Unchanged(k, h.mod))
			t.Then = append(t.Then, put(k, p.entries[k].Value, grant))
		}
	}
	if err := a.commit(ctx, "lease "+l.Key, t); err != nil {
		return err
	}
	a.client.revoke(ctx, l.grant)
	return nil
}

// Release ends the lease called key. A live owner is spared unless force is
// set; then its reservation becomes an ordinary lease, and its ordinary lease
// is deleted, upon which the host claims anew.
func (a *Admin) Release(ctx context.Context, key string, force bool) error {
	p, err := a.read(ctx)
	if err != nil {
		return err
	}
	name := strings.TrimPrefix(key, subnetsDir)
	l, ok := p.items[subnetsDir+name]
	if !ok {
		return fmt.Errorf("release %s: %w", name, ErrNoLease)
	}
	owner := p.owner(l)
	alive := owner != "" && p.alive(owner)
	switch {
	case alive && !force:
		return fmt.Errorf("release %s of host %s at %s: %w", name, owner, l.Node(), ErrAlive)
	case alive && l.Reserved:
		grant, err := a.client.grant(ctx, defaultLeaseTTL)
		if err != nil {
			return err
		}
		if err := a.rebind(ctx, p, l, grant); err != nil {
			a.client.revoke(ctx, grant)
			return err
		}
		return nil
	}
	return a.remove(ctx, p, l, alive)
}

func (a *Admin) remove(ctx context.Context, p *picture, l *item, alive bool) error {
	owner := p.owner(l)
	gone, grant := leaving(p, owner, subnetsDir+l.Key)
	t := kv.Txn{If: []kv.Cmp{kv.Unchanged(subnetsDir+l.Key, l.Modified)}, Then: gone}
	if owner != "" && !alive {
		t.If = append(t.If, kv.Absent(kv.One(sessionsDir+owner)))
	}
	if err := a.commit(ctx, "release of "+l.Key, t); err != nil {
		return err
	}
	a.client.revoke(ctx, grant)
	return nil
}
