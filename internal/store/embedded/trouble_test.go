package embedded_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/flannel-ng/flannel-ng/internal/store/embedded"
)

func TestRefusedConfig(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		change func(*embedded.Config)
		want   string
	}{
		{func(c *embedded.Config) { c.Cluster = []embedded.Peer{{Name: "other"}} }, `"h1" is not among other: give this host's name`},
		{func(c *embedded.Config) {
			c.Cluster = []embedded.Peer{{Name: "h1", At: netip.MustParseAddrPort("192.0.2.1:0")}}
			c.Listen = netip.MustParseAddr("192.0.2.2")
		}, "--etcd-embedded-listen says 192.0.2.2, --etcd-embedded-cluster says 192.0.2.1"},
		{func(c *embedded.Config) { c.TLS = embedded.Files{Cert: "/gone.pem", Key: "/gone.pem"} }, "/gone.pem"},
		{func(c *embedded.Config) { c.Dir = "/proc/none" }, "data directory of the embedded etcd"},
	} {
		h := newHost(t, "h1")
		tt.change(&h.config)
		if _, err := embedded.New(h.config); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("got %v, want %s", err, tt.want)
		}
	}
}

// A directory of others is left alone, its mode included.
func TestForeignDirectory(t *testing.T) {
	t.Parallel()
	h := newHost(t, "h1")
	h.config.Dir = t.TempDir()
	if err := os.Mkdir(filepath.Join(h.config.Dir, "dpkg"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(h.config.Dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := embedded.New(h.config); err == nil || !strings.Contains(err.Error(), "holds other things") {
		t.Errorf("taken: %v", err)
	}
	if info, err := os.Stat(h.config.Dir); err != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("it is %v now, %v", info.Mode(), err)
	}
}

func TestKeepsItsData(t *testing.T) {
	t.Parallel()
	h := newHost(t, "h1")
	h.start(t)
	h.serving(t)
	c := h.client(t)
	if _, err := c.Put(t.Context(), "/k", "v"); err != nil {
		t.Fatal(err)
	}
	_ = c.Close()
	info, err := os.Stat(h.config.Dir)
	if err != nil {
		t.Fatal(err)
	}
	if mode := info.Mode().Perm(); mode != 0o700 {
		t.Errorf("data directory has mode %o", mode)
	}
	h.stop(t)
	h.start(t)
	if got := h.value(t, "/k"); got != "v" {
		t.Errorf("after a restart it has %q", got)
	}
}

// The port of a former flanneld is free a moment later.
func TestPortInUse(t *testing.T) {
	t.Parallel()
	h := newHost(t, "h1")
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", fmt.Sprintf("127.0.0.1:%d", h.config.ClientPort))
	if err != nil {
		t.Fatal(err)
	}
	h.start(t)
	h.await(t, "without its port", func(s embedded.State) bool {
		return strings.Contains(s.Waiting(), "the embedded etcd does not run") && strings.Contains(s.Waiting(), "address already in use")
	})
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	h.serving(t)
}

// One data directory, one member.
func TestBusy(t *testing.T) {
	t.Parallel()
	h := newHost(t, "h1")
	h.start(t)
	h.serving(t)
	other := newHost(t, "h1")
	other.config.Dir = h.config.Dir
	other.start(t)
	other.await(t, "kept out", func(s embedded.State) bool { return errors.Is(s.Err, embedded.ErrBusy) })
}

// Damaged data ends neither the process nor the stop.
func TestDamagedData(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		damage func(dir string) error
		want   string
	}{
		"garbage": {func(dir string) error {
			return os.WriteFile(db(dir), []byte(strings.Repeat("damaged", 10000)), 0o600)
		}, "invalid database"},
		"cut short": {func(dir string) error { return os.Truncate(db(dir), 8192) }, "cut short"},
		"pages of nothing": {func(dir string) error {
			return overwrite(db(dir), 8192, make([]byte, 80<<10))
		}, "Page expected to be"},
		"no file":        {func(dir string) error { return errors.Join(os.Remove(db(dir)), os.Mkdir(db(dir), 0o700)) }, "no regular file"},
		"log is missing": {func(dir string) error { return os.RemoveAll(embedded.WALDir(dir)) }, "not the log that belongs to it"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t, "h1")
			h.start(t)
			h.serving(t)
			h.value(t, "/net/config")
			h.stop(t)
			if err := tt.damage(h.config.Dir); err != nil {
				t.Fatal(err)
			}
			h.start(t)
			h.await(t, "given up", func(s embedded.State) bool { return s.Err != nil })
			if got := h.member.State().Waiting(); !strings.Contains(got, tt.want) {
				t.Errorf("the state says %q, want %s", got, tt.want)
			}
		})
	}
}

func db(dir string) string { return filepath.Join(dir, "member", "snap", "db") }

func overwrite(path string, at int64, with []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(with, at)
	return errors.Join(err, f.Close())
}

