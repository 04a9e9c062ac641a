package filtertest

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"strings"
	"testing"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/driver/filter"
	"github.com/flannel-ng/flannel-ng/internal/reconcile"
	"github.com/flannel-ng/flannel-ng/internal/state"
)

// Subject is a driver under test.
type Subject struct {
	Mode state.FilterMode
	// New makes the driver under test, Other the one of the other mode.
	New, Other func(state.Owner, *slog.Logger) reconcile.Driver
	OtherMode  state.FilterMode
	// Want and ForwardOnly are the policy with and without masquerading, and
	// Masquerades its judgement on a packet (package traffictest). They are
	// handed in because drivers know nothing of where policy comes from.
	Want, ForwardOnly func(state.FilterMode) *state.Set
	Masquerades       func(f state.Filter, src, dst netip.Addr, mark uint32) bool
	// Show prints everything that the driver could own.
	Show string
	// Drifts are ways in which people damage the rules, by name.
	Drifts map[string][]string
}

// Run runs the whole suite.
func (s Subject) Run(t *testing.T) {
	Need(t, "nft", "iptables", "ip6tables", "iptables-save", "ip6tables-save")
	t.Run("twice", s.testTwice)
	t.Run("drift", s.testDrift)
	t.Run("atomic", s.testAtomic)
	t.Run("removed", s.testRemoved)
	t.Run("foreign", s.testForeign)
	t.Run("owners", s.testOwners)
	t.Run("mode", s.testMode)
	t.Run("nomasq", s.testNoMasquerade)
	t.Run("packets", s.testPackets)
	t.Run("docker", s.testDocker)
	t.Run("policy", s.testPolicy)
	t.Run("stale", s.testStale)
}

// Converge plans and applies in a namespace, and fails on any error. It
// returns what was changed.
func Converge(t *testing.T, ns *Space, d reconcile.Driver, want *state.Set) []string {
	t.Helper()
	var did []string
	var failed error
	ns.Do(func() {
		changes, err := d.Plan(t.Context(), want)
		if err != nil {
			failed = err
			return
		}
		for _, r := range d.Apply(t.Context(), changes) {
			did = append(did, fmt.Sprintf("%s %s (%s)", r.Op, r.Object, r.Was))
			if r.Err != nil {
				failed = r.Err
			}
		}
	})
	if failed != nil {
		t.Fatal(failed)
	}
	return did
}

// settled fails if the driver, or a fresh one, still wants to change anything.
func (s Subject) settled(t *testing.T, ns *Space, d reconcile.Driver, want *state.Set) {
	t.Helper()
	for _, driver := range []reconcile.Driver{d, s.driver(state.Owner{})} {
		if did := Pending(t, ns, driver, want); len(did) > 0 {
			t.Fatalf("still wants to change: %v", did)
		}
	}
}

// Pending returns what a driver would change now.
func Pending(t *testing.T, ns *Space, d reconcile.Driver, want *state.Set) []string {
	t.Helper()
	var out []string
	var failed error
	ns.Do(func() {
		var changes []reconcile.Change
		changes, failed = d.Plan(context.WithoutCancel(t.Context()), want)
		for _, c := range changes {
			out = append(out, fmt.Sprintf("%s %s (%s)", c.Op, c.Object, c.Was))
		}
	})
	if failed != nil {
		t.Fatal(failed)
	}
	return out
}

func (s Subject) driver(o state.Owner) reconcile.Driver {
	return s.New(o, slog.New(slog.DiscardHandler))
}

func (s Subject) testTwice(t *testing.T) {
	ns, d, want := NewSpace(t), s.driver(state.Owner{}), s.Want(s.Mode)
	if did := Converge(t, ns, d, want); len(did) != 2 || !strings.HasPrefix(did[0], "add ") {
		t.Fatalf("first pass: %v, want one addition per family", did)
	}
	s.settled(t, ns, d, want)
}

func (s Subject) testDrift(t *testing.T) {
	drifts := map[string][]string{"flushed": {"nft flush ruleset"}}
	maps.Copy(drifts, s.Drifts)
	for name, lines := range drifts {
		t.Run(name, func(t *testing.T) {
			ns, d, want := NewSpace(t), s.driver(state.Owner{}), s.Want(s.Mode)
			Converge(t, ns, d, want)
			s.settled(t, ns, d, want)
			before := ns.Sh(t, s.Show)
			ns.Sh(t, lines...)
			if ns.Sh(t, s.Show) == before {
				t.Fatal("the drift changed nothing")
			}
			if did := Converge(t, ns, d, want); len(did) == 0 {
				t.Fatal("drift not seen")
			}
			s.settled(t, ns, d, want)
			if after := ns.Sh(t, s.Show); after != before {
				t.Errorf("after the repair:\n%s\nbefore the drift:\n%s", after, before)
			}
		})
	}
}

