package link

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/nl"
	"github.com/flannel-ng/flannel-ng/internal/state"
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

// compare says how have must change to become want. Only for a decision on an
// offload does it read something itself.
func compare(have nl.Link, want target) (diff, error) {
	var d diff
	if have.Kind != want.Kind {
		d.add(true, remake, "type %q", have.Kind)
		return d, nil
	}
	switch state.LinkType(want.Kind) {
	case state.LinkVXLAN:
		d.vxlan(have.VXLAN, want.VXLAN)
	case state.LinkTUN:
		d.tun(have.TUN)
	}
	d.add(have.MTU != want.MTU, set, "mtu %d", have.MTU)
	d.add(have.MAC != want.MAC, set, "address %s", have.MAC)
	d.add(!have.Up, set, "down")
	d.add(have.Master != 0, set, "port of index %d", have.Master)
	d.add(have.NoARP && want.MAC != (addr.MAC{}), set, "noarp")
	d.add(have.Alias != want.Alias, set, "alias %q", have.Alias)
	differs, err := checksumDiffers(want)
	found := state.OffloadOn
	if want.checksum == state.OffloadOn {
		found = state.OffloadOff
	}
	d.add(differs, set, "tx-checksumming %s", found)
	return d, err
}

// checksumDiffers reads the device of the name of want.
func checksumDiffers(want target) (bool, error) {
	if want.checksum == state.OffloadAsFound {
		return false, nil
	}
	on, err := nl.TxChecksum(want.Name)
	if errors.Is(err, unix.ENODEV) {
		return true, nil // just deleted: all of it is to be made
	}
	return on != (want.checksum == state.OffloadOn), err
}
