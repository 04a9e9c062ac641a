package link

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/flannel-ng/flannel-ng/internal/driver/kernel"
	"github.com/flannel-ng/flannel-ng/internal/nl"
)

// vxlan adds how a VXLAN device differs.
func (d *diff) vxlan(h, w nl.VXLAN) {
	d.add(h.VNI != w.VNI, remake, "id %d", h.VNI)
	d.add(h.Port != w.Port, remake, "dstport %d", h.Port)
	d.add(h.GBP && !w.GBP, remake, "gbp")
	d.add(!h.GBP && w.GBP, remake, "no gbp")
	d.add(h.Special, remake, "another mode of vxlan")
	d.add(!h.UDPCsum, remake, "no udpcsum")
	d.add(h.Source != w.Source, move, "local %s", h.Source)
	d.add(h.Parent != w.Parent, move, "dev of index %d", h.Parent)
	d.add(h.TTL != w.TTL, move, "ttl %d", h.TTL)
	d.add(h.Learning && !w.Learning, move, "learning")
	d.add(!h.Learning && w.Learning, move, "nolearning")
}

// addVXLAN creates t. A leftover of ours that holds the same VNI and port under
// another name (somebody renamed it, or the name was changed) makes way.
func addVXLAN(ctx context.Context, c *nl.Conn, t nl.Link) error {
	err := do(ctx, c, nl.AddVXLAN(t))
	if !errors.Is(err, unix.EEXIST) {
		return err
	}
	rival, found, readErr := rivalOf(ctx, c, t)
	switch {
	case readErr != nil:
		return readErr
	case !found:
		return err
	case rival.Alias != t.Alias:
		return fmt.Errorf("link %s has VNI %d and port %d already: %w",
			rival.Name, t.VXLAN.VNI, t.VXLAN.Port, kernel.ErrForeign)
	default:
		return errors.Join(c.Do(ctx, []nl.Request{nl.DelLink(rival.Index), nl.AddVXLAN(t)})...)
	}
}

// rivalOf finds a VXLAN device that the kernel would not have beside t: it
// tells them apart by VNI, port and outer family.
func rivalOf(ctx context.Context, c *nl.Conn, t nl.Link) (nl.Link, bool, error) {
	links, err := c.Links(ctx, t.Kind)
	if err != nil {
		return nl.Link{}, false, fmt.Errorf("list %s links: %w", t.Kind, err)
	}
	for _, l := range links {
		if l.Name != t.Name && l.VXLAN.VNI == t.VXLAN.VNI && l.VXLAN.Port == t.VXLAN.Port &&
			l.VXLAN.Source.Is6() == t.VXLAN.Source.Is6() {
			return l, true, nil
		}
	}
	return nl.Link{}, false, nil
}
