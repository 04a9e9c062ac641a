package embedded_test

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/flannel-ng/flannel-ng/internal/store/embedded"
)

// patience bounds what a busy machine needs seconds for.
const patience = time.Minute

func loopback() netip.Addr { return netip.MustParseAddr("127.0.0.1") }

// ports lets the kernel choose two free ports.
func ports(t *testing.T) (client, peer uint16) {
	t.Helper()
	var out [2]uint16
	for i := range out {
		l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		out[i] = netip.MustParseAddrPort(l.Addr().String()).Port()
	}
	return out[0], out[1]
}

// record is a log that a test reads.
type record struct {
	mu   sync.Mutex
	text strings.Builder
}

func (r *record) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text.Write(p)
}

func (r *record) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text.String()
}

// host is a member with what a test needs to know of it.
type host struct {
	config embedded.Config
	member *embedded.Member
	log    *record
}

func newHost(t *testing.T, name string) *host {
	t.Helper()
	h := &host{log: &record{}}
	client, peer := ports(t)
	h.config = embedded.Config{
		Dir: t.TempDir() + "/etcd", Name: name, Quota: 64 << 20, Prefix: "/net", ClientPort: client, PeerPort: peer,
		Log: slog.New(slog.NewTextHandler(h.log, nil)),
	}
	return h
}

func (h *host) at() netip.AddrPort { return netip.AddrPortFrom(loopback(), h.config.PeerPort) }

func (h *host) endpoint() string {
	scheme := "http"
	if h.config.TLS.Cert != "" {
		scheme = "https"
	}
	return fmt.Sprintf("%s://127.0.0.1:%d", scheme, h.config.ClientPort)
}

func (h *host) start(t *testing.T) {
	t.Helper()
	m, err := embedded.New(h.config)
	if err != nil {
		t.Fatal(err)
	}
	m.Start(t.Context())
	h.member = m
	t.Cleanup(func() { h.stop(t) })
}

func (h *host) stop(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), patience)
	defer cancel()
	if err := h.member.Stop(ctx); err != nil {
		t.Errorf("stop %s: %v\n%s", h.config.Name, err, h.log)
	}
}

// await waits until the state is as wanted.
func (h *host) await(t *testing.T, what string, ok func(embedded.State) bool) {
	t.Helper()
	eventually(t, func() error {
		if s := h.member.State(); !ok(s) {
			return fmt.Errorf("%s is not %s but %+v\n%s", h.config.Name, what, s, h.log)
		}
		return nil
	})
}

func (h *host) serving(t *testing.T) {
	t.Helper()
	h.await(t, "serving", embedded.State.Serving)
}

func (h *host) client(t *testing.T) *clientv3.Client {
	t.Helper()
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{h.endpoint()}, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// value waits for a key.
func (h *host) value(t *testing.T, key string) string {
	t.Helper()
	c := h.client(t)
	var got string
	eventually(t, func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		r, err := c.Get(ctx, key)
		if err != nil {
			return err
		}
		if len(r.Kvs) == 0 {
			return fmt.Errorf("no %s at %s", key, h.config.Name)
		}
		got = string(r.Kvs[0].Value)
		return nil
	})
	return got
}

func eventually(t *testing.T, look func() error) {
	t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := look()
		if err == nil {
			return
		}
		select {
		case <-deadline.C:
			t.Fatalf("not in time: %v", err)
		case <-tick.C:
		}
	}
}

// cluster starts hosts that form a new cluster.
func cluster(t *testing.T, names ...string) []*host {
	t.Helper()
	var hosts []*host
	var peers []embedded.Peer
	for _, name := range names {
		h := newHost(t, name)
		hosts = append(hosts, h)
		peers = append(peers, embedded.Peer{Name: name, At: h.at()})
	}
	for _, h := range hosts {
		h.config.Cluster = peers
		h.start(t)
	}
	return hosts
}

func TestAlone(t *testing.T) {
	t.Parallel()
	h := newHost(t, "h1")
	h.start(t)
	h.serving(t)
	if got := h.value(t, "/net/config"); got != embedded.DefaultSeed {
		t.Errorf("seeded %s", got)
	}
	if !strings.Contains(h.log.String(), "the store was empty") {
		t.Errorf("seeding is not told: %s", h.log)
	}
	h.await(t, "leader of one", func(s embedded.State) bool {
		return s.Role == embedded.Leader && s.Members == 1 && s.Reachable == 1 && s.Waiting() == "" && len(s.Warnings()) == 0
	})
}
