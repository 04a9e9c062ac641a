package route

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"

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

// Reserved says whether an id is in the range of an owner: whoever touches such
// an object touches one of the owner's.
func Reserved(owner state.Owner, id uint32) bool { return idsOf(owner).contains(id) }

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

// nexthops are objects of all programs.
type nexthops struct {
	supported bool
	byID      map[uint32]nl.Nexthop
	all       bool            // byID has every one
	free      map[uint32]bool // ids asked for and not found, unless all
}

// readNexthops lists them. That the listing is refused is how a kernel without
// nexthop objects shows.
func readNexthops(ctx context.Context, c *nl.Conn) (nexthops, error) {
	list, err := c.Nexthops(ctx)
	if errors.Is(err, unix.EOPNOTSUPP) {
		return nexthops{all: true}, nil
	}
	if err != nil {
		return nexthops{}, fmt.Errorf("list nexthop objects: %w", err)
	}
	n := nexthops{supported: true, all: true, byID: make(map[uint32]nl.Nexthop, len(list))}
	for _, h := range list {
		n.byID[h.ID] = h
	}
	return n, nil
}

// probeLimit is for how many hops objects are asked for one by one; for more
// than that it costs less to list all.
const probeLimit = 512

// probe learns enough of the objects for slot to answer for these hops.
func (n *nexthops) probe(ctx context.Context, c *nl.Conn, r ids, hops []nl.Hop) error {
	if n.all {
		return nil
	}
	if n.byID == nil {
		n.supported, n.byID, n.free = true, map[uint32]nl.Nexthop{}, map[uint32]bool{}
	}
	for range 1 << indexBits {
		var ask []uint32
		for _, h := range hops {
			if _, id, ok := n.slot(r, h); !ok {
				ask = append(ask, id)
			}
		}
		if len(ask) == 0 || !n.supported {
			return nil
		}
		if err := n.ask(ctx, c, ask); err != nil {
			return err
		}
	}
	return errNoID
}

// ask reads the objects of these ids.
func (n *nexthops) ask(ctx context.Context, c *nl.Conn, ids []uint32) error {
	list, there, err := c.NexthopsAt(ctx, ids)
	if errors.Is(err, nl.ErrUnknown) {
		n.supported = false
		return nil
	}
	if err != nil {
		return fmt.Errorf("read nexthop objects: %w", err)
	}
	for i, id := range ids {
		if there[i] {
			n.byID[id] = list[i]
		} else {
			n.free[id] = true
		}
	}
	return nil
}

// slot finds the id for a hop: that of the object that leads there, or a free
// one. Where an object stands follows from its hop, so that it is found again
// without listing all; the next ids are tried when that is taken. Without an
// answer (false) the id has to be asked for.
func (n *nexthops) slot(r ids, hop nl.Hop) (there bool, id uint32, ok bool) {
	first := hashOf(hop)
	for i := range uint32(1 << indexBits) {
		id := r.base | (first+i)&(1<<indexBits-1)
		h, taken := n.byID[id]
		switch {
		case taken && h.Hop == hop && usable(h, r):
			return true, id, true
		case taken:
		default:
			return false, id, n.all || n.free[id]
		}
	}
	return false, 0, n.all
}

func hashOf(hop nl.Hop) uint32 {
	h := fnv.New32a()
	via := hop.Via.As16()
	_, _ = h.Write(binary.BigEndian.AppendUint32(via[:], uint32(hop.Link)<<1|uint32(onlink(hop))))
	return h.Sum32()
}

func onlink(hop nl.Hop) uint8 {
	if hop.Onlink {
		return 1
	}
	return 0
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
