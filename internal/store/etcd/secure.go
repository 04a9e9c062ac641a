package etcd

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
)

var (
	errCertAndKey  = errors.New("a client certificate needs both its file and its key file")
	errCertificate = errors.New("no certificate in file")
	errMixed       = errors.New("endpoints mix http and https")
)

// plaintext says that TLS was meant but is not used: the scheme decides.
func (c ClientConfig) plaintext() string {
	if c.CAFile == "" && c.CertFile == "" || !c.speaks("http://") {
		return ""
	}
	return "etcd is reached without TLS: the CA and certificate files are not used with http:// endpoints, write https://"
}

// speaks says whether an endpoint has this scheme.
func (c ClientConfig) speaks(scheme string) bool {
	return slices.ContainsFunc(c.Endpoints, func(e string) bool { return strings.HasPrefix(e, scheme) })
}

// tls is nil if nothing asks for TLS.
func (c ClientConfig) tls() (*tls.Config, error) {
	https := c.speaks("https://")
	switch {
	case https && c.speaks("http://"):
		return nil, errMixed
	case (c.CertFile == "") != (c.KeyFile == ""):
		return nil, errCertAndKey
	case c.CAFile == "" && c.CertFile == "" && !https:
		return nil, nil
	}
	t := &tls.Config{MinVersion: tls.VersionTLS12}
	if c.CAFile != "" {
		pem, err := os.ReadFile(c.CAFile)
		if err != nil {
			return nil, fmt.Errorf("etcd CA: %w", err)
		}
		t.RootCAs = x509.NewCertPool()
		if !t.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("etcd CA %s: %w", c.CAFile, errCertificate)
		}
	}
	if c.CertFile != "" {
		pair, err := tls.LoadX509KeyPair(c.CertFile, c.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("etcd client certificate: %w", err)
		}
		t.Certificates = []tls.Certificate{pair}
	}
	return t, nil
}

// secure makes TLS connections. It reads the files anew for each, so that what
// an operator has replaced counts from the next connection on, and remembers
// what was wrong with the last: gRPC only says that time ran out.
type secure struct {
	config ClientConfig

	mu      sync.Mutex
	good    *tls.Config // the last that could be read
	problem error       // of the newest connection; nil: none
}

// credentials are s as gRPC wants it; without TLS, those of plain connections.
func (s *secure) credentials() credentials.TransportCredentials {
	if s == nil {
		return insecure.NewCredentials()
	}
	return s
}

// ClientHandshake implements credentials.TransportCredentials.
func (s *secure) ClientHandshake(ctx context.Context, authority string, raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	config, wrong := s.load()
	conn, info, err := credentials.NewTLS(config).ClientHandshake(ctx, authority, raw)
	if err != nil {
		s.note(errors.Join(err, wrong))
		return nil, nil, err
	}
	// Files that cannot be read are worth a word only if something does not work.
	return &witness{Conn: conn, files: s, wrong: wrong}, info, nil
}

// load reads the files. While they cannot be read, be it that they are just being
// replaced, what they held before counts.
func (s *secure) load() (*tls.Config, error) {
	config, err := s.config.tls()
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil {
		s.good = config
	}
	return s.good, err
}

func (s *secure) note(problem error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.problem = problem
}

// explain adds to an error of a request what is wrong with the connections.
func (s *secure) explain(err error) error {
	if s == nil || err == nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.problem == nil {
		return err
	}
	if ended := s.ended(); ended != nil {
		return fmt.Errorf("%w: TLS: %w; %w", err, s.problem, ended)
	}
	return fmt.Errorf("%w: TLS: %w", err, s.problem)
}

// ended says that the own certificate is past its end: a server only says that
// it does not like it.
func (s *secure) ended() error {
	if s.good == nil || len(s.good.Certificates) == 0 {
		return nil
	}
	leaf := s.good.Certificates[0].Leaf
	if leaf == nil || time.Now().Before(leaf.NotAfter) {
		return nil
	}
	return fmt.Errorf("%w: %s ended at %s", errEndedCertificate, s.config.CertFile, leaf.NotAfter.UTC().Format(time.RFC3339))
}

var errEndedCertificate = errors.New("client certificate")

// witness hears what the server says of our certificate: with TLS 1.3 that is
// the first thing to be read, after a handshake that went well.
type witness struct {
	net.Conn
	files *secure
	wrong error
	heard sync.Once
}

func (w *witness) Read(b []byte) (int, error) {
	n, err := w.Conn.Read(b)
	w.heard.Do(func() {
		if refused := (*net.OpError)(nil); err != nil && errors.As(err, &refused) && refused.Op == "remote error" {
			w.files.note(errors.Join(err, w.wrong))
		} else if err == nil {
			w.files.note(nil)
		}
	})
	return n, err
}

// ServerHandshake implements credentials.TransportCredentials. Nobody calls it.
func (s *secure) ServerHandshake(net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.ErrUnsupported
}

// Info implements credentials.TransportCredentials.
func (s *secure) Info() credentials.ProtocolInfo { return credentials.NewTLS(nil).Info() }

// Clone implements credentials.TransportCredentials: all connections share what
// is known of the files.
func (s *secure) Clone() credentials.TransportCredentials { return s }

// OverrideServerName implements credentials.TransportCredentials. Nobody calls
// it: names are those of the endpoints.
func (s *secure) OverrideServerName(string) error { return errors.ErrUnsupported }
