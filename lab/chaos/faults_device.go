package chaos

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/lab"
)

// The tunnel device, broken by commands of ip and ethtool.
func deviceFaults() []fault {
	lines := func(templates ...string) func(context.Context, *trial) error {
		return func(ctx context.Context, t *trial) error {
			var all []string
			for _, line := range templates {
				all = append(all, strings.ReplaceAll(line, "DEV", t.device()))
			}
			return t.host.IP(ctx, all...)
		}
	}
	ethernet := func(v variant) bool { return v.vx() }
	return []fault{
		{name: "tunnel device down", inject: lines("link set DEV down"), applies: variant.tunnels, crowd: true},
		{name: "tunnel device down and up", inject: lines("link set DEV down", "link set DEV up"), applies: variant.tunnels, crowd: true},
		{name: "tunnel device deleted", inject: lines("link del DEV"), applies: variant.tunnels, crowd: true},
		{name: "tunnel device renamed", inject: lines("link set DEV down", "link set DEV name stolen0", "link set stolen0 up"), applies: variant.tunnels},
		{name: "tunnel device's MAC changed", inject: lines("link set DEV address 02:00:00:00:00:98"), applies: ethernet, crowd: true},
		{name: "tunnel device's MTU changed", inject: lines("link set DEV mtu 1300"), applies: variant.tunnels, crowd: true},
		{name: "tunnel device's address removed", applies: variant.tunnels, crowd: true, inject: func(ctx context.Context, t *trial) error {
			return t.host.IP(ctx, fmt.Sprintf("addr del %s dev %s", addr.Single(t.own().Addr()), t.device()))
		}},
		{name: "address of 169.254/16 added", inject: lines("addr add 169.254.7.7/16 dev DEV"), applies: func(v variant) bool { return v.vx() && v.has(addr.IPv4) }},
		{name: "tunnel's route deleted", applies: func(v variant) bool { return v.carrier == udp }, inject: func(ctx context.Context, t *trial) error {
			return t.host.IP(ctx, fmt.Sprintf("route flush dev %s table main", t.device()))
		}},
		{name: "tx checksum offload changed", applies: func(v variant) bool { return v.offload != "" }, inject: offload, gone: offloaded, slow: true},
		{name: "tx checksum offload over re-creation", applies: func(v variant) bool { return v.offload != "" }, inject: lines("link del DEV"), gone: offloaded},
	}
}

// own is the host's own subnet.
func (t *trial) own() netip.Prefix {
	gateway, err := t.host.Gateway(t.family())
	if err != nil {
		return netip.Prefix{} // ip refuses it
	}
	return gateway.Masked()
}

// words of ethtool for what the option ChecksumOffload wants, and its contrary.
func (v variant) words() (want, contrary string) {
	if v.offload == "true" {
		return "on", "off"
	}
	return "off", "on"
}

func offload(ctx context.Context, t *trial) error {
	_, contrary := t.words()
	_, err := t.host.Run(ctx, "ethtool", "-K", t.device(), "tx", contrary)
	return err
}

func offloaded(ctx context.Context, t *trial) error {
	want, _ := t.words()
	out, err := t.host.Run(ctx, "ethtool", "-k", t.device())
	if err == nil && !strings.Contains(out, "tx-checksumming: "+want) {
		err = fmt.Errorf("tx-checksumming of %s is not %s", t.device(), want)
	}
	if err != nil {
		return err
	}
	return t.asBefore(ctx, func(string) bool { return false })
}

// The uplink, changed as DHCP clients, drivers and administrators do.
func uplinkFaults() []fault {
	return []fault{
		{name: "uplink down and up", inject: uplinkFlap},
		{name: "uplink deleted and re-created", inject: uplinkAgain, undo: replant},
		{name: "uplink's MTU changed", inject: func(ctx context.Context, t *trial) error {
			return t.host.IP(ctx, "link set eth0 mtu 1400")
		}, gone: smaller, undo: func(ctx context.Context, t *trial) error { return t.host.IP(ctx, "link set eth0 mtu 1500") }},
		{name: "uplink's address swapped", inject: swap, gone: swapped, undo: both(swapBack, replant), wide: true},
		{name: "uplink moved to another NIC", inject: otherNIC, gone: otherNICTaken, undo: firstNIC, wide: true},
	}
}

