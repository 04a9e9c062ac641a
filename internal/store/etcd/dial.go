package etcd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	grpcbackoff "google.golang.org/grpc/backoff"
	"google.golang.org/grpc/connectivity"

	"github.com/flannel-ng/flannel-ng/internal/store/etcd/kv"
)

// This file is the only one that knows etcd's client.

const (
	dialKeepAlive        = 10 * time.Second // a dead peer is noticed after
	dialKeepAliveTimeout = 5 * time.Second  // the sum of the two

	// After an outage the next attempt comes within redialLast; gRPC's own
	// two minutes would keep a host out long after etcd is back.
	redialFirst = 100 * time.Millisecond
	redialLast  = 5 * time.Second
	// connectTimeout bounds one attempt, which a dead address may swallow. A
	// slow link needs its round trips; other addresses are tried beside.
	connectTimeout = 10 * time.Second
)

// ClientConfig says where etcd is and how to authenticate.
type ClientConfig struct {
	Endpoints []string // URLs, or host:port
	Prefix    string
	// CAFile, CertFile and KeyFile are PEM files; a CA alone is honoured.
	CAFile, CertFile, KeyFile string
	Username, Password        string
}

// NameFiles adds to an error of Dial the flags, by their common prefix, that the
// files came from: etcd's client does not know them, nor, of a file that is no
// certificate, its path.
func (c ClientConfig) NameFiles(err error, prefix string) error {
	var given []string
	for _, f := range [][2]string{{"cafile", c.CAFile}, {"certfile", c.CertFile}, {"keyfile", c.KeyFile}} {
		if f[1] != "" {
			given = append(given, prefix+f[0]+"="+f[1])
		}
	}
	if len(given) == 0 {
		return err
	}
	return fmt.Errorf("%w (%s)", err, strings.Join(given, ", "))
}

// LogValue implements slog.LogValuer: the password is not for logs.
func (c ClientConfig) LogValue() slog.Value {
	return slog.GroupValue(slog.Any("endpoints", c.Endpoints), slog.String("prefix", c.Prefix),
		slog.String("ca", c.CAFile), slog.String("cert", c.CertFile), slog.String("username", c.Username))
}

func (c ClientConfig) String() string { return c.LogValue().String() }

// GoString keeps the password out of %#v.
func (c ClientConfig) GoString() string { return c.String() }

var (
	errNoEndpoint = errors.New("no etcd endpoint")
	errUser       = errors.New("an etcd password needs a user name")
)

// Dial checks c and makes a client. It does not wait for etcd: the connection
// is made, and made again, when it is needed. TLS files beside a http endpoint
// are not used, as in flannel; a Store of the client warns of it. The caller
// closes the client.
func Dial(_ context.Context, c ClientConfig) (*Client, error) {
	config, files, err := c.checked()
	if err != nil {
		return nil, err
	}
	r := &remote{config: config, files: files, homes: newHomes()}
	r.config.DialOptions = append(r.config.DialOptions, grpc.WithTransportCredentials(resident{files.credentials(), r.homes}))
	if direct(c.Endpoints) {
		r.config.DialOptions = append(r.config.DialOptions, grpc.WithContextDialer(r.homes.dial))
	}
	client := NewClient(r, c.Prefix)
	client.warning, client.servers = c.plaintext(), strings.Join(c.Endpoints, ", ")
	return client, nil
}

// Checked is c in the words of etcd's client, for those who work on the
// cluster and not on what is in it.
func (c ClientConfig) Checked() (clientv3.Config, error) {
	config, _, err := c.checked()
	return config, err
}

// checked also returns who makes the TLS connections; nil without TLS.
func (c ClientConfig) checked() (clientv3.Config, *secure, error) {
	config, err := c.tls()
	switch {
	case err != nil:
		return clientv3.Config{}, nil, err
	case len(c.Endpoints) == 0:
		return clientv3.Config{}, nil, errNoEndpoint
	case c.Password != "" && c.Username == "":
		return clientv3.Config{}, nil, errUser
	}
	var files *secure
	if config != nil && !c.speaks("http://") {
		files = &secure{config: c, good: config}
	}
	dial := []grpc.DialOption{grpc.WithConnectParams(redial()), grpc.WithTransportCredentials(files.credentials())}
	return clientv3.Config{
		Endpoints:            c.Endpoints,
		TLS:                  config,
		Username:             c.Username,
		Password:             c.Password,
		DialTimeout:          requestTimeout,
		DialKeepAliveTime:    dialKeepAlive,
		DialKeepAliveTimeout: dialKeepAliveTimeout,
		DialOptions:          dial,
		Logger:               zap.NewNop(), // what matters comes back as an error
	}, files, nil
}

func redial() grpc.ConnectParams {
	return grpc.ConnectParams{
		Backoff:           grpcbackoff.Config{BaseDelay: redialFirst, Multiplier: 1.6, Jitter: 0.2, MaxDelay: redialLast},
		MinConnectTimeout: connectTimeout,
	}
}

