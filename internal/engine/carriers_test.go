package engine_test

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/backend/transit"
	"github.com/flannel-ng/flannel-ng/internal/lease"
	"github.com/flannel-ng/flannel-ng/internal/reconcile"
	"github.com/flannel-ng/flannel-ng/internal/reconcile/reconciletest"
	"github.com/flannel-ng/flannel-ng/internal/report"
	"github.com/flannel-ng/flannel-ng/internal/state"
)

const (
	vxlanWay = `{"wire":"vxlan vni 1 port 8472","backend":{"Type":"vxlan"}`
	udpWay   = `{"wire":"udp port 8285","backend":{"Type":"udp"}`
)

// granting is a world whose store has what is asked for at once.
type granting struct{ *world }

func (g granting) Ask(a lease.Ask) {
	g.world.Ask(a)
	g.set(func() {
		l := g.own.Lease.Lease
		l.Offer = a.Offer
		g.own.Lease.Lease = l
		snap := *g.snap
		snap.Leases = slices.DeleteFunc(slices.Clone(snap.Leases), func(o *lease.Lease) bool { return o.Key == l.Key })
		snap.Leases = append(snap.Leases, &l)
		slices.SortFunc(snap.Leases, lease.Compare)
		g.snap = &snap
	})
}

// becomes gives the store another config, unless it is "", and makes every peer
// say that it is reached by these ways, the primary of the type given.
func (r *rig) becomes(config, primary, ways string) {
	r.world.set(func() {
		snap := *r.world.snap
		if config != "" {
			snap.Config = []byte(config)
		}
		snap.Leases = slices.Clone(snap.Leases)
		for i, l := range snap.Leases {
			if l.Owner == "h1" {
				continue
			}
			said := *l
			said.Offer.Backend, said.Offer.Extra = primary, `{"carriers":[`+ways+`]}`
			snap.Leases[i] = &said
		}
		r.world.snap = &snap
	})
	r.NewPicture()
	wait(100 * time.Millisecond)
}

// ours is what this host says of itself in the store.
func (r *rig) ours() string { return r.world.Own().Lease.Offer.Extra }

func (r *rig) links() string {
	var out []string
	for _, o := range r.mem[state.KindLink].Have() {
		out = append(out, o.Key().Name)
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

func changing(t *testing.T) *rig {
	t.Helper()
	r := newRig(t, time.Hour)
	before := r.config.NewDrivers
	tunnel := &reconciletest.Memory{Of: state.KindTunnel}
	r.config.NewDrivers = func(n []netip.Prefix) []reconcile.Driver { return append(before(n), tunnel) }
	r.config.World = granting{r.world}
	r.world.snap = picture(2, 3)
	r.rebuild(func(*addr.ByFamily[netip.Prefix]) {})
	return r
}

const udpConf = `{"Network":"10.5.0.0/16","Backend":{"Type":"udp","BPF":"off"}}`

// A host goes from one backend to another as far as the others are.
func TestLiveChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := changing(t)
		at := func(phase transit.Phase, links, said string, peerRoutes int) {
			t.Helper()
			routes := 0
			for k := range r.mem[state.KindRoute].Have() {
				if k.Prefix.Bits() == 24 {
					routes++
				}
			}
			if c := r.Summary().Change; c.Phase != string(phase) || r.links() != links || r.ours() != said || routes != peerRoutes {
				t.Errorf("%s: %s\nlinks %q, want %q\nsaid %s\nwant %s\n%d routes to peers, want %d", c, phase, r.links(), links, r.ours(), said, routes, peerRoutes)
			}
		}
		own := func(ways ...string) string { return `{"carriers":[` + strings.Join(ways, ",") + `]}` }
		udp := `{"wire":"udp port 8285","backend":{"Type":"udp","BPF":"off"}`
		vxlan2 := vxlanWay + `,"data":{"ipv4":` + `{"VNI":1,"VtepMAC":"` + "MAC" + `"}}}`
		r.run(t, func() {
			r.becomes("", "vxlan", vxlanWay+"}")
			mac := r.world.Own().Lease.Offer.Data.At(addr.IPv4)
			vxlan2 = strings.ReplaceAll(vxlan2, `{"VNI":1,"VtepMAC":"MAC"}`, mac)
			at(transit.Steady, "flannel.1", own(vxlanWay+"}"), 2)
			r.becomes(udpConf, "vxlan", vxlanWay+"}")
			at(transit.Receiving, "flannel.1 flannel0", own(vxlanWay+"}", udp+"}"), 2)
			if !strings.Contains(r.Summary().Change.Why, "waits for 198.51.100.2, 198.51.100.3") {
				t.Errorf("%s", r.Summary().Change)
			}
			r.becomes("", "vxlan", vxlanWay+"},"+udpWay+"}")
			receiveOnly := strings.Replace(vxlan2, `,"data"`, `,"receiveOnly":true,"data"`, 1)
			at(transit.Keeping, "flannel.1 flannel0", own(udp+"}", receiveOnly), 0)
			r.becomes("", "udp", udpWay+"},"+vxlanWay+`,"receiveOnly":true}`)
			at(transit.Keeping, "flannel.1 flannel0", own(udp+"}"), 0)
			wait(transit.Grace + time.Second)
			at(transit.Steady, "flannel0", own(udp+"}"), 0)
			if n := r.Summary().Network; n.Backend != "udp" || n.MTU != 1472 {
				t.Errorf("%+v", n)
			}
		})
	})
}

