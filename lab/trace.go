package lab

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"regexp"
	"strings"

	"github.com/flannel-ng/flannel-ng/internal/addr"
)

// trace is what one plain flannel host with the vxlan backend and --ip-masq
// leaves in etcd, on disk and in the firewall. Text only: the test compares it
// with the recordings byte for byte.
type trace struct {
	sides    addr.ByFamily[traceSide]
	nftables bool
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
	if ipv4.subnet.IsValid() {
		key, public = dashed(ipv4.subnet), ipv4.public.String()
		data = `,"BackendData":` + ipv4.backendData()
	}
	if ipv6.subnet.IsValid() {
		key += "&" + dashed(ipv6.subnet)
		public6 = fmt.Sprintf("%q", ipv6.public)
		data += `,"BackendV6Data":` + ipv6.backendData()
	}
	return Pair{
		Key:   Prefix + "/subnets/" + key,
		Value: fmt.Sprintf(`{"PublicIP":%q,"PublicIPv6":%s,"BackendType":"vxlan"%s}`, public, public6, data),
	}
}

func dashed(p netip.Prefix) string { return strings.Replace(p.String(), "/", "-", 1) }

func (s traceSide) backendData() string { return fmt.Sprintf(`{"VNI":1,"VtepMAC":%q}`, s.mac) }

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
	b.WriteString("FLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n")
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

// tracePeer is another host's lease as plain flannel reads it. Comparable.
type tracePeer struct {
	backend string
	sides   addr.ByFamily[traceSide]
}

// leaseKey is the pattern of keys that flannel can read.
func leaseKey() *regexp.Regexp {
	return regexp.MustCompile(`^` + regexp.QuoteMeta(Prefix) +
		`/subnets/(\d+\.\d+\.\d+\.\d+)-(\d+)(?:&([a-f\d:]+)-(\d+))?$`)
}

func parseTracePeer(p Pair) (tracePeer, error) {
	m := leaseKey().FindStringSubmatch(p.Key)
	if m == nil {
		return tracePeer{}, fmt.Errorf("key %s is no lease", p.Key)
	}
	var v struct {
		PublicIP, PublicIPv6       netip.Addr
		BackendType                string
		BackendData, BackendV6Data struct{ VtepMAC string }
	}
	if err := json.Unmarshal([]byte(p.Value), &v); err != nil {
		return tracePeer{}, fmt.Errorf("value of %s: %w", p.Key, err)
	}
	peer := tracePeer{backend: v.BackendType}
	for f, in := range map[addr.Family]struct {
		subnet, mac string
		public      netip.Addr
	}{
		addr.IPv4: {m[1] + "/" + m[2], v.BackendData.VtepMAC, v.PublicIP},
		addr.IPv6: {m[3] + "/" + m[4], v.BackendV6Data.VtepMAC, v.PublicIPv6},
	} {
		if in.mac == "" {
			continue
		}
		subnet, err := netip.ParsePrefix(in.subnet)
		if err != nil {
			return tracePeer{}, fmt.Errorf("key %s: %w", p.Key, err)
		}
		mac, err := addr.ParseMAC(in.mac)
		if err != nil {
			return tracePeer{}, fmt.Errorf("value of %s: %w", p.Key, err)
		}
		peer.sides.Put(f, traceSide{subnet: subnet, public: in.public, mac: mac})
	}
	return peer, nil
}

// add returns the lines for ip and for bridge that install the peer.
func (p tracePeer) add(families []addr.Family) (ip, bridge []string) {
	for _, f := range families {
		side, dev := p.sides.At(f), traceDevice(f)
		if !side.subnet.IsValid() {
			continue
		}
		base := side.subnet.Addr()
		ip = append(ip,
			fmt.Sprintf("neigh replace %s lladdr %s dev %s nud permanent", base, side.mac, dev),
			fmt.Sprintf("route replace %s via %s dev %s onlink", side.subnet, base, dev))
		bridge = append(bridge, fmt.Sprintf("fdb replace %s dev %s dst %s self permanent", side.mac, dev, side.public))
	}
	return ip, bridge
}

// remove returns the lines that take the peer out again.
func (p tracePeer) remove(families []addr.Family) (ip, bridge []string) {
	for _, f := range families {
		side, dev := p.sides.At(f), traceDevice(f)
		if !side.subnet.IsValid() {
			continue
		}
		ip = append(ip,
			fmt.Sprintf("route del %s dev %s", side.subnet, dev),
			fmt.Sprintf("neigh del %s dev %s", side.subnet.Addr(), dev))
		bridge = append(bridge, fmt.Sprintf("fdb del %s dev %s dst %s self", side.mac, dev, side.public))
	}
	return ip, bridge
}
