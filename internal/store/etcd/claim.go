package etcd

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/flannel-ng/flannel-ng/internal/lease"
	"github.com/flannel-ng/flannel-ng/internal/store/etcd/kv"
)

const (
	// claimTimeout bounds a claim or release with all its retries.
	claimTimeout = 30 * time.Second
	// claimTries bounds the rounds that a claim loses to other writers.
	claimTries = 16
	// verifyPatience is how long the watch may take to show our own write.
	verifyPatience = 2 * time.Second

	retryFirst = 100 * time.Millisecond
	retryLast  = 2 * time.Second
)

var (
	errNoSubnet = errors.New("claim without a subnet")
	errNoPublic = errors.New("claim without a public address")
	errContest  = errors.New("others kept writing the same keys")
)

// attempt is one Claim on its way.
type attempt struct {
	store *Store
	claim lease.Claim
	value string
	start time.Time // before the grant was asked for
	grant kv.LeaseID
	sent  bool       // a write went out whose outcome is not known
	bound bool       // it was applied: keys of ours live on the grant
	old   kv.LeaseID // the grant that the lease was on before
}

// Claim implements lease.Store.
func (s *Store) Claim(ctx context.Context, c lease.Claim) (lease.Held, error) {
	value, err := check(&c)
	if err != nil {
		return lease.Held{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, claimTimeout)
	defer cancel()
	a := &attempt{store: s, claim: c, value: value}
	retry := backoff{first: retryFirst, last: retryLast, dice: s.dice}
	for range claimTries {
		held, err := a.round(ctx)
		switch {
		case err == nil:
			return held, nil
		case errors.Is(err, errAgain):
			retry.attempts = 0
			continue
		case final(err), !a.sent:
			s.distrust(c, err)
			// The fresh grant takes with it whatever of ours may still land.
			// What landed and was then parted from its lease by an operator
			// stays: the claims bind the subnet to us until we come back.
			if !a.bound {
				s.client.revoke(ctx, a.grant)
			}
			return lease.Held{}, err
		}
		if retry.wait(ctx) != nil {
			// Not known. The grant stays: if the write was applied, the lease
			// lives on it and the picture will show it as ours.
			return lease.Held{}, err
		}
	}
	if !a.sent {
		s.client.revoke(ctx, a.grant)
	}
	return lease.Held{}, fmt.Errorf("claim %s: %w", FormatKey(c.Subnets), errContest)
}

// distrust has the picture read anew if it gave the caller a token that is not
// true. A watch over a store that was restored, and has since passed the
// picture's revision again, is silent about what it lost.
func (s *Store) distrust(c lease.Claim, err error) {
	if c.Token == 0 || !errors.Is(err, lease.ErrTaken) {
		return
	}
	s.reread()
}

// check refuses what cannot be written and brings the extra into the form in
// which it is kept.
func check(c *lease.Claim) (value string, err error) {
	switch {
	case len((lease.Lease{Subnets: c.Subnets}).Prefixes()) == 0:
		return "", errNoSubnet
	case len(addresses(c.Public)) == 0:
		return "", errNoPublic
	}
	if c.Offer.Extra, err = lease.FormatExtra(c.Offer.Extra); err != nil {
		return "", err
	}
	return FormatValue(c.Public, c.Offer)
}

// errAgain says that the picture changed under the transaction.
var errAgain = errors.New("read again")

// final says whether reading again would give the same answer.
func final(err error) bool {
	return errors.Is(err, lease.ErrTaken) || errors.Is(err, lease.ErrDuplicate) || errors.Is(err, ErrIdentity)
}

// round reads, plans and writes once. After a write without an answer the next
// round finds out, from the grant that the key carries, what became of it.
func (a *attempt) round(ctx context.Context) (lease.Held, error) {
	s := a.store
	fence, err := s.session.ensure(ctx, addresses(a.claim.Public))
	if err != nil {
		return lease.Held{}, err
	}
	p, err := s.sight(ctx, a.claim.Subnets, a.claim.Public)
	if err != nil {
		return lease.Held{}, err
	}
	a.bound = a.sent && p.carries(a.grant)
	pl, err := newPlan(p, s.options.HostID, a.claim)
	if a.sent && a.landed(p, pl) {
		s.client.revoke(ctx, a.old)
		return a.finish(ctx, p.entries[pl.key])
	}
	if err != nil {
		return lease.Held{}, err
	}
	if p.entries[s.session.key].Mod != fence {
		s.session.suspect(fence)
		return lease.Held{}, errAgain
	}
	return a.write(ctx, pl, fence)
}

// landed says whether the key in the picture is what we wrote. A reservation
// has no grant to know it by: our write is one that wrote the claims with it.
// An operator may have put our value back without them.
func (a *attempt) landed(p *picture, pl plan) bool {
	if pl.reserved {
		keys := claimKeys(a.claim.Subnets)
		whole := !slices.ContainsFunc(keys, func(key string) bool {
			h := p.holders[key]
			return h.mod != pl.old.Mod || h.host != a.store.options.HostID
		})
		return whole && p.holders[keys[0]].extra == a.claim.Offer.Extra && pl.old.Mod > int64(a.claim.Token) && pl.old.Value == a.value
	}
	return a.grant != 0 && pl.old.Lease == a.grant
}

func (a *attempt) write(ctx context.Context, pl plan, fence int64) (lease.Held, error) {
	s := a.store
	if !pl.reserved && a.grant == 0 {
		var err error
		a.start = time.Now()
		if a.grant, err = s.client.grant(ctx, s.options.LeaseTTL); err != nil {
			return lease.Held{}, err
		}
	}
	grant := a.grant
	if pl.reserved {
		grant = 0
	}
	a.old = pl.old.Lease
	t := pl.txn(a.value, grant)
	t.If = append(t.If, kv.Unchanged(s.session.key, fence))
	r, err := s.client.txn(ctx, t)
	if err != nil {
		a.sent = true
		return lease.Held{}, fmt.Errorf("write %s: %w", pl.key, err)
	}
	if !r.OK {
		return lease.Held{}, errAgain
	}
	s.client.revoke(ctx, a.old)
	written := kv.Entry{Key: pl.key, Value: a.value, Create: pl.old.Create, Mod: r.Rev, Version: pl.old.Version + 1, Lease: grant}
	if written.Create == 0 {
		written.Create = r.Rev
	}
	return a.finish(ctx, written)
}

// finish verifies a new lease against hosts that write without asking.
func (a *attempt) finish(ctx context.Context, e kv.Entry) (lease.Held, error) {
	s := a.store
	h := lease.Held{
		Lease: lease.Lease{
			Key: FormatKey(a.claim.Subnets), Subnets: a.claim.Subnets,
			Public: a.claim.Public, Offer: a.claim.Offer, Owner: s.options.HostID,
			Reserved: e.Lease == 0, Created: e.Create, Modified: e.Mod,
		},
		Token: lease.Token(e.Mod),
	}
	if !h.Reserved {
		h.Expires = a.start.Add(s.options.LeaseTTL)
	}
	// Version 1 was created and perhaps never verified: its writer may have
	// died in between. A reservation is the operator's word.
	if !h.Reserved && e.Version <= 2 {
		if err := s.verify(ctx, h, e.Lease); err != nil {
			return lease.Held{}, err
		}
	}
	return h, nil
}

// verify yields to a lease that was there first: a plain flannel writes
// without asking, so its twin may have come between our reading and our write.
func (s *Store) verify(ctx context.Context, h lease.Held, grant kv.LeaseID) error {
	e, ok := s.shared.judge(ctx, h, verifyPatience)
	if !ok {
		p, err := s.readUntil(ctx)
		if err != nil {
			return fmt.Errorf("verify %s: %w", h.Key, err)
		}
		e = p.judge(h)
	}
	if e.mod != int64(h.Token) {
		// Unless an operator made it a reservation: then it is still ours, by
		// the claims on this grant.
		if e.owner != s.options.HostID {
			s.client.revoke(ctx, grant)
		}
		return fmt.Errorf("%s was overwritten: %w", h.Key, lease.ErrTaken)
	}
	if e.rival == nil {
		return nil
	}
	if err := s.undo(ctx, h); err != nil {
		return err
	}
	return fmt.Errorf("%s of %s was there before %s: %w", e.rival.Key, e.rival.Node(), h.Key, lease.ErrTaken)
}

func (s *Store) undo(ctx context.Context, h lease.Held) error {
	p, err := s.sight(ctx, h.Subnets, h.Public)
	if err != nil {
		return err
	}
	gone, grant := leaving(p, s.options.HostID, subnetsDir+h.Key)
	_, err = s.client.txn(ctx, kv.Txn{If: []kv.Cmp{kv.Unchanged(subnetsDir+h.Key, int64(h.Token))}, Then: gone})
	s.client.revoke(ctx, grant)
	if err != nil {
		return fmt.Errorf("take back %s: %w", h.Key, err)
	}
	return nil
}

func (s *Store) read(ctx context.Context) (*picture, error) {
	t, err := s.client.load(ctx)
	if err != nil {
		return nil, err
	}
	return newPicture(t), nil
}

func (s *Store) readUntil(ctx context.Context) (*picture, error) {
	retry := backoff{first: retryFirst, last: retryLast, dice: s.dice}
	for {
		p, err := s.read(ctx)
		if err == nil {
			return p, nil
		}
		if retry.wait(ctx) != nil {
			return nil, err
		}
	}
}

// Release implements lease.Store.
func (s *Store) Release(ctx context.Context, h lease.Held) error {
	ctx, cancel := context.WithTimeout(ctx, claimTimeout)
	defer cancel()
	key := subnetsDir + FormatKey(h.Subnets)
	retry := backoff{first: retryFirst, last: retryLast, dice: s.dice}
	sent := false
	for range claimTries {
		err := s.releaseOnce(ctx, key, h, &sent)
		switch {
		case err == nil, final(err):
			return err
		case errors.Is(err, errAgain):
			continue
		}
		if retry.wait(ctx) != nil {
			return err
		}
	}
	return fmt.Errorf("release %s: %w", h.Key, errContest)
}

func (s *Store) releaseOnce(ctx context.Context, key string, h lease.Held, sent *bool) error {
	fence, err := s.session.ensure(ctx, addresses(h.Public))
	if err != nil {
		return err
	}
	p, err := s.sight(ctx, h.Subnets, h.Public)
	if err != nil {
		return err
	}
	if e, ok := p.entries[key]; !ok && *sent {
		return nil
	} else if e.Mod != int64(h.Token) {
		return fmt.Errorf("release %s: %w", h.Key, lease.ErrTaken)
	}
	if p.entries[s.session.key].Mod != fence {
		s.session.suspect(fence)
		return errAgain
	}
	gone, grant := leaving(p, s.options.HostID, key)
	r, err := s.client.txn(ctx, kv.Txn{
		If:   []kv.Cmp{kv.Unchanged(key, int64(h.Token)), kv.Unchanged(s.session.key, fence)},
		Then: gone,
	})
	if err != nil {
		*sent = true
		return fmt.Errorf("release %s: %w", h.Key, err)
	}
	if !r.OK {
		return errAgain
	}
	s.client.revoke(ctx, grant)
	return nil
}
