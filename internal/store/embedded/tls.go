package embedded

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/transport"
)

var (
	errWrongAddress = errors.New("certificate is not valid for an address of the embedded etcd")
	errWrongUse     = errors.New("certificate cannot be used for servers and clients both, and members are both")
	errWrongCA      = errors.New("certificate is not of the CA")
)

// soon is how long before its end a certificate is worth a warning.
const soon = 14 * 24 * time.Hour

// info is what etcd calls the same.
func (f Files) info() transport.TLSInfo {
	return transport.TLSInfo{CertFile: f.Cert, KeyFile: f.Key, TrustedCAFile: f.CA, ClientCertAuth: f.CA != ""}
}

// client is nil without certificates.
func (f Files) client() (*tls.Config, error) {
	if f.Cert == "" {
		return nil, nil
	}
	t, err := f.info().ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("--etcd-embedded-certfile and -keyfile: %w", err)
	}
	return t, nil
}

// check finds at the start what would otherwise show as connections that other
// hosts refuse. That a certificate has ended is no reason to stay away: warning
// says so.
func (f Files) check(addresses []netip.Addr) (warning string, err error) {
	if f.Cert == "" {
		return "", nil
	}
	pair, err := tls.LoadX509KeyPair(f.Cert, f.Key)
	if err != nil {
		return "", fmt.Errorf("--etcd-embedded-certfile and -keyfile: %w", err)
	}
	leaf, err := x509.ParseCertificate(pair.Certificate[0])
	if err != nil {
		return "", fmt.Errorf("certificate %s: %w", f.Cert, err)
	}
	for _, a := range addresses {
		if err := leaf.VerifyHostname(a.String()); err != nil {
			return "", fmt.Errorf("%s: %w: add IP:%s to its subjectAltName", f.Cert, errWrongAddress, a)
		}
	}
	if err := f.checkUse(leaf); err != nil {
		return "", err
	}
	if err := f.checkCA(leaf, pair.Certificate[1:]); err != nil {
		return "", err
	}
	switch now := time.Now(); {
	case now.Before(leaf.NotBefore):
		warning = fmt.Sprintf("certificate %s begins at %s: is the clock right?", f.Cert, leaf.NotBefore.UTC().Format(time.RFC3339))
	case leaf.NotAfter.Sub(now) < soon:
		warning = fmt.Sprintf("certificate %s ends at %s", f.Cert, leaf.NotAfter.UTC().Format(time.RFC3339))
	}
	return warning, nil
}

func (f Files) checkUse(leaf *x509.Certificate) error {
	if len(leaf.ExtKeyUsage) == 0 || slices.Contains(leaf.ExtKeyUsage, x509.ExtKeyUsageAny) {
		return nil
	}
	for _, use := range []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth} {
		if !slices.Contains(leaf.ExtKeyUsage, use) {
			return fmt.Errorf("%s: %w: make it with extendedKeyUsage=serverAuth,clientAuth", f.Cert, errWrongUse)
		}
	}
	return nil
}

// checkCA looks whether the CA has signed leaf, or one of the certificates
// behind it in the same file, which is shown with it.
func (f Files) checkCA(leaf *x509.Certificate, behind [][]byte) error {
	if f.CA == "" {
		return nil
	}
	pem, err := os.ReadFile(f.CA)
	if err != nil {
		return fmt.Errorf("--etcd-embedded-cafile: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return fmt.Errorf("--etcd-embedded-cafile: %s holds no certificate", f.CA)
	}
	between := x509.NewCertPool()
	for _, der := range behind {
		if c, err := x509.ParseCertificate(der); err == nil {
			between.AddCert(c)
		}
	}
	_, err = leaf.Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
		// Whether it is valid today is another question.
		CurrentTime: leaf.NotBefore.Add(leaf.NotAfter.Sub(leaf.NotBefore) / 2),
	})
	if err != nil {
		return fmt.Errorf("%s: %w %s: %w", f.Cert, errWrongCA, f.CA, err)
	}
	return nil
}
