package torture

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/lab"
)

// carrier is a way to carry packets, of which each host has one.
type carrier struct {
	name    string
	backend string // Backend of the network config
	option  string // key of it that flanneld must know
	tunnel  tunnel
}

// tunnel is the wire format.
type tunnel struct {
	port     int // UDP
	header   int // bytes between UDP and the inner packet
	overhead addr.ByFamily[int]
	fullECN  bool // as RFC 3168 has it: the outer header never says CE
	shared   bool // one device for both families, whose MTU fits both
}

// udpTunnel has nothing between UDP and the inner packet.
func udpTunnel() tunnel {
	t := tunnel{port: 8285, shared: true}
	t.overhead.Put(addr.IPv4, 28)
	t.overhead.Put(addr.IPv6, 48)
	return t
}

func vxlanTunnel() tunnel {
	t := tunnel{port: 8472, header: 8 + 14, fullECN: true}
	t.overhead.Put(addr.IPv4, 50)
	t.overhead.Put(addr.IPv6, 70)
	return t
}

// mtu is that of the device which carries a family, in bytes.
func (t tunnel) mtu(uplink int, f addr.Family) int {
	if t.shared {
		f = addr.IPv6
	}
	return uplink - t.overhead.At(f)
}

// carriers are all that there may be. VXLAN is the kernel's own and calibrates
// the expectations: what fails there is wrong in the test.
func carriers() []carrier {
	return []carrier{
		{name: "vxlan", backend: `{"Type":"vxlan"}`, tunnel: vxlanTunnel()},
		{name: "reference", backend: `{"Type":"udp","Offload":"off","BPF":"off"}`, tunnel: udpTunnel()},
		{name: "user", backend: `{"Type":"udp","Offload":"auto","BPF":"off"}`, option: "Offload", tunnel: udpTunnel()},
		{name: "kernel", backend: `{"Type":"udp","BPF":"on"}`, option: optionBPF, tunnel: udpTunnel()},
	}
}

// optionBPF lets the kernel carry the packets of the udp backend.
const optionBPF = "BPF"

// combination is a data path for each direction's end.
type combination struct{ from, to carrier }

func (c combination) String() string { return c.from.name + " → " + c.to.name }

// stage is a fabric of two hosts with a combination at work.
type stage struct {
	combination
	fabric     *lab.Fabric
	hosts      [2]*lab.Host
	containers [2]*lab.Container
	gateway    net.HardwareAddr // of c1
	in, out    *port            // at c1, at c2
	wire       *port            // at h2's uplink
	ends       addr.ByFamily[[2]netip.Addr]
	uplink     int // MTU of the underlay
}

// errUnknown says that this flanneld, here, has no such data path.
var errUnknown = errors.New("no such data path")

// patience bounds building a stage.
const patience = time.Minute

// build makes the fabric. Both hosts follow one network config; the second host
// starts on another one, with a network that a running host does not follow.
func (s *stage) build(ctx context.Context, bin lab.Binaries) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	both := addr.Families()
	var err error
	s.fabric, err = lab.New(context.WithoutCancel(ctx), lab.Options{ // its processes outlive the time for building
		Hosts: 2, Families: both[:], Firewall: lab.NFTables, Underlay: lab.L2, Binaries: bin,
		Backend: s.from.backend, UplinkMTU: s.uplink,
	})
	if err != nil {
		return err
	}
	s.hosts = [2]*lab.Host(s.fabric.Hosts)
	for i, conf := range []string{s.from.conf("10.5.255.0"), s.to.conf("10.5.254.0")} {
		if err := s.fabric.Etcd.Put(ctx, lab.Prefix+"/config", conf); err != nil {
			return err
		}
		if err := s.start(ctx, s.hosts[i], []carrier{s.from, s.to}[i]); err != nil {
			return err
		}
	}
	for i, h := range s.hosts {
		if s.containers[i], err = s.fabric.Attach(ctx, h, fmt.Sprintf("c%d", i+1)); err != nil {
			return err
		}
	}
	if err := lab.Each(ctx, s.fabric.Ways(), lab.PingWay); err != nil {
		return err
	}
	if err := s.fast(ctx); err != nil {
		return err
	}
	if err := s.tune(ctx); err != nil {
		return err
	}
	return s.open()
}

func (s *stage) start(ctx context.Context, h *lab.Host, c carrier) error {
	if err := h.Start(context.WithoutCancel(ctx)); err != nil { // it outlives the time for building
		return err
	}
	if err := h.WaitReady(ctx); err != nil {
		return errors.Join(err, errors.New(h.Log()))
	}
	if c.option != "" && strings.Contains(h.Log(), "Backend."+c.option+": unknown key") {
		return fmt.Errorf("%w: flanneld does not know the option %s", errUnknown, c.option)
	}
	return nil
}

