package transit_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/backend"
	"github.com/flannel-ng/flannel-ng/internal/backend/all"
	"github.com/flannel-ng/flannel-ng/internal/backend/backendtest"
	"github.com/flannel-ng/flannel-ng/internal/backend/transit"
	"github.com/flannel-ng/flannel-ng/internal/facts"
	"github.com/flannel-ng/flannel-ng/internal/lease"
	"github.com/flannel-ng/flannel-ng/internal/state"
)

// atWork is a host that has these carriers at once, its lease, and its facts.
func atWork(t *testing.T, wires ...string) (*transit.Backend, lease.Lease, facts.Node) {
	t.Helper()
	return among(t, nil, wires...)
}

// among is atWork in a fabric with others.
func among(t *testing.T, others []*lease.Lease, wires ...string) (*transit.Backend, lease.Lease, facts.Node) {
	t.Helper()
	families := []addr.Family{addr.IPv4}
	n := backendtest.Node(families, 1)
	self := leaseOf(1, n.HostID)
	self.Offer = offerOf(t, wires...)
	census := transit.NewCensus(kit())
	census.Update(others, network(), lease.Self{HostID: n.HostID})
	s := transit.Situation{
		Config: carrier(t, optionsOf(wires[len(wires)-1])), Others: census, Trusted: true,
		Shown: &self.Offer, Held: &self.Offer, Asked: &self.Offer, Now: time.Unix(1e9, 0),
	}
	plan := transit.Next(s)
	var members []transit.Member
	for _, c := range plan.Receive {
		setup := backend.Setup{Options: c.Backend, Families: families}
		setup.Networks.Put(addr.IPv4, network().Pools.At(addr.IPv4).Network)
		for _, o := range plan.Receive {
			if o.Wire != c.Wire {
				setup.Beside = append(setup.Beside, o.Wire)
			}
		}
		b, _, err := all.New(setup)
		if err != nil {
			t.Fatal(err)
		}
		members = append(members, transit.Member{Carrier: c, Backend: b})
	}
	return transit.New(plan, members), self, n
}

func peerOf(t *testing.T, says ...string) lease.Lease {
	t.Helper()
	p := leaseOf(2, "other")
	p.Offer = offerOf(t, says...)
	return p
}

func objects(s state.Set) string {
	var out []string
	for o := range s.Objects() {
		out = append(out, o.String())
	}
	return strings.Join(out, "\n")
}

// A carrier that does not reach a peer leaves it to the one that does.
func TestOldCarrierServesWhomTheNewOneDoesNotReach(t *testing.T) {
	b, self, n := atWork(t, vx, gw)
	p := peerOf(t, vx, gw)
	s, by, err := b.Send(self, n, p)
	if err != nil || by != gw || len(s.Routes) != 1 || s.Routes[0].Link != "eth0" {
		t.Errorf("a neighbour: by %s, %v\n%s", by, err, objects(s))
	}
	n.Routes = nil
	s, by, err = b.Send(self, n, p)
	if err != nil || by != vx || len(s.Routes) != 1 || s.Routes[0].Link != "flannel.1" {
		t.Errorf("behind a router: by %s, %v\n%s", by, err, objects(s))
	}
}

// Whoever checks senders lets a peer in before that has offered anything.
func TestPeersAreLetIn(t *testing.T) {
	able := facts.Ability{OK: true}
	plain := peerOf(t, "plain "+vx)
	plain.Owner = ""
	for _, p := range []lease.Lease{plain, peerOf(t, vx)} {
		b, self, n := among(t, []*lease.Lease{&p}, vx, up)
		n.FastPath = able
		s, by, err := b.Send(self, n, p)
		if err != nil || by != vx || len(s.Ends) != 1 || len(s.FastPeers) != 1 || len(s.Routes) != 1 {
			t.Errorf("%+v: by %s, %v\n%s", p.Offer, by, err, objects(s))
		}
	}
	p := peerOf(t, up, vx+"-")
	b, self, n := among(t, []*lease.Lease{&p}, vx, up)
	n.FastPath = able
	if s, by, err := b.Send(self, n, p); err != nil || by != up || len(s.Ends) != 1 || len(s.Routes)+len(s.FDB)+len(s.FastPeers) != 0 {
		t.Errorf("by %s, %v\n%s", by, err, objects(s))
	}
}

