package embedded_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/flannel-ng/flannel-ng/internal/store/embedded"
)

// Three new members race to seed the store; one of them does.
func TestThreeSeedOnce(t *testing.T) {
	t.Parallel()
	hosts := cluster(t, "h1", "h2", "h3")
	// Each would seed something else.
	seeded := 0
	for _, h := range hosts {
		h.serving(t)
	}
	for _, h := range hosts {
		eventually(t, func() error {
			if got := h.value(t, "/net/config"); got != hosts[0].value(t, "/net/config") {
				return fmt.Errorf("members differ: %s", got)
			}
			return nil
		})
		seeded += strings.Count(h.log.String(), "the store was empty")
	}
	r, err := hosts[0].client(t).Get(t.Context(), "/net/config")
	if err != nil {
		t.Fatal(err)
	}
	if r.Kvs[0].Version != 1 || seeded != 1 {
		t.Errorf("config of version %d, %d members told that they seeded it", r.Kvs[0].Version, seeded)
	}
	for _, h := range hosts {
		h.await(t, "one of three", func(s embedded.State) bool { return s.Members == 3 && s.Reachable == 3 })
	}
}

// A config that was taken away on purpose, or written by hand, stays so.
func TestSeedsOnlyTheEmpty(t *testing.T) {
	t.Parallel()
	h := newHost(t, "h1")
	h.config.Seed = []byte(`{"Network":"10.9.0.0/16"}`)
	h.start(t)
	if got := h.value(t, "/net/config"); got != `{"Network":"10.9.0.0/16"}` {
		t.Errorf("seeded %s", got)
	}
	c := h.client(t)
	if _, err := c.Put(t.Context(), "/net/subnets/10.9.1.0-24", "{}"); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Delete(t.Context(), "/net/config"); err != nil {
		t.Fatal(err)
	}
	_ = c.Close()
	h.stop(t)
	h.config.Prefix = "/other" // its own fabric is empty still
	h.start(t)
	if got := h.value(t, "/other/config"); got != `{"Network":"10.9.0.0/16"}` {
		t.Errorf("seeded %s", got)
	}
	h.stop(t)
	h.config.Prefix = "/net"
	h.start(t)
	h.serving(t)
	c = h.client(t)
	// The seed's transaction is over when the address was announced and the
	// member has looked once more; ask for what must not come.
	r, err := c.Get(t.Context(), "/net/config")
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Kvs) > 0 || strings.Count(h.log.String(), "the store was empty") != 2 {
		t.Errorf("a config that was deleted came back: %v\n%s", r.Kvs, h.log)
	}
}

func TestMajorityLost(t *testing.T) {
	t.Parallel()
	hosts := cluster(t, "h1", "h2", "h3")
	for _, h := range hosts {
		h.serving(t)
	}
	hosts[1].stop(t)
	hosts[0].await(t, "in want of one", func(s embedded.State) bool {
		return s.Serving() && len(s.Warnings()) == 1 && strings.HasPrefix(s.Warnings()[0], "2 of 3 members of the store reachable")
	})
	hosts[2].stop(t)
	hosts[0].await(t, "waiting", func(s embedded.State) bool {
		return s.Waiting() == "waiting for the store: 1 of 3 members reachable"
	})
	hosts[1].start(t)
	hosts[0].serving(t)
	hosts[1].serving(t)
}

// A member alone that waits for others stops at once.
func TestStopsWhileItWaits(t *testing.T) {
	t.Parallel()
	h, other := newHost(t, "h1"), newHost(t, "h2")
	h.config.Cluster = []embedded.Peer{{Name: "h1", At: h.at()}, {Name: "h2", At: other.at()}}
	h.start(t)
	h.await(t, "waiting", func(s embedded.State) bool {
		return s.Waiting() == "waiting for the store: 1 of 2 members reachable"
	})
	begin := time.Now()
	h.stop(t)
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("stopping took %s", took)
	}
}

// joining makes a host that shall become a member of the others' cluster.
func joining(t *testing.T, name string, others ...*host) *host {
	t.Helper()
	h := newHost(t, name)
	h.config.Listen = loopback()
	for _, o := range others {
		h.config.Join = append(h.config.Join, o.endpoint())
	}
	return h
}

func admin(t *testing.T, h *host) *embedded.Admin {
	t.Helper()
	a, err := embedded.NewAdmin(clientv3.Config{Endpoints: []string{h.endpoint()}, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = a.Close() })
	return a
}

