package transit

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/backend"
	"github.com/flannel-ng/flannel-ng/internal/config"
	"github.com/flannel-ng/flannel-ng/internal/lease"
)

// Carrier is a backend with its options, and what these put on the wire.
type Carrier struct {
	Wire    backend.Wire
	Backend config.Backend
}

// Kit is what carriers are made with.
type Kit struct {
	// Wire is that of a backend's options; zero: it cannot stand beside others.
	Wire func(config.Backend) (backend.Wire, error)
	New  func(backend.Setup) (backend.Backend, []string, error)
}

// maxBackend bounds the Backend object of a record, in bytes.
const maxBackend = 1000

// Of is the carrier that a network config names.
func (k Kit) Of(b config.Backend) (Carrier, error) {
	w, err := k.Wire(b)
	if err != nil || len(b.JSON()) > maxBackend {
		w = backend.Wire{} // too long to tell others of it
	}
	return Carrier{Wire: w, Backend: b}, err
}

// Carrier reads an entry of a record. What others wrote is checked as a network
// config is, and names no command: those of ours that do have no wire.
func (k Kit) Carrier(e Entry) (Carrier, error) {
	if len(e.Backend) > maxBackend {
		return Carrier{}, fmt.Errorf("%w: carrier %s has %d bytes of options", ErrRecord, e.Wire, len(e.Backend))
	}
	n, err := config.Parse(fmt.Appendf(nil, `{"Network":"10.0.0.0/8","Backend":%s}`, cmp.Or(string(e.Backend), "null")))
	if err != nil {
		return Carrier{}, fmt.Errorf("carrier %s: %w", e.Wire, err)
	}
	w, err := k.Wire(n.Backend)
	if err != nil {
		return Carrier{}, fmt.Errorf("carrier %s: %w", e.Wire, err)
	}
	if w.Name == "" || w.Name != e.Wire {
		return Carrier{}, fmt.Errorf("%w: carrier %s has the options of %q", ErrRecord, e.Wire, w.Name)
	}
	return Carrier{Wire: w, Backend: n.Backend}, nil
}

// saying is one wire that a host receives by.
type saying struct {
	wire  string
	sends bool // it may send by it, too
}

// group is hosts that say the same.
type group struct {
	says []saying // the primary first; nil without a record
	// typ and vni are of the lease: all that is known without a record.
	typ  string
	vni  uint32
	ours bool      // of an older version, if it has no record
	has  []Carrier // the carriers of its record that can be understood
	size int
}

// Census counts what the other hosts of a picture say of themselves. A change
// of the picture costs what it changes.
type Census struct {
	kit     Kit
	network config.Network
	self    lease.Self
	leases  []*lease.Lease
	groups  map[string]*group
	of      map[string]*group // by Lease.Key
}

// NewCensus makes one of no hosts.
func NewCensus(kit Kit) *Census {
	return &Census{kit: kit, groups: map[string]*group{}, of: map[string]*group{}}
}

// Update takes another picture.
func (c *Census) Update(leases []*lease.Lease, network config.Network, self lease.Self) {
	if self != c.self || network.Pools != c.network.Pools {
		clear(c.groups)
		clear(c.of)
		c.leases = nil
	}
	c.network, c.self = network, self
	gone, come := lease.Differ(c.leases, leases)
	c.leases = leases
	for _, l := range gone {
		c.leave(l)
	}
	for _, l := range come {
		c.enter(l)
	}
}

func (c *Census) leave(l *lease.Lease) {
	g := c.of[l.Key]
	if g == nil {
		return
	}
	delete(c.of, l.Key)
	if g.size--; g.size == 0 {
		maps.DeleteFunc(c.groups, func(_ string, o *group) bool { return o == g })
	}
}

// enter counts the host of l, if it is another one that may be believed.
// Whoever only reserved a subnet is no host.
func (c *Census) enter(l *lease.Lease) {
	kept, _, ok := lease.Screen(l, c.network, c.self)
	if !ok || len(kept.Prefixes()) == 0 || l.Reserved && l.Owner == "" && l.Offer.Backend == config.DefaultBackend {
		return
	}
	g := c.judge(l)
	g.size++
	c.of[l.Key] = g
}

// judge finds or makes the group of l.
func (c *Census) judge(l *lease.Lease) *group {
	r, err := Parse(l.Offer.Extra)
	if err != nil || l.Owner == "" {
		r = Record{} // such a host says nothing that can be understood
	}
	vni := vniOf(l.Offer)
	var key strings.Builder
	fmt.Fprintf(&key, "%s %d %t", l.Offer.Backend, vni, l.Owner != "")
	for _, e := range r.Entries {
		fmt.Fprintf(&key, "\n%s %t", e.Wire, e.ReceiveOnly)
	}
	if g := c.groups[key.String()]; g != nil {
		return g
	}
	g := &group{typ: l.Offer.Backend, vni: vni, ours: l.Owner != ""}
	for _, e := range r.Entries {
		g.says = append(g.says, saying{e.Wire, !e.ReceiveOnly})
		if k, err := c.kit.Carrier(e); err == nil {
			g.has = append(g.has, k)
		}
	}
	c.groups[key.String()] = g
	return g
}

// vniOf is the network that backend data names; 0: none.
func vniOf(o lease.Offer) uint32 {
	for _, f := range addr.Families() {
		text := o.Data.At(f)
		if rest, ok := strings.CutPrefix(text, `{"VNI":`); ok { // as flannel writes it
			digits, _, _ := strings.Cut(rest, ",")
			if n, err := strconv.ParseUint(digits, 10, 32); err == nil {
				return uint32(n)
			}
		}
		var d struct{ VNI uint32 }
		if text != "" && json.Unmarshal([]byte(text), &d) == nil && d.VNI != 0 {
			return d.VNI
		}
	}
	return 0
}

// sorted are the groups, the largest first.
func (c *Census) sorted() []*group {
	return slices.SortedFunc(maps.Values(c.groups), func(a, b *group) int {
		return cmp.Or(cmp.Compare(b.size, a.size), cmp.Compare(fmt.Sprint(a.says, a.typ, a.vni), fmt.Sprint(b.says, b.typ, b.vni)))
	})
}

// fewNames bounds how many hosts a text names.
const fewNames = 5

// names tells people which hosts are of the groups wanted.
func (c *Census) names(wanted func(*group) bool) string {
	left := 0
	for _, g := range c.groups {
		if wanted(g) {
			left += g.size
		}
	}
	var out []string
	for _, l := range c.leases {
		if len(out) == fewNames || len(out) == left {
			break
		}
		if g := c.of[l.Key]; g != nil && wanted(g) {
			out = append(out, l.Node())
		}
	}
	text := strings.Join(out, ", ")
	if left > len(out) {
		text += fmt.Sprintf(" and %d more", left-len(out))
	}
	return text
}