// conf is a network config with c, and last as the last subnet.
func (c carrier) conf(last string) string {
	return fmt.Sprintf(`{"Network":"10.5.0.0/16","SubnetMax":%q,"EnableIPv6":true,"IPv6Network":"fc00:5::/48","EnableNFTables":true,"Backend":%s}`,
		last, c.backend)
}

// fast makes sure that what is called the kernel's path is one.
func (s *stage) fast(ctx context.Context) error {
	for i, c := range []carrier{s.from, s.to} {
		if c.option != optionBPF {
			continue
		}
		path, err := s.hosts[i].FastPath(ctx)
		if err != nil {
			return err
		}
		if path.State != "on" {
			return fmt.Errorf("%w: the kernel's path is off: %s", errUnknown, path.State)
		}
	}
	return nil
}

// alias is the host part of the addresses that packets have: nobody answers.
const alias = 77

// tune makes the set-up one where every packet can be seen as it is: no limits
// on ICMP, segments and sums done before every wire, larger packets than the
// tunnel's let in.
func (s *stage) tune(ctx context.Context) error {
	for i, h := range s.hosts { // the containers keep theirs: they send what a host may have to segment
		if err := h.Sysctl("ipv4/icmp_ratelimit=0", "ipv6/icmp/ratelimit=0", "ipv4/icmp_msgs_per_sec=100000"); err != nil {
			return err
		}
		for _, dev := range []string{"eth0", "veth1"} {
			if err := plainWire(ctx, h.Node, dev); err != nil {
				return err
			}
		}
		if err := s.aliases(ctx, i); err != nil {
			return err
		}
	}
	for i, h := range s.hosts {
		if err := h.IP(ctx, "link set veth1 mtu 9000", "link set cni0 mtu 9000"); err != nil {
			return err
		}
		if err := s.containers[i].IP(ctx, "link set eth0 mtu 9000"); err != nil {
			return err
		}
	}
	return nil
}

func plainWire(ctx context.Context, n *lab.Node, dev string) error {
	_, err := n.Run(ctx, "ethtool", "-K", dev, "tx", "off", "tso", "off", "gso", "off", "gro", "off",
		"tx-udp-segmentation", "off", "tx-udp_tnl-segmentation", "off")
	return err
}

// aliases gives host i a neighbour for each family's alias.
func (s *stage) aliases(ctx context.Context, i int) error {
	mac, err := macOf(s.containers[i].Node, "eth0")
	if err != nil {
		return err
	}
	for _, f := range addr.Families() {
		gateway, err := s.hosts[i].Gateway(f)
		if err != nil {
			return err
		}
		a := withHost(gateway.Masked().Addr(), alias)
		ends := s.ends.At(f)
		ends[i] = a
		s.ends.Put(f, ends)
		if err := s.hosts[i].IP(ctx, fmt.Sprintf("neigh replace %s lladdr %s dev cni0 nud permanent", a, mac)); err != nil {
			return err
		}
	}
	return nil
}

// withHost replaces the last byte.
func withHost(a netip.Addr, n byte) netip.Addr {
	b := a.AsSlice()
	b[len(b)-1] = n
	out, _ := netip.AddrFromSlice(b)
	return out
}

// open opens the packet sockets.
func (s *stage) open() error {
	var err error
	if s.gateway, err = macOf(s.hosts[0].Node, "cni0"); err != nil {
		return err
	}
	for _, p := range []struct {
		to   **port
		node *lab.Node
	}{{&s.in, s.containers[0].Node}, {&s.out, s.containers[1].Node}, {&s.wire, s.hosts[1].Node}} {
		if *p.to, err = openPort(p.node); err != nil {
			return err
		}
	}
	return nil
}

// macOf asks inside the network namespace: /sys shows that of the lab.
func macOf(n *lab.Node, dev string) (mac net.HardwareAddr, err error) {
	err = n.Inside(func() error {
		link, err := net.InterfaceByName(dev)
		if err == nil {
			mac = link.HardwareAddr
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("MAC of %s on %s: %w", dev, n.Name, err)
	}
	return mac, nil
}

// close ends the stage, also after ctx ended.
func (s *stage) close(ctx context.Context) error {
	var errs []error
	for _, p := range []*port{s.in, s.out, s.wire} {
		if p != nil {
			errs = append(errs, p.close())
		}
	}
	if s.fabric != nil {
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
		defer cancel()
		errs = append(errs, s.fabric.Close(end))
	}
	return errors.Join(errs...)
}