func TestNothingInCommon(t *testing.T) {
	b, self, n := atWork(t, vx, up)
	if s, _, err := b.Send(self, n, peerOf(t, gw)); !errors.Is(err, transit.ErrApart) || len(s.Routes) > 0 {
		t.Errorf("%v\n%s", err, objects(s))
	}
	p := peerOf(t, "plain "+gw)
	p.Owner = ""
	if _, _, err := b.Send(self, n, p); !errors.Is(err, backend.ErrForeign) {
		t.Errorf("plain flannel of another backend: %v", err)
	}
	p = peerOf(t, "plain "+vx7)
	if _, _, err := b.Send(self, n, p); err == nil || errors.Is(err, backend.ErrForeign) {
		t.Errorf("plain flannel of another network: %v", err)
	}
}

// Two carriers of one host want no object twice, and containers get what the
// smaller one carries.
func TestBothStandBesideEachOther(t *testing.T) {
	for _, wires := range [][]string{{vx, up}, {vx, gw}, {up, gw}, {vx, vx7}, {vx, vxp}, {vx, up, gw}} {
		b, self, n := atWork(t, wires...)
		s, err := b.Local(self, n)
		if err != nil || len(b.Trouble(self, n)) > 0 {
			t.Errorf("%v: %v, %v", wires, err, b.Trouble(self, n))
		}
		seen := map[state.Key]bool{}
		for o := range s.Objects() {
			if seen[o.Key()] {
				t.Errorf("%v: %s twice", wires, o)
			}
			seen[o.Key()] = true
		}
		if want := map[bool]int{true: 1450, false: 1472}[strings.HasPrefix(wires[0], "vxlan")]; s.MTU != want {
			t.Errorf("%v: MTU %d", wires, s.MTU)
		}
		for _, l := range s.Links {
			if !seen[(state.Sysctl{Path: "net/ipv4/conf/" + l.Name + "/rp_filter"}).Key()] {
				t.Errorf("%v: %s checks the way back", wires, l.Name)
			}
		}
	}
}

// A device keeps its name whatever comes beside it and goes.
func TestDevicesOfOneNetworkKeepTheirNames(t *testing.T) {
	b, self, n := atWork(t, vx, vxp)
	n.Links = append(n.Links, facts.Link{Name: "flannel.1", Type: "vxlan", Alias: "flannel-ng", VNI: 1, Port: 8472})
	s, err := b.Local(self, n)
	if err != nil || len(s.Links) != 2 || s.Links[0].Name != "flannel.1" || s.Links[0].VXLAN.Port != 8472 {
		t.Fatalf("%v\n%s", err, objects(s))
	}
	other := s.Links[1].Name
	n.Links = append(n.Links, facts.Link{Name: other, Type: "vxlan", Alias: "flannel-ng", VNI: 1, Port: 4789})
	for _, wires := range [][]string{{vxp, vx}, {vxp}} {
		b, self, _ := atWork(t, wires...)
		s, err := b.Local(self, n)
		if err != nil || s.Links[0].Name != other || s.Links[0].VXLAN.Port != 4789 {
			t.Errorf("%v: %v\n%s", wires, err, objects(s))
		}
	}
}

func TestFollow(t *testing.T) {
	for _, tt := range []struct{ was, is, from, to string }{
		{optionsOf(vx), optionsOf(up), vx, up},
		{optionsOf(vx), `{"Type":"vxlan","MTU":1400}`, vx, vx},
		{optionsOf("alloc"), optionsOf("alloc"), "", ""},
	} {
		was, is := network(), network()
		was.Backend, is.Backend = carrier(t, tt.was).Backend, carrier(t, tt.is).Backend
		if from, to, err := kit().Follow(was, is); err != nil || from.Wire.Name != tt.from || to.Wire.Name != tt.to {
			t.Errorf("%s to %s: from %q to %q, %v", tt.was, tt.is, from.Wire.Name, to.Wire.Name, err)
		}
	}
	for is, want := range map[string]error{
		optionsOf("alloc"): transit.ErrRestart, optionsOf(vxg): backend.ErrBeside,
	} {
		was, now := network(), network()
		was.Backend, now.Backend = carrier(t, optionsOf(vx)).Backend, carrier(t, is).Backend
		if _, _, err := kit().Follow(was, now); !errors.Is(err, want) {
			t.Errorf("%s: %v", is, err)
		}
	}
}
