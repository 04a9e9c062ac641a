package lab

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/flannel-ng/flannel-ng/internal/addr"
)

// Container is a node behind a host's bridge, as a CNI bridge plugin or
// Docker would make it from subnet.env.
type Container struct {
	*Node
	Host *Host
	MTU  string
	addr addr.ByFamily[netip.Addr]
}

// Addr is the container's address.
func (c *Container) Addr(f addr.Family) netip.Addr { return c.addr.At(f) }

// Attach makes a container on h, which must have its subnet file.
func (f *Fabric) Attach(ctx context.Context, h *Host, name string) (*Container, error) {
	env, err := h.SubnetEnv()
	if err != nil {
		return nil, err
	}
	node, err := newNode(ctx, f.spawn, f.Options.Binaries.Lab, name)
	if err != nil {
		return nil, err
	}
	c := &Container{Node: node, Host: h, MTU: env["FLANNEL_MTU"]}
	f.containers = append(f.containers, c)
	h.ports++
	bridge := h.bridge()
	outer := []string{"link add " + bridge + " type bridge mcast_snooping 0"}
	if h.ports > 1 {
		outer = nil
	}
	veth := fmt.Sprintf("veth%d%s", h.ports, h.suffix())
	outer = append(outer, fmt.Sprintf("link add %s mtu %s type veth peer name eth0 mtu %s netns %d",
		veth, c.MTU, c.MTU, c.PID()),
		"link set "+veth+" master "+bridge+" up", "link set "+bridge+" mtu "+c.MTU+" up")
	inner := []string{"link set lo up", "link set eth0 up"}
	err = f.families(func(fam addr.Family) error {
		gateway, err := h.Gateway(fam)
		if err != nil {
			return err
		}
		c.addr.Put(fam, offset(gateway.Addr(), h.ports))
		outer = append(outer, fmt.Sprintf("addr replace %s dev %s%s", gateway, bridge, nodad(fam)))
		inner = append(inner,
			fmt.Sprintf("addr add %s dev eth0%s", netip.PrefixFrom(c.Addr(fam), gateway.Bits()), nodad(fam)),
			fmt.Sprintf("route add default via %s", gateway.Addr()))
		return f.RouteFromOutside(ctx, gateway.Masked(), h)
	})
	if err != nil {
		return nil, err
	}
	return c, c.plug(ctx, outer, inner)
}

// plug runs the two sides. Forwarding is what bridge plugins switch on.
func (c *Container) plug(ctx context.Context, outer, inner []string) error {
	if err := c.Host.sysctl("ipv4/ip_forward=1", "ipv6/conf/all/forwarding=1"); err != nil {
		return err
	}
	if err := c.Host.ip(ctx, outer...); err != nil {
		return fmt.Errorf("attach %s: %w", c.Name, err)
	}
	if err := c.ip(ctx, inner...); err != nil {
		return fmt.Errorf("attach %s: %w", c.Name, err)
	}
	return c.respond(ctx)
}
