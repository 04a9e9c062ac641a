package config

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/flannel-ng/flannel-ng/internal/addr"
)

// space holds the keys of one family. Those of IPv6 have a prefix.
type space struct {
	Network   netip.Prefix `doc:"the cluster network, required if the family is enabled; host bits are dropped"`
	SubnetLen int          `doc:"prefix length of a host's subnet, from two more than the network's to 30 (IPv4) or 126 (IPv6); default 24 or 64, or two more than the network's if that is longer; 0 means the default"`
	SubnetMin netip.Addr   `doc:"the first subnet to hand out; default: the second one of the network"`
	SubnetMax netip.Addr   `doc:"the last subnet to hand out; default: the last one of the network"`
}

// limits are what the rules say about one family.
type limits struct {
	usualLen, mostLen int
	example           string
}

func limitsOf(f addr.Family) limits {
	if f == addr.IPv4 {
		return limits{usualLen: 24, mostLen: 30, example: "10.5.0.0/16"}
	}
	return limits{usualLen: 64, mostLen: 126, example: "fc00::/48"}
}

func keyPrefix(f addr.Family) string {
	if f == addr.IPv4 {
		return ""
	}
	return f.String()
}

// poolReader checks the keys of one family.
type poolReader struct {
	*decoder
	family addr.Family
	keys   space
}

// pool reads the keys of f. The values of a disabled family must be of the
// right type, as flannel wants it, but the rules are not applied.
func (d *decoder) pool(f addr.Family, enabled bool) Pool {
	r := poolReader{decoder: d, family: f}
	d.fill(keyPrefix(f), &r.keys)
	if !enabled {
		if name := r.key("Network"); d.present(name) {
			d.warn(name, fmt.Sprintf("no effect: Enable%s is false", f))
		}
		return Pool{}
	}
	p, ok := r.size()
	if !ok {
		return Pool{}
	}
	p.Min = r.edge("SubnetMin", r.keys.SubnetMin, second(p))
	p.Max = r.edge("SubnetMax", r.keys.SubnetMax, last(p))
	for _, e := range []struct {
		name   string
		subnet netip.Prefix
	}{{"SubnetMin", p.Min}, {"SubnetMax", p.Max}} {
		if r.ok(e.name) && !p.Network.Contains(e.subnet.Addr()) {
			r.refuse(e.name, e.subnet.Addr(), "must be inside "+p.Network.String())
		}
	}
	if r.ok("SubnetMin") && r.ok("SubnetMax") && p.Max.Addr().Less(p.Min.Addr()) {
		r.refuse("SubnetMin", p.Min.Addr(), fmt.Sprintf("must not be above %s %s", r.key("SubnetMax"), p.Max.Addr()))
	}
	return p
}

// size checks the network and the length of a subnet. Without them nothing
// else can be judged.
func (r poolReader) size() (p Pool, ok bool) {
	if !r.ok("Network") || !r.ok("SubnetLen") {
		return Pool{}, false
	}
	network, lim := r.keys.Network, limitsOf(r.family)
	if !r.present(r.key("Network")) {
		r.refuse("Network", "(absent)", fmt.Sprintf("must be given while Enable%s is true", r.family))
		return Pool{}, false
	}
	if network.Addr().Is4() != (r.family == addr.IPv4) || network.Addr().Is4In6() {
		r.refuse("Network", network, fmt.Sprintf("must be an %s CIDR such as %q", r.family, lim.example))
		return Pool{}, false
	}
	if network.Bits() == 0 {
		// Its route would be the default route, and no traffic would be
		// outside to masquerade. Anything smaller leaves an outside.
		r.refuse("Network", network, "must be at least /1: this is every address there is")
		return Pool{}, false
	}
	least, given := network.Bits()+2, r.keys.SubnetLen
	switch {
	case given == 0 && least > lim.mostLen:
		r.refuse("Network", network, fmt.Sprintf("must be at most /%d, to have room for subnets", lim.mostLen-2))
	case given == 0:
		given = max(lim.usualLen, least)
	case given > lim.mostLen:
		r.refuse("SubnetLen", given, fmt.Sprintf("must be at most %d", lim.mostLen))
	case given < least:
		r.refuse("SubnetLen", given, fmt.Sprintf("must be at least %d, two more than %s %s", least, r.key("Network"), network))
	}
	return Pool{Network: network.Masked(), SubnetLen: given}, r.ok("Network") && r.ok("SubnetLen")
}

// edge turns SubnetMin or SubnetMax into a subnet. preset serves an absent key.
func (r poolReader) edge(name string, a netip.Addr, preset netip.Prefix) netip.Prefix {
	if !r.present(r.key(name)) {
		return preset
	}
	p := netip.PrefixFrom(a, preset.Bits())
	switch {
	case !r.ok(name):
	case a.Zone() != "" || a.Is4() != (r.family == addr.IPv4):
		r.refuse(name, a, fmt.Sprintf("must be an %s address", r.family))
	case p.Masked() != p:
		r.refuse(name, a, fmt.Sprintf("must be the first address of a /%d, such as %s", p.Bits(), p.Masked().Addr()))
	}
	return p
}

func (r poolReader) key(name string) string { return keyPrefix(r.family) + name }

func (r poolReader) ok(name string) bool { return !slices.Contains(r.broken, r.key(name)) }

func (r poolReader) refuse(name string, value any, rule string) {
	r.reject(r.key(name), fmt.Sprint(value), rule)
}

// second is the subnet after the base of the network: its number is 1.
func second(p Pool) netip.Prefix { return p.subnet(p.SubnetLen - 1) }

// last is the subnet whose number is all ones.
func last(p Pool) netip.Prefix { return p.subnet(p.Network.Bits()) }

// subnet is the one whose number has ones from bit to SubnetLen, counted from
// the left of the address.
func (p Pool) subnet(bit int) netip.Prefix {
	b := p.Network.Addr().AsSlice()
	for i := bit; i < p.SubnetLen; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return netip.PrefixFrom(a, p.SubnetLen)
}
