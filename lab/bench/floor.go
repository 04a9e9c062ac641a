package bench

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/lab"
)

// cost is what the kernel costs, without a daemon or a store.
type cost struct {
	took   time.Duration
	memory float64 // KB of kernel memory; others on the machine make it inexact
}

// floor is what it costs iproute2's batch mode to program so many peers on a
// host that has nothing.
func floor(ctx context.Context, h *lab.Host, backend string, peers int) (cost, error) {
	device := "eth0"
	if backend == "vxlan" {
		device = "flannel.1"
		err := h.IP(ctx, fmt.Sprintf("link add flannel.1 mtu 1450 type vxlan id 1 local %s dev eth0 dstport 8472 nolearning",
			h.Underlay(addr.IPv4)), "link set flannel.1 up")
		if err != nil {
			return cost{}, err
		}
	}
	batches := floorBatches(backend, device, peers)
	before := slab()
	begin := time.Now()
	for _, b := range batches {
		if err := h.Feed(ctx, b.lines, b.tool, "-batch", "-"); err != nil {
			return cost{}, fmt.Errorf("floor: %w", err)
		}
	}
	c := cost{took: time.Since(begin), memory: slab() - before}
	return c, sweep(ctx, h, backend)
}

// sweep removes all nexthops and routes with their link, which the kernel does
// in one go. The uplink comes back, with its default route.
func sweep(ctx context.Context, h *lab.Host, backend string) error {
	if backend == "vxlan" {
		return h.IP(ctx, "link del flannel.1")
	}
	lines, err := flap(ctx, h)
	if err != nil {
		return err
	}
	return h.IP(ctx, lines...)
}

// flap are the lines that take the uplink down and up again.
func flap(ctx context.Context, h *lab.Host) ([]string, error) {
	gateway, err := h.Run(ctx, "ip", "route", "show", "default")
	return []string{"link set eth0 down", "link set eth0 up", "route replace " + strings.TrimSpace(gateway)}, err
}

// slab is the memory of the kernel's objects, in KB, or 0.
func slab() float64 {
	kib, err := strconv.Atoi(field("/proc/meminfo", `(?m)^Slab:\s*(\d+) kB`))
	if err != nil {
		return 0
	}
	return float64(kib) * 1.024
}

type batch struct{ tool, lines string }

func floorBatches(backend, device string, peers int) []batch {
	var neighbours, fdb, nexthops, routes strings.Builder
	for i := range peers {
		p := peerAt(i)
		via := p.public
		onlink := ""
		if backend == "vxlan" {
			via, onlink = p.subnet.Addr(), " onlink"
			fmt.Fprintf(&neighbours, "neigh add %s lladdr %s dev %s nud permanent\n", via, p.mac, device)
			fmt.Fprintf(&fdb, "fdb append %s dev %s dst %s\n", p.mac, device, p.public)
		}
		fmt.Fprintf(&nexthops, "nexthop add id %d via %s dev %s%s\n", i+1, via, device, onlink)
		fmt.Fprintf(&routes, "route add %s nhid %d\n", p.subnet, i+1)
	}
	all := []batch{{"ip", nexthops.String()}, {"ip", routes.String()}}
	if backend == "vxlan" {
		all = append([]batch{{"ip", neighbours.String()}, {"bridge", fdb.String()}}, all...)
	}
	return all
}
