package etcd

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/flannel-ng/flannel-ng/internal/store/etcd/kv"
)

// requestTimeout bounds one request. A server that takes longer is as good as
// gone; what it did is found out by reading again.
const requestTimeout = 5 * time.Second

// pageSize bounds the answers to lists, and with them the memory of both sides.
const pageSize = 1000

// Client is a connection to etcd together with the key prefix of one fabric.
type Client struct {
	conn    kv.Conn
	prefix  string // without a slash at its end
	warning string // what an operator should know of the connection, or ""
	servers string // where Dial looks for etcd, for people
}

// NewClient makes a client of a connection that the caller keeps.
func NewClient(conn kv.Conn, prefix string) *Client {
	return &Client{conn: conn, prefix: strings.TrimRight(prefix, "/")}
}

// Close ends a connection that Dial made.
func (c *Client) Close() error {
	if closer, ok := c.conn.(io.Closer); ok {
		return closer.Close()
	}
	return nil
}

// full is the key in etcd; the rest of the package names keys without prefix.
func (c *Client) full(key string) string { return c.prefix + "/" + key }

// watched is what every host follows: one range, so that a lease and its owner
// are never seen apart.
func (c *Client) watched() kv.Span { return kv.Span{Key: c.full(watchFrom), End: c.full(watchTo)} }

// identity names the fabric across clusters.
func (c *Client) identity(cluster uint64) string {
	return fmt.Sprintf("%x/%s", cluster, strings.TrimLeft(c.prefix, "/"))
}

// table is the content of the fabric, or a part of it, at one revision, by key
// without prefix.
type table struct {
	kv.Header
	entries map[string]kv.Entry
}

// load reads everything.
func (c *Client) load(ctx context.Context) (table, error) {
	t := table{entries: map[string]kv.Entry{}}
	err := c.page(ctx, kv.Query{Span: kv.Prefix(c.full("")), Limit: pageSize}, func(h kv.Header, es []kv.Entry) {
		if t.Rev == 0 {
			t.Header = h
		}
		for _, e := range es {
			t.entries[c.relative(e.Key)] = e
		}
	})
	return t, err
}

// page reads q in pages of one revision, that of the first answer's header
// unless q names one, and hands each to take.
func (c *Client) page(ctx context.Context, q kv.Query, take func(kv.Header, []kv.Entry)) error {
	for {
		r, err := c.read(ctx, q)
		if err != nil {
			return err
		}
		take(r.Header, r.Entries)
		if len(r.Entries) < q.Limit {
			return nil
		}
		if q.Rev == 0 {
			q.Rev = r.Rev
		}
		q.Key = r.Entries[len(r.Entries)-1].Key + "\x00"
	}
}

func (c *Client) read(ctx context.Context, q kv.Query) (kv.RangeResult, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	r, err := c.conn.Range(ctx, q)
	if err != nil {
		return kv.RangeResult{}, fmt.Errorf("list %s: %w", q.Key, err)
	}
	return r, nil
}

// listing is the beginning of a list.
type listing struct {
	kv.Header
	config  []byte     // nil: there is none
	session int64      // revision of the session's last write; 0: there is none
	leases  []kv.Entry // the first page of the watched range
}

// first reads the first page of what every host follows, and beside it, at the
// same revision, what it follows besides.
func (c *Client) first(ctx context.Context, session string) (listing, error) {
	r, err := c.txn(ctx, kv.Txn{Then: []kv.Op{
		{Action: kv.Get, Span: kv.Span{Key: watchFrom, End: watchTo}, Limit: pageSize},
		{Action: kv.Get, Span: kv.One(configKey)},
		{Action: kv.Get, Span: kv.One(session)},
	}})
	if err != nil {
		return listing{}, fmt.Errorf("list %s: %w", c.full(""), err)
	}
	l := listing{Header: r.Header, leases: r.Results[0]}
	for _, e := range r.Results[1] {
		l.config = []byte(e.Value)
	}
	for _, e := range r.Results[2] {
		l.session = e.Mod
	}
	return l, nil
}

// rest reads the pages after the first.
func (c *Client) rest(ctx context.Context, l listing, take func(kv.Header, []kv.Entry)) error {
	if len(l.leases) < pageSize {
		return nil
	}
	q := kv.Query{Span: c.watched(), Rev: l.Rev, Limit: pageSize}
	q.Key = l.leases[len(l.leases)-1].Key + "\x00"
	return c.page(ctx, q, take)
}

// look reads what lies in spans, without prefix, at one revision.
func (c *Client) look(ctx context.Context, spans []kv.Span) (table, error) {
	t := table{entries: map[string]kv.Entry{}}
	gets := make([]kv.Op, len(spans))
	for i, s := range spans {
		gets[i] = kv.Op{Action: kv.Get, Span: s}
	}
	r, err := c.txn(ctx, kv.Txn{Then: gets})
	if err != nil {
		return t, fmt.Errorf("read %s: %w", c.full(spans[0].Key), err)
	}
	t.Header = r.Header
	for _, es := range r.Results {
		for _, e := range es {
			t.entries[c.relative(e.Key)] = e
		}
	}
	return t, nil
}

func (c *Client) relative(key string) string { return strings.TrimPrefix(key, c.full("")) }

// txn runs t, whose keys are without prefix.
func (c *Client) txn(ctx context.Context, t kv.Txn) (kv.TxnResult, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	full := kv.Txn{Then: c.fullOps(t.Then), Else: c.fullOps(t.Else)}
	for _, cmp := range t.If {
		cmp.Span = c.fullSpan(cmp.Span)
		full.If = append(full.If, cmp)
	}
	return c.conn.Txn(ctx, full)
}

func (c *Client) fullOps(ops []kv.Op) []kv.Op {
	out := make([]kv.Op, len(ops))
	for i, op := range ops {
		op.Span = c.fullSpan(op.Span)
		out[i] = op
	}
	return out
}

func (c *Client) fullSpan(s kv.Span) kv.Span {
	s.Key = c.full(s.Key)
	if s.End != "" {
		s.End = c.full(s.End)
	}
	return s
}

func (c *Client) get(ctx context.Context, key string) (kv.Entry, error) {
	r, err := c.read(ctx, kv.Query{Span: kv.One(c.full(key))})
	if err != nil {
		return kv.Entry{}, err
	}
	if len(r.Entries) == 0 {
		return kv.Entry{}, nil
	}
	return r.Entries[0], nil
}

func (c *Client) grant(ctx context.Context, ttl time.Duration) (kv.LeaseID, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	id, err := c.conn.Grant(ctx, ttl)
	if err != nil {
		return 0, fmt.Errorf("grant of %s: %w", ttl, err)
	}
	return id, nil
}

// revoke ends a grant that nobody needs. It also runs when ctx has ended, and
// its failure is no error: an unused grant expires by itself.
func (c *Client) revoke(ctx context.Context, id kv.LeaseID) {
	if id == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), requestTimeout)
	defer cancel()
	_ = c.conn.Revoke(ctx, id)
}

func put(key, value string, grant kv.LeaseID) kv.Op {
	return kv.Op{Action: kv.Put, Span: kv.One(key), Value: value, Lease: grant}
}

func remove(key string) kv.Op { return kv.Op{Action: kv.Delete, Span: kv.One(key)} }

// Conn is the connection itself, for what the lease store does not do.
func (c *Client) Conn() kv.Conn { return c.conn }
