package link

import "github.com/flannel-ng/flannel-ng/internal/nl"

// tun adds how a TUN device differs from what AddTUN makes. All of it is mended
// by making the device anew: to change it on the device takes a process that is
// attached, and there can only be one, which is the reader.
func (d *diff) tun(have nl.TUN) {
	d.add(have.Tap, remake, "a tap device")
	d.add(have.MultiQueue, remake, "multi-queue")
	d.add(have.Transient, remake, "not persistent")
	d.add(have.Open, remake, "open to others than root")
}