// remote is a kv.Conn over etcd's client. The client is made at first use,
// because with a password making it already talks to etcd.
type remote struct {
	config clientv3.Config
	files  *secure // nil without TLS
	homes  *homes

	mu     sync.Mutex
	client *clientv3.Client
	closed bool
}

var (
	errConnClosed = errors.New("etcd client is closed")
	errConnLost   = fmt.Errorf("%w: the connection broke", kv.ErrUnavailable)
)

func (r *remote) get() (*clientv3.Client, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil, errConnClosed
	}
	if r.client != nil {
		return r.client, nil
	}
	c, err := clientv3.New(r.config)
	if err != nil {
		return nil, fmt.Errorf("connect to etcd: %w", err)
	}
	r.client = c
	return c, nil
}

// Close ends the connection for good.
func (r *remote) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	if r.client == nil {
		return nil
	}
	if err := r.client.Close(); err != nil && !errors.Is(err, context.Canceled) {
		return fmt.Errorf("close etcd client: %w", err)
	}
	return nil
}

// known translates the errors that the store tells apart.
func (r *remote) known(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, rpctypes.ErrLeaseNotFound):
		return kv.ErrLeaseNotFound
	case errors.Is(err, rpctypes.ErrCompacted):
		return kv.ErrCompacted
	default:
		return r.files.explain(fmt.Errorf("etcd: %w", err))
	}
}

func header(h *pb.ResponseHeader) kv.Header {
	return kv.Header{Cluster: h.GetClusterId(), Rev: h.GetRevision()}
}

func entry(e *mvccpb.KeyValue) kv.Entry {
	return kv.Entry{
		Key: string(e.GetKey()), Value: string(e.GetValue()), Create: e.GetCreateRevision(),
		Mod: e.GetModRevision(), Version: e.GetVersion(), Lease: kv.LeaseID(e.GetLease()),
	}
}

func entries(kvs []*mvccpb.KeyValue) []kv.Entry {
	var es []kv.Entry
	for _, e := range kvs {
		es = append(es, entry(e))
	}
	return es
}

func within(s kv.Span, more ...clientv3.OpOption) []clientv3.OpOption {
	if s.End != "" {
		more = append(more, clientv3.WithRange(s.End))
	}
	return more
}

func asked(q kv.Query) []clientv3.OpOption {
	return within(q.Span, clientv3.WithRev(q.Rev), clientv3.WithLimit(int64(q.Limit)))
}

// Range implements kv.KV.
func (r *remote) Range(ctx context.Context, q kv.Query) (kv.RangeResult, error) {
	c, err := r.get()
	if err != nil {
		return kv.RangeResult{}, err
	}
	res, err := c.Get(ctx, q.Key, asked(q)...)
	if err != nil {
		return kv.RangeResult{}, r.known(err)
	}
	return kv.RangeResult{Header: header(res.Header), Entries: entries(res.Kvs)}, nil
}

// Txn implements kv.KV.
func (r *remote) Txn(ctx context.Context, t kv.Txn) (kv.TxnResult, error) {
	c, err := r.get()
	if err != nil {
		return kv.TxnResult{}, err
	}
	var conditions []clientv3.Cmp
	for _, cmp := range t.If {
		conditions = append(conditions, condition(cmp))
	}
	res, err := c.Txn(ctx).If(conditions...).Then(operations(t.Then)...).Else(operations(t.Else)...).Commit()
	if err != nil {
		return kv.TxnResult{}, r.known(err)
	}
	out := kv.TxnResult{Header: header(res.Header), OK: res.Succeeded, Results: make([][]kv.Entry, len(res.Responses))}
	for i, answer := range res.Responses {
		if got := answer.GetResponseRange(); got != nil {
			out.Results[i] = entries(got.GetKvs())
		}
	}
	return out, nil
}

func condition(c kv.Cmp) clientv3.Cmp {
	relation := map[kv.Relation]string{kv.Equal: "=", kv.NotEqual: "!=", kv.Less: "<", kv.Greater: ">"}[c.Relation]
	var cmp clientv3.Cmp
	switch c.Target {
	case kv.Create:
		cmp = clientv3.Compare(clientv3.CreateRevision(c.Key), relation, c.Num)
	case kv.Mod:
		cmp = clientv3.Compare(clientv3.ModRevision(c.Key), relation, c.Num)
	case kv.Version:
		cmp = clientv3.Compare(clientv3.Version(c.Key), relation, c.Num)
	case kv.Lease:
		cmp = clientv3.Compare(clientv3.LeaseValue(c.Key), relation, c.Num)
	case kv.Value:
		cmp = clientv3.Compare(clientv3.Value(c.Key), relation, c.Text)
	}
	if c.End != "" {
		cmp = cmp.WithRange(c.End)
	}
	return cmp
}

