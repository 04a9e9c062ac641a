package embedded

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"syscall"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"
)

const (
	retryFirst = time.Second
	retryLast  = 30 * time.Second

	// handOver is how long a leader tries to hand leadership over before it
	// stops. Without, the others notice by themselves, a little later.
	handOver = 2 * time.Second

	// drain is how long a stop waits for the connections of other hosts, once
	// the data is safe. They find another member by themselves.
	drain = time.Second
)

var (
	// ErrRemoved says that somebody removed the member from its cluster.
	ErrRemoved = errors.New("this member was removed from its cluster")
	// ErrDied says that etcd gave up.
	ErrDied = errors.New("the embedded etcd gave up")

	errHanging = errors.New("the embedded etcd did not stop in time")
)

// Member is the etcd member of this host. New makes it, Start starts it.
type Member struct {
	config Config
	log    *zap.Logger // etcd's
	death  chan string // etcd found something fatal; the process should end
	cancel context.CancelFunc
	done   chan struct{} // closed when the member has stopped
	failed chan error    // one error, if it died while it ran

	mu    sync.Mutex
	state State
}

// New checks c, certificates included, and makes the data directory.
func New(c Config) (*Member, error) {
	c, err := c.complete()
	if err != nil {
		return nil, err
	}
	warning, err := c.TLS.check(c.addresses())
	if err != nil {
		return nil, err
	}
	if warning != "" {
		c.Log.Warn("embedded etcd", "text", warning)
	}
	if err := c.makeDir(); err != nil {
		return nil, err
	}
	m := &Member{
		config: c, death: make(chan string, 1), done: make(chan struct{}), failed: make(chan error, 1),
		state: State{Name: c.Name, Role: Starting, Members: len(c.Cluster)},
	}
	m.log = newLogger(c.Log, func(message string) {
		select {
		case m.death <- message:
		default:
		}
	})
	return m, nil
}

// Start runs the member until Stop, whatever becomes of ctx meanwhile: an
// orderly daemon still needs its store for its last words. What keeps the
// member from running is shown by State and tried again.
func (m *Member) Start(ctx context.Context) {
	ctx, m.cancel = context.WithCancel(context.WithoutCancel(ctx))
	go func() {
		defer close(m.done)
		m.run(ctx)
	}()
}

// Wait returns nil when ctx ends, and an error if the member died of
// something that only a new process can cure.
func (m *Member) Wait(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case err := <-m.failed:
		return err
	}
}

// Stop hands leadership over and stops the member; ctx bounds it.
func (m *Member) Stop(ctx context.Context) error {
	m.cancel()
	select {
	case <-m.done:
		return nil
	case <-ctx.Done():
		return errHanging
	}
}

// State says how the member stands.
func (m *Member) State() State {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.state
}

func (m *Member) set(s State) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.state = s
}

func (m *Member) run(ctx context.Context) {
	wait := retryFirst
	said := ""
	for ctx.Err() == nil {
		err := m.once(ctx)
		if ctx.Err() != nil {
			return
		}
		m.set(State{Name: m.config.Name, Role: Starting, Err: err})
		if err.Error() != said {
			said = err.Error()
			m.config.Log.Warn("embedded etcd does not run", "err", err)
		}
		if errors.Is(err, ErrDied) || errors.Is(err, ErrRemoved) {
			<-ctx.Done() // trying again in this process cures nothing
			return
		}
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
		wait = min(2*wait, retryLast)
	}
}

// once starts the member and serves until it ends.
func (m *Member) once(ctx context.Context) error {
	if err := m.config.check(); err != nil {
		return err
	}
	initial, state := m.config.initialCluster(), embed.ClusterStateFlagNew
	if len(m.config.Join) > 0 && !m.config.filled() {
		var err error
		if initial, err = m.config.join(ctx); err != nil {
			return err
		}
		state = embed.ClusterStateFlagExisting
	}
	cfg, err := m.config.serverConfig(initial, state, m.log)
	if err != nil {
		return err
	}
	e, err := m.launch(cfg)
	if err != nil {
		return err
	}
	return m.close(e, m.serve(ctx, e))
}

// launched is what became of a start.
type launched struct {
	etcd *embed.Etcd
	err  error
}

// launch starts etcd in a goroutine of its own, because that is what etcd's
// fatal errors end. A start that ended so has left files locked and ports open.
func (m *Member) launch(cfg *embed.Config) (*embed.Etcd, error) {
	result := make(chan launched, 1)
	go func() {
		defer func() {
			if p := recover(); p != nil {
				result <- launched{err: fmt.Errorf("%w: %v", ErrDied, p)}
			}
		}()
		e, err := embed.StartEtcd(cfg)
		if err != nil {
			err = fmt.Errorf("start the embedded etcd: %w%s", err, hint(err))
		}
		result <- launched{e, err}
	}()
	select {
	case r := <-result:
		return r.etcd, r.err
	case why := <-m.death:
		return nil, m.died(why)
	}
}

// hint says what to do about an address that cannot be listened on.
func hint(err error) string {
	switch {
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return ": is that an address of this host? Mind --etcd-embedded-listen, and --etcd-embedded-name in --etcd-embedded-cluster"
	case errors.Is(err, syscall.EADDRINUSE):
		return ": does another etcd run on this host? Stop it, or use it (--etcd-endpoints) without --etcd-embedded"
	default:
		return ""
	}
}

func (m *Member) died(why string) error {
	return fmt.Errorf("%w: %s: see the log; when it is cured, restart flanneld (data in %s)", ErrDied, why, m.config.Dir)
}

// close stops etcd after what serve said.
func (m *Member) close(e *embed.Etcd, why error) error {
	if errors.Is(why, ErrDied) {
		m.failed <- why // there is nothing left that could be stopped in order
		return why
	}
	// First the data, then the connections: those of other hosts' watches
	// would hold the stop for seconds.
	within(handOver, func() {
		if err := e.Server.TryTransferLeadershipOnShutdown(); err != nil {
			m.config.Log.Debug("leadership of the store is not handed over", "err", err)
		}
	})
	e.Server.HardStop()
	within(drain, e.Close)
	return why
}

// within does what takes at most limit to wait for; it may go on behind.
func within(limit time.Duration, what func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		what()
	}()
	select {
	case <-done:
	case <-time.After(limit):
	}
}
