package route

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/flannel-ng/flannel-ng/internal/nl"
	"github.com/flannel-ng/flannel-ng/internal/state"
)

// Ids of nexthop objects are shared by all programs of a network namespace.
// Ours, from the top bit down: 01, ten bits that tell the instances of one
// host apart, twenty bits of index. The kernel numbers from 1 upwards and
// routing daemons do so, too; an id that is taken is skipped.
const (
	indexBits    = 20
	instanceBits = 10
	idMark       = 0b01 << (indexBits + instanceBits)
)

var errNoID = errors.New("all nexthop ids of this instance are taken")

// ids is the range of ids of one owner.
type ids struct{ base uint32 }

func idsOf(owner state.Owner) ids {
	var n uint32
	if owner.Instance != "" {
		sum := sha256.Sum256([]byte(owner.Instance))
		n = 1 + uint32(binary.BigEndian.Uint16(sum[:]))%(1<<instanceBits-1)
	}
	return ids{idMark | n<<indexBits}
}

func (r ids) contains(id uint32) bool { return id>>indexBits == r.base>>indexBits }

// nexthop is an object of ours that no route needs, as a change to make.
type nexthop struct {
	nl.Nexthop
	link string
}

// Key implements state.Object.
func (n nexthop) Key() state.Key {
	return state.Key{Kind: state.KindRoute, Name: fmt.Sprintf("nexthop %d", n.ID)}
}

func (n nexthop) String() string {
	return fmt.Sprintf("nexthop id %d via %s dev %s", n.ID, n.Hop.Via, n.link)
}

// nexthops are the objects of all programs.
type nexthops struct {
	supported bool
	byID      map[uint32]nl.Nexthop
}

// readNexthops lists them. That the listing is refused is how a kernel without
// nexthop objects shows.
func readNexthops(ctx context.Context, c *nl.Conn) (nexthops, error) {
	list, err := c.Nexthops(ctx)
	if errors.Is(err, unix.EOPNOTSUPP) {
		return nexthops{}, nil
	}
	if err != nil {
		return nexthops{}, fmt.Errorf("list nexthop objects: %w", err)
	}
	n := nexthops{supported: true, byID: make(map[uint32]nl.Nexthop, len(list))}
	for _, h := range list {
		n.byID[h.ID] = h
	}
	return n, nil
}

// usable says whether a route of ours can use the object.
func usable(h nl.Nexthop, r ids) bool {
	return h.Protocol == state.Protocol && r.contains(h.ID) && h.Group == 0 && !h.Special && h.Hop.Via.IsValid()
}

// byHop finds the object for each hop, the lowest id if there are several.
func (n nexthops) byHop(r ids) map[nl.Hop]uint32 {
	m := make(map[nl.Hop]uint32, len(n.byID))
	for id, h := range n.byID {
		if !usable(h, r) {
			continue
		}
		if old, ok := m[h.Hop]; !ok || id < old {
			m[h.Hop] = id
		}
	}
	return m
}

// allocator hands out free ids in order.
type allocator struct {
	ids
	taken map[uint32]nl.Nexthop
	next  uint32
}

func (a *allocator) id() (uint32, error) {
	for ; a.next < 1<<indexBits; a.next++ {
		id := a.base | a.next
		if _, taken := a.taken[id]; !taken {
			a.next++
			return id, nil
		}
	}
	return 0, errNoID
}
