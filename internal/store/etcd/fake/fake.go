// Package fake is a deterministic etcd in memory: revisions, transactions with
// range compares, leases that expire on the time package's clock (and so under
// testing/synctest), compaction and watches, with faults on demand.
//
// It owns no file and no socket and is never part of a program. Called by
// tests and by the schedule explorer.
package fake

import (
	"cmp"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/flannel-ng/flannel-ng/internal/store/etcd/kv"
)

// revision is one committed transaction.
type revision struct {
	rev    int64
	events []kv.Event
	before []kv.Entry // of each event's key; Version 0: it was absent
}

type grant struct {
	ttl     time.Duration
	expires time.Time
	timer   *time.Timer
}

// Server is one cluster. Make a Client for each simulated host.
type Server struct {
	mu        sync.Mutex
	cluster   uint64
	rev       int64
	compacted int64 // watches below this revision fail
	entries   map[string]kv.Entry
	before    []kv.Entry // what the events of the next revision replace
	log       []revision // ascending, everything above compacted
	grants    map[kv.LeaseID]*grant
	lastGrant kv.LeaseID
	watches   map[*watch]struct{}
	hook      Hook
	batch     int // revisions per watch message, 0 = no limit
	leader    bool
	observer  func(Commit)
	actor     string // the client whose request is being applied
}

// Commit is a change as an observer sees it.
type Commit struct {
	Client string // who asked for it, "" for an expiry
	Rev    int64
	Events []kv.Event
}

// NewServer starts an empty cluster at revision 1, as etcd does.
func NewServer() *Server {
	return &Server{
		cluster: 0xc1, rev: 1, leader: true,
		entries: map[string]kv.Entry{},
		grants:  map[kv.LeaseID]*grant{},
		watches: map[*watch]struct{}{},
	}
}

// Close stops every expiry timer, and ends all watches with ErrUnavailable.
func (s *Server) Close() {
	s.mu.Lock()
	for _, g := range s.grants {
		g.timer.Stop()
	}
	s.grants = map[kv.LeaseID]*grant{}
	s.mu.Unlock()
	s.CancelWatches()
}

// SetHook installs h for all requests from now on; nil removes it.
func (s *Server) SetHook(h Hook) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hook = h
}

// SetObserver shows f every change in order, at the moment it is applied. f
// runs under the server's lock and must not call the server.
func (s *Server) SetObserver(f func(Commit)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.observer = f
}

// SetWatchBatch limits a watch message to n revisions; 0 is no limit. A lagging
// watch then gets its backlog in pieces, as from etcd.
func (s *Server) SetWatchBatch(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.batch = n
}

// SetLeader takes the leader away (requests fail, watches are cancelled) or
// gives it back.
func (s *Server) SetLeader(ok bool) {
	s.mu.Lock()
	s.leader = ok
	s.mu.Unlock()
	if !ok {
		s.CancelWatches()
	}
}

// CancelWatches ends every running watch with ErrUnavailable.
func (s *Server) CancelWatches() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for w := range s.watches {
		w.err = kv.ErrUnavailable
		w.wake()
	}
}

// Compact forgets the history up to and including rev: a watch that still
// needs it is cancelled with ErrCompacted.
func (s *Server) Compact(rev int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.compacted = max(s.compacted, min(rev, s.rev))
	s.log = slices.DeleteFunc(s.log, func(r revision) bool { return r.rev <= s.compacted })
	s.wakeAll()
}

// Rev is the current revision.
func (s *Server) Rev() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.rev
}

// Entries is the whole content, sorted by key. It sees through cuts and hooks.
func (s *Server) Entries() []kv.Entry {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sorted(func(string) bool { return true })
}

// Expire ends a grant now, as if its time had run out.
func (s *Server) Expire(id kv.LeaseID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.drop(id)
}

// Backup is a copy of a cluster's keys for Restore.
type Backup struct {
	rev     int64
	entries map[string]kv.Entry
	ttls    map[kv.LeaseID]time.Duration
}

// Backup copies the keys and, as etcd does, the grants with their granted time
// to live.
func (s *Server) Backup() Backup {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := Backup{rev: s.rev, entries: maps.Clone(s.entries), ttls: map[kv.LeaseID]time.Duration{}}
	for id, g := range s.grants {
		b.ttls[id] = g.ttl
	}
	return b
}

// Restore puts the keys back, under another cluster id if cluster is not zero.
// The revision goes back with them; running watches stay, silent, as etcd's
// client resumes them. The grants of the backup start anew, later ones are
// gone.
func (s *Server) Restore(b Backup, cluster uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if cluster != 0 {
		s.cluster = cluster
	}
	s.rev, s.compacted, s.log = b.rev, b.rev, nil
	s.entries = maps.Clone(b.entries)
	for _, g := range s.grants {
		g.timer.Stop()
	}
	s.grants = map[kv.LeaseID]*grant{}
	for i, id := range slices.Sorted(maps.Keys(b.ttls)) {
		s.addGrant(id, b.ttls[id]+time.Duration(i)) // apart, so that they expire in order
	}
	s.wakeAll()
}

// Client makes a connection for the host called name, which hooks see.
func (s *Server) Client(name string) *Client { return &Client{server: s, name: name} }

func (s *Server) header() kv.Header { return kv.Header{Cluster: s.cluster, Rev: s.rev} }

func (s *Server) sorted(want func(key string) bool) []kv.Entry {
	var es []kv.Entry
	for k, e := range s.entries {
		if want(k) {
			es = append(es, e)
		}
	}
	slices.SortFunc(es, func(a, b kv.Entry) int { return cmp.Compare(a.Key, b.Key) })
	return es
}

func (s *Server) find(span kv.Span) []kv.Entry {
	if span.End != "" {
		return s.sorted(span.Contains)
	}
	if e, ok := s.entries[span.Key]; ok {
		return []kv.Entry{e}
	}
	return nil
}

// query is what a span holds, or held at an earlier revision.
func (s *Server) query(q kv.Query) ([]kv.Entry, error) {
	if q.Rev == 0 || q.Rev == s.rev {
		return limit(s.find(q.Span), q.Limit), nil
	}
	if q.Rev < s.compacted || q.Rev > s.rev {
		return nil, kv.ErrCompacted
	}
	then := &Server{entries: maps.Clone(s.entries)}
	for _, r := range slices.Backward(s.log) {
		if r.rev <= q.Rev {
			break
		}
		for _, e := range r.before {
			if then.entries[e.Key] = e; e.Version == 0 {
				delete(then.entries, e.Key)
			}
		}
	}
	return limit(then.find(q.Span), q.Limit), nil
}

func limit(es []kv.Entry, n int) []kv.Entry {
	if n > 0 && len(es) > n {
		return es[:n]
	}
	return es
}

func (s *Server) wakeAll() {
	for w := range s.watches {
		w.wake()
	}
}

// commit makes events one revision. The caller has given them Mod = rev+1.
func (s *Server) commit(events []kv.Event) {
	if len(events) == 0 {
		return
	}
	s.rev++
	s.log = append(s.log, revision{rev: s.rev, events: events, before: s.before})
	s.before = nil
	if s.observer != nil {
		s.observer(Commit{Client: s.actor, Rev: s.rev, Events: events})
	}
	s.wakeAll()
}

// Grants counts the leases that exist.
func (s *Server) Grants() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.grants)
}
