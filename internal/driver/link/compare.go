package link

import (
	"fmt"
	"strings"

	"github.com/flannel-ng/flannel-ng/internal/nl"
)

// need is what it takes to mend a link; the largest of its differences counts.
type need uint8

const (
	nothing need = iota
	set          // attributes that any device can change
	move         // attributes that a living VXLAN device can change
	remake       // fixed at creation
)

// diff is how a link differs from what is wanted.
type diff struct {
	need  need
	texts []string
}

// String lists what was found, for people.
func (d diff) String() string {
	s := strings.Join(d.texts, ", ")
	if d.need == remake {
		s += " (made anew)"
	}
	return s
}

func (d *diff) add(differs bool, n need, format string, found ...any) {
	if differs {
		d.need = max(d.need, n)
		d.texts = append(d.texts, fmt.Sprintf(format, found...))
	}
}

// compare says how have must change to become want.
func compare(have, want nl.Link) diff {
	var d diff
	if have.Kind != want.Kind {
		d.add(true, remake, "type %q", have.Kind)
		return d
	}
	h, w := have.VXLAN, want.VXLAN
	d.add(h.VNI != w.VNI, remake, "id %d", h.VNI)
	d.add(h.Port != w.Port, remake, "dstport %d", h.Port)
	d.add(h.Special, remake, "another mode of vxlan")
	d.add(!h.UDPCsum, remake, "no udpcsum")
	d.add(h.Source != w.Source, move, "local %s", h.Source)
	d.add(h.Parent != w.Parent, move, "dev of index %d", h.Parent)
	d.add(h.TTL != w.TTL, move, "ttl %d", h.TTL)
	d.add(h.Learning, move, "learning")
	d.add(have.MTU != want.MTU, set, "mtu %d", have.MTU)
	d.add(have.MAC != want.MAC, set, "address %s", have.MAC)
	d.add(!have.Up, set, "down")
	d.add(have.Alias != want.Alias, set, "alias %q", have.Alias)
	return d
}
