package main

import (
	"fmt"
	"net"
	"net/url"
	"os"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"go.etcd.io/etcd/server/v3/embed"

	"github.com/flannel-ng/flannel-ng/internal/options"
	"github.com/flannel-ng/flannel-ng/internal/state"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"flannelctl": main})
}

// The commands against a real etcd: what internal/ctl tests with a store in a
// file means the same here.
func TestAgainstEtcd(t *testing.T) {
	t.Parallel()
	endpoint := startEtcd(t)
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		RequireExplicitExec: true,
		Condition: func(name string) (bool, error) {
			if name != "root" {
				return false, fmt.Errorf("unknown condition %q", name)
			}
			return os.Geteuid() == 0, nil
		},
		Setup: func(e *testscript.Env) error {
			e.Setenv("FLANNELD_ETCD_ENDPOINTS", endpoint)
			return nil
		},
	})
}

// startEtcd runs one member until the test ends and returns its endpoint.
func startEtcd(t *testing.T) string {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	at := url.URL{Scheme: "http", Host: l.Addr().String()}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	c := embed.NewConfig()
	c.Dir, c.LogLevel, c.UnsafeNoFsync = t.TempDir(), "error", true
	c.LogOutputs = []string{os.DevNull}
	c.ListenPeerUrls = nil
	c.ListenClientUrls, c.AdvertiseClientUrls = []url.URL{at}, []url.URL{at}
	server, err := embed.StartEtcd(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Close)
	select {
	case <-server.Server.ReadyNotify():
	case <-time.After(time.Minute):
		t.Fatal("etcd did not start in a minute")
	}
	return at.String()
}

// Daemon and flannelctl look for each other in the same place.
func TestSocketIsTheDaemons(t *testing.T) {
	t.Parallel()
	for _, file := range []string{"/run/flannel/subnet.env", "/run/second/subnet.env", "/run/flannel/odd"} {
		o, err := options.Parse([]string{"--subnet-file", file}, nil)
		if err != nil {
			t.Fatal(err)
		}
		if got := state.ControlSocket(o.SubnetFile); got != o.ControlSocket {
			t.Errorf("flannelctl looks at %s, flanneld listens on %s", got, o.ControlSocket)
		}
	}
}
