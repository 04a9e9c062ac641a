// Package kvtest is the conformance suite of the kv seam: what the lease store
// relies on, run against a real etcd and against the fake.
//
// It owns no server and never sleeps for a fixed time. Called by the tests of
// the fake and of the client adapter.
package kvtest

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/flannel-ng/flannel-ng/internal/store/etcd/kv"
)

// Cluster is the etcd under test.
type Cluster struct {
	// Conn connects to an empty cluster.
	Conn func(t *testing.T) kv.Conn
	// Compact forgets the history up to and including rev.
	Compact func(t *testing.T, rev int64)
	// Patience bounds every wait.
	Patience time.Duration
	// ShortTTL is the shortest grant that the cluster gives.
	ShortTTL time.Duration
}

// Run runs the suite. Each case uses its own key prefix.
func Run(t *testing.T, c Cluster) {
	t.Helper()
	for _, tc := range []struct {
		name string
		run  func(t *testing.T, e env)
	}{
		{"history of a key", testHistory},
		{"range", testRange},
		{"range in pages of one revision", testPages},
		{"compare revisions", testCompareRevisions},
		{"compare values", testCompareValues},
		{"compare a range", testCompareRange},
		{"branches", testBranches},
		{"one revision per transaction", testAtomic},
		{"duplicate write refused", testDuplicateWrite},
		{"revoke deletes", testRevoke},
		{"rewrite moves a key to another grant", testMoveGrant},
		{"unknown grant", testUnknownGrant},
		{"grant expires", testExpiry},
		{"keepalive", testKeepAlive},
		{"time to live", testTimeToLive},
		{"watch from a revision", testWatchFrom},
		{"watch a range only", testWatchSpan},
		{"watch deletes", testWatchDelete},
		{"watch ends with its context", testWatchContext},
		{"watch progress", testProgress},
		{"watch below compaction", testCompaction},
	} {
		t.Run(tc.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), c.Patience)
			defer cancel()
			tc.run(t, env{Cluster: c, Conn: c.Conn(t), ctx: ctx, p: "/kvtest/" + tc.name + "/"})
		})
	}
}

// env is one case's world.
type env struct {
	Cluster
	kv.Conn
	ctx context.Context //nolint:containedctx // lives as long as one test case
	p   string          // key prefix of this case
}

func (e env) key(name string) string { return e.p + name }

func (e env) txn(t *testing.T, x kv.Txn) kv.TxnResult {
	t.Helper()
	r, err := e.Txn(e.ctx, x)
	if err != nil {
		t.Fatalf("transaction: %v", err)
	}
	return r
}

func (e env) put(t *testing.T, name, value string, lease kv.LeaseID) int64 {
	t.Helper()
	return e.txn(t, kv.Txn{Then: []kv.Op{e.putOp(name, value, lease)}}).Rev
}

func (e env) putOp(name, value string, lease kv.LeaseID) kv.Op {
	return kv.Op{Action: kv.Put, Span: kv.One(e.key(name)), Value: value, Lease: lease}
}

func (e env) deleteOp(name string) kv.Op {
	return kv.Op{Action: kv.Delete, Span: kv.One(e.key(name))}
}

func (e env) holds(t *testing.T, c kv.Cmp) bool {
	t.Helper()
	return e.txn(t, kv.Txn{If: []kv.Cmp{c}}).OK
}

func (e env) get(t *testing.T, name string) (kv.Entry, bool) {
	t.Helper()
	r, err := e.Range(e.ctx, kv.Query{Span: kv.One(e.key(name))})
	if err != nil {
		t.Fatalf("range: %v", err)
	}
	if len(r.Entries) == 0 {
		return kv.Entry{}, false
	}
	return r.Entries[0], true
}

func (e env) grant(t *testing.T, ttl time.Duration) kv.LeaseID {
	t.Helper()
	id, err := e.Grant(e.ctx, ttl)
	if err != nil || id == 0 {
		t.Fatalf("grant: id %d, %v", id, err)
	}
	return id
}

// next skips signs of life.
func (e env) next(t *testing.T, ch <-chan kv.Batch) kv.Batch {
	t.Helper()
	for {
		b, ok := <-ch
		if !ok {
			t.Fatal("watch ended")
		}
		if b.Err != nil {
			t.Fatalf("watch: %v", b.Err)
		}
		if len(b.Events) > 0 {
			return b
		}
	}
}

