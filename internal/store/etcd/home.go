package etcd

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"

	"google.golang.org/grpc/credentials"
)

// homes knows the connections to etcd by their local addresses. When the host
// loses one of these, as when its uplink gets another, the connection is dead at
// once, and TCP would find out after seconds; so would an attempt that began
// without the right address.
type homes struct {
	mu      sync.Mutex
	have    []netip.Addr // of this host, sorted
	open    map[*homed]struct{}
	dialing map[*context.CancelFunc]struct{}
}

func newHomes() *homes {
	return &homes{open: map[*homed]struct{}{}, dialing: map[*context.CancelFunc]struct{}{}}
}

// homed is a connection that homes knows.
type homed struct {
	net.Conn
	homes *homes
}

// Close implements net.Conn.
func (c *homed) Close() error {
	c.homes.mu.Lock()
	delete(c.homes.open, c)
	c.homes.mu.Unlock()
	return c.Conn.Close()
}

// dial makes a connection that ends when the host's addresses change meanwhile.
func (h *homes) dial(ctx context.Context, address string) (net.Conn, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	h.mu.Lock()
	h.dialing[&cancel] = struct{}{}
	h.mu.Unlock()
	defer func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		delete(h.dialing, &cancel)
	}()
	return (&net.Dialer{}).DialContext(ctx, "tcp", address)
}

func (h *homes) enter(raw net.Conn) net.Conn {
	c := &homed{Conn: raw, homes: h}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.open[c] = struct{}{}
	return c
}

// move takes the addresses that the host has now, sorted.
func (h *homes) move(have []netip.Addr) {
	for _, c := range h.left(have) {
		_ = c.Close() // gRPC dials anew
	}
}

// left ends attempts that others may have made vain, and finds the connections
// from addresses that are gone.
func (h *homes) left(have []netip.Addr) []*homed {
	h.mu.Lock()
	defer h.mu.Unlock()
	if slices.Equal(h.have, have) {
		return nil
	}
	h.have = slices.Clone(have)
	for cancel := range h.dialing {
		(*cancel)()
	}
	var dead []*homed
	for c := range h.open {
		a, ok := c.LocalAddr().(*net.TCPAddr)
		if !ok {
			continue
		}
		home := a.AddrPort().Addr().Unmap().WithZone("")
		if _, there := slices.BinarySearchFunc(have, home, netip.Addr.Compare); !there && !home.IsLoopback() {
			dead = append(dead, c)
		}
	}
	return dead
}

// direct says whether no proxy stands between this host and the endpoints: gRPC
// knows of proxies only as long as it dials itself.
func direct(endpoints []string) bool {
	return !slices.ContainsFunc(endpoints, func(e string) bool {
		if !strings.Contains(e, "://") {
			e = "http://" + e
		}
		u, err := url.Parse(e)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" {
			return true
		}
		proxy, err := http.ProxyFromEnvironment(&http.Request{URL: u})
		return err != nil || proxy != nil
	})
}

// resident lets homes see the connections of the credentials it has.
type resident struct {
	credentials.TransportCredentials
	homes *homes
}

// ClientHandshake implements credentials.TransportCredentials.
func (r resident) ClientHandshake(ctx context.Context, authority string, raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return r.TransportCredentials.ClientHandshake(ctx, authority, r.homes.enter(raw))
}

// Clone implements credentials.TransportCredentials.
func (r resident) Clone() credentials.TransportCredentials {
	return resident{r.TransportCredentials.Clone(), r.homes}
}

// Moved ends connections and attempts that an address of this host was lost
// for, so that others take their place at once. have are the addresses it has.
func (c *Client) Moved(have []netip.Addr) {
	if r, ok := c.conn.(*remote); ok {
		r.homes.move(slices.SortedFunc(slices.Values(have), netip.Addr.Compare))
	}
}