func info(t *testing.T, a *embedded.Admin, name string) embedded.Info {
	t.Helper()
	var got embedded.Info
	eventually(t, func() error {
		all, err := a.Members(t.Context())
		if err != nil {
			return err
		}
		for _, i := range all {
			if i.Name == name {
				got = i
				return nil
			}
		}
		return fmt.Errorf("no member %s in %+v", name, all)
	})
	return got
}

// A lost member is replaced; neither its name nor its address is free before
// that.
func TestReplace(t *testing.T) {
	t.Parallel()
	hosts := cluster(t, "h1", "h2", "h3")
	for _, h := range hosts {
		h.serving(t)
	}
	hosts[2].stop(t)
	a := admin(t, hosts[0])
	lost := info(t, a, "h3")
	twin := joining(t, "h3", hosts[0])
	twin.start(t)
	twin.await(t, "refused", func(s embedded.State) bool {
		return s.Err != nil && strings.Contains(s.Waiting(), "run flannelctl store remove-member h3")
	})
	twin.stop(t)
	if err := a.Remove(t.Context(), lost.ID); err != nil {
		t.Fatal(err)
	}
	fresh := joining(t, "h4", hosts[0], hosts[1])
	fresh.start(t)
	fresh.serving(t)
	if got := fresh.value(t, "/net/config"); got != embedded.DefaultSeed {
		t.Errorf("the new member has %q", got)
	}
	eventually(t, func() error {
		if i := info(t, a, "h4"); !i.Voter || i.Role != embedded.Follower && i.Role != embedded.Leader {
			return fmt.Errorf("h4 is %+v", i)
		}
		return nil
	})
	// It counts: with it two of three are a majority.
	hosts[1].stop(t)
	hosts[0].serving(t)
	// It needs no join any more, and its flags may say so still.
	fresh.stop(t)
	fresh.start(t)
	fresh.serving(t)
	// The removed one, if its host comes back, knows that it was.
	hosts[1].start(t)
	hosts[1].serving(t)
	hosts[2].start(t)
	hosts[2].await(t, "removed", func(s embedded.State) bool { return s.Err != nil })
	if got := hosts[2].member.State().Waiting(); !strings.Contains(got, "removed from its cluster") {
		t.Errorf("the removed member says %q", got)
	}
}

// A start that was cut short between the addition to the cluster and the
// member's first step is taken up again.
func TestJoinAfterCrash(t *testing.T) {
	t.Parallel()
	first := newHost(t, "h1")
	first.config.Listen = loopback()
	first.start(t)
	first.serving(t)
	fresh := joining(t, "h2", first)
	c := first.client(t)
	eventually(t, func() error { // until the first one is ready for others
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		_, err := c.MemberAddAsLearner(ctx, []string{fmt.Sprintf("http://%s", fresh.at())})
		return err
	})
	fresh.start(t)
	fresh.serving(t)
	list, err := c.MemberList(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(list.Members) != 2 {
		t.Errorf("%d members: %v", len(list.Members), list.Members)
	}
}

// A member that was alone can be given an address, and then others join.
func TestGrow(t *testing.T) {
	t.Parallel()
	h := newHost(t, "h1")
	h.start(t)
	h.serving(t)
	h.stop(t)
	h.config.Listen = loopback()
	_, h.config.PeerPort = ports(t)
	h.start(t)
	h.serving(t)
	fresh := joining(t, "h2", h)
	fresh.start(t)
	fresh.serving(t)
	h.await(t, "one of two", func(s embedded.State) bool { return s.Members == 2 && s.Reachable == 2 })
	if !strings.Contains(h.log.String(), "told the cluster of the store a new address") {
		t.Errorf("log %s", h.log)
	}
}

// Who is listed as a member of a cluster that was formed without it hears from
// all of them, and never of a leader.
func TestListedTooLate(t *testing.T) {
	t.Parallel()
	h1, h2 := newHost(t, "h1"), newHost(t, "h2")
	h1.config.Cluster = []embedded.Peer{{Name: "h1", At: h1.at()}}
	h1.start(t)
	h1.serving(t)
	h2.config.Cluster = []embedded.Peer{{Name: "h1", At: h1.at()}, {Name: "h2", At: h2.at()}}
	h2.start(t)
	h2.await(t, "waiting", func(s embedded.State) bool {
		return strings.Contains(s.Waiting(), "2 of 2 members reachable, and no leader") && strings.Contains(s.Waiting(), "--etcd-embedded-join")
	})
}
