package etcdtest_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/flannel-ng/flannel-ng/internal/store/etcd"
	"github.com/flannel-ng/flannel-ng/internal/store/etcdtest"
)

// authority signs certificates for 127.0.0.1.
type authority struct {
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{dir: t.TempDir()}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"}, IsCA: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageCertSign, BasicConstraintsValid: true,
	}
	var der []byte
	a.key, der = sign(t, template, template, nil)
	var err error
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	a.write(t, "ca.pem", "CERTIFICATE", der)
	return a
}

// sign makes a key and a certificate for it; a nil parent key signs itself.
func sign(t *testing.T, template, parent *x509.Certificate, by *ecdsa.PrivateKey) (*ecdsa.PrivateKey, []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if by == nil {
		by = key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, by)
	if err != nil {
		t.Fatal(err)
	}
	return key, der
}

func (a *authority) path(name string) string { return filepath.Join(a.dir, name) }

func (a *authority) write(t *testing.T, name, kind string, der []byte) {
	t.Helper()
	text := pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
	if err := os.WriteFile(a.path(name), text, 0o600); err != nil {
		t.Fatal(err)
	}
}

// issue writes name.pem and name-key.pem.
func (a *authority) issue(t *testing.T, name string) (cert, key string) {
	t.Helper()
	return a.issueFor(t, name, time.Hour)
}

// issueFor writes a certificate that ends after life.
func (a *authority) issueFor(t *testing.T, name string, life time.Duration) (cert, key string) {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(life),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	k, der := sign(t, template, a.cert, a.key)
	a.write(t, name+".pem", "CERTIFICATE", der)
	keyDER, err := x509.MarshalECPrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	a.write(t, name+"-key.pem", "EC PRIVATE KEY", keyDER)
	return a.path(name + ".pem"), a.path(name + "-key.pem")
}

func TestPlaintextDespiteFilesWarns(t *testing.T) {
	ca := newAuthority(t).path("ca.pem")
	for _, tc := range []struct {
		config etcd.ClientConfig
		warns  bool
	}{
		{etcd.ClientConfig{Endpoints: []string{"http://192.0.2.1:2379"}, CAFile: ca}, true},
		{etcd.ClientConfig{Endpoints: []string{"http://192.0.2.1:2379"}}, false},
		{etcd.ClientConfig{Endpoints: []string{"https://192.0.2.1:2379"}, CAFile: ca}, false},
		{etcd.ClientConfig{Endpoints: []string{"192.0.2.1:2379"}, CAFile: ca}, false},
	} {
		var log strings.Builder
		etcd.New(dial(t, tc.config), etcd.Options{HostID: "h", Log: slog.New(slog.NewTextHandler(&log, nil))})
		if got := strings.Contains(log.String(), "without TLS"); got != tc.warns {
			t.Errorf("%v: warned %v, want %v: %s", tc.config, got, tc.warns, log.String())
		}
	}
}

func TestTLS(t *testing.T) {
	a := newAuthority(t)
	cert, key := a.issue(t, "server")
	clientCert, clientKey := a.issue(t, "client")
	open := etcdtest.Start(t, etcdtest.Options{CertFile: cert, KeyFile: key})
	strict := etcdtest.Start(t, etcdtest.Options{CertFile: cert, KeyFile: key, CAFile: a.path("ca.pem")})
	for _, tc := range []struct {
		name   string
		config etcd.ClientConfig
		works  bool
	}{
		{"CA alone", etcd.ClientConfig{Endpoints: []string{open.Endpoint()}, CAFile: a.path("ca.pem")}, true},
		{"CA alone, endpoint without a scheme", etcd.ClientConfig{Endpoints: []string{open.Address()}, CAFile: a.path("ca.pem")}, true},
		{"no CA", etcd.ClientConfig{Endpoints: []string{open.Endpoint()}}, false},
		{"client certificate", etcd.ClientConfig{
			Endpoints: []string{strict.Endpoint()}, CAFile: a.path("ca.pem"), CertFile: clientCert, KeyFile: clientKey,
		}, true},
		{"client certificate missing", etcd.ClientConfig{Endpoints: []string{strict.Endpoint()}, CAFile: a.path("ca.pem")}, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tc.config.Prefix = "/net"
			_, _, err := etcd.NewAdmin(dial(t, tc.config)).Config(t.Context())
			if (err == nil) != tc.works {
				t.Errorf("error %v, want success: %v", err, tc.works)
			}
			if err != nil && !strings.Contains(err.Error(), "/net/config") {
				t.Errorf("error %v does not say what was read", err)
			}
		})
	}
}

// TestReplacedFiles: certificates are replaced under a running client, which
// says what is wrong with those it has.
func TestReplacedFiles(t *testing.T) {
	a, other := newAuthority(t), newAuthority(t)
	cert, key := a.issue(t, "server")
	server := etcdtest.Start(t, etcdtest.Options{CertFile: cert, KeyFile: key, CAFile: a.path("ca.pem")})
	link := server.Proxy(t)
	mine := t.TempDir()
	file := func(name string) string { return filepath.Join(mine, name) }
	put := func(from *authority, life time.Duration) {
		t.Helper()
		cert, key := from.issueFor(t, "client", life)
		for name, path := range map[string]string{"ca.pem": from.path("ca.pem"), "cert.pem": cert, "key.pem": key} {
			text, err := os.ReadFile(path)
			if err == nil {
				err = os.WriteFile(file(name), text, 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	put(other, time.Hour)
	admin := etcd.NewAdmin(dial(t, etcd.ClientConfig{
		Endpoints: []string{strings.Replace(link.Endpoint(), "http:", "https:", 1)}, Prefix: "/net",
		CAFile: file("ca.pem"), CertFile: file("cert.pem"), KeyFile: file("key.pem"),
	}))
	ask := func() error {
		_, _, err := admin.Config(t.Context())
		return err
	}
	for _, step := range []struct {
		name, says string // "": works
		change     func()
	}{
		{"of another authority", "unknown authority", func() {}},
		{"replaced", "", func() { put(a, time.Hour) }},
		{"damaged", "", func() {
			if err := os.WriteFile(file("ca.pem"), []byte("half"), 0o600); err != nil {
				t.Fatal(err)
			}
		}},
		{"ended", "cert.pem ended at", func() { put(a, -time.Minute) }},
		{"renewed", "", func() { put(a, time.Hour) }},
	} {
		step.change()
		link.Cut() // only a new connection looks at the files
		link.Heal()
		var err error
		within(t, 20*time.Second, step.name, func() bool {
			err = ask()
			return (err == nil) == (step.says == "")
		})
		if err != nil && !strings.Contains(err.Error(), step.says) {
			t.Errorf("%s: error %v does not say %q", step.name, err, step.says)
		}
	}
}
