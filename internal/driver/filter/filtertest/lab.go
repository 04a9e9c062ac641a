package filtertest

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/flannel-ng/flannel-ng/internal/addr"
)

// Limits on waiting for a packet: generous where it has to come, short where
// it must not.
const (
	Arrives = 5 * time.Second
	Absent  = 250 * time.Millisecond
)

// Lab is one host with the three kinds of neighbours that rules tell apart, in
// the addresses of package traffictest:
//
//	container (own subnet) ── host ── remote (another host's subnet)
//	                            └──── outside
type Lab struct {
	Host  *Space
	Sites []Site
}

// Site is a neighbour: where packets come from and go to.
type Site struct {
	Name    string
	Space   *Space
	Address addr.ByFamily[netip.Addr]
	Gateway addr.ByFamily[netip.Addr] // the host's address on the link
}

// NewLab builds the host and its neighbours.
func NewLab(t *testing.T) Lab {
	t.Helper()
	Need(t, "ip", "sh")
	host := NewSpace(t)
	lab := Lab{Host: host, Sites: []Site{
		{
			Name:    "container",
			Address: pair("10.5.14.5", "fc00:5:0:44::5"), Gateway: pair("10.5.14.1", "fc00:5:0:44::1"),
		},
		{
			Name:    "remote",
			Address: pair("10.5.9.5", "fc00:5:0:9::5"), Gateway: pair("10.5.14.0", "fc00:5:0:44::"),
		},
		{
			Name:    "outside",
			Address: pair("198.51.100.7", "2001:db8::7"), Gateway: pair("198.51.100.1", "2001:db8::1"),
		},
	}}
	host.Sh(t, "for f in all default; do echo 0 >/proc/sys/net/ipv4/conf/$f/rp_filter; done",
		"echo 1 >/proc/sys/net/ipv4/ip_forward", "echo 1 >/proc/sys/net/ipv6/conf/all/forwarding")
	for i := range lab.Sites {
		lab.Sites[i].Space = NewSpace(t)
		attach(t, host, lab.Sites[i])
	}
	return lab
}

func attach(t *testing.T, host *Space, s Site) {
	t.Helper()
	host.Sh(t, fmt.Sprintf("ip link add %s type veth peer name eth0 netns %s", s.Name, s.Space.path),
		fmt.Sprintf("ip link set %s up", s.Name))
	s.Space.Sh(t, "ip link set eth0 up")
	for _, f := range addr.Families() {
		own, gw := addr.Single(s.Address.At(f)), addr.Single(s.Gateway.At(f))
		nodad := ""
		if f == addr.IPv6 {
			nodad = " nodad"
		}
		host.Sh(t, fmt.Sprintf("ip addr add %s dev %s%s", gw, s.Name, nodad),
			fmt.Sprintf("ip route add %s dev %s", own, s.Name))
		s.Space.Sh(t, fmt.Sprintf("ip addr add %s dev eth0%s", own, nodad),
			fmt.Sprintf("ip route add %s dev eth0", gw),
			fmt.Sprintf("ip route add default via %s dev eth0", gw.Addr()))
	}
}

func pair(ipv4, ipv6 string) addr.ByFamily[netip.Addr] {
	return addr.Pair(netip.MustParseAddr(ipv4), netip.MustParseAddr(ipv6))
}

// Site finds a neighbour by name.
func (l Lab) Site(name string) Site {
	for _, s := range l.Sites {
		if s.Name == name {
			return s
		}
	}
	panic("no site " + name)
}

// Listener receives datagrams at a site.
type Listener struct{ conn *net.UDPConn }

// Listen opens a UDP port at a site.
func (s Site) Listen(t *testing.T, f addr.Family, port uint16) Listener {
	t.Helper()
	var conn *net.UDPConn
	var err error
	s.Space.Do(func() {
		conn, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(s.Address.At(f), port)))
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return Listener{conn: conn}
}

// Dial opens a UDP socket from one site to another.
func (s Site) Dial(t *testing.T, to Site, f addr.Family, port uint16) *net.UDPConn {
	t.Helper()
	var conn *net.UDPConn
	var err error
	s.Space.Do(func() {
		conn, err = net.DialUDP("udp",
			net.UDPAddrFromAddrPort(netip.AddrPortFrom(s.Address.At(f), 0)),
			net.UDPAddrFromAddrPort(netip.AddrPortFrom(to.Address.At(f), port)))
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// Source sends one datagram through conn and returns the source address that
// the listener sees; the zero value if nothing comes.
func (l Listener) Source(t *testing.T, conn *net.UDPConn, limit time.Duration) netip.AddrPort {
	t.Helper()
	if _, err := conn.Write([]byte("probe")); err != nil {
		t.Fatal(err)
	}
	if err := l.conn.SetReadDeadline(time.Now().Add(limit)); err != nil {
		t.Fatal(err)
	}
	_, from, err := l.conn.ReadFromUDPAddrPort(make([]byte, 64))
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return netip.AddrPort{}
	}
	if err != nil {
		t.Fatal(err)
	}
	return netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
}

// Path is a way from one site to another.
type Path struct {
	From, To string // names of sites
	Family   addr.Family
}

// paths lists every way between two different sites.
func (l Lab) paths(f addr.Family) []Path {
	var out []Path
	for _, from := range l.Sites {
		for _, to := range l.Sites {
			if from.Name != to.Name {
				out = append(out, Path{From: from.Name, To: to.Name, Family: f})
			}
		}
	}
	return out
}

// TCP says whether a connection along p comes up and carries an answer back.
func (l Lab) TCP(t *testing.T, p Path, limit time.Duration) bool {
	t.Helper()
	from, to := l.Site(p.From), l.Site(p.To)
	var ln net.Listener
	var err error
	to.Space.Do(func() {
		ln, err = net.ListenTCP("tcp", net.TCPAddrFromAddrPort(netip.AddrPortFrom(to.Address.At(p.Family), 0)))
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ln.Close() }()
	go func() {
		if c, err := ln.Accept(); err == nil {
			_, _ = c.Write([]byte("answer"))
			_ = c.Close()
		}
	}()
	var conn net.Conn
	from.Space.Do(func() {
		// One address, so that the dial stays on this thread.
		conn, err = (&net.Dialer{Timeout: limit}).DialContext(t.Context(), "tcp", ln.Addr().String())
	})
	if err != nil {
		return false
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetReadDeadline(time.Now().Add(limit))
	n, _ := conn.Read(make([]byte, 16))
	return n > 0
}
