package nl

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/flannel-ng/flannel-ng/internal/addr"
)

// dropFlowsTries bounds how often a conntrack reading that changed under us
// is repeated; connections come and go all the time.
const dropFlowsTries = 3

// Flow is a tracked connection as its first packet was decided.
type Flow struct {
	Src netip.Addr // as sent
	Dst netip.Addr // as delivered, after any destination translation
	// ReplyTo is where answers go: Src, unless the source was translated.
	ReplyTo netip.Addr
}

// Translated says whether the source address was rewritten.
func (f Flow) Translated() bool { return f.ReplyTo != f.Src }

// DropFlows forgets every tracked connection of a family for which drop holds
// and returns how many. Their next packet is decided anew. The connections of
// an interrupted reading are dropped too; the error says that some were missed.
func DropFlows(f addr.Family, drop func(Flow) bool) (int, error) {
	family := netlink.InetFamily(unix.AF_INET6)
	if f == addr.IPv4 {
		family = unix.AF_INET
	}
	total := 0
	for try := 1; ; try++ {
		n, err := netlink.ConntrackDeleteFilters(netlink.ConntrackTable, family, flowFilter(drop))
		total += int(n)
		if err == nil {
			return total, nil
		}
		if try == dropFlowsTries || !errors.Is(err, netlink.ErrDumpInterrupted) {
			return total, fmt.Errorf("drop tracked %s connections: %w", f, err)
		}
	}
}

// flowFilter adapts a predicate to the library.
type flowFilter func(Flow) bool

// MatchConntrackFlow implements netlink.CustomConntrackFilter.
func (drop flowFilter) MatchConntrackFlow(f *netlink.ConntrackFlow) bool {
	src, okSrc := plainAddr(f.Forward.SrcIP)
	dst, okDst := plainAddr(f.Reverse.SrcIP)
	reply, okReply := plainAddr(f.Reverse.DstIP)
	return okSrc && okDst && okReply && drop(Flow{Src: src, Dst: dst, ReplyTo: reply})
}

func plainAddr(ip net.IP) (netip.Addr, bool) {
	a, ok := netip.AddrFromSlice(ip)
	return a.Unmap(), ok
}
