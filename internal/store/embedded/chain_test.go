package embedded_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/flannel-ng/flannel-ng/internal/store/embedded"
)

// issued is a certificate with its key.
type issued struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// issue makes a certificate signed by by, or by itself.
func issue(t *testing.T, c *x509.Certificate, by *issued) *issued {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c.SerialNumber, c.NotAfter = big.NewInt(time.Now().UnixNano()), time.Now().AddDate(1, 0, 0)
	parent, signer := c, key
	if by != nil {
		parent, signer = by.cert, by.key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	if c, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	return &issued{c, key}
}

func ca(name string) *x509.Certificate {
	return &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
}

func savePEM(t *testing.T, path, kind string, blocks ...[]byte) string {
	t.Helper()
	var text []byte
	for _, b := range blocks {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: b})...)
	}
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// A certificate may come with the one between it and the CA. One whose time has
// not come hints at the clock.
func TestCertificateBehindAnother(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	root := issue(t, ca("root"), nil)
	between := issue(t, ca("between"), root)
	leaf := issue(t, &x509.Certificate{
		Subject: pkix.Name{CommonName: "h1"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().AddDate(0, 0, 1),
	}, between)
	key, err := x509.MarshalECPrivateKey(leaf.key)
	if err != nil {
		t.Fatal(err)
	}
	h := newHost(t, "h1")
	h.config.TLS = embedded.Files{
		Cert: savePEM(t, filepath.Join(dir, "h1.pem"), "CERTIFICATE", leaf.cert.Raw, between.cert.Raw),
		Key:  savePEM(t, filepath.Join(dir, "h1-key.pem"), "EC PRIVATE KEY", key),
		CA:   savePEM(t, filepath.Join(dir, "ca.pem"), "CERTIFICATE", root.cert.Raw),
	}
	if _, err := embedded.New(h.config); err != nil {
		t.Errorf("with the one between: %v", err)
	}
	if !strings.Contains(h.log.String(), "is the clock right?") {
		t.Errorf("log: %s", h.log)
	}
	savePEM(t, h.config.TLS.Cert, "CERTIFICATE", leaf.cert.Raw)
	if _, err := embedded.New(h.config); err == nil || !strings.Contains(err.Error(), "is not of the CA") {
		t.Errorf("without it: %v", err)
	}
}
