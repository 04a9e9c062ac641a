package lab

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/flannel-ng/flannel-ng/internal/addr"
)

// trace is what one plain flannel host with --ip-masq leaves in etcd, on disk
// and in the firewall. Text only: the test compares it with the recordings byte
// for byte.
type trace struct {
	carrier  traceCarrier
	sides    addr.ByFamily[traceSide]
	nftables bool
}

// traceCarrier is the Backend part of a network config.
type traceCarrier struct {
	kind   string // Type
	direct bool   // DirectRouting
}

// Types of backends that are replayed.
const (
	kindVXLAN  = "vxlan"
	kindHostGW = "host-gw"
	kindUDP    = "udp"
	kindAlloc  = "alloc"
)

// dualStack says whether flannel's backend knows IPv6.
func (c traceCarrier) dualStack() bool { return c.kind == kindVXLAN || c.kind == kindHostGW }

// heeds says whether flannel, with this backend, makes use of a lease of that one.
func (c traceCarrier) heeds(kind string) bool {
	return c.kind == kindUDP || c.kind != kindAlloc && c.kind == kind
}

// mtu is what flannel puts into the subnet file for an uplink of 1500.
func (c traceCarrier) mtu() int {
	switch c.kind {
	case kindVXLAN:
		return 1450
	case kindUDP:
		return 1472
	default:
		return 1500
	}
}

// traceSide is one family of a trace; a zero subnet means not enabled.
type traceSide struct {
	network, subnet netip.Prefix
	public          netip.Addr
	mac             addr.MAC
}

func (t trace) families() []addr.Family {
	var fs []addr.Family
	for _, f := range addr.Families() {
		if t.sides.At(f).subnet.IsValid() {
			fs = append(fs, f)
		}
	}
	return fs
}

func traceDevice(f addr.Family) string {
	if f == addr.IPv4 {
		return "flannel.1"
	}
	return "flannel-v6.1"
}

// traceDeviceMTU is what the kernel leaves of flannel's 1450.
func traceDeviceMTU(f addr.Family) int {
	if f == addr.IPv4 {
		return 1450
	}
	return 1430
}

// lease is the etcd entry. The IPv4 parts are there without IPv4, too.
func (t trace) lease() Pair {
	ipv4, ipv6 := t.sides.At(addr.IPv4), t.sides.At(addr.IPv6)
	key, public, public6, data := "0.0.0.0-0", "0.0.0.0", "null", ""
	if t.carrier.dualStack() { // the others write no type
		data = fmt.Sprintf(`,"BackendType":%q`, t.carrier.kind)
	}
	if ipv4.subnet.IsValid() {
		key, public = dashed(ipv4.subnet), ipv4.public.String()
		data += t.backendData("BackendData", ipv4)
	}
	if ipv6.subnet.IsValid() {
		key += "&" + dashed(ipv6.subnet)
		public6 = fmt.Sprintf("%q", ipv6.public)
		data += t.backendData("BackendV6Data", ipv6)
	}
	return Pair{
		Key:   Prefix + "/subnets/" + key,
		Value: fmt.Sprintf(`{"PublicIP":%q,"PublicIPv6":%s%s}`, public, public6, data),
	}
}

func dashed(p netip.Prefix) string { return strings.Replace(p.String(), "/", "-", 1) }

func (t trace) backendData(name string, s traceSide) string {
	if t.carrier.kind != kindVXLAN {
		return ""
	}
	return fmt.Sprintf(`,%q:{"VNI":1,"VtepMAC":%q}`, name, s.mac)
}

func (t trace) subnetEnv() string {
	var b strings.Builder
	for _, f := range t.families() {
		side, infix := t.sides.At(f), ""
		if f == addr.IPv6 {
			infix = "IPV6_"
		}
		gateway := netip.PrefixFrom(side.subnet.Addr().Next(), side.subnet.Bits())
		fmt.Fprintf(&b, "FLANNEL_%sNETWORK=%s\nFLANNEL_%sSUBNET=%s\n", infix, side.network, infix, gateway)
	}
	fmt.Fprintf(&b, "FLANNEL_MTU=%d\nFLANNEL_IPMASQ=true\n", t.carrier.mtu())
	return b.String()
}

// iptablesRules is input for ip[6]tables-restore --noflush.
func (t trace) iptablesRules(f addr.Family) string {
	side := t.sides.At(f)
	return strings.NewReplacer(
		"NET", side.network.String(), "SUB", side.subnet.String(), "MULTI", f.Multicast().String(),
	).Replace(`*filter
:FLANNEL-FWD - [0:0]
-A FORWARD -m comment --comment "flanneld forward" -j FLANNEL-FWD
-A FLANNEL-FWD -s NET -m comment --comment "flanneld forward" -j ACCEPT
-A FLANNEL-FWD -d NET -m comment --comment "flanneld forward" -j ACCEPT
COMMIT
*nat
:FLANNEL-POSTRTG - [0:0]
-A POSTROUTING -m comment --comment "flanneld masq" -j FLANNEL-POSTRTG
-A FLANNEL-POSTRTG -m mark --mark 0x4000/0x4000 -m comment --comment "flanneld masq" -j RETURN
-A FLANNEL-POSTRTG -s SUB -d NET -m comment --comment "flanneld masq" -j RETURN
-A FLANNEL-POSTRTG -s NET -d SUB -m comment --comment "flanneld masq" -j RETURN
-A FLANNEL-POSTRTG ! -s NET -d SUB -m comment --comment "flanneld masq" -j RETURN
-A FLANNEL-POSTRTG -s NET ! -d MULTI -m comment --comment "flanneld masq" -j MASQUERADE --random-fully
-A FLANNEL-POSTRTG ! -s NET -d NET -m comment --comment "flanneld masq" -j MASQUERADE --random-fully
COMMIT
`)
}

// nftRules is input for nft: both tables exist whatever the families.
func (t trace) nftRules() string {
	var b strings.Builder
	for _, f := range addr.Families() {
		side, ip, table := t.sides.At(f), "ip", "flannel-ipv4"
		if f == addr.IPv6 {
			ip, table = "ip6", "flannel-ipv6"
		}
		body := ""
		if side.subnet.IsValid() {
			body = nftBody
		}
		b.WriteString(strings.NewReplacer("IP", ip, "TABLE", table, "NET", side.network.String(),
			"SUB", side.subnet.String(), "MULTI", f.Multicast().String(),
		).Replace("table IP TABLE {\n\tcomment \"rules for TABLE\"\n" + body + "}\n"))
	}
	return b.String()
}

const nftBody = `	chain postrtg {
		comment "chain to manage traffic masquerading by flannel"
		type nat hook postrouting priority srcnat; policy accept;
		meta mark 0x00004000 return
		IP saddr SUB IP daddr NET return
		IP saddr NET IP daddr SUB return
		IP saddr != SUB IP daddr NET return
		IP saddr NET IP daddr != MULTI masquerade fully-random
		IP saddr != NET IP daddr NET masquerade fully-random
	}

	chain forward {
		comment "chain to accept flannel traffic"
		type filter hook forward priority filter; policy accept;
		IP saddr NET accept
		IP daddr NET accept
	}
`
