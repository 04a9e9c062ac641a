// Package etcdtest starts real etcd servers inside a test process, on random
// loopback ports and without syncing to disk, and a proxy to cut their links.
//
// It owns a server, its temporary directory and the proxy until the test ends,
// and is never part of a program. Called by tests.
package etcdtest

import (
	"context"
	"io"
	"net"
	"net/url"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"
)

// startTimeout bounds the start; a busy machine needs seconds.
const startTimeout = time.Minute

// Options choose how clients reach the server.
type Options struct {
	// CertFile and KeyFile make it serve TLS; a CAFile then makes it demand
	// client certificates.
	CertFile, KeyFile, CAFile string
}

// Server is a running etcd of one member.
type Server struct {
	etcd *embed.Etcd
	tls  bool
}

// Start runs an etcd until the test ends.
func Start(tb testing.TB, o Options) *Server {
	tb.Helper()
	cfg := embed.NewConfig()
	cfg.Dir = tb.TempDir()
	cfg.UnsafeNoFsync = true
	cfg.BcryptCost = 4 // the least: a login is many rounds slower under the race detector
	cfg.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.NewNop())
	cfg.LogLevel = "error"
	// A busy machine must not lose its one leader.
	cfg.TickMs, cfg.ElectionMs = 100, 2000
	scheme := "http"
	if o.CertFile != "" {
		scheme = "https"
		cfg.ClientTLSInfo.CertFile, cfg.ClientTLSInfo.KeyFile = o.CertFile, o.KeyFile
		cfg.ClientTLSInfo.TrustedCAFile = o.CAFile
		cfg.ClientTLSInfo.ClientCertAuth = o.CAFile != ""
	}
	client, peer := loopback(scheme), loopback("http")
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls = []url.URL{client}, []url.URL{client}
	cfg.ListenPeerUrls, cfg.AdvertisePeerUrls = []url.URL{peer}, []url.URL{peer}
	cfg.InitialCluster = cfg.InitialClusterFromName(cfg.Name)
	e, err := embed.StartEtcd(cfg)
	if err != nil {
		tb.Fatalf("start etcd: %v", err)
	}
	tb.Cleanup(e.Close)
	select {
	case <-e.Server.ReadyNotify():
	case err := <-e.Err():
		tb.Fatalf("start etcd: %v", err)
	case <-time.After(startTimeout):
		tb.Fatalf("etcd is not ready after %s", startTimeout)
	}
	return &Server{etcd: e, tls: scheme == "https"}
}

// loopback lets the kernel choose the port.
func loopback(scheme string) url.URL { return url.URL{Scheme: scheme, Host: "127.0.0.1:0"} }

// Address is host:port of the server.
func (s *Server) Address() string { return s.etcd.Clients[0].Addr().String() }

// Endpoint is the URL of the server.
func (s *Server) Endpoint() string {
	if s.tls {
		return "https://" + s.Address()
	}
	return "http://" + s.Address()
}

// Client is an administrator's connection to a server without TLS.
func (s *Server) Client(tb testing.TB) *clientv3.Client {
	tb.Helper()
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{s.Endpoint()}, Logger: zap.NewNop()})
	if err != nil {
		tb.Fatalf("connect to etcd: %v", err)
	}
	tb.Cleanup(func() { _ = c.Close() })
	return c
}

// Proxy is a link to a server that can be cut.
type Proxy struct {
	listener net.Listener
	wg       sync.WaitGroup

	mu     sync.Mutex
	target string
	cut    bool
	conns  map[net.Conn]struct{}
	count  int // of connections so far
}

// Accepted is how many connections came through.
func (p *Proxy) Accepted() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.count
}

// Proxy starts a link to s; it ends with the test.
func (s *Server) Proxy(tb testing.TB) *Proxy {
	tb.Helper()
	l, err := (&net.ListenConfig{}).Listen(tb.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatalf("proxy: %v", err)
	}
	p := &Proxy{listener: l, target: s.Address(), conns: map[net.Conn]struct{}{}}
	p.wg.Go(p.accept)
	tb.Cleanup(func() {
		_ = l.Close()
		p.Cut()
		p.wg.Wait()
	})
	return p
}

// Endpoint is the URL of the link.
func (p *Proxy) Endpoint() string { return "http://" + p.listener.Addr().String() }

// Cut breaks all connections and refuses new ones.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cut = true
	for c := range p.conns {
		_ = c.Close()
	}
}

// Lead makes new connections go to s.
func (p *Proxy) Lead(s *Server) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.target = s.Address()
}

func (p *Proxy) server() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.target
}

// Heal lets connections through again.
func (p *Proxy) Heal() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cut = false
}

func (p *Proxy) accept() {
	for {
		near, err := p.listener.Accept()
		if err != nil {
			return
		}
		far, err := (&net.Dialer{}).DialContext(context.Background(), "tcp", p.server())
		if err != nil {
			_ = near.Close()
			continue
		}
		if !p.hold(near, far) {
			_ = near.Close()
			_ = far.Close()
			continue
		}
		p.wg.Go(func() { p.pump(near, far) })
		p.wg.Go(func() { p.pump(far, near) })
	}
}

// hold remembers the connections for Cut, unless the link is cut now.
func (p *Proxy) hold(conns ...net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cut {
		return false
	}
	for _, c := range conns {
		p.conns[c] = struct{}{}
	}
	p.count++
	return true
}

func (p *Proxy) pump(to, from net.Conn) {
	_, _ = io.Copy(to, from)
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range []net.Conn{to, from} {
		_ = c.Close()
		delete(p.conns, c)
	}
}