// A full store says so, with the cure, and the cure works.
func TestFull(t *testing.T) {
	t.Parallel()
	h := newHost(t, "h1")
	h.config.Quota = 1 << 20
	h.start(t)
	h.serving(t)
	c := h.client(t)
	value := strings.Repeat("x", 100<<10)
	eventually(t, func() error {
		_, err := c.Put(t.Context(), fmt.Sprintf("/junk/%d", time.Now().UnixNano()), value)
		if err == nil {
			return errors.New("not full yet")
		}
		return nil
	})
	h.await(t, "full", func(s embedded.State) bool {
		return len(s.Warnings()) == 1 && strings.Contains(s.Warnings()[0], "the store is full (--etcd-embedded-quota 1)")
	})
	_ = c.Close()
	h.stop(t)
	h.config.Quota = 64 << 20
	h.start(t)
	h.serving(t)
	c = h.client(t)
	if _, err := c.AlarmDisarm(t.Context(), &clientv3.AlarmMember{}); err != nil {
		t.Fatal(err)
	}
	h.await(t, "well", func(s embedded.State) bool { return len(s.Warnings()) == 0 })
	if _, err := c.Put(t.Context(), "/k", "v"); err != nil {
		t.Errorf("after the cure: %v", err)
	}
}

// restored is a host whose data directory was made of a snapshot.
func restored(t *testing.T, h *host, c embedded.RestoreConfig) (embedded.Restored, error) {
	t.Helper()
	c.Dir, c.Name, c.Now = h.config.Dir, h.config.Name, time.Now
	return embedded.Restore(c)
}

// All three are lost and come back from one snapshot, as another cluster whose
// revision is ahead of all that anybody saw.
func TestRestoreThree(t *testing.T) {
	t.Parallel()
	hosts := cluster(t, "h1", "h2", "h3")
	hosts[0].serving(t)
	c := hosts[0].client(t)
	put, err := c.Put(t.Context(), "/k", "saved")
	if err != nil {
		t.Fatal(err)
	}
	before := put.Header
	file := filepath.Join(t.TempDir(), "store.db")
	summary, err := admin(t, hosts[0]).Snapshot(t.Context(), file)
	if err != nil {
		t.Fatal(err)
	}
	if summary.Revision < before.Revision || summary.Keys < 2 {
		t.Errorf("snapshot of %+v at revision %d", summary, before.Revision)
	}
	if _, err := c.Put(t.Context(), "/k", "lost"); err != nil {
		t.Fatal(err)
	}
	if _, err := restored(t, hosts[0], embedded.RestoreConfig{File: file, Force: true}); !errors.Is(err, embedded.ErrBusy) {
		t.Errorf("restoring under a running member: %v", err)
	}
	_ = c.Close()
	for _, h := range hosts {
		h.stop(t)
	}
	if _, err := restored(t, hosts[0], embedded.RestoreConfig{File: file}); !errors.Is(err, embedded.ErrNotEmpty) {
		t.Errorf("restoring over data: %v", err)
	}
	for _, h := range hosts {
		r, err := restored(t, h, embedded.RestoreConfig{File: file, Cluster: h.config.Cluster, Force: true})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(filepath.Join(r.Aside, "member", "wal")); err != nil {
			t.Errorf("the former data is not aside: %v", err)
		}
		h.start(t)
	}
	for _, h := range hosts {
		h.serving(t)
		if got := h.value(t, "/k"); got != "saved" {
			t.Errorf("%s has %q", h.config.Name, got)
		}
	}
	got, err := hosts[0].client(t).Get(t.Context(), "/k")
	if err != nil {
		t.Fatal(err)
	}
	if got.Header.ClusterId == before.ClusterId || got.Header.Revision < before.Revision+1_000_000 {
		t.Errorf("before %+v, restored %+v", before, got.Header)
	}
	// A watch from before the loss must not wait in silence.
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if r := <-hosts[0].client(t).Watch(ctx, "/k", clientv3.WithRev(before.Revision)); r.CompactRevision == 0 {
		t.Errorf("an old watch got %+v", r)
	}
}

// hashed puts a hash behind text, as etcd does.
func hashed(text []byte) []byte {
	sum := sha256.Sum256(text)
	return slices.Concat(text, sum[:])
}

func otherDatabase(t *testing.T) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "other.db")
	db, err := bolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestRefusedSnapshots(t *testing.T) {
	t.Parallel()
	h := newHost(t, "h1")
	h.start(t)
	h.serving(t)
	file := saved(t, h)
	good, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	h.stop(t)
	damaged := append([]byte(nil), good...)
	damaged[len(damaged)/2] ^= 1
	for what, text := range map[string][]byte{
		"no hash": good[:len(good)-32], "hash is wrong": damaged, "no hash ": nil,
		"cut short": hashed(good[:8192]), "but not of an etcd": hashed(otherDatabase(t)),
	} {
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := restored(t, h, embedded.RestoreConfig{File: file, Force: true})
		if err == nil || !strings.Contains(err.Error(), strings.TrimSpace(what)) {
			t.Errorf("%s: %v", what, err)
		}
	}
	h.start(t) // its own data is as it was
	h.serving(t)
	a, err := embedded.NewAdmin(clientv3.Config{Endpoints: []string{"http://127.0.0.1:1"}, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	if _, err := a.Snapshot(t.Context(), file); err == nil || !strings.Contains(err.Error(), "no etcd answers") {
		t.Errorf("snapshot of nobody: %v", err)
	}
}