func operations(ops []kv.Op) []clientv3.Op {
	out := make([]clientv3.Op, 0, len(ops))
	for _, op := range ops {
		switch op.Action {
		case kv.Get:
			out = append(out, clientv3.OpGet(op.Key, asked(kv.Query{Span: op.Span, Limit: op.Limit})...))
		case kv.Put:
			out = append(out, clientv3.OpPut(op.Key, op.Value, clientv3.WithLease(clientv3.LeaseID(op.Lease))))
		case kv.Delete:
			out = append(out, clientv3.OpDelete(op.Key, within(op.Span)...))
		}
	}
	return out
}

// Grant implements kv.Leases.
func (r *remote) Grant(ctx context.Context, ttl time.Duration) (kv.LeaseID, error) {
	c, err := r.get()
	if err != nil {
		return 0, err
	}
	res, err := c.Grant(ctx, int64((ttl+time.Second-1)/time.Second))
	if err != nil {
		return 0, r.known(err)
	}
	return kv.LeaseID(res.ID), nil
}

// Revoke implements kv.Leases.
func (r *remote) Revoke(ctx context.Context, id kv.LeaseID) error {
	c, err := r.get()
	if err != nil {
		return err
	}
	_, err = c.Revoke(ctx, clientv3.LeaseID(id))
	return r.known(err)
}

// KeepAliveOnce implements kv.Leases.
func (r *remote) KeepAliveOnce(ctx context.Context, id kv.LeaseID) error {
	c, err := r.get()
	if err != nil {
		return err
	}
	_, err = c.KeepAliveOnce(ctx, clientv3.LeaseID(id))
	return r.known(err)
}

// TimeToLive implements kv.Leases.
func (r *remote) TimeToLive(ctx context.Context, id kv.LeaseID) (time.Duration, error) {
	c, err := r.get()
	if err != nil {
		return 0, err
	}
	res, err := c.TimeToLive(ctx, clientv3.LeaseID(id))
	switch {
	case err != nil:
		return 0, r.known(err)
	case res.TTL < 0: // etcd's way to say that it does not know it
		return 0, kv.ErrLeaseNotFound
	}
	return time.Duration(res.TTL) * time.Second, nil
}

// Watch implements kv.Watcher. A member without a leader ends the watch: it
// would show a picture that gets older and older. So does a lost connection:
// etcd's client would resume the watch, but on a store that was wiped meanwhile
// it waits for a revision that is far ahead, and is not even told so when it
// asks for progress.
func (r *remote) Watch(ctx context.Context, s kv.Span, from int64) <-chan kv.Batch {
	out := make(chan kv.Batch)
	go func() {
		defer close(out)
		c, err := r.get()
		if err != nil {
			send(ctx, out, kv.Batch{Err: err})
			return
		}
		ctx, cancel := context.WithCancel(clientv3.WithRequireLeader(ctx))
		defer cancel()
		// Of a watch whose first revision is still to come etcd gives no sign of
		// life: nobody may write for hours. So it begins with one that was.
		results := c.Watch(ctx, s.Key, within(s, clientv3.WithRev(max(from-1, min(from, 1))), clientv3.WithFragment(),
			clientv3.WithCreatedNotify())...)
		w := watcher{remote: r, from: from, out: out}
		w.pass(ctx, results, lost(ctx, c.ActiveConnection()))
	}()
	return out
}

// watcher is a watch under way.
type watcher struct {
	remote *remote
	from   int64 // what is older is not wanted
	out    chan<- kv.Batch
}

// pass hands on results until an error, or until the connection is gone.
func (w watcher) pass(ctx context.Context, results clientv3.WatchChan, gone <-chan struct{}) {
	for {
		select {
		case res, ok := <-results:
			if !ok {
				return
			}
			if b := w.batch(res); !send(ctx, w.out, b) || b.Err != nil {
				return
			}
		case <-gone:
			send(ctx, w.out, kv.Batch{Err: w.remote.files.explain(errConnLost)})
			return
		}
	}
}

// lost is closed when conn, once it is there, breaks, or when ctx ends.
func lost(ctx context.Context, conn *grpc.ClientConn) <-chan struct{} {
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		for s := conn.GetState(); s != connectivity.Ready; s = conn.GetState() {
			if !conn.WaitForStateChange(ctx, s) {
				return
			}
		}
		conn.WaitForStateChange(ctx, connectivity.Ready)
	}()
	return gone
}

func send(ctx context.Context, out chan<- kv.Batch, b kv.Batch) bool {
	select {
	case out <- b:
		return true
	case <-ctx.Done():
		return false
	}
}

func (w watcher) batch(res clientv3.WatchResponse) kv.Batch {
	b := kv.Batch{Header: header(res.Header), Err: w.remote.known(res.Err())}
	for _, ev := range res.Events {
		if ev.Kv.ModRevision >= w.from {
			b.Events = append(b.Events, kv.Event{Deleted: ev.Type == clientv3.EventTypeDelete, Entry: entry(ev.Kv)})
		}
	}
	return b
}

// Progress implements kv.Watcher.
func (r *remote) Progress(ctx context.Context) error {
	c, err := r.get()
	if err != nil {
		return err
	}
	return r.known(c.RequestProgress(clientv3.WithRequireLeader(ctx)))
}
