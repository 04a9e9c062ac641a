// Package kv is the small part of etcd v3 that the lease store is written
// over: plain values and three narrow interfaces.
//
// It owns nothing, does no I/O and never names a type of etcd's client, so
// that a deterministic fake can stand in for a cluster. Called by the etcd
// store; implemented by its client adapter and by the fake.
package kv

import (
	"context"
	"errors"
	"time"
)

// LeaseID names an etcd lease ("grant"). Zero is no lease.
type LeaseID int64

// Entry is a key with its value and history (etcd's KeyValue).
type Entry struct {
	Key, Value string
	// Create and Mod are the revisions of the key's creation and last write;
	// Version counts writes since creation. A deleted key has only Mod.
	Create, Mod, Version int64
	Lease                LeaseID
}

// Span is the range [Key, End); an empty End means Key alone.
type Span struct{ Key, End string }

// One is the span of a single key.
func One(key string) Span { return Span{Key: key} }

// Prefix is the span of all keys that start with p, which must not be empty
// and not end in 0xff.
func Prefix(p string) Span {
	return Span{Key: p, End: p[:len(p)-1] + string([]byte{p[len(p)-1] + 1})}
}

// Contains says whether key lies in s.
func (s Span) Contains(key string) bool {
	if s.End == "" {
		return key == s.Key
	}
	return s.Key <= key && key < s.End
}

// Query asks for what lies in a span.
type Query struct {
	Span
	// Rev is the revision to read at; 0 is now. ErrCompacted if it is gone.
	Rev int64
	// Limit is the most entries to give, the first by key; 0 is no limit.
	Limit int
}

// Target is what a comparison looks at.
type Target uint8

// The targets. On an absent key the revisions, version and lease are zero; a
// comparison of its Value is false.
const (
	Create Target = iota + 1
	Mod
	Version
	Lease
	Value
)

// Relation is how a comparison compares.
type Relation uint8

// The relations.
const (
	Equal Relation = iota + 1
	NotEqual
	Less
	Greater
)

// Cmp is one condition of a transaction. It holds if every key of Span
// satisfies it; a range without keys counts as one absent key.
type Cmp struct {
	Span
	Target   Target
	Relation Relation
	Num      int64  // for Create, Mod, Version, Lease
	Text     string // for Value
}

// Absent holds if s has no key.
func Absent(s Span) Cmp { return Cmp{Span: s, Target: Create, Relation: Equal} }

// Unchanged holds if key was last written at mod; zero means absent.
func Unchanged(key string, mod int64) Cmp {
	return Cmp{Span: One(key), Target: Mod, Relation: Equal, Num: mod}
}

// Action is what an operation does.
type Action uint8

// The actions.
const (
	Get Action = iota + 1
	Put
	Delete
)

// Op is one operation of a transaction. Put needs a single key.
type Op struct {
	Span
	Action Action
	Limit  int     // Get; as in Query
	Value  string  // Put
	Lease  LeaseID // Put; zero: none
}

// Txn runs Then if all of If hold, otherwise Else, as one revision. No key may
// be written twice.
type Txn struct {
	If         []Cmp
	Then, Else []Op
}

// Header tells which cluster answered, and its revision at that moment.
type Header struct {
	Cluster uint64
	Rev     int64
}

// RangeResult is what lies in a span, sorted by key.
type RangeResult struct {
	Header  // of now, also for an older revision
	Entries []Entry
}

// TxnResult is the outcome of a transaction.
type TxnResult struct {
	Header
	OK bool // the conditions held
	// Results has one element per operation: what a Get found, else nil.
	Results [][]Entry
}

// Event is a change of one key.
type Event struct {
	Deleted bool
	Entry   Entry // of a deleted key only Key and Mod
}

// Batch is one message of a watch. It holds whole revisions only. Without
// events it is a sign of life. With Err it is the last.
type Batch struct {
	Header
	Events []Event
	Err    error
}

// KV reads and writes keys. A Txn that returns an error may or may not have
// been applied.
type KV interface {
	Range(ctx context.Context, q Query) (RangeResult, error)
	Txn(ctx context.Context, t Txn) (TxnResult, error)
}

// Leases manages grants. An id that does not exist (any more) is
// ErrLeaseNotFound.
type Leases interface {
	// Grant rounds ttl up to whole seconds; the server may grant more.
	Grant(ctx context.Context, ttl time.Duration) (LeaseID, error)
	Revoke(ctx context.Context, id LeaseID) error
	KeepAliveOnce(ctx context.Context, id LeaseID) error
	// TimeToLive is the time that is left.
	TimeToLive(ctx context.Context, id LeaseID) (time.Duration, error)
}

// Watcher follows changes.
type Watcher interface {
	// Watch delivers every change in s from revision from on. A broken
	// connection may end it, or leave it silent. The channel is closed after a
	// batch with Err, and when ctx ends.
	Watch(ctx context.Context, s Span, from int64) <-chan Batch
	// Progress asks for a sign of life on the running watches.
	Progress(ctx context.Context) error
}

// Conn is a connection to etcd.
type Conn interface {
	KV
	Leases
	Watcher
}

// What callers need to tell apart.
var (
	ErrCompacted     = errors.New("revision was compacted")
	ErrLeaseNotFound = errors.New("etcd lease not found")
	ErrUnavailable   = errors.New("etcd is not available")
)
