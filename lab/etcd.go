package lab

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
)

// Etcd is a real etcd on a node of its own; if the store is embedded, the node
// is only where our client of it sits.
type Etcd struct {
	*Node
	Endpoint string // as hosts reach it
	Client   *clientv3.Client
	Relay    *Relay // nil without Options.Relay

	command []string // `lab etcd` with its arguments
	server  *process
}

// etcdPort is where clients reach etcd.
const etcdPort = 2379

// startEtcd serves etcd on the underlay and loads the network config. If the
// store is embedded, the hosts do that.
func (f *Fabric) startEtcd(ctx context.Context) error {
	e := f.Etcd
	if f.Options.Embedded > 0 {
		return f.reachMembers()
	}
	local := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), etcdPort)
	public := netip.AddrPortFrom(f.plan.at(f.Options.Families[0], placeEtcd).prefix.Addr(), etcdPort)
	e.Endpoint = "http://" + public.String()
	e.command = []string{f.Options.Binaries.Lab, "etcd"}
	if f.Options.TLS {
		if err := f.certify(); err != nil {
			return err
		}
		e.Endpoint = "https://" + public.String()
		e.command = append(e.command, "--tls="+tlsDir)
	}
	e.command = append(e.command, "http://"+local.String(), e.Endpoint)
	if err := e.serve(ctx); err != nil {
		return err
	}
	if f.Options.Relay {
		way := netip.AddrPortFrom(public.Addr(), relayPort)
		if err := e.relay(context.WithoutCancel(ctx), way, public.String()); err != nil {
			return err
		}
		e.Endpoint = strings.Replace(e.Endpoint, public.String(), way.String(), 1)
	}
	client, err := clientv3.New(clientv3.Config{
		Endpoints: []string{"http://" + local.String()},
		Logger:    zap.NewNop(),
		DialOptions: []grpc.DialOption{grpc.WithContextDialer(
			func(ctx context.Context, _ string) (net.Conn, error) {
				return e.Dial(ctx, Origin{}, "tcp", local.String())
			})},
	})
	if err != nil {
		return fmt.Errorf("etcd client: %w", err)
	}
	e.Client = client
	return f.Configure(ctx)
}

// Configure writes the network config into etcd.
func (f *Fabric) Configure(ctx context.Context) error {
	conf, err := f.Options.netConf()
	if err != nil {
		return err
	}
	return f.Etcd.Put(ctx, Prefix+"/config", conf)
}

func (e *Etcd) serve(ctx context.Context) error {
	cmd := e.Command(ctx, e.command...)
	var diag strings.Builder
	cmd.Stderr = &diag
	ready, err := cmd.StdoutPipe()
	if err != nil {
		return fmt.Errorf("etcd: %w", err)
	}
	if err := e.spawn.start(cmd); err != nil {
		return err
	}
	if _, err := bufio.NewReader(ready).ReadString('\n'); err != nil {
		return errors.Join(fmt.Errorf("etcd did not start: %w", err), cmd.Wait(), errors.New(diag.String()))
	}
	e.server = &process{cmd: cmd, done: make(chan struct{})}
	go func() { e.server.err = cmd.Wait(); close(e.server.done) }()
	return nil
}

func (e *Etcd) close(ctx context.Context) error {
	var errs []error
	if e.Client != nil {
		errs = append(errs, e.Client.Close())
	}
	if e.server != nil {
		// Its data dies with the node: nothing is worth an orderly stop.
		_ = e.server.end(ctx, syscall.SIGKILL)
	}
	return errors.Join(errs...)
}

// Put writes a key.
func (e *Etcd) Put(ctx context.Context, key, value string) error {
	if _, err := e.Client.Put(ctx, key, value); err != nil {
		return fmt.Errorf("etcd put %s: %w", key, err)
	}
	return nil
}

// Delete removes a key.
func (e *Etcd) Delete(ctx context.Context, key string) error {
	if _, err := e.Client.Delete(ctx, key); err != nil {
		return fmt.Errorf("etcd delete %s: %w", key, err)
	}
	return nil
}

// Pair is a key with its value.
type Pair struct{ Key, Value string }

// List returns everything below prefix, sorted by key.
func (e *Etcd) List(ctx context.Context, prefix string) ([]Pair, error) {
	resp, err := e.Client.Get(ctx, prefix, clientv3.WithPrefix())
	if err != nil {
		return nil, fmt.Errorf("etcd list %s: %w", prefix, err)
	}
	var pairs []Pair
	for _, kv := range resp.Kvs {
		pairs = append(pairs, Pair{string(kv.Key), string(kv.Value)})
	}
	return pairs, nil
}

// putLease writes a key that expires, as flannel does.
func (e *Etcd) putLease(ctx context.Context, p Pair, ttl time.Duration) error {
	grant, err := e.Client.Grant(ctx, int64(ttl.Seconds()))
	if err != nil {
		return fmt.Errorf("etcd grant: %w", err)
	}
	if _, err := e.Client.Put(ctx, p.Key, p.Value, clientv3.WithLease(grant.ID)); err != nil {
		return fmt.Errorf("etcd put %s: %w", p.Key, err)
	}
	return nil
}

// Signal sends the server a signal: SIGSTOP and SIGCONT make it hang and go on.
func (e *Etcd) Signal(sig syscall.Signal) error {
	if e.server == nil {
		return errors.New("the store is embedded")
	}
	if err := e.server.cmd.Process.Signal(sig); err != nil {
		return fmt.Errorf("etcd: %w", err)
	}
	return nil
}
