package embedded_test

import (
	"context"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/flannel-ng/flannel-ng/internal/store/embedded"
)

// documented runs the commands that the documentation gives for certificates,
// with these hosts, and returns the directory.
func documented(t *testing.T, hosts string) string {
	t.Helper()
	if _, err := exec.LookPath("openssl"); err != nil {
		t.Skip("needs openssl (scripts/deps.sh installs it)")
	}
	text, err := os.ReadFile("../../../docs/embedded-etcd.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(text), "runs this block -->\n```sh\n")
	script, _, end := strings.Cut(rest, "```")
	const those = "h1=192.0.2.1 h2=192.0.2.2 h3=192.0.2.3"
	if !ok || !end || !strings.Contains(script, those) {
		t.Fatal("the document has no commands for certificates, or they are for other hosts")
	}
	cmd := exec.CommandContext(t.Context(), "sh", "-eu", "-c", strings.Replace(script, those, hosts, 1))
	cmd.Dir = t.TempDir()
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return cmd.Dir
}

func files(dir, name string) embedded.Files {
	return embedded.Files{
		Cert: filepath.Join(dir, name+".pem"), Key: filepath.Join(dir, name+"-key.pem"), CA: filepath.Join(dir, "ca.pem"),
	}
}

// ask reads a key with the certificates of f.
func ask(t *testing.T, endpoint string, f embedded.Files) error {
	t.Helper()
	secure, err := transport.TLSInfo{CertFile: f.Cert, KeyFile: f.Key, TrustedCAFile: f.CA}.ClientConfig()
	if err != nil {
		t.Fatal(err)
	}
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{endpoint}, TLS: secure, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	_, err = c.Get(ctx, "/net/config")
	return err
}

// Three members with the certificates of the document talk to one another and
// to who has one, too, and to nobody else.
func TestCertificatesOfTheDocument(t *testing.T) {
	t.Parallel()
	dir := documented(t, "h1=127.0.0.2 h2=127.0.0.2 h3=127.0.0.2")
	var hosts []*host
	var peers []embedded.Peer
	for _, name := range []string{"h1", "h2", "h3"} {
		h := newHost(t, name)
		h.config.TLS = files(dir, name)
		hosts = append(hosts, h)
		peers = append(peers, embedded.Peer{Name: name, At: h.at()})
	}
	for _, h := range hosts {
		h.config.Cluster = peers
		h.start(t)
	}
	for _, h := range hosts {
		h.await(t, "one of three", func(s embedded.State) bool { return s.Serving() && s.Reachable == 3 })
	}
	if err := ask(t, hosts[0].endpoint(), files(dir, "h2")); err != nil {
		t.Errorf("with a certificate: %v", err)
	}
	if err := ask(t, hosts[0].endpoint(), embedded.Files{CA: filepath.Join(dir, "ca.pem")}); err == nil {
		t.Error("a client without a certificate was let in")
	}
	stranger := documented(t, "h1=127.0.0.1")
	own := files(stranger, "h1")
	own.CA = filepath.Join(dir, "ca.pem")
	if err := ask(t, hosts[0].endpoint(), own); err == nil {
		t.Error("a client with another CA's certificate was let in")
	}
	h4 := joining(t, "h4", hosts[0])
	h4.config.TLS = files(dir, "h1")
	h4.start(t)
	h4.serving(t)
}

// What other hosts would refuse is found at the start.
func TestRefusedCertificates(t *testing.T) {
	t.Parallel()
	dir := documented(t, "h1=192.0.2.1")
	other := documented(t, "h1=192.0.2.1")
	elsewhere := newHost(t, "h1")
	elsewhere.config.Listen = netip.MustParseAddr("127.0.0.9")
	elsewhere.config.TLS = files(dir, "h1")
	if _, err := embedded.New(elsewhere.config); err == nil || !strings.Contains(err.Error(), "add IP:127.0.0.9 to its subjectAltName") {
		t.Errorf("for another address: %v", err)
	}
	h := newHost(t, "h1")
	h.config.TLS = files(dir, "h1")
	h.config.TLS.CA = filepath.Join(other, "ca.pem")
	if _, err := embedded.New(h.config); err == nil || !strings.Contains(err.Error(), "is not of the CA") {
		t.Errorf("of another CA: %v", err)
	}
	h.config.TLS.CA = filepath.Join(dir, "h1-key.pem")
	if _, err := embedded.New(h.config); err == nil || !strings.Contains(err.Error(), "holds no certificate") {
		t.Errorf("a CA without a certificate: %v", err)
	}
	serverOnly := documented(t, "h1=192.0.2.1")
	script := `openssl x509 -req -in h1.csr -CA ca.pem -CAkey ca-key.pem -days 3 -out h1.pem -extfile h1.ext`
	cmd := exec.CommandContext(t.Context(), "sh", "-eu", "-c", "sed -i s/,clientAuth// h1.ext; "+script)
	cmd.Dir = serverOnly
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	h.config.TLS = files(serverOnly, "h1")
	if _, err := embedded.New(h.config); err == nil || !strings.Contains(err.Error(), "extendedKeyUsage=serverAuth,clientAuth") {
		t.Errorf("for servers only: %v", err)
	}
	h.config.TLS = files(dir, "h1")
	if err := os.WriteFile(filepath.Join(serverOnly, "h1.ext"), []byte("subjectAltName=IP:127.0.0.1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd = exec.CommandContext(t.Context(), "sh", "-eu", "-c", script)
	cmd.Dir = serverOnly
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	h.config.TLS = files(serverOnly, "h1")
	if _, err := embedded.New(h.config); err != nil || !strings.Contains(h.log.String(), "ends at") {
		t.Errorf("one that ends soon: %v, log %s", err, h.log)
	}
}
