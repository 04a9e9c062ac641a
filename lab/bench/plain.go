package bench

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/lab"
)

// plain is a set-up of two hosts by iproute2 alone, as an administrator would
// write it down: the yardstick.
type plain int

const (
	plainVXLAN plain = iota
	plainRoutes
)

// overhead of a VXLAN packet over IPv4, in bytes.
const overheadVXLAN = 50

func (p plain) mtu() int {
	if p == plainVXLAN {
		return 1500 - overheadVXLAN
	}
	return 1500
}

// end is one of the two hosts.
type end struct {
	host   *lab.Host
	subnet netip.Prefix
	mac    string
}

// masquerade is what flannel's --ip-masq comes to: packets for the network keep
// their source.
const masquerade = `table ip plain {
	chain postrouting {
		type nat hook postrouting priority srcnat
		ip saddr %[1]s ip daddr %[1]s return
		ip saddr %[1]s ip daddr != 224.0.0.0/4 masquerade
	}
}
`

// build sets both hosts up, and writes a subnet file for who attaches containers.
func (p plain) build(ctx context.Context, network netip.Prefix, hosts [2]*lab.Host, masq bool) error {
	var ends [2]end
	for i, h := range hosts {
		base := network.Addr().As4()
		base[2] = byte(i + 1)
		ends[i] = end{
			host: h, subnet: netip.PrefixFrom(netip.AddrFrom4(base), 24),
			mac: fmt.Sprintf("0e:00:00:00:%02x:%02x", h.Index, i+1),
		}
	}
	for i, e := range ends {
		if err := p.make(ctx, network, e, ends[1-i]); err != nil {
			return fmt.Errorf("plain set-up: %w", err)
		}
		if masq {
			if err := e.host.Feed(ctx, fmt.Sprintf(masquerade, network), "nft", "-f", "-"); err != nil {
				return fmt.Errorf("plain set-up: %w", err)
			}
		}
	}
	return nil
}

func (p plain) make(ctx context.Context, network netip.Prefix, self, peer end) error {
	if err := self.host.IP(ctx, p.lines(self, peer)...); err != nil {
		return err
	}
	if p == plainVXLAN {
		fdb := fmt.Sprintf("fdb append %s dev flannel.1 dst %s\n", peer.mac, peer.host.Underlay(addr.IPv4))
		if err := self.host.Feed(ctx, fdb, "bridge", "-batch", "-"); err != nil {
			return err
		}
	}
	return p.subnetFile(network, self)
}

func (p plain) lines(self, peer end) []string {
	if p == plainRoutes {
		return []string{fmt.Sprintf("route add %s via %s dev eth0", peer.subnet, peer.host.Underlay(addr.IPv4))}
	}
	return []string{
		fmt.Sprintf("link add flannel.1 address %s mtu %d type vxlan id 1 local %s dev eth0 dstport 8472 nolearning",
			self.mac, p.mtu(), self.host.Underlay(addr.IPv4)),
		fmt.Sprintf("addr add %s dev flannel.1", addr.Single(self.subnet.Addr())),
		"link set flannel.1 up",
		fmt.Sprintf("neigh add %s lladdr %s dev flannel.1 nud permanent", peer.subnet.Addr(), peer.mac),
		fmt.Sprintf("route add %s via %s dev flannel.1 onlink", peer.subnet, peer.subnet.Addr()),
	}
}

func (p plain) subnetFile(network netip.Prefix, e end) error {
	path := e.host.Path(e.host.SubnetFile())
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	text := fmt.Sprintf("FLANNEL_NETWORK=%s\nFLANNEL_SUBNET=%s\nFLANNEL_MTU=%d\nFLANNEL_IPMASQ=false\n",
		network, netip.PrefixFrom(e.subnet.Addr().Next(), e.subnet.Bits()), p.mtu())
	return os.WriteFile(path, []byte(text), 0o644)
}
