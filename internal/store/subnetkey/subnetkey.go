// Package subnetkey spells subnets as flannel's lease keys do (reference §3).
//
// Pure functions, no state. Called by the stores, which must all name a lease
// alike.
package subnetkey

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/flannel-ng/flannel-ng/internal/addr"
)

// anyIPv4 stands for the missing IPv4 half of an IPv6-only lease.
const anyIPv4 = "0.0.0.0-0"

var (
	errCanonical = errors.New("not in canonical form")
	errFamily    = errors.New("wrong address family")
	errLength    = errors.New("length out of range")
	errLong      = errors.New("too long")
)

// maxHalf is more than the longest name of a subnet, in bytes. Longer ones are
// refused without being repeated in the error.
const maxHalf = 64

// Format is the key of a lease of these subnets, for example
// "10.5.34.0-24&fc00:5:0:12::-64". At least one family must be set.
func Format(subnets addr.ByFamily[netip.Prefix]) string {
	ipv4, ipv6 := subnets.At(addr.IPv4), subnets.At(addr.IPv6)
	switch {
	case !ipv6.IsValid():
		return FormatHalf(ipv4)
	case !ipv4.IsValid():
		return anyIPv4 + "&" + FormatHalf(ipv6)
	default:
		return FormatHalf(ipv4) + "&" + FormatHalf(ipv6)
	}
}

// FormatHalf is one family's part of a key.
func FormatHalf(p netip.Prefix) string {
	return p.Addr().String() + "-" + strconv.Itoa(p.Bits())
}

// Parse is the inverse of Format. It refuses every spelling that Format would
// not choose: one subnet must have one key, or two hosts could hold it.
func Parse(key string) (addr.ByFamily[netip.Prefix], error) {
	var subnets addr.ByFamily[netip.Prefix]
	if len(key) > 2*maxHalf {
		return subnets, fmt.Errorf("lease key of %d bytes: %w", len(key), errLong)
	}
	first, second, dual := strings.Cut(key, "&")
	if first != anyIPv4 || !dual {
		p, err := ParseHalf(first, addr.IPv4)
		if err != nil {
			return subnets, fmt.Errorf("lease key %q: %w", key, err)
		}
		subnets.Put(addr.IPv4, p)
	}
	if !dual {
		return subnets, nil
	}
	p, err := ParseHalf(second, addr.IPv6)
	if err != nil {
		return addr.ByFamily[netip.Prefix]{}, fmt.Errorf("lease key %q: %w", key, err)
	}
	subnets.Put(addr.IPv6, p)
	return subnets, nil
}

// ParseHalf is the inverse of FormatHalf for family f. The length is at least
// 1 and leaves room for a host, as in flannel.
func ParseHalf(s string, f addr.Family) (netip.Prefix, error) {
	if len(s) > maxHalf {
		return netip.Prefix{}, fmt.Errorf("subnet of %d bytes: %w", len(s), errLong)
	}
	base, bits, _ := strings.Cut(s, "-")
	p, err := netip.ParsePrefix(base + "/" + bits)
	switch {
	case err != nil:
		return netip.Prefix{}, fmt.Errorf("subnet %q: %w", s, err)
	case addr.Of(p.Addr()) != f, p.Addr().Is4In6():
		return netip.Prefix{}, fmt.Errorf("subnet %q: want %s: %w", s, f, errFamily)
	case p.Bits() == 0 || p.Bits() >= f.Bits():
		return netip.Prefix{}, fmt.Errorf("subnet %q: want 1 to %d bits: %w", s, f.Bits()-1, errLength)
	case p != p.Masked() || FormatHalf(p) != s:
		return netip.Prefix{}, fmt.Errorf("subnet %q: want %s: %w", s, FormatHalf(p.Masked()), errCanonical)
	}
	return p, nil
}