// network are the uplink's addresses and routes, as lines of ip that put them
// back.
func (t *trial) network(ctx context.Context) ([]string, error) {
	var lines []string
	for _, f := range t.families() {
		out, err := t.host.Run(ctx, "ip", version(f), "-o", "addr", "show", "dev", "eth0", "scope", "global")
		if err != nil {
			return nil, err
		}
		for line := range strings.Lines(out) {
			if words := strings.Fields(line); len(words) > 3 {
				lines = append(lines, fmt.Sprintf("addr replace %s dev eth0%s", words[3], nodad(f)))
			}
		}
		if out, err = t.host.Run(ctx, "ip", version(f), "route", "show", "default"); err != nil {
			return nil, err
		}
		for line := range strings.Lines(out) {
			if words := strings.Fields(line); len(words) > 2 {
				lines = append(lines, "route replace default via "+words[2])
			}
		}
	}
	return lines, nil
}

func nodad(f addr.Family) string {
	if f == addr.IPv6 {
		return " nodad"
	}
	return ""
}

func uplinkFlap(ctx context.Context, t *trial) error {
	back, err := t.network(ctx)
	if err != nil {
		return err
	}
	if err := t.host.IP(ctx, "link set eth0 down"); err != nil {
		return err
	}
	t.now()
	return errors.Join(t.host.IP(ctx, append([]string{"link set eth0 up"}, back...)...), t.plant(ctx, t.host))
}

func uplinkAgain(ctx context.Context, t *trial) error {
	mac, err := t.find(ctx, `link/ether (\S+)`, "ip", "link", "show", "dev", "eth0")
	if err != nil {
		return err
	}
	if err := t.host.IP(ctx, "link del eth0"); err != nil {
		return err
	}
	t.now()
	return t.fabric.Recable(ctx, t.host, mac)
}

func replant(ctx context.Context, t *trial) error { return t.plant(ctx, t.host) }

// smaller demands that devices and subnet file follow the uplink down by 100
// bytes; everything else stays.
func smaller(ctx context.Context, t *trial) error {
	const usual, now = 1500, 1400
	before := t.before[t.host.Index-1]
	var words []string
	for _, overhead := range []int{0, 28, 48, 50, 70} {
		words = append(words,
			fmt.Sprintf("mtu=%d ", usual-overhead), fmt.Sprintf("mtu=%d ", now-overhead),
			fmt.Sprintf("FLANNEL_MTU=%d", usual-overhead), fmt.Sprintf("FLANNEL_MTU=%d", now-overhead))
	}
	follows := func(line string) bool {
		return strings.HasPrefix(line, "link eth0 ") || strings.HasPrefix(line, "link flannel") || strings.HasPrefix(line, "subnet.env ")
	}
	want := before.without(func(line string) bool { return !follows(line) }).with(words...)
	look, err := t.eye.look(ctx)
	if err != nil {
		return err
	}
	if diff := want.difference(look.without(func(line string) bool { return !follows(line) })); len(diff) > 0 {
		return fmt.Errorf("%s does not follow its uplink's MTU:\n%s", t.host.Name, tell(diff))
	}
	return nil
}

// other is the underlay address that the host gets.
func (t *trial) other() netip.Addr {
	if t.family() == addr.IPv6 {
		return netip.MustParseAddr(fmt.Sprintf("2001:db8::7%d", t.host.Index))
	}
	return netip.MustParseAddr(fmt.Sprintf("198.51.100.7%d", t.host.Index))
}

func swap(ctx context.Context, t *trial) error {
	t.keep["from"], t.keep["to"] = t.host.Underlay(t.family()).String(), t.other().String()
	t.now()
	return t.host.Readdress(ctx, t.other())
}

func swapped(ctx context.Context, t *trial) error {
	return t.everywhere(ctx, addressed(t.keep["from"], t.keep["to"])...)
}

// addressed replaces an address in lines, where others begin with the same
// digits.
func addressed(from, to string) []string {
	return []string{" " + from + " ", " " + to + " ", " " + from + "/", " " + to + "/", "=" + from + " ", "=" + to + " "}
}

