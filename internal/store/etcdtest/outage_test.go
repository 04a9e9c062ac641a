package etcdtest_test

import (
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/flannel-ng/flannel-ng/internal/lease"
	"github.com/flannel-ng/flannel-ng/internal/store/etcd"
	"github.com/flannel-ng/flannel-ng/internal/store/etcdtest"
	"github.com/flannel-ng/flannel-ng/internal/store/storetest"
)

// within waits until ok, at most for limit.
func within(t *testing.T, limit time.Duration, what string, ok func() bool) {
	t.Helper()
	begun := time.Now()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		if time.Since(begun) > limit {
			t.Fatalf("not %s within %s", what, limit)
		}
		<-tick.C
	}
	t.Logf("%s after %s", what, time.Since(begun).Round(time.Millisecond))
}

// follow runs a store behind a link until its first picture.
func follow(t *testing.T, server *etcdtest.Server) (*etcd.Store, *etcdtest.Proxy, *storetest.View) {
	t.Helper()
	link := server.Proxy(t)
	c := dial(t, etcd.ClientConfig{Endpoints: []string{link.Endpoint()}, Prefix: "/net"})
	s := etcd.New(c, etcd.Options{HostID: "h1", BootID: "b"})
	v := storetest.Watch(t, s)
	v.Await(t, "anything", func(p lease.Snapshot) bool { return p.Synced })
	return s, link, v
}

func TestOutageIsSeenAndEnds(t *testing.T) {
	server := etcdtest.Start(t, etcdtest.Options{})
	s, link, v := follow(t, server)
	link.Cut()
	// The broken connection is seen at once; go on until a list has failed too.
	within(t, 10*time.Second, "unhealthy", func() bool { return s.Health().Err != nil })
	within(t, 15*time.Second, "tried again", func() bool { return strings.Contains(s.Health().Err.Error(), "list /net/") })
	since := s.Health().Since
	admin := server.Client(t)
	if _, err := admin.Put(t.Context(), "/net/config", "new"); err != nil {
		t.Fatal(err)
	}
	link.Heal()
	within(t, 15*time.Second, "healthy", func() bool { return s.Health().Err == nil })
	if !s.Health().Since.After(since) {
		t.Error("the recovery has no time of its own")
	}
	v.Await(t, "the new config", func(p lease.Snapshot) bool { return string(p.Config) == "new" })
}

// TestWipedStoreIsSeen: etcd's client resumes the watch by itself, on a store
// that is empty and whose revision will take long to pass the old one.
func TestWipedStoreIsSeen(t *testing.T) {
	server := etcdtest.Start(t, etcdtest.Options{})
	admin := server.Client(t)
	for range 20 {
		if _, err := admin.Put(t.Context(), "/net/config", "old"); err != nil {
			t.Fatal(err)
		}
	}
	_, link, v := follow(t, server)
	before := v.Await(t, "the old config", func(p lease.Snapshot) bool { return string(p.Config) == "old" })
	empty := etcdtest.Start(t, etcdtest.Options{})
	link.Cut()
	link.Lead(empty)
	link.Heal()
	var after lease.Snapshot
	within(t, 15*time.Second, "read anew", func() bool {
		after = v.Last()
		return after.Epoch != before.Epoch
	})
	if after.Config != nil || after.Rev >= before.Rev {
		t.Errorf("config %q at revision %d after %d", after.Config, after.Rev, before.Rev)
	}
}

// TestIdleStoreGivesSignsOfLife: etcd answers no question for progress while a
// watch waits for a revision that is still to come, and nobody may write for
// hours.
func TestIdleStoreGivesSignsOfLife(t *testing.T) {
	server := etcdtest.Start(t, etcdtest.Options{})
	var log strings.Builder
	c := dial(t, etcd.ClientConfig{Endpoints: []string{server.Endpoint()}, Prefix: "/net"})
	s := etcd.New(c, etcd.Options{HostID: "h1", BootID: "b", Log: slog.New(slog.NewTextHandler(&log, nil))})
	v := storetest.Watch(t, s)
	v.Await(t, "a picture", func(p lease.Snapshot) bool { return p.Synced })
	begun := time.Now()
	within(t, 20*time.Second, "silent for longer than a watch may be", func() bool { return time.Since(begun) > 10*time.Second })
	if err := s.Health().Err; err != nil || strings.Contains(log.String(), "lost") {
		t.Errorf("health %v, log:\n%s", err, log.String())
	}
}
