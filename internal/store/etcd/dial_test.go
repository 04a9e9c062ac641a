package etcd_test

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/flannel-ng/flannel-ng/internal/store/etcd"
)

func TestDialChecks(t *testing.T) {
	junk := filepath.Join(t.TempDir(), "junk.pem")
	if err := os.WriteFile(junk, []byte("junk"), 0o600); err != nil {
		t.Fatal(err)
	}
	one := []string{"127.0.0.1:2379"}
	for _, tc := range []struct {
		why    string
		config etcd.ClientConfig
	}{
		{"no etcd endpoint", etcd.ClientConfig{}},
		{"mix http and https", etcd.ClientConfig{Endpoints: []string{"http://a:1", "https://b:1"}}},
		{"both its file and its key", etcd.ClientConfig{Endpoints: one, CertFile: "cert.pem"}},
		{"both its file and its key", etcd.ClientConfig{Endpoints: one, KeyFile: "key.pem"}},
		{"no such file", etcd.ClientConfig{Endpoints: one, CAFile: "/nonexistent/ca.pem"}},
		{"no certificate in file", etcd.ClientConfig{Endpoints: one, CAFile: junk}},
		{"client certificate", etcd.ClientConfig{Endpoints: one, CertFile: junk, KeyFile: junk}},
		{"needs a user name", etcd.ClientConfig{Endpoints: one, Password: "correct-horse"}},
	} {
		_, err := etcd.Dial(t.Context(), tc.config)
		if err == nil || !strings.Contains(err.Error(), tc.why) {
			t.Errorf("%+v: error %v does not say %q", tc.config, err, tc.why)
		}
		if err != nil && strings.Contains(err.Error(), "correct-horse") {
			t.Errorf("the error tells the password: %v", err)
		}
	}
}

func TestDialDoesNotWait(t *testing.T) {
	// Nobody listens; with a password, making etcd's client would already talk.
	c, err := etcd.Dial(t.Context(), etcd.ClientConfig{
		Endpoints: []string{"http://127.0.0.1:1"}, Username: "u", Password: "p",
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if _, _, err := etcd.NewAdmin(c).Config(t.Context()); err == nil {
		t.Error("a closed client answers")
	}
}

// With gRPC's own backoff the seventh attempt comes after more than 20 s, and
// the pauses grow to two minutes.
func TestRedialsSoon(t *testing.T) {
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	attempts := make(chan struct{})
	go func() {
		defer close(attempts)
		for range 7 {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_ = conn.Close()
			attempts <- struct{}{}
		}
	}()
	c, err := etcd.Dial(t.Context(), etcd.ClientConfig{Endpoints: []string{"http://" + l.Addr().String()}})
	if err != nil {
		t.Fatal(err)
	}
	var asking sync.WaitGroup
	asking.Go(func() { _, _, _ = etcd.NewAdmin(c).Config(t.Context()) })
	deadline := time.After(15 * time.Second)
	for n := 0; n < 7; {
		select {
		case <-attempts:
			n++
		case <-deadline:
			t.Fatalf("%d attempts to connect in 15 s", n)
		}
	}
	asking.Wait()
	if err := errors.Join(c.Close(), l.Close()); err != nil {
		t.Error(err)
	}
}

func TestConfigHidesThePassword(t *testing.T) {
	c := etcd.ClientConfig{Endpoints: []string{"e"}, Username: "u", Password: "correct-horse"}
	var log strings.Builder
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "config", c)
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "config", c)
	text := log.String() + fmt.Sprintf("%v %+v %#v %s", c, c, c, c)
	if strings.Contains(text, "correct-horse") || !strings.Contains(text, "username") {
		t.Errorf("shown as %s", text)
	}
}
