package transit_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/backend"
	"github.com/flannel-ng/flannel-ng/internal/backend/all"
	"github.com/flannel-ng/flannel-ng/internal/backend/transit"
	"github.com/flannel-ng/flannel-ng/internal/config"
	"github.com/flannel-ng/flannel-ng/internal/facts"
	"github.com/flannel-ng/flannel-ng/internal/lease"
	"github.com/flannel-ng/flannel-ng/internal/state"
)

// stub carries nothing, and says so in one route for each peer.
type stub struct{ wire backend.Wire }

func (s stub) Offer(facts.Node, *lease.Lease) (lease.Offer, error) {
	o := lease.Offer{Backend: s.wire.Type}
	if s.wire.VNI != 0 {
		o.Data.Put(addr.IPv4, fmt.Sprintf(`{"VNI":%d,"VtepMAC":"02:00:00:00:00:01"}`, s.wire.VNI))
	}
	return o, nil
}

func (stub) Local(lease.Lease, facts.Node) (state.Set, error) { return state.Set{MTU: 1400}, nil }

func (s stub) Peer(_ lease.Lease, _ facts.Node, p lease.Lease, _ lease.Offer) (state.Set, error) {
	return state.Set{Routes: []state.Route{{Dst: p.Subnets.At(addr.IPv4), Link: s.wire.Name}}}, nil
}

func kit() transit.Kit {
	return transit.Kit{Wire: all.Wire, New: func(s backend.Setup) (backend.Backend, []string, error) {
		w, err := all.Wire(s.Options)
		return stub{w}, nil, err
	}}
}

// carrier is what a Backend object means.
func carrier(tb testing.TB, options string) transit.Carrier {
	tb.Helper()
	n, err := config.Parse([]byte(`{"Network":"10.5.0.0/16","Backend":` + options + `}`))
	if err != nil {
		tb.Fatal(err)
	}
	c, err := kit().Of(n.Backend)
	if err != nil {
		tb.Fatal(err)
	}
	return c
}

func network() config.Network {
	n, err := config.Parse([]byte(`{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}`))
	if err != nil {
		panic(err)
	}
	return n
}

// picture is the store at one revision.
type picture struct {
	config transit.Carrier
	leases []*lease.Lease
}

// host is one of ours, as far as carriers concern it.
type host struct {
	id    string
	own   lease.Lease
	rev   int // that it has seen
	up    bool
	first string
	plan  transit.Plan
	// What it remembers.
	census        *transit.Census
	placed, using map[string]bool
	asked, held   *lease.Offer
	// What is in its kernel.
	receives []string
	sends    map[string]string // by key of a peer's lease
}

// sim is a fabric whose hosts learn of each other late, and at different times.
type sim struct {
	tb    testing.TB
	dice  *rand.Rand
	now   time.Time
	store []picture
	hosts []*host
	log   []string
}

func (s *sim) note(format string, args ...any) { s.log = append(s.log, fmt.Sprintf(format, args...)) }

func (s *sim) last() picture { return s.store[len(s.store)-1] }

// write makes another revision.
func (s *sim) write(change func(*picture)) {
	p := s.last()
	p.leases = slices.Clone(p.leases)
	change(&p)
	slices.SortFunc(p.leases, lease.Compare)
	s.store = append(s.store, p)
}

func leaseOf(n int, owner string) lease.Lease {
	l := lease.Lease{Key: fmt.Sprintf("10.5.%d.0-24", n), Owner: owner, Created: int64(n)}
	l.Subnets.Put(addr.IPv4, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 5, byte(n), 0}), 24))
	l.Public.Put(addr.IPv4, netip.AddrFrom4([4]byte{198, 51, 100, byte(n)}))
	return l
}

func newSim(tb testing.TB, seed uint64, hosts int, first string) *sim {
	tb.Helper()
	s := &sim{tb: tb, dice: rand.New(rand.NewPCG(seed, 5)), now: time.Unix(1e9, 0)}
	s.store = []picture{{config: carrier(tb, first)}}
	for n := range hosts {
		h := &host{id: fmt.Sprintf("h%d", n+1), sends: map[string]string{}}
		h.own = leaseOf(n+1, h.id)
		s.hosts = append(s.hosts, h)
		s.start(h)
	}
	return s
}

func (s *sim) start(h *host) {
	h.up, h.first, h.plan, h.asked, h.held = true, "", transit.Plan{}, nil, nil
	h.placed, h.using, h.census = nil, nil, transit.NewCensus(kit())
}

// shown is the host's own lease in what it sees.
func (s *sim) shown(h *host) *lease.Offer {
	for _, l := range s.store[h.rev].leases {
		if l.Owner == h.id {
			return &l.Offer
		}
	}
	return nil
}

// pass is what an engine does.
func (s *sim) pass(h *host) {
	p := s.store[h.rev]
	if h.first == "" {
		h.first = p.config.Wire.Name
	}
	h.census.Update(p.leases, network(), lease.Self{HostID: h.id})
	h.plan = transit.Next(transit.Situation{
		Config: p.config, Fresh: h.first == p.config.Wire.Name, Others: h.census, Trusted: true,
		Shown: s.shown(h), Held: h.held, Asked: h.asked, Placed: h.placed, Using: h.using,
		Last: h.plan.Receive, Idle: h.plan.Idle, Now: s.now,
	})
	var members []transit.Member
	h.receives, h.placed, h.using = nil, map[string]bool{}, map[string]bool{}
	for _, c := range h.plan.Receive {
		members = append(members, transit.Member{Carrier: c, Backend: stub{c.Wire}})
		h.receives = append(h.receives, c.Wire.Name)
		h.placed[c.Wire.Name] = true
	}
	b := transit.New(h.plan, members)
	offer, err := b.Offer(facts.Node{HostID: h.id}, nil)
	if err != nil {
		s.tb.Fatal(err)
	}
	h.asked = &offer
	clear(h.sends)
	for _, l := range p.leases {
		if l.Owner == h.id || h.held == nil {
			continue
		}
		if _, wire, err := b.Send(h.own, facts.Node{HostID: h.id}, *l); err == nil {
			h.sends[l.Key] = wire
			h.using[wire] = true
		}
	}
	s.note("%s at %d: receives %v, publishes %v, sends %v", h.id, h.rev, h.receives, h.plan.Publish, h.sends)
}

// claim writes what the host has asked for last. The answer may be lost: the
// host then learns of it from the picture.
func (s *sim) claim(h *host, answered bool) {
	if h.asked == nil {
		return
	}
	if now := s.last(); !slices.ContainsFunc(now.leases, func(l *lease.Lease) bool { return l.Owner == h.id && l.Offer == *h.asked }) {
		l := h.own
		l.Offer = *h.asked
		s.write(func(p *picture) {
			p.leases = append(slices.DeleteFunc(p.leases, func(o *lease.Lease) bool { return o.Key == l.Key }), &l)
		})
		s.note("%s writes %d: %s", h.id, len(s.store)-1, l.Offer.Extra)
	}
	if answered || h.held == nil {
		h.held = h.asked
	}
}

// step does one thing at one host.
func (s *sim) step() {
	h := s.hosts[s.dice.IntN(len(s.hosts))]
	switch s.dice.IntN(12) {
	case 0, 1, 2:
		h.rev += s.dice.IntN(len(s.store) - h.rev)
	case 3, 4, 5, 6:
		if h.up {
			s.pass(h)
		}
	case 7, 8, 9:
		if h.up {
			s.claim(h, s.dice.IntN(4) > 0)
		}
	case 10:
		s.now = s.now.Add(time.Duration(s.dice.IntN(1500)) * time.Millisecond)
	case 11:
		s.chance(h)
	}
}

// chance is what happens seldom.
func (s *sim) chance(h *host) {
	switch s.dice.IntN(6) {
	case 0:
		options := []string{`{"Type":"vxlan"}`, `{"Type":"udp"}`, `{"Type":"host-gw"}`, `{"Type":"vxlan","VNI":7}`, `{"Type":"vxlan","Port":4789}`}
		c := carrier(s.tb, options[s.dice.IntN(len(options))])
		s.write(func(p *picture) { p.config = c })
		s.note("config %d: %s", len(s.store)-1, c.Wire.Name)
	case 1: // killed; it comes back with what is in the store
		h.up = false
		s.note("%s is killed", h.id)
	default:
		if !h.up {
			s.start(h)
			s.note("%s starts", h.id)
		}
	}
}

// check sees to it that nobody sends by what is not received.
func (s *sim) check() {
	for _, from := range s.hosts {
		for _, to := range s.hosts {
			wire, ok := from.sends[to.own.Key]
			if from != to && ok && !slices.Contains(to.receives, wire) {
				s.fail("%s sends to %s by %s, which receives by %v", from.id, to.id, wire, to.receives)
			}
		}
	}
}

func (s *sim) fail(format string, args ...any) {
	s.tb.Helper()
	s.tb.Fatalf("%s\n%s", fmt.Sprintf(format, args...), strings.Join(s.log[max(0, len(s.log)-12):], "\n"))
}

// settle lets everything come to an end.
func (s *sim) settle() {
	for range 40 {
		for _, h := range s.hosts {
			if !h.up {
				s.start(h)
			}
			h.rev = len(s.store) - 1
			s.pass(h)
			s.check()
			s.claim(h, true)
		}
		s.now = s.now.Add(time.Second)
	}
	want := s.last().config.Wire.Name
	for _, h := range s.hosts {
		if !slices.Equal(h.receives, []string{want}) || h.plan.State.Phase != transit.Steady {
			s.fail("%s ends %+v and receives %v, want %s", h.id, h.plan.State, h.receives, want)
		}
		for key, wire := range h.sends {
			if wire != want {
				s.fail("%s sends to %s by %s in the end", h.id, key, wire)
			}
		}
		if len(h.sends) != len(s.hosts)-1 {
			s.fail("%s sends to %d hosts in the end", h.id, len(h.sends))
		}
	}
}

// Whatever order hosts learn of things in, however often the config changes, and
// whoever is killed on the way: nobody sends by what is not received, and in the
// end all use what the config says, and nothing else.
func TestNobodySendsInVain(t *testing.T) {
	for seed := range uint64(30) {
		s := newSim(t, seed, 2+int(seed%4), `{"Type":"vxlan"}`)
		for range 20 { // a fabric that works
			for _, h := range s.hosts {
				h.rev = len(s.store) - 1
				s.pass(h)
				s.claim(h, true)
			}
		}
		for range 400 {
			s.step()
			s.check()
		}
		s.settle()
	}
}

// A fabric that changes and is left alone needs few writes.
func TestWrites(t *testing.T) {
	s := newSim(t, 1, 5, `{"Type":"vxlan"}`)
	s.settle()
	before := len(s.store)
	c := carrier(t, `{"Type":"udp"}`)
	s.write(func(p *picture) { p.config = c })
	s.settle()
	if writes := len(s.store) - before - 1; writes > 3*len(s.hosts) {
		t.Errorf("%d writes for %d hosts", writes, len(s.hosts))
	}
}