func swapBack(ctx context.Context, t *trial) error {
	return t.host.Readdress(ctx, netip.MustParseAddr(t.keep["from"]))
}

// otherNIC gives the host a second network card on the underlay, moves the
// default routes there, and takes the addresses of the first away.
func otherNIC(ctx context.Context, t *trial) error {
	back, err := t.network(ctx)
	if err != nil {
		return err
	}
	t.keep["back"] = strings.Join(back, "\n")
	if err := t.fabric.AddCard(ctx, t.host, "eth1"); err != nil {
		return err
	}
	lines := []string{"link set eth1 up"}
	for _, f := range t.families() {
		lines = append(lines, fmt.Sprintf("addr del %s dev eth0", t.prefixOf(f, t.host.Underlay(f))))
	}
	for _, f := range t.families() {
		lines = append(lines, fmt.Sprintf("addr add %s dev eth1%s", t.prefixOf(f, t.cardAddress(f)), nodad(f)),
			fmt.Sprintf("route replace default via %s dev eth1", t.gateway(f)))
	}
	t.now()
	return t.host.IP(ctx, lines...)
}

func (t *trial) cardAddress(f addr.Family) netip.Addr {
	if f == addr.IPv6 {
		return netip.MustParseAddr(fmt.Sprintf("2001:db8::8%d", t.host.Index))
	}
	return netip.MustParseAddr(fmt.Sprintf("198.51.100.8%d", t.host.Index))
}

func (t *trial) prefixOf(f addr.Family, a netip.Addr) netip.Prefix {
	if f == addr.IPv6 {
		return netip.PrefixFrom(a, 64)
	}
	return netip.PrefixFrom(a, 24)
}

func (t *trial) gateway(f addr.Family) string {
	if f == addr.IPv6 {
		return "2001:db8::fe"
	}
	return "198.51.100.254"
}

// otherNICTaken demands that the others send to the new address, and that the
// store says so.
func otherNICTaken(ctx context.Context, t *trial) error {
	for _, f := range t.families() {
		if err := t.announced(ctx, t.cardAddress(f)); err != nil {
			return err
		}
		words := addressed(t.host.Underlay(f).String(), t.cardAddress(f).String())
		if err := t.peersFollow(ctx, words); err != nil {
			return err
		}
	}
	return nil
}

// peersFollow demands that the others have no line with an old word.
func (t *trial) peersFollow(ctx context.Context, words []string) error {
	for i, e := range t.eyes {
		if e == t.eye {
			continue
		}
		now, err := e.look(ctx)
		if err != nil {
			return err
		}
		if diff := t.ours(now).difference(t.ours(now).with(words...)); len(diff) > 0 {
			return fmt.Errorf("%s does not follow:\n%s", t.fabric.Hosts[i].Name, tell(diff))
		}
	}
	return nil
}

func firstNIC(ctx context.Context, t *trial) error {
	if err := t.host.IP(ctx, append([]string{"link del eth1"}, strings.Split(t.keep["back"], "\n")...)...); err != nil {
		return err
	}
	return t.plant(ctx, t.host)
}

// announced says whether the host's lease names the address.
func (t *trial) announced(ctx context.Context, a netip.Addr) error {
	_, value, err := t.lease(ctx, t.host)
	if err == nil && !strings.Contains(value, `"`+a.String()+`"`) {
		err = fmt.Errorf("the lease of %s does not name %s: %s", t.host.Name, a, value)
	}
	return err
}

// lease is the host's key and value in the store.
func (s *scene) lease(ctx context.Context, h *lab.Host) (key, value string, err error) {
	gateway, err := h.Gateway(s.families()[0])
	if err != nil {
		return "", "", err
	}
	word := strings.ReplaceAll(gateway.Masked().String(), "/", "-")
	pairs, err := s.fabric.Etcd.List(ctx, s.prefix+"/subnets/")
	for _, p := range pairs {
		if strings.Contains(p.Key, word) {
			return p.Key, p.Value, err
		}
	}
	return "", "", errors.Join(err, fmt.Errorf("no lease of %s in the store", h.Name))
}
