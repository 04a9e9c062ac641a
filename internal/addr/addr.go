// Package addr holds the small address values that every layer shares: the
// address family as a value, one slot per family, and MAC addresses.
//
// It owns no state, does no I/O, and is called by everybody.
package addr

import (
	"encoding/hex"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
)

// Family is an IP version. The zero value is no family.
type Family uint8

// The two families.
const (
	IPv4 Family = 4
	IPv6 Family = 6
)

// Families lists both, IPv4 first: the order of every file and key we write.
func Families() [2]Family { return [2]Family{IPv4, IPv6} }

// Of returns the family of a, and IPv6 for an IPv4-mapped address too: we
// unmap at the borders and never carry mapped addresses inside.
func Of(a netip.Addr) Family {
	if a.Is4() {
		return IPv4
	}
	return IPv6
}

func (f Family) String() string {
	switch f {
	case IPv4:
		return "IPv4"
	case IPv6:
		return "IPv6"
	default:
		return fmt.Sprintf("family %d", uint8(f))
	}
}

// Bits is the length of an address of f.
func (f Family) Bits() int {
	if f == IPv4 {
		return 32
	}
	return 128
}

// Multicast is the multicast range of f (RFC 5771, RFC 4291).
func (f Family) Multicast() netip.Prefix {
	if f == IPv4 {
		return netip.PrefixFrom(netip.AddrFrom4([4]byte{224}), 4)
	}
	return netip.PrefixFrom(netip.AddrFrom16([16]byte{0xff}), 8)
}

// ByFamily is one T per family. Its zero value holds two zero Ts, and it is
// comparable when T is.
type ByFamily[T any] struct{ v4, v6 T }

// At returns the slot of f.
func (b ByFamily[T]) At(f Family) T {
	if f == IPv4 {
		return b.v4
	}
	return b.v6
}

// Put sets the slot of f.
func (b *ByFamily[T]) Put(f Family, v T) {
	if f == IPv4 {
		b.v4 = v
	} else {
		b.v6 = v
	}
}

// String lists the slots that are set, for people.
func (b ByFamily[T]) String() string {
	var zero T
	var set []string
	for _, f := range Families() {
		if text := fmt.Sprint(b.At(f)); text != fmt.Sprint(zero) {
			set = append(set, text)
		}
	}
	return strings.Join(set, ",")
}

// LogValue implements slog.LogValuer.
func (b ByFamily[T]) LogValue() slog.Value { return slog.StringValue(b.String()) }

// Pair builds a ByFamily from both slots.
func Pair[T any](ipv4, ipv6 T) ByFamily[T] { return ByFamily[T]{v4: ipv4, v6: ipv6} }

// MAC is an Ethernet address; comparable, unlike net.HardwareAddr.
type MAC [6]byte

// ParseMAC reads the colon form, the only one that flannel writes.
func ParseMAC(s string) (MAC, error) {
	var m MAC
	if len(s) != 17 {
		return m, fmt.Errorf("MAC address %q: want six hex bytes with colons", s)
	}
	for i := range m {
		if i > 0 && s[3*i-1] != ':' {
			return MAC{}, fmt.Errorf("MAC address %q: want six hex bytes with colons", s)
		}
		if _, err := hex.Decode(m[i:i+1], []byte(s[3*i:3*i+2])); err != nil {
			return MAC{}, fmt.Errorf("MAC address %q: %w", s, err)
		}
	}
	return m, nil
}

func (m MAC) String() string {
	var b strings.Builder
	for i, x := range m {
		if i > 0 {
			b.WriteByte(':')
		}
		fmt.Fprintf(&b, "%02x", x)
	}
	return b.String()
}

// IsUnicast says whether a frame can be sent to m alone: not zero and without
// the group bit.
func (m MAC) IsUnicast() bool { return m != MAC{} && m[0]&1 == 0 }

// Host returns the i-th address of p (0 = the base address), which must lie
// inside p.
func Host(p netip.Prefix, i int) netip.Addr {
	a := p.Masked().Addr()
	for range i {
		a = a.Next()
	}
	return a
}

// Single is the host prefix of a: /32 or /128.
func Single(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }
