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

// span is everything of this fabric: one range and one watch, so that a lease
// and its owner are never seen apart.
func (c *Client) span() kv.Span { return kv.Prefix(c.full("")) }

// identity names the fabric across clusters.
func (c *Client) identity(cluster uint64) string {
	return fmt.Sprintf("%x/%s", cluster, strings.TrimLeft(c.prefix, "/"))
}

// table is the content of the fabric at one revision, by key without prefix.
type table struct {
	kv.Header
	entries map[string]kv.Entry
}

func (c *Client) load(ctx context.Context) (table, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	r, err := c.conn.Range(ctx, c.span())
	if err != nil {
		return table{}, fmt.Errorf("list %s: %w", c.full(""), err)
	}
	t := table{Header: r.Header, entries: make(map[string]kv.Entry, len(r.Entries))}
	for _, e := range r.Entries {
		t.entries[c.relative(e.Key)] = e
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
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	r, err := c.conn.Range(ctx, kv.One(c.full(key)))
	if err != nil {
		return kv.Entry{}, fmt.Errorf("read %s: %w", c.full(key), err)
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
