// Package memory keeps leases in the memory of one process, for tests and for
// fabrics that live in one process.
//
// It owns all leases of its Fabric and follows the same rules as the etcd
// store, except that nothing expires: a host is alive from its first claim
// until Close. Called by tests and the daemon.
package memory

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/lease"
	"github.com/flannel-ng/flannel-ng/internal/store/subnetkey"
)

// leaseTTL is what Held.Expires is counted by; the store itself forgets nothing.
const leaseTTL = 24 * time.Hour

var errIncomplete = errors.New("claim needs a subnet and a public address")

// Fabric is the store that its hosts share.
type Fabric struct {
	mu        sync.Mutex
	rev       int64
	config    []byte
	leases    []*lease.Lease // sorted by lease.Compare
	addresses map[netip.Addr]string
	alive     map[string]bool
	changed   chan struct{} // closed at the next change
}

// New makes an empty fabric.
func New() *Fabric {
	return &Fabric{
		rev: 1, addresses: map[netip.Addr]string{}, alive: map[string]bool{},
		changed: make(chan struct{}),
	}
}

// Host is the handle of the host with this id.
func (f *Fabric) Host(id string) *Host { return &Host{fabric: f, id: id} }

// SetConfig replaces the network config; nil removes it.
func (f *Fabric) SetConfig(config []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.config = slices.Clone(config)
	f.commit()
}

// Put writes a lease without asking, as a plain flannel or an operator does:
// l.Owner and l.Reserved count, its key and revisions are set here.
func (f *Fabric) Put(l lease.Lease) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if l.Owner == "" {
		l.Offer.Extra = ""
	}
	f.store(l)
}

// Delete removes a lease by its key.
func (f *Fabric) Delete(key string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.remove(key)
}

func (f *Fabric) commit() {
	f.rev++
	close(f.changed)
	f.changed = make(chan struct{})
}

func (f *Fabric) find(key string) (lease.Lease, bool) {
	i := slices.IndexFunc(f.leases, func(l *lease.Lease) bool { return l.Key == key })
	if i < 0 {
		return lease.Lease{}, false
	}
	return *f.leases[i], true
}

// store writes l as one revision. Pictures share the slice, so it is copied.
func (f *Fabric) store(l lease.Lease) lease.Lease {
	l.Key = subnetkey.Format(l.Subnets)
	old, existed := f.find(l.Key)
	l.Created, l.Modified = f.rev+1, f.rev+1
	if existed {
		l.Created = old.Created
	}
	others := f.without(l.Key)
	i, _ := slices.BinarySearchFunc(others, &l, lease.Compare)
	f.leases = slices.Insert(others, i, &l)
	f.commit()
	return l
}

func (f *Fabric) without(key string) []*lease.Lease {
	return slices.DeleteFunc(slices.Clone(f.leases), func(l *lease.Lease) bool { return l.Key == key })
}

func (f *Fabric) remove(key string) {
	if _, ok := f.find(key); ok {
		f.leases = f.without(key)
		f.commit()
	}
}

func (f *Fabric) snapshot() (lease.Snapshot, <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return lease.Snapshot{
		Cluster: "memory", Epoch: 1, Rev: f.rev, Synced: true,
		Config: slices.Clone(f.config), Leases: f.leases,
	}, f.changed
}

// Host is one host's lease.Store.
type Host struct {
	fabric *Fabric
	id     string
}

// Close makes the host look dead until its next claim.
func (h *Host) Close() {
	h.fabric.mu.Lock()
	defer h.fabric.mu.Unlock()
	delete(h.fabric.alive, h.id)
}

// Watch implements lease.Store.
func (h *Host) Watch(ctx context.Context, put func(lease.Snapshot)) error {
	for {
		s, changed := h.fabric.snapshot()
		put(s)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		}
	}
}

