package forwarder

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/tunnel/packet"
)

const (
	// errorsPerSecond bounds what a flood of lost packets makes us send; as
	// many may go at once.
	errorsPerSecond = 1000

	icmpFilter   = 1 // ICMP_FILTER of linux/icmp.h
	icmpv6Filter = 1 // ICMPV6_FILTER of linux/icmpv6.h
)

// errorSender tells senders what became of their packets. The messages go out
// by raw sockets: the kernel would drop them as martians if they came from the
// device, with an address of this host as their source.
type errorSender struct {
	conns addr.ByFamily[*net.IPConn] // nil: none could be opened
	limit limit
}

func newErrorSender(ctx context.Context, log *slog.Logger) *errorSender {
	e := &errorSender{limit: limit{perSecond: errorsPerSecond}}
	for _, f := range addr.Families() {
		conn, err := openICMP(ctx, f)
		if err != nil {
			log.Warn("senders of lost packets are not told", "family", f, "err", err)
			continue
		}
		e.conns.Put(f, conn)
	}
	return e
}

func openICMP(ctx context.Context, f addr.Family) (*net.IPConn, error) {
	lc := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		return control(raw, func(fd int) error { return deafen(fd, f) })
	}}
	protocol := ":icmp"
	if f == addr.IPv6 {
		protocol = ":ipv6-icmp"
	}
	conn, err := lc.ListenPacket(ctx, network("ip", f)+protocol, "")
	if err != nil {
		return nil, fmt.Errorf("open raw ICMP socket: %w", err)
	}
	return conn.(*net.IPConn), nil
}

// deafen keeps the kernel from giving a copy of each ICMP message of the host
// to a socket that only sends.
func deafen(fd int, f addr.Family) error {
	if f == addr.IPv4 {
		return unix.SetsockoptInt(fd, unix.SOL_RAW, icmpFilter, -1)
	}
	all := unix.ICMPv6Filter{}
	for i := range all.Data {
		all.Data[i] = ^uint32(0)
	}
	return unix.SetsockoptICMPv6Filter(fd, unix.SOL_ICMPV6, icmpv6Filter, &all)
}

// tell sends the message that describe makes, from self, if the limit allows
// it. What cannot be sent is lost, as on any router.
func (e *errorSender) tell(self netip.Addr, describe func() (packet.ICMP, bool)) {
	conn := e.conns.At(addr.Of(self))
	if conn == nil || !e.limit.allow(time.Now()) {
		return
	}
	m, ok := describe()
	if !ok {
		return
	}
	_, _, _ = conn.WriteMsgIP(m.Message, from(self), &net.IPAddr{IP: m.To.AsSlice()})
}

// from is the control message that makes self the source.
func from(self netip.Addr) []byte {
	if self.Is4() {
		return unix.PktInfo4(&unix.Inet4Pktinfo{Spec_dst: self.As4()})
	}
	return unix.PktInfo6(&unix.Inet6Pktinfo{Addr: self.As16()})
}

func (e *errorSender) close() error {
	var errs []error
	for _, f := range addr.Families() {
		if conn := e.conns.At(f); conn != nil {
			errs = append(errs, conn.Close())
		}
	}
	return errors.Join(errs...)
}

// limit is a bucket of one second's tokens. Its zero value but for perSecond
// is full.
type limit struct {
	perSecond int

	mu     sync.Mutex
	tokens float64
	last   time.Time
}

func (l *limit) allow(now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tokens = min(l.tokens+now.Sub(l.last).Seconds()*float64(l.perSecond), float64(l.perSecond))
	l.last = now
	if l.tokens < 1 {
		return false
	}
	l.tokens--
	return true
}