func testHistory(t *testing.T, e env) {
	r1 := e.put(t, "a", "1", 0)
	r2 := e.put(t, "a", "2", 0)
	got, _ := e.get(t, "a")
	if want := (kv.Entry{Key: e.key("a"), Value: "2", Create: r1, Mod: r2, Version: 2}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	e.txn(t, kv.Txn{Then: []kv.Op{e.deleteOp("a")}})
	if got, ok := e.get(t, "a"); ok {
		t.Errorf("deleted key is there: %+v", got)
	}
	r3 := e.put(t, "a", "3", 0)
	if got, _ := e.get(t, "a"); got.Create != r3 || got.Version != 1 {
		t.Errorf("recreated key: %+v, want create revision %d and version 1", got, r3)
	}
}

func testRange(t *testing.T, e env) {
	for _, k := range []string{"c", "a", "ab", "b"} {
		e.put(t, k, k, 0)
	}
	r, err := e.Range(e.ctx, kv.Query{Span: kv.Prefix(e.key("a"))})
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Entries) != 2 || r.Entries[0].Key != e.key("a") || r.Entries[1].Key != e.key("ab") {
		t.Errorf("prefix a: %+v", r.Entries)
	}
	if r.Cluster == 0 || r.Rev < r.Entries[1].Mod {
		t.Errorf("header %+v", r.Header)
	}
	r, err = e.Range(e.ctx, kv.Query{Span: kv.Prefix(e.key("zz"))})
	if err != nil || len(r.Entries) != 0 {
		t.Errorf("empty range: %+v, %v", r.Entries, err)
	}
}

func testPages(t *testing.T, e env) {
	for _, k := range []string{"c", "a", "b", "d"} {
		e.put(t, k, k, 0)
	}
	keys := func(es []kv.Entry) string {
		var text strings.Builder
		for _, entry := range es {
			text.WriteString(entry.Key[len(e.p):] + "=" + entry.Value + " ")
		}
		return text.String()
	}
	r, err := e.Range(e.ctx, kv.Query{Span: kv.Prefix(e.p), Limit: 2})
	if err != nil || keys(r.Entries) != "a=a b=b " {
		t.Fatalf("first page: %s, %v", keys(r.Entries), err)
	}
	e.put(t, "c", "later", 0)
	e.put(t, "e", "later", 0)
	e.txn(t, kv.Txn{Then: []kv.Op{{Action: kv.Delete, Span: kv.One(e.key("d"))}}})
	rest := kv.Query{Span: kv.Prefix(e.p), Rev: r.Rev, Limit: 5}
	rest.Key = e.key("b") + "\x00"
	then, err := e.Range(e.ctx, rest)
	if err != nil || keys(then.Entries) != "c=c d=d " || then.Rev <= r.Rev {
		t.Errorf("second page: %s at %d, %v", keys(then.Entries), then.Rev, err)
	}
	got := e.txn(t, kv.Txn{Then: []kv.Op{{Action: kv.Get, Span: kv.Prefix(e.p), Limit: 3}}})
	if keys(got.Results[0]) != "a=a b=b c=later " {
		t.Errorf("limited get: %s", keys(got.Results[0]))
	}
	e.Compact(t, got.Rev)
	if _, err := e.Range(e.ctx, rest); !errors.Is(err, kv.ErrCompacted) {
		t.Errorf("page of a revision that is gone: %v", err)
	}
}