// Claim implements lease.Store.
func (h *Host) Claim(ctx context.Context, c lease.Claim) (lease.Held, error) {
	if err := ctx.Err(); err != nil {
		return lease.Held{}, err
	}
	wanted := lease.Lease{
		Key: subnetkey.Format(c.Subnets), Subnets: c.Subnets, Public: c.Public, Offer: c.Offer, Owner: h.id,
	}
	if len(wanted.Prefixes()) == 0 || len(publics(c.Public)) == 0 {
		return lease.Held{}, errIncomplete
	}
	extra, err := lease.FormatExtra(c.Offer.Extra)
	if err != nil {
		return lease.Held{}, fmt.Errorf("claim %s: %w", wanted.Key, err)
	}
	wanted.Offer.Extra = extra
	if wanted.Offer.Backend == "" {
		wanted.Offer.Backend = "udp"
	}
	f := h.fabric
	f.mu.Lock()
	defer f.mu.Unlock()
	f.alive[h.id] = true
	old, exists := f.find(wanted.Key)
	if err := f.permit(wanted, c, old, exists); err != nil {
		return lease.Held{}, err
	}
	wanted.Reserved = exists && old.Reserved
	f.bind(h.id, c.Public)
	held := lease.Held{Lease: f.store(wanted)}
	held.Token = lease.Token(held.Modified)
	if !held.Reserved {
		held.Expires = time.Now().Add(leaseTTL)
	}
	return held, nil
}

func publics(b addr.ByFamily[netip.Addr]) []netip.Addr {
	var as []netip.Addr
	for _, f := range addr.Families() {
		if a := b.At(f); a.IsValid() {
			as = append(as, a)
		}
	}
	return as
}

// permit applies the rules of docs/lease-protocol.md.
func (f *Fabric) permit(wanted lease.Lease, c lease.Claim, old lease.Lease, exists bool) error {
	var err error
	if c.Token == 0 {
		err = f.mayCreate(wanted, exists)
	} else {
		err = f.mayRewrite(wanted, c, old)
	}
	if err != nil {
		return err
	}
	for _, a := range publics(c.Public) {
		if host, ok := f.addresses[a]; ok && host != wanted.Owner && f.alive[host] {
			return &lease.DuplicateError{Address: a, Host: host}
		}
	}
	return nil
}

func (f *Fabric) mayCreate(wanted lease.Lease, exists bool) error {
	if exists {
		return fmt.Errorf("%s exists: %w", wanted.Key, lease.ErrTaken)
	}
	for _, l := range f.leases {
		// A foreign lease of another length is bad or beaten; see the etcd
		// store.
		if l.Overlaps(wanted) && l.Owner != wanted.Owner && (l.Owner != "" || same(*l, wanted)) {
			return fmt.Errorf("%s overlaps %s of %s: %w", wanted.Key, l.Key, l.Node(), lease.ErrTaken)
		}
	}
	return nil
}

func same(a, b lease.Lease) bool {
	for _, f := range addr.Families() {
		if p := a.Subnets.At(f); p.IsValid() && p == b.Subnets.At(f) {
			return true
		}
	}
	return false
}

func (f *Fabric) mayRewrite(wanted lease.Lease, c lease.Claim, old lease.Lease) error {
	switch {
	case old.Modified != int64(c.Token):
		return fmt.Errorf("%s changed since revision %d: %w", wanted.Key, c.Token, lease.ErrTaken)
	case old.Owner == wanted.Owner:
		return nil
	}
	shared := slices.IndexFunc(publics(old.Public), func(a netip.Addr) bool {
		return slices.Contains(publics(c.Public), a)
	})
	if !c.Takeover || shared < 0 {
		return fmt.Errorf("%s belongs to %s: %w", wanted.Key, old.Node(), lease.ErrTaken)
	}
	if old.Owner != "" && f.alive[old.Owner] {
		return &lease.DuplicateError{Address: publics(old.Public)[shared], Host: old.Owner}
	}
	return nil
}

// bind records the addresses of host and forgets those it has no more.
func (f *Fabric) bind(host string, public addr.ByFamily[netip.Addr]) {
	for a, h := range f.addresses {
		if h == host {
			delete(f.addresses, a)
		}
	}
	for _, a := range publics(public) {
		f.addresses[a] = host
	}
}

// Release implements lease.Store.
func (h *Host) Release(ctx context.Context, held lease.Held) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	f := h.fabric
	f.mu.Lock()
	defer f.mu.Unlock()
	key := subnetkey.Format(held.Subnets)
	if l, ok := f.find(key); !ok || l.Modified != int64(held.Token) {
		return fmt.Errorf("release %s: %w", key, lease.ErrTaken)
	}
	f.remove(key)
	owns := func(l *lease.Lease) bool { return l.Owner == h.id }
	if !slices.ContainsFunc(f.leases, owns) {
		f.bind(h.id, addr.ByFamily[netip.Addr]{})
	}
	return nil
}
