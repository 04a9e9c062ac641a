package fake

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/flannel-ng/flannel-ng/internal/store/etcd/kv"
)

func (s *Server) txn(t kv.Txn) (kv.TxnResult, error) {
	ok := !slices.ContainsFunc(t.If, func(c kv.Cmp) bool { return !s.holds(c) })
	ops := t.Then
	if !ok {
		ops = t.Else
	}
	if err := s.check(ops); err != nil {
		return kv.TxnResult{}, err
	}
	var events []kv.Event
	results := make([][]kv.Entry, len(ops))
	for i, op := range ops {
		switch op.Action {
		case kv.Get:
			results[i] = limit(s.find(op.Span), op.Limit)
		case kv.Put:
			events = append(events, s.put(op))
		case kv.Delete:
			events = append(events, s.remove(s.find(op.Span))...)
		}
	}
	s.commit(events)
	return kv.TxnResult{Header: s.header(), OK: ok, Results: results}, nil
}

// check refuses what etcd refuses before it applies anything.
func (s *Server) check(ops []kv.Op) error {
	var written []kv.Op
	for _, op := range ops {
		if op.Action == kv.Get {
			continue
		}
		if op.Action == kv.Put && op.Lease != 0 && s.grants[op.Lease] == nil {
			return fmt.Errorf("put %s: %w", op.Key, kv.ErrLeaseNotFound)
		}
		for _, w := range written {
			// Two deletes of one key are allowed, as in etcd.
			if (op.Action == kv.Put || w.Action == kv.Put) && (w.Contains(op.Key) || op.Contains(w.Key)) {
				return fmt.Errorf("duplicate key %s in transaction", op.Key)
			}
		}
		written = append(written, op)
	}
	return nil
}

func (s *Server) put(op kv.Op) kv.Event {
	e := s.entries[op.Key]
	e.Key = op.Key
	s.before = append(s.before, e)
	e.Value, e.Lease = op.Value, op.Lease
	e.Mod = s.rev + 1
	if e.Version == 0 {
		e.Create = e.Mod
	}
	e.Version++
	s.entries[op.Key] = e
	return kv.Event{Entry: e}
}

func (s *Server) remove(es []kv.Entry) []kv.Event {
	var events []kv.Event
	for _, e := range es {
		delete(s.entries, e.Key)
		s.before = append(s.before, e)
		events = append(events, kv.Event{Deleted: true, Entry: kv.Entry{Key: e.Key, Mod: s.rev + 1}})
	}
	return events
}

// holds follows etcd: every key of the range must satisfy c, and an empty
// range counts as one absent key.
func (s *Server) holds(c kv.Cmp) bool {
	es := s.find(c.Span)
	if len(es) == 0 {
		return c.Target != kv.Value && satisfies(c, kv.Entry{})
	}
	return !slices.ContainsFunc(es, func(e kv.Entry) bool { return !satisfies(c, e) })
}

func satisfies(c kv.Cmp, e kv.Entry) bool {
	var r int
	switch c.Target {
	case kv.Create:
		r = cmp.Compare(e.Create, c.Num)
	case kv.Mod:
		r = cmp.Compare(e.Mod, c.Num)
	case kv.Version:
		r = cmp.Compare(e.Version, c.Num)
	case kv.Lease:
		r = cmp.Compare(int64(e.Lease), c.Num)
	case kv.Value:
		r = cmp.Compare(e.Value, c.Text)
	}
	switch c.Relation {
	case kv.Equal:
		return r == 0
	case kv.NotEqual:
		return r != 0
	case kv.Less:
		return r < 0
	case kv.Greater:
		return r > 0
	default:
		return false
	}
}

func (s *Server) grantLease(ttl time.Duration) kv.LeaseID {
	s.lastGrant++
	s.addGrant(s.lastGrant, wholeSeconds(ttl))
	return s.lastGrant
}

func wholeSeconds(d time.Duration) time.Duration {
	return max(time.Second, (d + time.Second - 1).Truncate(time.Second))
}

func (s *Server) addGrant(id kv.LeaseID, ttl time.Duration) {
	g := &grant{ttl: ttl, expires: time.Now().Add(ttl)}
	g.timer = time.AfterFunc(ttl, func() { s.expired(id) })
	s.grants[id] = g
}

// expired runs when a timer fires. A keepalive may have moved the end since.
func (s *Server) expired(id kv.LeaseID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	g := s.grants[id]
	if g == nil {
		return
	}
	if left := time.Until(g.expires); left > 0 {
		g.timer.Reset(left)
		return
	}
	s.drop(id)
}

func (s *Server) keepAlive(id kv.LeaseID) error {
	g := s.grants[id]
	if g == nil {
		return kv.ErrLeaseNotFound
	}
	g.expires = time.Now().Add(g.ttl)
	g.timer.Reset(g.ttl)
	return nil
}

// drop ends a grant and deletes its keys as one revision, in key order.
func (s *Server) drop(id kv.LeaseID) bool {
	g := s.grants[id]
	if g == nil {
		return false
	}
	g.timer.Stop()
	delete(s.grants, id)
	attached := s.sorted(func(key string) bool { return s.entries[key].Lease == id })
	s.commit(s.remove(attached))
	return true
}