// What a running fabric cannot follow is told as long as it is so, and changes
// nothing.
func TestConfigThatCannotBeFollowed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := changing(t)
		r.run(t, func() {
			r.becomes("", "vxlan", vxlanWay+"}")
			for config, want := range map[string]string{
				`{"Network":"10.6.0.0/16","Backend":{"Type":"vxlan"}}`:            "restart flanneld to use it: another network",
				`{"Network":"10.5.0.0/16","Backend":{"Type":"alloc"}}`:            "restart flanneld to use it: from backend vxlan to alloc",
				`{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan","VNI":"x"}}`:  "is now invalid, the running one stays",
				`{"Network":"10.5.0.0/16"`:                                        "is now invalid, the running one stays",
				`{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan","GBP":true}}`: "",
			} {
				r.becomes(config, "vxlan", vxlanWay+"}")
				s := r.Status()
				if told := strings.Join(s.Warnings, "\n"); !strings.Contains(told, want) || want == "" && (told != "" || s.Change.Phase != string(transit.Blocked)) {
					t.Errorf("%s: %q, %s; want %q", config, told, s.Change, want)
				}
				if r.links() != "flannel.1" || !s.Ready || len(s.Peers) != 2 {
					t.Errorf("%s: links %s, status %+v", config, r.links(), s)
				}
			}
			r.becomes(netConf, "vxlan", vxlanWay+"}")
			if s := r.Status(); len(s.Warnings) > 0 || s.Change.Phase != string(transit.Steady) {
				t.Errorf("after all: %q, %s", s.Warnings, s.Change)
			}
			r.becomes(`{"Network":"10.5.0.0/16","EnableNFTables":true,"Backend":{"Type":"vxlan","MTU":1400}}`, "vxlan", vxlanWay+"}")
			if s := r.Status(); s.Network.Firewall != "nftables" || s.Network.MTU != 1350 || len(s.Warnings) > 0 {
				t.Errorf("what each host changes by itself: %+v, %q", s.Network, s.Warnings)
			}
		})
	})
}

// The steps have the names that metrics know.
func TestPhasesAreKnown(t *testing.T) {
	for _, p := range []transit.Phase{
		transit.Steady, transit.Blocked, transit.Held, transit.Preparing, transit.Receiving, transit.Sending, transit.Keeping,
	} {
		if !slices.Contains(report.Phases(), string(p)) {
			t.Errorf("%s", p)
		}
	}
}