func testCompareRevisions(t *testing.T, e env) {
	id := e.grant(t, time.Hour)
	create := e.put(t, "a", "1", 0)
	mod := e.put(t, "a", "2", id)
	at := func(target kv.Target, r kv.Relation, n int64) kv.Cmp {
		return kv.Cmp{Span: kv.One(e.key("a")), Target: target, Relation: r, Num: n}
	}
	for _, tc := range []struct {
		c    kv.Cmp
		want bool
	}{
		{at(kv.Create, kv.Equal, create), true},
		{at(kv.Create, kv.Equal, 0), false},
		{at(kv.Create, kv.NotEqual, 0), true},
		{at(kv.Mod, kv.Equal, mod), true},
		{at(kv.Mod, kv.Less, mod), false},
		{at(kv.Mod, kv.Less, mod+1), true},
		{at(kv.Mod, kv.Greater, create), true},
		{at(kv.Version, kv.Equal, 2), true},
		{at(kv.Lease, kv.Equal, int64(id)), true},
		{at(kv.Lease, kv.Equal, 0), false},
		{kv.Unchanged(e.key("a"), mod), true},
		{kv.Unchanged(e.key("none"), 0), true},
		{kv.Unchanged(e.key("none"), 1), false},
		{kv.Absent(kv.One(e.key("none"))), true},
	} {
		if got := e.holds(t, tc.c); got != tc.want {
			t.Errorf("%+v: %v, want %v", tc.c, got, tc.want)
		}
	}
}

func testCompareValues(t *testing.T, e env) {
	e.put(t, "a", "x", 0)
	is := func(name string, r kv.Relation, text string) kv.Cmp {
		return kv.Cmp{Span: kv.One(e.key(name)), Target: kv.Value, Relation: r, Text: text}
	}
	for _, tc := range []struct {
		c    kv.Cmp
		want bool
	}{
		{is("a", kv.Equal, "x"), true},
		{is("a", kv.Equal, "y"), false},
		{is("a", kv.NotEqual, "y"), true},
		{is("a", kv.Less, "y"), true},
		{is("none", kv.Equal, ""), false},
		{is("none", kv.NotEqual, "x"), false},
	} {
		if got := e.holds(t, tc.c); got != tc.want {
			t.Errorf("%+v: %v, want %v", tc.c, got, tc.want)
		}
	}
}

func testCompareRange(t *testing.T, e env) {
	span := kv.Prefix(e.key("10.5.1.0-24"))
	if !e.holds(t, kv.Absent(span)) {
		t.Error("empty range is not absent")
	}
	e.put(t, "10.5.1.0-24&fc00::-64", "", 0)
	if e.holds(t, kv.Absent(span)) {
		t.Error("the range compare did not see the twin")
	}
	first := e.put(t, "10.5.1.0-24", "", 0)
	before := kv.Cmp{Span: span, Target: kv.Mod, Relation: kv.Less, Num: first + 1}
	if !e.holds(t, before) {
		t.Error("every key is older than the next revision")
	}
	e.put(t, "10.5.1.0-24", "", 0)
	if e.holds(t, before) {
		t.Error("one newer key must fail the whole range")
	}
	value := kv.Cmp{Span: kv.Prefix(e.key("none")), Target: kv.Value, Relation: kv.NotEqual, Text: "x"}
	if e.holds(t, value) {
		t.Error("a value compare of an empty range must fail")
	}
}

func testBranches(t *testing.T, e env) {
	x := kv.Txn{
		If:   []kv.Cmp{kv.Absent(kv.One(e.key("a")))},
		Then: []kv.Op{e.putOp("a", "mine", 0)},
		Else: []kv.Op{{Action: kv.Get, Span: kv.One(e.key("a"))}},
	}
	if r := e.txn(t, x); !r.OK {
		t.Error("first create refused")
	}
	r := e.txn(t, x)
	if r.OK || len(r.Results) != 1 || len(r.Results[0]) != 1 || r.Results[0][0].Value != "mine" {
		t.Errorf("second create: %+v", r)
	}
	both := e.txn(t, kv.Txn{Then: []kv.Op{e.putOp("b", "1", 0), {Action: kv.Get, Span: kv.Prefix(e.p)}}})
	if len(both.Results) != 2 || both.Results[0] != nil || len(both.Results[1]) != 2 {
		t.Errorf("a get sees the puts before it: %+v", both.Results)
	}
}

func testAtomic(t *testing.T, e env) {
	e.put(t, "old", "", 0)
	r := e.txn(t, kv.Txn{Then: []kv.Op{e.putOp("a", "", 0), e.putOp("b", "", 0), e.deleteOp("old")}})
	a, _ := e.get(t, "a")
	b, _ := e.get(t, "b")
	if a.Mod != r.Rev || b.Mod != r.Rev {
		t.Errorf("revisions %d and %d, want both %d", a.Mod, b.Mod, r.Rev)
	}
	read := e.txn(t, kv.Txn{If: []kv.Cmp{kv.Absent(kv.One(e.key("a")))}, Then: []kv.Op{e.putOp("a", "", 0)}})
	if read.OK || read.Rev != r.Rev {
		t.Errorf("a refused transaction made revision %d, want %d", read.Rev, r.Rev)
	}
}

