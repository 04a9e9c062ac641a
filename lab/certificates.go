package lab

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// tlsDir holds ca.pem, cert.pem and key.pem on every node that has some.
const tlsDir = "/run/tls"

// authority signs the certificates of a fabric whose etcd asks for them.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority() (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("key of an authority: %w", err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "lab"}, IsCA: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageCertSign, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, fmt.Errorf("certificate of an authority: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("certificate of an authority: %w", err)
	}
	return &authority{cert, key}, nil
}

// Certify gives a node (a host, or etcd) a certificate that ends after life,
// which may be negative, beside that of who signed it. Files are replaced as
// operators do it: each at once, one after the other.
func (f *Fabric) Certify(n *Node, life time.Duration) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("key of %s: %w", n.Name, err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: n.Name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(life),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	for _, fam := range f.Options.Families {
		template.IPAddresses = append(template.IPAddresses, net.IP(f.plan.at(fam, placeEtcd).prefix.Addr().AsSlice()))
	}
	der, err := x509.CreateCertificate(rand.Reader, template, f.authority.cert, &key.PublicKey, f.authority.key)
	if err != nil {
		return fmt.Errorf("certificate of %s: %w", n.Name, err)
	}
	secret, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return fmt.Errorf("key of %s: %w", n.Name, err)
	}
	for _, file := range []struct {
		name, kind string
		der        []byte
	}{
		{"ca.pem", "CERTIFICATE", f.authority.cert.Raw},
		{"cert.pem", "CERTIFICATE", der},
		{"key.pem", "EC PRIVATE KEY", secret},
	} {
		if err := n.replaceFile(filepath.Join(tlsDir, file.name), pem.EncodeToMemory(&pem.Block{Type: file.kind, Bytes: file.der})); err != nil {
			return err
		}
	}
	return nil
}

// NewAuthority has all later certificates signed by somebody else.
func (f *Fabric) NewAuthority() (err error) {
	f.authority, err = newAuthority()
	return err
}

// certify gives everybody certificates to begin with.
func (f *Fabric) certify() error {
	if err := f.NewAuthority(); err != nil {
		return err
	}
	nodes := []*Node{f.Etcd.Node}
	for _, h := range f.Hosts {
		nodes = append(nodes, h.Node)
	}
	for _, n := range nodes {
		if err := f.Certify(n, time.Hour); err != nil {
			return err
		}
	}
	return nil
}

// replaceFile writes a file of the node in one step.
func (n *Node) replaceFile(path string, text []byte) error {
	there := n.Path(path)
	err := os.MkdirAll(filepath.Dir(there), 0o755)
	if err == nil {
		err = os.WriteFile(there+".new", text, 0o600)
	}
	if err == nil {
		err = os.Rename(there+".new", there)
	}
	if err != nil {
		return fmt.Errorf("%s of %s: %w", path, n.Name, err)
	}
	return nil
}
