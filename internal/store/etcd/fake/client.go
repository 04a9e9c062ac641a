package fake

import (
	"context"
	"time"

	"github.com/flannel-ng/flannel-ng/internal/store/etcd/kv"
)

// Method names a request for hooks.
type Method string

// The methods. Deliver is a watch message on its way to the client.
const (
	MethodRange     Method = "range"
	MethodTxn       Method = "txn"
	MethodGrant     Method = "grant"
	MethodRevoke    Method = "revoke"
	MethodKeepAlive Method = "keepalive"
	MethodTTL       Method = "ttl"
	MethodWatch     Method = "watch"
	MethodProgress  Method = "progress"
	MethodDeliver   Method = "deliver"
)

// Call is a request as a hook sees it.
type Call struct {
	Client string
	Method Method
	Txn    kv.Txn     // MethodTxn
	Span   kv.Span    // MethodRange, MethodWatch, MethodDeliver
	Lease  kv.LeaseID // MethodRevoke, MethodKeepAlive, MethodTTL
}

// Fault is what goes wrong with a request.
type Fault uint8

// The faults. All of them give the client ErrUnavailable.
const (
	NoFault Fault = iota
	// DropRequest: the server never sees it. For MethodDeliver: the watch is
	// cancelled.
	DropRequest
	// DropResponse: applied, but the client does not learn it.
	DropResponse
	// Late: the client gives up at once, and Effect.After later the request
	// is applied all the same.
	Late
)

// Effect is what a hook does to a request. MethodDeliver knows Before only.
type Effect struct {
	Before time.Duration // until the server applies it
	After  time.Duration // from then until the client has the answer
	Fault  Fault
}

// Hook decides what happens to a request. It runs on the caller's goroutine
// without any lock of the server.
type Hook func(Call) Effect

// giveUp is how long a request waits on a cut connection: gRPC's keepalive
// would have found out by then.
const giveUp = 10 * time.Second

// Client is the connection of one host. It implements kv.Conn.
type Client struct {
	server *Server
	name   string
	healed chan struct{} // not nil while cut; guarded by server.mu
}

// Cut parts this client from the server: requests and answers are lost,
// watches fall silent.
func (c *Client) Cut() {
	c.server.mu.Lock()
	defer c.server.mu.Unlock()
	if c.healed == nil {
		c.healed = make(chan struct{})
	}
}

// Heal ends a cut. Waiting requests go on, watches resume where they were.
func (c *Client) Heal() {
	c.server.mu.Lock()
	defer c.server.mu.Unlock()
	if c.healed != nil {
		close(c.healed)
		c.healed = nil
	}
	c.server.wakeAll()
}

func (c *Client) cut() <-chan struct{} {
	c.server.mu.Lock()
	defer c.server.mu.Unlock()
	return c.healed
}

// do carries one request to the server and its answer back. apply runs under
// the server's lock.
func (c *Client) do(ctx context.Context, call Call, apply func() error) error {
	effect := c.effect(call)
	if err := c.reach(ctx, effect); err != nil {
		return err
	}
	switch effect.Fault {
	case DropRequest:
		return kv.ErrUnavailable
	case Late:
		time.AfterFunc(effect.After, func() { _ = c.apply(apply) })
		return kv.ErrUnavailable
	case NoFault, DropResponse:
	}
	err := c.apply(apply)
	if waited := sleep(ctx, effect.After); waited != nil {
		return waited
	}
	if c.cut() != nil { // the answer was on its way when the link broke
		if waited := sleep(ctx, giveUp); waited != nil {
			return waited
		}
		return kv.ErrUnavailable
	}
	if effect.Fault == DropResponse {
		return kv.ErrUnavailable
	}
	return err
}

func (c *Client) effect(call Call) Effect {
	c.server.mu.Lock()
	hook := c.server.hook
	c.server.mu.Unlock()
	if hook == nil {
		return Effect{}
	}
	call.Client = c.name
	return hook(call)
}

// reach is the way to the server.
func (c *Client) reach(ctx context.Context, e Effect) error {
	if err := sleep(ctx, e.Before); err != nil {
		return err
	}
	healed := c.cut()
	if healed == nil {
		return nil
	}
	timer := time.NewTimer(giveUp)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return kv.ErrUnavailable
	case <-healed:
		return nil
	}
}

func (c *Client) apply(f func() error) error {
	c.server.mu.Lock()
	defer c.server.mu.Unlock()
	if !c.server.leader {
		return kv.ErrUnavailable
	}
	c.server.actor = c.name
	defer func() { c.server.actor = "" }()
	return f()
}

func sleep(ctx context.Context, d time.Duration) error {
	if err := ctx.Err(); err != nil || d <= 0 {
		return err
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// Range implements kv.KV.
func (c *Client) Range(ctx context.Context, q kv.Query) (kv.RangeResult, error) {
	var r kv.RangeResult
	err := c.do(ctx, Call{Method: MethodRange, Span: q.Span}, func() (err error) {
		r.Header = c.server.header()
		r.Entries, err = c.server.query(q)
		return err
	})
	if err != nil {
		return kv.RangeResult{}, err
	}
	return r, nil
}

// Txn implements kv.KV.
func (c *Client) Txn(ctx context.Context, t kv.Txn) (kv.TxnResult, error) {
	var r kv.TxnResult
	err := c.do(ctx, Call{Method: MethodTxn, Txn: t}, func() (err error) {
		r, err = c.server.txn(t)
		return err
	})
	if err != nil {
		return kv.TxnResult{}, err
	}
	return r, nil
}

// Grant implements kv.Leases.
func (c *Client) Grant(ctx context.Context, ttl time.Duration) (kv.LeaseID, error) {
	var id kv.LeaseID
	err := c.do(ctx, Call{Method: MethodGrant}, func() error {
		id = c.server.grantLease(ttl)
		return nil
	})
	if err != nil {
		return 0, err
	}
	return id, nil
}

// Revoke implements kv.Leases.
func (c *Client) Revoke(ctx context.Context, id kv.LeaseID) error {
	return c.do(ctx, Call{Method: MethodRevoke, Lease: id}, func() error {
		if !c.server.drop(id) {
			return kv.ErrLeaseNotFound
		}
		return nil
	})
}

// KeepAliveOnce implements kv.Leases.
func (c *Client) KeepAliveOnce(ctx context.Context, id kv.LeaseID) error {
	return c.do(ctx, Call{Method: MethodKeepAlive, Lease: id}, func() error {
		return c.server.keepAlive(id)
	})
}

// TimeToLive implements kv.Leases.
func (c *Client) TimeToLive(ctx context.Context, id kv.LeaseID) (time.Duration, error) {
	var left time.Duration
	err := c.do(ctx, Call{Method: MethodTTL, Lease: id}, func() error {
		g := c.server.grants[id]
		if g == nil {
			return kv.ErrLeaseNotFound
		}
		left = time.Until(g.expires)
		return nil
	})
	if err != nil {
		return 0, err
	}
	return left, nil
}