func testDuplicateWrite(t *testing.T, e env) {
	for name, ops := range map[string][]kv.Op{
		"put and put":    {e.putOp("a", "1", 0), e.putOp("a", "2", 0)},
		"delete and put": {e.deleteOp("a"), e.putOp("a", "2", 0)},
	} {
		if _, err := e.Txn(e.ctx, kv.Txn{Then: ops}); err == nil {
			t.Errorf("%s of one key was accepted", name)
		}
	}
	e.txn(t, kv.Txn{Then: []kv.Op{e.deleteOp("a"), e.deleteOp("a")}})
	if _, ok := e.get(t, "a"); ok {
		t.Error("a refused transaction left something")
	}
}

func testRevoke(t *testing.T, e env) {
	id := e.grant(t, time.Hour)
	e.put(t, "b", "", id)
	rev := e.put(t, "a", "", id)
	e.put(t, "kept", "", 0)
	ch := e.Watch(e.ctx, kv.Prefix(e.p), rev+2)
	if err := e.Revoke(e.ctx, id); err != nil {
		t.Fatal(err)
	}
	b := e.next(t, ch)
	var gone []string
	for _, ev := range b.Events {
		if ev.Deleted {
			gone = append(gone, ev.Entry.Key)
		}
	}
	slices.Sort(gone)
	if want := []string{e.key("a"), e.key("b")}; !slices.Equal(gone, want) {
		t.Errorf("one revision deleted %v, want %v", gone, want)
	}
	if err := e.Revoke(e.ctx, id); !errors.Is(err, kv.ErrLeaseNotFound) {
		t.Errorf("second revoke: %v", err)
	}
}

func testMoveGrant(t *testing.T, e env) {
	old, fresh := e.grant(t, time.Hour), e.grant(t, time.Hour)
	e.put(t, "a", "", old)
	e.put(t, "a", "", fresh)
	e.put(t, "b", "", old)
	e.put(t, "b", "", 0)
	if err := e.Revoke(e.ctx, old); err != nil {
		t.Fatal(err)
	}
	for name, lease := range map[string]kv.LeaseID{"a": fresh, "b": 0} {
		if got, ok := e.get(t, name); !ok || got.Lease != lease {
			t.Errorf("%s after revoking its old grant: %+v, %v", name, got, ok)
		}
	}
}

func testUnknownGrant(t *testing.T, e env) {
	const unknown = 0x7777
	_, err := e.Txn(e.ctx, kv.Txn{Then: []kv.Op{e.putOp("a", "", unknown)}})
	if !errors.Is(err, kv.ErrLeaseNotFound) {
		t.Errorf("put: %v", err)
	}
	if err := e.KeepAliveOnce(e.ctx, unknown); !errors.Is(err, kv.ErrLeaseNotFound) {
		t.Errorf("keepalive: %v", err)
	}
	if _, err := e.TimeToLive(e.ctx, unknown); !errors.Is(err, kv.ErrLeaseNotFound) {
		t.Errorf("time to live: %v", err)
	}
}

func testExpiry(t *testing.T, e env) {
	id := e.grant(t, e.ShortTTL)
	rev := e.put(t, "a", "", id)
	b := e.next(t, e.Watch(e.ctx, kv.Prefix(e.p), rev+1))
	if !b.Events[0].Deleted || b.Events[0].Entry.Key != e.key("a") {
		t.Errorf("event %+v", b.Events[0])
	}
	if err := e.KeepAliveOnce(e.ctx, id); !errors.Is(err, kv.ErrLeaseNotFound) {
		t.Errorf("keepalive of an expired grant: %v", err)
	}
}

func testKeepAlive(t *testing.T, e env) {
	id := e.grant(t, e.ShortTTL)
	e.put(t, "a", "", id)
	end := time.Now().Add(2 * e.ShortTTL)
	tick := time.NewTicker(e.ShortTTL / 4)
	defer tick.Stop()
	for time.Now().Before(end) {
		if err := e.KeepAliveOnce(e.ctx, id); err != nil {
			t.Fatal(err)
		}
		<-tick.C
	}
	if _, ok := e.get(t, "a"); !ok {
		t.Error("key is gone although its grant was kept alive")
	}
}

