package etcd

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"testing"
)

type from struct {
	net.Conn
	local string
}

func (c from) LocalAddr() net.Addr { return net.TCPAddrFromAddrPort(netip.MustParseAddrPort(c.local)) }

// Connections end with the address that they are from, and with no other.
func TestHomes(t *testing.T) {
	h := newHomes()
	closed := func(c net.Conn) bool { _, err := c.Write(nil); return errors.Is(err, net.ErrClosed) || err != nil }
	conns := map[string]net.Conn{}
	for _, local := range []string{"192.0.2.1:9", "192.0.2.2:9", "[2001:db8::1]:9", "127.0.0.1:9"} {
		near, far := net.Pipe()
		t.Cleanup(func() { _ = far.Close() })
		go func() { _, _ = far.Read(make([]byte, 1)) }()
		conns[local] = h.enter(from{near, local})
	}
	ctx, cancel := context.WithCancel(t.Context())
	h.dialing[&cancel] = struct{}{}
	all := []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("2001:db8::1")}
	h.move(all)
	if ctx.Err() == nil {
		t.Error("an attempt goes on although addresses changed")
	}
	ctx, again := context.WithCancel(t.Context())
	defer again()
	h.dialing[&again] = struct{}{}
	h.move(all)
	if ctx.Err() != nil {
		t.Error("an attempt ended although nothing changed")
	}
	h.move(all[1:2])
	for local, want := range map[string]bool{"192.0.2.1:9": true, "192.0.2.2:9": false, "[2001:db8::1]:9": true, "127.0.0.1:9": false} {
		if _, open := h.open[conns[local].(*homed)]; open == want || want != closed(conns[local]) {
			t.Errorf("%s: open %v", local, open)
		}
	}
}

func TestDirect(t *testing.T) {
	t.Setenv("HTTPS_PROXY", "")
	for endpoint, want := range map[string]bool{
		"http://192.0.2.1:2379": true, "192.0.2.1:2379": true, "https://[2001:db8::1]:2379": true, "unix:///run/etcd.sock": false,
	} {
		if direct([]string{endpoint}) != want {
			t.Errorf("%s: direct is %v", endpoint, !want)
		}
	}
}
