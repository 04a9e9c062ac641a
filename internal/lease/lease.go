// Package lease is the pure core of address assignment: what a lease is, which
// leases a host may believe, which subnet it picks, and what it does next.
//
// It owns no connection and no clock. Stores implement Store; the keeper runs
// Decide; the engine reads Snapshot.
package lease

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/flannel-ng/flannel-ng/internal/addr"
)

// Lease is one host's slice of the cluster network. Values are immutable.
type Lease struct {
	// Key is the store's name of the lease without its prefix, for example
	// "10.5.34.0-24&fc00:5:0:12::-64" (reference §3).
	Key     string
	Subnets addr.ByFamily[netip.Prefix] // masked; a zero slot: family not leased
	Public  addr.ByFamily[netip.Addr]   // where peers send; a zero slot: none
	Offer   Offer
	// Owner is the host id of the holder, "" for a plain flannel host.
	Owner string
	// Reserved leases have no expiry.
	Reserved bool
	// Created and Modified order leases: the store's revisions.
	Created, Modified int64
}

// Offer is how the holder of a lease can be reached by one backend.
type Offer struct {
	Backend string                // canonical type, "udp" when the store has none
	Data    addr.ByFamily[string] // backend data as JSON text, "" for none
	// Extra is what only hosts of ours understand, as JSON text, "" for none:
	// what else the holder can do, such as decapsulating in the kernel. It
	// stands beside the lease and never in it, so a lease without an owner has
	// none. Spaces in it are not kept.
	Extra string
}

// Node names the holder for people: its public addresses.
func (l Lease) Node() string {
	ipv4, ipv6 := l.Public.At(addr.IPv4), l.Public.At(addr.IPv6)
	switch {
	case ipv4.IsValid() && ipv6.IsValid():
		return ipv4.String() + "," + ipv6.String()
	case ipv6.IsValid():
		return ipv6.String()
	case ipv4.IsValid():
		return ipv4.String()
	default:
		return "?"
	}
}

// Prefixes lists the leased subnets, IPv4 first.
func (l Lease) Prefixes() []netip.Prefix {
	var ps []netip.Prefix
	for _, f := range addr.Families() {
		if p := l.Subnets.At(f); p.IsValid() {
			ps = append(ps, p)
		}
	}
	return ps
}

// Overlaps says whether l and o share an address in any family.
func (l Lease) Overlaps(o Lease) bool {
	for _, f := range addr.Families() {
		a, b := l.Subnets.At(f), o.Subnets.At(f)
		if a.IsValid() && b.IsValid() && a.Overlaps(b) {
			return true
		}
	}
	return false
}

// Compare orders leases for snapshots: by IPv4 subnet, then IPv6, then key.
func Compare(a, b *Lease) int {
	for _, f := range addr.Families() {
		x, y := a.Subnets.At(f), b.Subnets.At(f)
		if c := cmp.Or(x.Addr().Compare(y.Addr()), cmp.Compare(x.Bits(), y.Bits())); c != 0 {
			return c
		}
	}
	return cmp.Compare(a.Key, b.Key)
}

// Snapshot is the whole picture of the store at one revision.
type Snapshot struct {
	Cluster string // identity of the store; a picture of another one is refused
	// Epoch changes when the store was restored or wiped: revisions of two
	// epochs do not compare.
	Epoch, Rev int64
	// Synced says that absence means absence. Nothing is deleted before.
	Synced bool
	// Settling says that the store went back lately (it was restored or wiped):
	// what is absent may be claimed again in a moment.
	Settling bool
	Origin   Origin
	Config   []byte     // network config JSON; nil if the key does not exist
	Leases   []*Lease   // well-formed, sorted by Compare, not yet admitted; none ever changes
	Bad      []Rejected // what could not be read, sorted by key
	Recent   []Recent   // subnets that expired not long ago, sorted
	// Changed is a hint that saves looking: the keys of the leases that came,
	// went or differ, in more than Modified, from the picture that Watch handed
	// out just before. nil says nothing: all may differ. Who missed a picture
	// must add up, and nothing may be wrong without it.
	Changed []string
}

