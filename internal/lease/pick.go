package lease

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sort"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/config"
)

// ErrFull says that a pool has no free subnet.
var ErrFull = errors.New("no subnet is free")

// FullError names the pool that is full; it is an ErrFull.
type FullError struct {
	Family addr.Family
	Pool   config.Pool
}

func (e *FullError) Error() string {
	prefix := ""
	if e.Family == addr.IPv6 {
		prefix = "IPv6"
	}
	return fmt.Sprintf("no %s subnet is free: every /%d from %s to %s is leased or reserved; in the network config "+
		"widen %sSubnetMin and %sSubnetMax, enlarge %sNetwork or raise %sSubnetLen, or release leases of hosts that are gone",
		e.Family, e.Pool.SubnetLen, e.Pool.Min.Addr(), e.Pool.Max.Addr(), prefix, prefix, prefix, prefix)
}

// Unwrap makes errors.Is(err, ErrFull) true.
func (e *FullError) Unwrap() error { return ErrFull }

// Picking is what a pick depends on.
type Picking struct {
	Network config.Network
	Leases  []*Lease
	Recent  []Recent
	Refused []Recent // somebody has a claim on them; only as the last resort
	HostID  string
	// Attempt changes where the search starts: hosts that collided once
	// shall not meet again.
	Attempt int
}

// Pick finds a free subnet for every enabled family. It starts at a block that
// the host id and the attempt decide and takes the first that is free and was
// not leased recently; if there is none, the one whose memory ends first. A
// lease over the whole network blocks nothing: nobody believes it. One of another
// length without an owner blocks only as long as something else is free. The
// error is a FullError.
func Pick(q Picking) (addr.ByFamily[netip.Prefix], error) {
	var picked addr.ByFamily[netip.Prefix]
	for _, f := range q.Network.Families() {
		p, ok := q.pick(f)
		if !ok {
			return addr.ByFamily[netip.Prefix]{}, &FullError{Family: f, Pool: q.Network.Pools.At(f)}
		}
		picked.Put(f, p)
	}
	return picked, nil
}

func (q Picking) pick(f addr.Family) (netip.Prefix, bool) {
	r := newRing(f, q.Network.Pools.At(f))
	if !r.valid() {
		return netip.Prefix{}, false
	}
	if p, ok := q.freeOf(r, q.Leases); ok {
		return p, true
	}
	// A lease of another length that has no owner is a mistake, or left over
	// from another config. It is avoided, but must not keep every host out.
	counting := slices.DeleteFunc(slices.Clone(q.Leases), func(l *Lease) bool {
		return l.Owner == "" && oddness(l, f, r.length) > 0
	})
	return q.freeOf(r, counting)
}

// freeOf is the best block of r that none of leases overlaps.
func (q Picking) freeOf(r ring, leases []*Lease) (netip.Prefix, bool) {
	f, leased := r.family, r.leased(leases)
	recent := slices.Concat(latest(q.Refused, f), latest(q.Recent, f)) // the first are avoided most
	start := r.start(q.HostID, q.Attempt)
	try := func(avoid int) (point, bool) { return r.free(merge(leased, recent[:avoid]), start) }
	if at, ok := try(len(recent)); ok {
		return r.block(at), true
	}
	// The fewer are avoided the more is free: find the longest memory that
	// leaves something.
	n := sort.Search(len(recent), func(k int) bool { _, ok := try(len(recent) - 1 - k); return ok })
	if n == len(recent) {
		return netip.Prefix{}, false
	}
	at, ok := try(len(recent) - 1 - n)
	return r.block(at), ok
}

// latest are those of rs that are of f, the one that ends last first.
func latest(rs []Recent, f addr.Family) []Recent {
	of := slices.DeleteFunc(slices.Clone(rs), func(r Recent) bool { return addr.Of(r.Subnet.Addr()) != f })
	slices.SortStableFunc(of, func(a, b Recent) int { return b.Until.Compare(a.Until) })
	return of
}

// ring is the range of blocks of one pool, searched round about.
type ring struct {
	family    addr.Family
	network   netip.Prefix
	length    int
	host      int   // bits below a block
	low, high point // first address of the first and of the last block
}

func newRing(f addr.Family, p config.Pool) ring {
	return ring{
		family: f, network: p.Network, length: p.SubnetLen, host: f.Bits() - p.SubnetLen,
		low: pointOf(p.Min.Addr()), high: pointOf(p.Max.Addr()),
	}
}

func (r ring) valid() bool { return r.low.compare(r.high) <= 0 }

func (r ring) block(at point) netip.Prefix { return netip.PrefixFrom(at.addr(r.family), r.length) }

// start is a block that depends on the host alone, so that hosts that join
// together start apart.
func (r ring) start(hostID string, attempt int) point {
	top := r.high.minus(r.low).shiftRight(uint(r.host))
	for round := uint64(0); ; round++ {
		h := sha256.New()
		var salt [24]byte
		binary.BigEndian.PutUint64(salt[:], uint64(attempt)) //nolint:gosec // any bits will do
		binary.BigEndian.PutUint64(salt[8:], uint64(r.family))
		binary.BigEndian.PutUint64(salt[16:], round)
		h.Write(salt[:])
		h.Write([]byte(hostID))
		sum := h.Sum(nil)
		n := point{binary.BigEndian.Uint64(sum), binary.BigEndian.Uint64(sum[8:])}.and(below(top.bits()))
		if n.compare(top) <= 0 { // more than every second time
			return r.low.plus(n.shiftLeft(uint(r.host)))
		}
	}
}

// leased lists what the leases occupy inside the network, sorted.
func (r ring) leased(leases []*Lease) []span {
	var spans []span
	for _, l := range leases {
		if p := l.Subnets.At(r.family); p.IsValid() && inside(p, r.network) == nil {
			spans = append(spans, spanOf(p))
		}
	}
	slices.SortFunc(spans, span.compare)
	return spans
}

// free finds the first block from start on, going round once, that touches no
// busy span. It jumps from span to span and never counts blocks.
func (r ring) free(busy []span, start point) (point, bool) {
	if at, ok := r.seek(busy, start); ok {
		return at, true
	}
	at, ok := r.seek(busy, r.low)
	return at, ok && at.compare(start) < 0
}

func (r ring) seek(busy []span, at point) (point, bool) {
	size := below(r.host)
	i := sort.Search(len(busy), func(i int) bool { return busy[i].last.compare(at) >= 0 })
	for ; i < len(busy) && busy[i].first.compare(at.plus(size)) <= 0; i++ {
		next := busy[i].last.or(size) // last address of the block that the span ends in
		if next.compare(r.high) >= 0 {
			return point{}, false
		}
		at = next.plus(point{0, 1})
	}
	return at, true
}
