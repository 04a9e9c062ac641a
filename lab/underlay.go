package lab

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"

	"github.com/flannel-ng/flannel-ng/internal/addr"
)

// station is a node and where it stands on the underlay.
type station struct {
	*Node
	index int
}

func (f *Fabric) stations() []station {
	all := []station{{f.Outside, placeOutside}, {f.Etcd.Node, placeEtcd}}
	for _, h := range f.Hosts {
		all = append(all, station{h.Node, h.Index})
	}
	return all
}

// wire lays the cables: first the middle, then every station's own side.
func (f *Fabric) wire(ctx context.Context) error {
	if err := f.wireMiddle(ctx); err != nil {
		return err
	}
	stations := f.stations()
	errs := make([]error, len(stations))
	var wg sync.WaitGroup
	for i, s := range stations {
		wg.Go(func() { errs[i] = f.wireStation(ctx, s) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

func (f *Fabric) wireMiddle(ctx context.Context) error {
	lines := []string{"link set lo up"}
	if f.Options.Underlay == Routed {
		if err := f.Switch.sysctl("ipv4/ip_forward=1", "ipv6/conf/all/forwarding=1"); err != nil {
			return err
		}
	} else {
		lines = append(lines, "link add br0 type bridge mcast_snooping 0", "link set br0 up")
	}
	for _, s := range f.stations() {
		lines = append(lines, f.port(s)...)
	}
	return f.Switch.ip(ctx, lines...)
}

// usualMTU is that of Ethernet, in bytes.
const usualMTU = 1500

// port is the middle's side of a cable.
func (f *Fabric) port(s station) []string {
	port := portOf(s.Name)
	mtu := cmp.Or(f.Options.UplinkMTU, usualMTU)
	lines := []string{fmt.Sprintf("link add %s mtu %d type veth peer name eth0 mtu %d netns %d", port, mtu, mtu, s.PID())}
	if f.Options.Underlay != Routed {
		return append(lines, "link set "+port+" master br0 up")
	}
	lines = append(lines, "link set "+port+" up")
	for _, fam := range f.Options.Families {
		lines = append(lines, fmt.Sprintf("addr add %s dev %s%s", f.plan.router(fam, s.index), port, nodad(fam)))
		if s.index == placeOutside {
			lines = append(lines, fmt.Sprintf("route add default via %s", f.plan.at(fam, s.index).prefix.Addr()))
		}
	}
	return lines
}

func portOf(node string) string { return "p-" + node }

func (f *Fabric) wireStation(ctx context.Context, s station) error {
	lines := []string{"link set lo up", "link set eth0 up"}
	for _, fam := range f.Options.Families {
		at := f.plan.at(fam, s.index)
		lines = append(lines, fmt.Sprintf("addr add %s dev eth0%s", at.prefix, nodad(fam)))
		if s.index == placeOutside {
			lines = append(lines, fmt.Sprintf("addr add %s dev lo%s", addr.Single(World(fam)), nodad(fam)))
		}
		if s.index != placeOutside || f.Options.Underlay == Routed {
			lines = append(lines, fmt.Sprintf("route add default via %s", at.gateway))
		}
	}
	if err := s.ip(ctx, lines...); err != nil {
		return fmt.Errorf("wire %s: %w", s.Name, err)
	}
	return nil
}

func nodad(f addr.Family) string {
	if f == addr.IPv6 {
		return " nodad"
	}
	return ""
}

// RouteFromOutside sends packets from the world to subnet through host h.
func (f *Fabric) RouteFromOutside(ctx context.Context, subnet netip.Prefix, h *Host) error {
	via := h.Underlay(addr.Of(subnet.Addr()))
	gateway := f.Outside
	if f.Options.Underlay == Routed {
		gateway = f.Switch
	}
	return gateway.ip(ctx, fmt.Sprintf("route replace %s via %s", subnet, via))
}

// Cut takes the cable of a node (a host, or etcd) out of the switch.
func (f *Fabric) Cut(ctx context.Context, n *Node) error {
	return f.Switch.ip(ctx, "link set "+portOf(n.Name)+" down")
}

// Heal puts the cable back. A router forgets the addresses of a dead IPv6
// segment, so they are set again.
func (f *Fabric) Heal(ctx context.Context, n *Node) error {
	port := portOf(n.Name)
	lines := []string{"link set " + port + " up"}
	if f.Options.Underlay == Routed && f.Options.has(addr.IPv6) {
		for _, s := range f.stations() {
			if s.Node == n {
				lines = append(lines, fmt.Sprintf("addr replace %s dev %s nodad", f.plan.router(addr.IPv6, s.index), port))
			}
		}
	}
	return f.Switch.ip(ctx, lines...)
}

// Recable gives a host a new cable and card after its eth0 was deleted: with the
// old hardware address, and with addresses and routes as DHCP would.
func (f *Fabric) Recable(ctx context.Context, h *Host, mac string) error {
	s := station{h.Node, h.Index}
	if err := f.Switch.ip(ctx, f.port(s)...); err != nil {
		return fmt.Errorf("recable %s: %w", h.Name, err)
	}
	if err := h.ip(ctx, "link set eth0 address "+mac); err != nil {
		return fmt.Errorf("recable %s: %w", h.Name, err)
	}
	return f.wireStation(ctx, s)
}

// AddCard gives a host another card on the switch, without addresses.
func (f *Fabric) AddCard(ctx context.Context, h *Host, name string) error {
	port := portOf(h.Name) + "b"
	return f.Switch.ip(ctx,
		fmt.Sprintf("link add %s type veth peer name %s netns %d", port, name, h.PID()),
		"link set "+port+" master br0 up")
}
