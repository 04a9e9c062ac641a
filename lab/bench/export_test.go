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

// Quantile of values.
func Quantile(values []float64, q float64) float64 { return quantile(values, q) }

// Busy reads /proc/stat.
func Busy(text string) (time.Duration, error) { return busy(text) }

// Used reads /proc/PID/stat.
func Used(text string) (time.Duration, error) { return usedIn(text) }

// Since compares two readings: busy time, and that of other processes.
func Since(before, after time.Duration, othersBefore, othersAfter map[int]time.Duration) (lab, others time.Duration) {
	lab, others, _ = reading{busy: after, others: othersAfter}.since(reading{busy: before, others: othersBefore})
	return lab, others
}

// Lookup is the netlink request for the route to a.
func Lookup(index uint32, a netip.Addr) []byte { return appendLookup(nil, index, a) }

// ParseLookup reads an answer.
func ParseLookup(msg []byte) (index, prefix int) { return parseLookup(msg) }

// Writes counts what `ip monitor` saw, beside what concerns peer number marker.
func Writes(said string, marker int) int { return writes(said, peerAt(marker)) }

// PeerAt is peer number i.
func PeerAt(i int) (subnet netip.Prefix, public netip.Addr, mac string) {
	p := peerAt(i)
	return p.subnet, p.public, p.mac.String()
}

// MaxPeers is how many there may be.
const MaxPeers = maxPeers