// Differ finds what leases are in one picture alone. What both share, as
// pictures of one store do that follow each other, costs a look at a pointer.
func Differ(old, now []*Lease) (gone, come []*Lease) {
	i, j := 0, 0
	for i < len(old) && j < len(now) {
		if old[i] == now[j] || *old[i] == *now[j] {
			i, j = i+1, j+1
			continue
		}
		order := Compare(old[i], now[j])
		if order <= 0 {
			gone = append(gone, old[i])
			i++
		}
		if order >= 0 {
			come = append(come, now[j])
			j++
		}
	}
	return append(gone, old[i:]...), append(come, now[j:]...)
}

// Origin says how fresh a snapshot is.
type Origin struct {
	LastKnownGood bool          // read from the file, the store is not reachable
	Age           time.Duration // since it was seen live; 0 for live
}

// Rejected is something that was ignored, and why.
type Rejected struct {
	Key    string
	Reason string
}

// Recent is a subnet whose lease vanished. It is not handed out before Until
// while others are free, because a plain flannel host that was cut off renews
// by overwriting (reference W8).
type Recent struct {
	Subnet netip.Prefix
	Until  time.Time
}

// SortRejected orders and removes doubles, so that snapshots compare.
func SortRejected(r []Rejected) []Rejected {
	slices.SortFunc(r, func(a, b Rejected) int {
		return cmp.Or(cmp.Compare(a.Key, b.Key), cmp.Compare(a.Reason, b.Reason))
	})
	return slices.Compact(r)
}

// Store keeps the leases of one fabric. It must be safe for concurrent use.
type Store interface {
	// Watch hands every new whole picture to put, from one goroutine, until
	// ctx ends. It reconnects and re-lists by itself and returns only ctx's
	// error or one that no retry can cure.
	Watch(ctx context.Context, put func(Snapshot)) error
	// Claim creates (zero Token), renews or changes the lease of this host as
	// one compare-and-set. It fails with ErrTaken if somebody else has the
	// subnet or the token is stale, and with ErrDuplicate if a live host has
	// our public address.
	Claim(ctx context.Context, c Claim) (Held, error)
	// Release gives the lease back if h is still current; otherwise ErrTaken.
	Release(ctx context.Context, h Held) error
}

// Token is the store's proof of a holding: the revision of the last write to
// the lease key. The zero Token means "create".
type Token int64

// Claim is what a host asks for.
type Claim struct {
	Token   Token
	Subnets addr.ByFamily[netip.Prefix]
	Public  addr.ByFamily[netip.Addr]
	Offer   Offer
	// Takeover lets a claim with a Token replace a lease that carries our
	// public address but no living owner of ours: a plain flannel before us,
	// a reservation, or a host that lost its identity.
	Takeover bool
}

// Held is a lease that the store granted to this host.
type Held struct {
	Lease
	Token Token
	// Expires is on this host's clock, counted from before the request was
	// sent, so it errs early. Zero for a reservation.
	Expires time.Time
}

// The ways in which a claim fails for good until the picture changes.
var (
	ErrTaken     = errors.New("lease is taken")
	ErrPending   = errors.New("lease is not assigned yet")
	ErrDuplicate = errors.New("public address is in use by another live host")
)

// DuplicateError says who else has our public address.
type DuplicateError struct {
	Address netip.Addr
	Host    string // the other host's id
}

func (e *DuplicateError) Error() string {
	return fmt.Sprintf("public address %s is held by live host %s: give this host its own address "+
		"(--public-ip, --iface) or stop the other one", e.Address, e.Host)
}

// Unwrap makes errors.Is(err, ErrDuplicate) true.
func (e *DuplicateError) Unwrap() error { return ErrDuplicate }
