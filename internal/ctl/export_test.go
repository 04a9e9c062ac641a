package ctl

import (
	"io"
	"net/netip"
	"time"

	"github.com/flannel-ng/flannel-ng/internal/addr"
)

// For tests: what reads data from outside and what no command shows alone.

func FindGateway(r io.Reader, subnet netip.Prefix) (netip.Addr, error) { return findGateway(r, subnet) }
func ParseSubnets(s string) (addr.ByFamily[netip.Prefix], error)       { return parseSubnets(s) }
func ParseNode(s string) (addr.ByFamily[netip.Addr], error)            { return parseNode(s) }
func Span(d time.Duration) string                                      { return span(d) }
func Clean(s string) string                                            { return clean(s) }