// testAtomic checks that a repair is one transaction: the kernel counts them.
func (s Subject) testAtomic(t *testing.T) {
	ns, d, want := NewSpace(t), s.driver(state.Owner{}), s.Want(s.Mode)
	Converge(t, ns, d, want)
	ns.Sh(t, s.Drifts["rule inserted"]...)
	before := generation(t, ns)
	Converge(t, ns, d, want)
	if after := generation(t, ns); after != before+1 {
		t.Errorf("the repair took %d transactions, want 1", after-before)
	}
}

func generation(t *testing.T, ns *Space) uint32 {
	t.Helper()
	var n uint32
	var err error
	ns.Do(func() { n, err = filter.Generation() })
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func (s Subject) testRemoved(t *testing.T) {
	ns, d := NewSpace(t), s.driver(state.Owner{})
	Docker(t, ns, "iptables", "ip6tables")
	before := ns.Sh(t, "nft list ruleset")
	Converge(t, ns, d, s.Want(s.Mode))
	did := Converge(t, ns, d, &state.Set{})
	if len(did) != 2 || !strings.HasPrefix(did[0], "remove ") {
		t.Fatalf("removal: %v, want one per family", did)
	}
	s.settled(t, ns, d, &state.Set{})
	if after := ns.Sh(t, "nft list ruleset 2>/dev/null | sed -n '/flan/Ip'"); after != "" {
		t.Errorf("left over:\n%s\nruleset before:\n%s", after, before)
	}
}

func (s Subject) testForeign(t *testing.T) {
	ns, d, want := NewSpace(t), s.driver(state.Owner{}), s.Want(s.Mode)
	Docker(t, ns, "iptables", "ip6tables")
	ns.Sh(t, `nft 'table inet site { set s { type ipv4_addr; elements = { 192.0.2.1 } }; chain c { type filter hook input priority 0; policy accept; ip saddr @s drop; }; }'`)
	ns.Sh(t, "iptables -t nat -A POSTROUTING -s 172.17.0.0/16 -j MASQUERADE", "ip6tables -t nat -A POSTROUTING -s fc00:17::/64 -j MASQUERADE", "ip6tables -A FORWARD -p tcp --syn -j ACCEPT")
	before := foreign(ns.Sh(t, "nft -a list ruleset"))
	Converge(t, ns, d, want)
	ns.Sh(t, "iptables -S >/dev/null") // the tools can still show everything
	if after := foreign(ns.Sh(t, "nft -a list ruleset")); after != before {
		t.Errorf("installing touched foreign rules:\n%s\nbefore:\n%s", after, before)
	}
	Converge(t, ns, d, &state.Set{})
	if after := foreign(ns.Sh(t, "nft -a list ruleset")); after != before {
		t.Errorf("removing touched foreign rules:\n%s\nbefore:\n%s", after, before)
	}
}

// foreign strips from a listing with handles what can be ours: tables, chains
// and rules with flannel in their name or comment, and chains or tables that
// exist only because ours are in them.
func foreign(listing string) string {
	var out []string
	depth, skip := 0, -1
	for line := range strings.SplitSeq(listing, "\n") {
		opens, closes := strings.HasSuffix(strings.SplitN(line, " # handle", 2)[0], "{"), strings.TrimSpace(line) == "}"
		if closes {
			depth--
		}
		named := strings.Contains(strings.ToLower(line), "flan")
		if skip < 0 && !named && strings.TrimSpace(line) != "" {
			out = append(out, line)
		}
		if opens && named && skip < 0 {
			skip = depth
		}
		if closes && skip == depth {
			skip = -1
		}
		if opens {
			depth++
		}
	}
	return strings.Join(out, "\n")
}

func (s Subject) testOwners(t *testing.T) {
	ns, want := NewSpace(t), s.Want(s.Mode)
	Docker(t, ns, "iptables", "ip6tables")
	first, second := s.driver(state.Owner{}), s.driver(state.Owner{Instance: "abc123"})
	Converge(t, ns, first, want)
	Converge(t, ns, second, want)
	if did := Pending(t, ns, first, want); len(did) > 0 {
		t.Fatalf("the first owner wants to change the second's rules: %v", did)
	}
	both := ns.Sh(t, "nft list ruleset")
	Converge(t, ns, second, &state.Set{})
	s.settled(t, ns, first, want)
	if !strings.Contains(both, "abc123") || strings.Contains(ns.Sh(t, "nft list ruleset"), "abc123") {
		t.Error("the second owner's rules were not there, or are still there")
	}
}

// testMode changes to the other mode and back, both drivers planning each
// time, as in the daemon.
func (s Subject) testMode(t *testing.T) {
	ns, d := NewSpace(t), s.driver(state.Owner{})
	Docker(t, ns, "iptables", "ip6tables")
	other := s.Other(state.Owner{}, slog.New(slog.DiscardHandler))
	for _, mode := range []state.FilterMode{s.Mode, s.OtherMode, s.Mode} {
		want := s.Want(mode)
		Converge(t, ns, other, want)
		Converge(t, ns, d, want)
		for _, driver := range []reconcile.Driver{d, other} {
			if did := Pending(t, ns, driver, want); len(did) > 0 {
				t.Fatalf("mode %s does not settle: %v", mode, did)
			}
		}
		rules := ns.Sh(t, "nft list ruleset")
		chains := strings.Contains(rules, "FLANNEL-")
		tables := strings.Contains(rules, "table ip flannel-ipv4")
		if chains != (mode == state.ModeIPTables) || tables != (mode == state.ModeNFTables) {
			t.Fatalf("mode %s:\n%s", mode, rules)
		}
	}
}

func (s Subject) testNoMasquerade(t *testing.T) {
	ns, d := NewSpace(t), s.driver(state.Owner{})
	Converge(t, ns, d, s.Want(s.Mode))
	want := s.ForwardOnly(s.Mode)
	Converge(t, ns, d, want)
	s.settled(t, ns, d, want)
	if rules := ns.Sh(t, s.Show); strings.Contains(strings.ToLower(rules), "masq") {
		t.Errorf("masquerading is left over:\n%s", rules)
	}
}

// marks are the packet marks that the host gives to packets by their port.
func marks() map[uint16]uint32 {
	return map[uint16]uint32{7000: 0, 7001: 0x4000, 7002: 0xc000, 7003: 0x8000}
}

// testPackets sends a packet of every kind through the host and compares the
// source that the receiver sees with the judgement of the policy.
func (s Subject) testPackets(t *testing.T) {
	lab := NewLab(t)
	want := s.Want(s.Mode)
	lab.Host.Sh(t, "nft 'table inet marker { chain pre { type filter hook prerouting priority -150; }; }'")
	for port, mark := range marks() {
		lab.Host.Sh(t, fmt.Sprintf("nft add rule inet marker pre udp dport %d meta mark set %d", port, mark))
	}
	Converge(t, lab.Host, s.driver(state.Owner{}), want)
	for _, f := range want.Filters {
		for _, path := range lab.paths(f.Family) {
			for port, mark := range marks() {
				lab.probe(t, probe{Path: path, port: port, mark: mark, filter: f, masquerades: s.Masquerades})
			}
		}
	}
}

type probe struct {
	Path
	port   uint16
	mark   uint32
	filter state.Filter

	masquerades func(f state.Filter, src, dst netip.Addr, mark uint32) bool
}

func (l Lab) probe(t *testing.T, p probe) {
	t.Helper()
	from, to := l.Site(p.From), l.Site(p.To)
	src, dst := from.Address.At(p.Family), to.Address.At(p.Family)
	expect := src
	if p.masquerades(p.filter, src, dst, p.mark) {
		expect = to.Gateway.At(p.Family)
	}
	listener := to.Listen(t, p.Family, p.port)
	seen := listener.Source(t, from.Dial(t, to, p.Family, p.port), Arrives)
	_ = listener.conn.Close()
	if seen.Addr() != expect {
		t.Errorf("%s to %s mark %#x: seen from %v, want %s", src, dst, p.mark, seen.Addr(), expect)
	}
}

// Docker puts the rules in place that Docker makes, with its policy DROP.
func Docker(t *testing.T, ns *Space, tools ...string) {
	t.Helper()
	for _, tool := range tools {
		ns.Sh(t, tool+" -P FORWARD DROP", tool+" -N DOCKER", tool+" -N DOCKER-USER", tool+" -N DOCKER-ISOLATION-STAGE-1",
			tool+" -A DOCKER-USER -j RETURN",
			tool+" -A DOCKER ! -i docker0 -o docker0 -j DROP",
			tool+" -A DOCKER-ISOLATION-STAGE-1 -i docker0 ! -o docker0 -j RETURN",
			tool+" -A FORWARD -j DOCKER-USER", tool+" -A FORWARD -j DOCKER-ISOLATION-STAGE-1",
			tool+" -A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
			tool+" -A FORWARD -o docker0 -j DOCKER",
			tool+" -A FORWARD -i docker0 ! -o docker0 -j ACCEPT")
	}
}

// testDocker checks that containers reach each other and the outside although
// FORWARD drops, and that nothing else does.
func (s Subject) testDocker(t *testing.T) {
	lab, d, want := NewLab(t), s.driver(state.Owner{}), s.Want(s.Mode)
	Docker(t, lab.Host, "iptables", "ip6tables")
	container, remote, outside := lab.Site("container"), lab.Site("remote"), lab.Site("outside")
	for _, f := range addr.Families() {
		if lab.TCP(t, Path{From: "container", To: "remote", Family: f}, Absent) {
			t.Fatalf("%s passes without our rules: this lab proves nothing", f)
		}
	}
	Converge(t, lab.Host, d, want)
	s.settled(t, lab.Host, d, want)
	for _, f := range addr.Families() {
		for _, to := range []Site{remote, outside} {
			if !lab.TCP(t, Path{From: "container", To: to.Name, Family: f}, Arrives) {
				t.Errorf("%s: TCP from container to %s does not pass", f, to.Name)
			}
			container.Space.Sh(t, fmt.Sprintf("ping -c1 -W5 %s", to.Address.At(f)))
		}
		listener := container.Listen(t, f, 7000)
		if seen := listener.Source(t, remote.Dial(t, container, f, 7000), Arrives); seen.Addr() != remote.Address.At(f) {
			t.Errorf("%s: UDP from remote to container: seen from %v", f, seen)
		}
	}
}

// testPolicy checks that what somebody refuses stays refused: by a chain that
// FORWARD jumps to, and by one behind DOCKER-USER.
func (s Subject) testPolicy(t *testing.T) {
	lab, d, want := NewLab(t), s.driver(state.Owner{}), s.Want(s.Mode)
	Docker(t, lab.Host, "iptables", "ip6tables")
	for _, tool := range []string{"iptables", "ip6tables"} {
		lab.Host.Sh(t, tool+" -N policy-engine", tool+" -A FORWARD -j policy-engine",
			tool+" -A policy-engine -p tcp -i container -o remote -j DROP", tool+" -A FORWARD -j REJECT")
	}
	Converge(t, lab.Host, d, want)
	s.settled(t, lab.Host, d, want)
	for _, f := range addr.Families() {
		if lab.TCP(t, Path{From: "container", To: "remote", Family: f}, Absent) {
			t.Errorf("%s: a refused connection passes", f)
		}
		if !lab.TCP(t, Path{From: "container", To: "outside", Family: f}, Arrives) {
			t.Errorf("%s: an allowed connection does not pass the REJECT at the end", f)
		}
	}
}

// testStale checks that a connection that began without masquerading gets it
// with the repair.
func (s Subject) testStale(t *testing.T) {
	lab, want := NewLab(t), s.Want(s.Mode)
	container, outside := lab.Site("container"), lab.Site("outside")
	for _, f := range addr.Families() {
		// Somebody's rule makes the kernel track connections and decide about
		// their translation with the first packet.
		lab.Host.Sh(t, "nft flush ruleset", `nft 'table inet other { chain c { type nat hook postrouting priority 110;
			ip saddr 192.0.2.9 masquerade; ip6 saddr 2001:db8:9::9 masquerade; }; }'`)
		listener := outside.Listen(t, f, 7000)
		conn := container.Dial(t, outside, f, 7000)
		if seen := listener.Source(t, conn, Arrives).Addr(); seen != container.Address.At(f) {
			t.Fatalf("%s: without rules seen from %v", f, seen)
		}
		Converge(t, lab.Host, s.driver(state.Owner{}), want)
		if seen := listener.Source(t, conn, Arrives).Addr(); seen != outside.Gateway.At(f) {
			t.Errorf("%s: after the repair still seen from %v", f, seen)
		}
	}
}