func testTimeToLive(t *testing.T, e env) {
	id := e.grant(t, time.Hour)
	left, err := e.TimeToLive(e.ctx, id)
	if err != nil || left > time.Hour || left < time.Hour-time.Minute {
		t.Errorf("left %v, %v", left, err)
	}
}

func testWatchFrom(t *testing.T, e env) {
	e.put(t, "a", "1", 0)
	from := e.put(t, "a", "2", 0)
	e.put(t, "b", "3", 0)
	ch := e.Watch(e.ctx, kv.Prefix(e.p), from)
	var got []string
	for len(got) < 3 {
		b := e.next(t, ch)
		for _, ev := range b.Events {
			got = append(got, ev.Entry.Value)
			if ev.Entry.Mod > b.Rev {
				t.Errorf("event at %d in a batch of %d", ev.Entry.Mod, b.Rev)
			}
		}
		if len(got) == 2 {
			e.put(t, "c", "4", 0)
		}
	}
	if want := []string{"2", "3", "4"}; !slices.Equal(got, want) {
		t.Errorf("values %v, want %v", got, want)
	}
}

func testWatchSpan(t *testing.T, e env) {
	from := e.put(t, "x/a", "1", 0)
	ch := e.Watch(e.ctx, kv.Prefix(e.key("x/")), from)
	e.put(t, "y/a", "other", 0)
	e.put(t, "x/b", "2", 0)
	var got []string
	for len(got) < 2 {
		for _, ev := range e.next(t, ch).Events {
			got = append(got, ev.Entry.Value)
		}
	}
	if want := []string{"1", "2"}; !slices.Equal(got, want) {
		t.Errorf("values %v, want %v", got, want)
	}
}

func testWatchDelete(t *testing.T, e env) {
	rev := e.put(t, "a", "1", 0)
	ch := e.Watch(e.ctx, kv.Prefix(e.p), rev+1)
	r := e.txn(t, kv.Txn{Then: []kv.Op{e.deleteOp("a"), e.putOp("b", "2", 0)}})
	b := e.next(t, ch)
	if len(b.Events) != 2 || b.Rev != r.Rev {
		t.Fatalf("one transaction must be one batch: %+v", b)
	}
	for _, ev := range b.Events {
		if ev.Deleted != (ev.Entry.Key == e.key("a")) || ev.Entry.Mod != r.Rev {
			t.Errorf("event %+v", ev)
		}
	}
}

func testWatchContext(_ *testing.T, e env) {
	ctx, cancel := context.WithCancel(e.ctx)
	ch := e.Watch(ctx, kv.Prefix(e.p), 0)
	cancel()
	for range ch {
	}
}

func testProgress(t *testing.T, e env) {
	rev := e.put(t, "a", "1", 0)
	ch := e.Watch(e.ctx, kv.Prefix(e.p), rev)
	e.next(t, ch)
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		// Again and again: etcd keeps silent while any watch is behind.
		if err := e.Progress(e.ctx); err != nil {
			t.Fatal(err)
		}
		select {
		case b := <-ch:
			if b.Err != nil || len(b.Events) != 0 || b.Rev < rev || b.Cluster == 0 {
				t.Errorf("sign of life: %+v", b)
			}
			return
		case <-tick.C:
		case <-e.ctx.Done():
			t.Fatal("no sign of life")
		}
	}
}

func testCompaction(t *testing.T, e env) {
	first := e.put(t, "a", "1", 0)
	last := e.put(t, "a", "2", 0)
	e.Compact(t, last)
	ch := e.Watch(e.ctx, kv.Prefix(e.p), first)
	b := <-ch
	for b.Err == nil && len(b.Events) == 0 && b.Rev > 0 { // a sign of life
		b = <-ch
	}
	if !errors.Is(b.Err, kv.ErrCompacted) {
		t.Errorf("got %+v, want ErrCompacted", b)
	}
	if _, ok := <-ch; ok {
		t.Error("channel is open after an error")
	}
}
