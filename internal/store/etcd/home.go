package etcd

import (
	"context"
	"net"
	"net/netip"
	"sync"

	"google.golang.org/grpc/credentials"
)

// homes knows the open connections to etcd by their local addresses. When the
// host loses one of these, as when its uplink gets another, the connection is
// dead at once, and TCP would find out after seconds.
type homes struct {
	mu   sync.Mutex
	open map[*homed]struct{}
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

func (h *homes) enter(raw net.Conn) net.Conn {
	c := &homed{Conn: raw, homes: h}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.open == nil {
		h.open = map[*homed]struct{}{}
	}
	h.open[c] = struct{}{}
	return c
}

// leave closes the connections from addresses that the host has not; has must be
// quick.
func (h *homes) leave(has func(netip.Addr) bool) {
	h.mu.Lock()
	var dead []*homed
	for c := range h.open {
		if a, ok := c.LocalAddr().(*net.TCPAddr); ok && !has(a.AddrPort().Addr().Unmap().WithZone("")) {
			dead = append(dead, c)
		}
	}
	h.mu.Unlock()
	for _, c := range dead {
		_ = c.Close() // gRPC dials anew
	}
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

// Moved closes connections from addresses that this host has no longer, so that
// others take their place at once. has says which it has.
func (c *Client) Moved(has func(netip.Addr) bool) {
	if r, ok := c.conn.(*remote); ok {
		r.homes.leave(has)
	}
}
