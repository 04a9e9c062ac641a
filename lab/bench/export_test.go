package bench

import (
	"net/netip"
	"time"
)

// Choose is which rows a selection means.
func Choose(names ...string) (paths, peers []string, err error) {
	rows, peers, err := choose(names)
	return rowNames(rows), peers, err
}

// Busy reads /proc/stat.
func Busy(text string) (time.Duration, error) { return busy(text) }

// Used reads /proc/PID/stat.
func Used(text string) (time.Duration, error) { return usedIn(text) }

// Since compares two readings: busy time, and that of other processes.
func Since(before, after time.Duration, othersBefore, othersAfter map[int]time.Duration) (lab, others time.Duration) {
	lab, others, _ = reading{busy: after, others: othersAfter}.since(reading{busy: before, others: othersBefore})
	return lab, others
}

// NewRoute reads a netlink message.
func NewRoute(msg []byte) (netip.Prefix, bool) { return newRoute(msg) }

// Heard feeds a watch that waits for subnets, and says whether it has enough.
func Heard(messages []byte, subnets ...netip.Prefix) bool {
	w := &watch{}
	w.expect(subnets)
	w.heard(messages)
	return len(w.pending) == 0
}

// Writes counts what `ip monitor` saw, beside what concerns peer number marker.
func Writes(said string, marker int) int { return writes(said, peerAt(marker)) }

// PeerAt is peer number i.
func PeerAt(i int) (subnet netip.Prefix, public netip.Addr, mac string) {
	p := peerAt(i)
	return p.subnet, p.public, p.mac.String()
}

// MaxPeers is how many there may be.
const MaxPeers = maxPeers
