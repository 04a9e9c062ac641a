package lease

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/config"
)

// State is how a host stands to its lease; docs/lease-protocol.md draws the
// transitions.
type State uint8

// The states. The zero value is Pending.
const (
	Pending State = iota // no lease
	Owned                // held until the deadline
	Expired              // not owned for want of an answer; traffic goes on
	Lost                 // somebody else has it; traffic goes on until the deadline
)

func (s State) String() string {
	names := [...]string{"pending", "held", "expired", "lost"}
	if int(s) >= len(names) {
		return fmt.Sprintf("state %d", uint8(s))
	}
	return names[s]
}

// Holding is what a host has of the fabric.
type Holding struct {
	State State
	// Lease is the lease held now, or last while Expired or Lost; zero while
	// Pending.
	Lease  Held
	Reason string    // for people: why not Owned; "" while Owned
	Since  time.Time // when State was entered, on this host's clock
	// Deadline ends the state: of Owned the end of ownership, of Lost the end
	// of the grace. Zero: none.
	Deadline time.Time
	// Renew is when the next renewal is due; zero: never (a reservation).
	Renew time.Time
	// Asked is the claim that was granted, to notice new wishes by.
	Asked Claim
	// Epoch of the store in which Lease.Token counts.
	Epoch int64
}

// Ask is what the engine wants of the lease of this host.
type Ask struct {
	Network config.Network
	Public  addr.ByFamily[netip.Addr] // for each enabled family
	Offer   Offer
	// Previous are the subnets of an existing subnet.env; zero: none.
	Previous addr.ByFamily[netip.Prefix]
}

var errMissing = errors.New("is not part of the lease")

// Fits says whether a host may live in subnets. A reservation need not keep to
// the range and length of the pool: the operator put it there on purpose.
func (a Ask) Fits(subnets addr.ByFamily[netip.Prefix], reserved bool) error {
	for _, f := range a.Network.Families() {
		pool, p := a.Network.Pools.At(f), subnets.At(f)
		if !p.IsValid() {
			return fmt.Errorf("%s %w", f, errMissing)
		}
		if err := inside(p, pool.Network); err != nil {
			return err
		}
		if reserved {
			continue
		}
		if p.Bits() != pool.SubnetLen {
			return fmt.Errorf("subnet %s is not a /%d", p, pool.SubnetLen)
		}
		if p.Addr().Less(pool.Min.Addr()) || pool.Max.Addr().Less(p.Addr()) {
			return fmt.Errorf("subnet %s is not between %s and %s", p, pool.Min, pool.Max)
		}
	}
	return nil
}

// differs says whether the granted claim no longer says what the host wants.
func (a Ask) differs(granted Claim) bool {
	return a.Public != granted.Public || a.Offer != granted.Offer
}
