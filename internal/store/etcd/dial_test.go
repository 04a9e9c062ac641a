package etcd_test

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

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
