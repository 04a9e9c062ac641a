// Package storetest is the conformance suite of lease.Store: what the keeper
// may rely on, whatever keeps the leases.
//
// It owns no store and waits for conditions, never for a fixed time. Called by
// the tests of every store.
package storetest

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/lease"
)

// Fabric is an empty fabric under test.
type Fabric struct {
	// Store opens a handle for the host.
	Store func(t *testing.T, host string) lease.Store
	// Kill makes the host look dead.
	Kill func(t *testing.T, host string)
	// Foreign writes a lease as a plain flannel does.
	Foreign func(t *testing.T, l lease.Lease)
	// Link cuts a host off or joins it again; nil if that cannot happen.
	Link func(t *testing.T, host string, up bool)
	// Grants counts what still has to expire; nil if nothing does.
	Grants func(t *testing.T) int
}

// Suite says how to make fabrics.
type Suite struct {
	Open func(t *testing.T) Fabric
	// Bubble runs each case on a simulated clock.
	Bubble bool
}

// patience bounds every wait.
const patience = 30 * time.Second

// Run runs the suite.
func (s Suite) Run(t *testing.T) {
	t.Helper()
	for _, tc := range []struct {
		name string
		run  func(t *testing.T, f Fabric)
	}{
		{"create", testCreate},
		{"conflict", testConflict},
		{"twins", testTwins},
		{"stale token", testStale},
		{"renew", testRenew},
		{"change of address", testReaddress},
		{"extra", testExtra},
		{"bad extra", testBadExtra},
		{"extra of an overwritten lease", testExtraOverwritten},
		{"release", testRelease},
		{"duplicate address of a live host", testDuplicate},
		{"address of a dead host", testDeadAddress},
		{"take-over", testTakeover},
		{"no take-over from a live host", testNoTakeover},
		{"foreign twin", testForeignTwin},
		{"bad entry", testWholeNetwork},
		{"claim of nothing", testNothing},
		{"race", testRace},
		{"snapshots", testSnapshots},
		{"watch survives a cut", testCut},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if s.Bubble {
				synctest.Test(t, func(t *testing.T) { tc.run(t, s.Open(t)) })
				return
			}
			tc.run(t, s.Open(t))
		})
	}
}

// Subnets reads "10.5.1.0/24 fc00:5:0:1::/64" for tests.
func Subnets(prefixes ...string) addr.ByFamily[netip.Prefix] {
	var b addr.ByFamily[netip.Prefix]
	for _, s := range prefixes {
		p := netip.MustParsePrefix(s)
		b.Put(addr.Of(p.Addr()), p)
	}
	return b
}

// Public reads addresses for tests.
func Public(addresses ...string) addr.ByFamily[netip.Addr] {
	var b addr.ByFamily[netip.Addr]
	for _, s := range addresses {
		a := netip.MustParseAddr(s)
		b.Put(addr.Of(a), a)
	}
	return b
}

func vxlan(mac string) lease.Offer {
	return lease.Offer{Backend: "vxlan", Data: addr.Pair(`{"VNI":1,"VtepMAC":"`+mac+`"}`, "")}
}

func ask(public, subnet string) lease.Claim {
	return lease.Claim{Subnets: Subnets(subnet), Public: Public(public), Offer: vxlan("0e:0a:79:98:7f:30")}
}

func must(t *testing.T, s lease.Store, c lease.Claim) lease.Held {
	t.Helper()
	h, err := s.Claim(t.Context(), c)
	if err != nil {
		t.Fatalf("claim %v: %v", c.Subnets, err)
	}
	return h
}

func refused(t *testing.T, s lease.Store, c lease.Claim, want error) {
	t.Helper()
	if h, err := s.Claim(t.Context(), c); !errors.Is(err, want) {
		t.Errorf("claim %v: %+v, error %v, want %v", c.Subnets, h, err, want)
	}
}

// View follows one store's pictures.
type View struct {
	mu   sync.Mutex
	last lease.Snapshot
	seen bool
}

// Watch follows s until the test ends.
func Watch(t *testing.T, s lease.Store) *View {
	t.Helper()
	v := &View{}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- s.Watch(ctx, v.put) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("watch ended with %v", err)
		}
	})
	return v
}

func (v *View) put(s lease.Snapshot) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.last, v.seen = s, true
}

// Last is the newest picture, the zero one if there is none yet.
func (v *View) Last() lease.Snapshot {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.last
}

// Await returns the first picture that satisfies ok.
func (v *View) Await(t *testing.T, what string, ok func(lease.Snapshot) bool) lease.Snapshot {
	t.Helper()
	deadline := time.Now().Add(patience)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		v.mu.Lock()
		s, seen := v.last, v.seen
		v.mu.Unlock()
		if seen && ok(s) {
			return s
		}
		if time.Now().After(deadline) {
			t.Fatalf("no picture with %s; the last is %+v", what, s)
		}
		<-tick.C
	}
}

// Keys lists the keys of the leases of s.
func Keys(s lease.Snapshot) []string {
	keys := []string{}
	for _, l := range s.Leases {
		keys = append(keys, l.Key)
	}
	return keys
}

func count(n int) func(lease.Snapshot) bool {
	return func(s lease.Snapshot) bool { return len(s.Leases) == n }
}

func testCreate(t *testing.T, f Fabric) {
	h1 := f.Store(t, "h1")
	v := Watch(t, h1)
	if s := v.Await(t, "anything", func(lease.Snapshot) bool { return true }); !s.Synced || len(s.Leases) != 0 || s.Cluster == "" {
		t.Errorf("picture of an empty fabric: %+v", s)
	}
	before := time.Now()
	c := lease.Claim{
		Subnets: Subnets("10.5.1.0/24", "fc00:5:0:1::/64"), Public: Public("192.0.2.1", "2001:db8::1"),
		Offer: lease.Offer{Backend: "vxlan", Data: addr.Pair(`{"VNI":1}`, `{"VNI":2}`)},
	}
	h := must(t, h1, c)
	if h.Key != "10.5.1.0-24&fc00:5:0:1::-64" || h.Token == 0 || h.Owner != "h1" || h.Reserved {
		t.Errorf("held %+v", h)
	}
	if left := h.Expires.Sub(before); left < 23*time.Hour || left > 25*time.Hour {
		t.Errorf("expires in %v", left)
	}
	s := v.Await(t, "the lease", count(1))
	if got := *s.Leases[0]; got != h.Lease {
		t.Errorf("picture has %+v\nheld is    %+v", got, h.Lease)
	}
	if s.Rev < int64(h.Token) {
		t.Errorf("picture of revision %d shows a write of %d", s.Rev, h.Token)
	}
}

func testConflict(t *testing.T, f Fabric) {
	h1, h2 := f.Store(t, "h1"), f.Store(t, "h2")
	must(t, h1, ask("192.0.2.1", "10.5.1.0/24"))
	refused(t, h2, ask("192.0.2.2", "10.5.1.0/24"), lease.ErrTaken)
	must(t, h2, ask("192.0.2.2", "10.5.2.0/24"))
	refused(t, h2, ask("192.0.2.2", "10.5.1.128/25"), lease.ErrTaken)
}

func testTwins(t *testing.T, f Fabric) {
	h1, h2 := f.Store(t, "h1"), f.Store(t, "h2")
	both := ask("192.0.2.1", "10.5.1.0/24")
	both.Subnets = Subnets("10.5.1.0/24", "fc00:5:0:1::/64")
	must(t, h1, both)
	refused(t, h2, ask("192.0.2.2", "10.5.1.0/24"), lease.ErrTaken)
	refused(t, h2, lease.Claim{Subnets: Subnets("fc00:5:0:1::/64"), Public: Public("2001:db8::2")}, lease.ErrTaken)
	other := ask("192.0.2.2", "10.5.2.0/24")
	other.Subnets = Subnets("10.5.2.0/24", "fc00:5:0:1::/64")
	refused(t, h2, other, lease.ErrTaken)
	other.Subnets = Subnets("10.5.1.0/24", "fc00:5:0:2::/64")
	refused(t, h2, other, lease.ErrTaken)
	h := must(t, h2, lease.Claim{Subnets: Subnets("fc00:5:0:2::/64"), Public: Public("2001:db8::2")})
	if h.Key != "0.0.0.0-0&fc00:5:0:2::-64" {
		t.Errorf("IPv6-only key %q", h.Key)
	}
}

func testStale(t *testing.T, f Fabric) {
	h1 := f.Store(t, "h1")
	c := ask("192.0.2.1", "10.5.1.0/24")
	h := must(t, h1, c)
	c.Token = h.Token
	renewed := must(t, h1, c)
	refused(t, h1, c, lease.ErrTaken)
	if err := h1.Release(t.Context(), h); !errors.Is(err, lease.ErrTaken) {
		t.Errorf("release with a stale token: %v", err)
	}
	c.Token = renewed.Token
	must(t, h1, c)
	c.Subnets = Subnets("10.5.2.0/24")
	refused(t, h1, c, lease.ErrTaken)
}

func testRenew(t *testing.T, f Fabric) {
	h1 := f.Store(t, "h1")
	c := ask("192.0.2.1", "10.5.1.0/24")
	h := must(t, h1, c)
	var grants int
	if f.Grants != nil {
		grants = f.Grants(t)
	}
	for range 3 {
		c.Token, c.Offer = h.Token, vxlan("0e:0a:79:98:7f:31")
		next := must(t, h1, c)
		if next.Key != h.Key || next.Token <= h.Token || next.Created != h.Created {
			t.Errorf("renewed %+v\nfrom    %+v", next, h)
		}
		h = next
	}
	if f.Grants != nil && f.Grants(t) != grants {
		t.Errorf("%d grants after renewing, %d before: old ones are not revoked", f.Grants(t), grants)
	}
	s := Watch(t, h1).Await(t, "the lease", count(1))
	if got := *s.Leases[0]; got != h.Lease {
		t.Errorf("picture has %+v\nheld is    %+v", got, h.Lease)
	}
}

func testReaddress(t *testing.T, f Fabric) {
	h1, h2 := f.Store(t, "h1"), f.Store(t, "h2")
	c := ask("192.0.2.1", "10.5.1.0/24")
	c.Token = must(t, h1, c).Token
	c.Public = Public("192.0.2.9")
	must(t, h1, c)
	must(t, h2, ask("192.0.2.1", "10.5.2.0/24"))
	refused(t, h2, ask("192.0.2.9", "10.5.3.0/24"), lease.ErrDuplicate)
}

// An extra comes back without spaces, changes by a claim, and goes with one
// that has none.
func testExtra(t *testing.T, f Fabric) {
	h1 := f.Store(t, "h1")
	v := Watch(t, h1)
	c := ask("192.0.2.1", "10.5.1.0/24")
	c.Subnets = Subnets("10.5.1.0/24", "fc00:5:0:1::/64")
	for _, tc := range []struct{ extra, kept string }{
		{`{"udp": {"bpf": 1}}`, `{"udp":{"bpf":1}}`},
		{`{"udp":{"bpf":2}}`, `{"udp":{"bpf":2}}`},
		{` null`, ``},
		{`"text"`, `"text"`},
		{``, ``},
	} {
		c.Offer.Extra = tc.extra
		h := must(t, h1, c)
		if h.Offer.Extra != tc.kept {
			t.Errorf("extra %q is held as %q", tc.extra, h.Offer.Extra)
		}
		s := v.Await(t, "the claim", func(s lease.Snapshot) bool { return s.Rev >= int64(h.Token) })
		if len(s.Leases) != 1 || *s.Leases[0] != h.Lease || len(s.Bad) != 0 {
			t.Errorf("picture has %+v, bad %v\nheld is    %+v", s.Leases, s.Bad, h.Lease)
		}
		c.Token = h.Token
	}
}

func testBadExtra(t *testing.T, f Fabric) {
	h1 := f.Store(t, "h1")
	c := ask("192.0.2.1", "10.5.1.0/24")
	for _, extra := range []string{`{`, `{} {}`, `"` + strings.Repeat("a", lease.MaxExtra) + `"`} {
		c.Offer.Extra = extra
		refused(t, h1, c, lease.ErrExtra)
	}
	c.Offer.Extra = `"` + strings.Repeat("a", lease.MaxExtra-2) + `"`
	must(t, h1, c)
}

// What a plain flannel writes promises nothing, whatever stood there before.
func testExtraOverwritten(t *testing.T, f Fabric) {
	h1 := f.Store(t, "h1")
	v := Watch(t, h1)
	c := ask("192.0.2.1", "10.5.1.0/24")
	c.Offer.Extra = `{"udp":{"bpf":1}}`
	must(t, h1, c)
	v.Await(t, "the extra", func(s lease.Snapshot) bool { return len(s.Leases) == 1 && s.Leases[0].Offer.Extra != "" })
	f.Foreign(t, foreign("192.0.2.1", "10.5.1.0/24"))
	v.Await(t, "the lease without", func(s lease.Snapshot) bool {
		return len(s.Leases) == 1 && s.Leases[0].Owner == "" && s.Leases[0].Offer.Extra == ""
	})
}

func testRelease(t *testing.T, f Fabric) {
	h1, h2 := f.Store(t, "h1"), f.Store(t, "h2")
	v := Watch(t, h2)
	h := must(t, h1, ask("192.0.2.1", "10.5.1.0/24"))
	v.Await(t, "the lease", count(1))
	if err := h1.Release(t.Context(), h); err != nil {
		t.Fatal(err)
	}
	v.Await(t, "no lease", count(0))
	if err := h1.Release(t.Context(), h); !errors.Is(err, lease.ErrTaken) {
		t.Errorf("second release: %v", err)
	}
	must(t, h2, ask("192.0.2.2", "10.5.1.0/24"))
}

func testDuplicate(t *testing.T, f Fabric) {
	h1, h2 := f.Store(t, "h1"), f.Store(t, "h2")
	must(t, h1, ask("192.0.2.1", "10.5.1.0/24"))
	c := ask("192.0.2.1", "10.5.2.0/24")
	refused(t, h2, c, lease.ErrDuplicate)
	var who *lease.DuplicateError
	if _, err := h2.Claim(t.Context(), c); !errors.As(err, &who) || who.Host != "h1" || who.Address.String() != "192.0.2.1" {
		t.Errorf("error %v does not tell who", err)
	}
}

func testDeadAddress(t *testing.T, f Fabric) {
	h1, h2 := f.Store(t, "h1"), f.Store(t, "h2")
	must(t, h1, ask("192.0.2.1", "10.5.1.0/24"))
	f.Kill(t, "h1")
	must(t, h2, ask("192.0.2.1", "10.5.2.0/24"))
	refused(t, h2, ask("192.0.2.1", "10.5.1.0/24"), lease.ErrTaken)
}

func testTakeover(t *testing.T, f Fabric) {
	h1, h2 := f.Store(t, "h1"), f.Store(t, "h2")
	old := must(t, h1, ask("192.0.2.1", "10.5.1.0/24"))
	f.Kill(t, "h1")
	c := ask("192.0.2.1", "10.5.1.0/24")
	c.Token = old.Token
	refused(t, h2, c, lease.ErrTaken)
	c.Takeover = true
	h := must(t, h2, c)
	if h.Owner != "h2" || h.Created != old.Created {
		t.Errorf("taken over: %+v", h)
	}
	stranger := ask("192.0.2.3", "10.5.1.0/24")
	stranger.Token, stranger.Takeover = h.Token, true
	refused(t, f.Store(t, "h3"), stranger, lease.ErrTaken)
}

func testNoTakeover(t *testing.T, f Fabric) {
	h1, h2 := f.Store(t, "h1"), f.Store(t, "h2")
	h := must(t, h1, ask("192.0.2.1", "10.5.1.0/24"))
	c := ask("192.0.2.1", "10.5.1.0/24")
	c.Token, c.Takeover = h.Token, true
	refused(t, h2, c, lease.ErrDuplicate)
}

func foreign(public string, subnets ...string) lease.Lease {
	return lease.Lease{Subnets: Subnets(subnets...), Public: Public(public), Offer: vxlan("2e:a8:ea:0e:2b:2c")}
}

// A plain flannel before us on this host, and one on another.
func testForeignTwin(t *testing.T, f Fabric) {
	h1 := f.Store(t, "h1")
	f.Foreign(t, foreign("192.0.2.1", "10.5.1.0/24"))
	f.Foreign(t, foreign("192.0.2.7", "10.5.7.0/24", "fc00:5:0:7::/64"))
	s := Watch(t, h1).Await(t, "both leases", count(2))
	if s.Leases[0].Owner != "" || s.Leases[0].Offer.Backend != "vxlan" {
		t.Errorf("foreign lease %+v", s.Leases[0])
	}
	refused(t, h1, ask("192.0.2.1", "10.5.7.0/24"), lease.ErrTaken)
	refused(t, h1, ask("192.0.2.1", "10.5.1.0/24"), lease.ErrTaken)
	c := ask("192.0.2.1", "10.5.1.0/24")
	c.Token, c.Takeover = lease.Token(s.Leases[0].Modified), true
	if h := must(t, h1, c); h.Owner != "h1" {
		t.Errorf("taken over: %+v", h)
	}
}

// A lease that nobody may believe must not keep hosts out.
func testWholeNetwork(t *testing.T, f Fabric) {
	h1 := f.Store(t, "h1")
	f.Foreign(t, foreign("192.0.2.7", "10.0.0.0/8"))
	must(t, h1, ask("192.0.2.1", "10.5.1.0/24"))
}

func testNothing(t *testing.T, f Fabric) {
	h1 := f.Store(t, "h1")
	if _, err := h1.Claim(t.Context(), lease.Claim{Public: Public("192.0.2.1")}); err == nil {
		t.Error("claim without a subnet was granted")
	}
	if _, err := h1.Claim(t.Context(), lease.Claim{Subnets: Subnets("10.5.1.0/24")}); err == nil {
		t.Error("claim without an address was granted")
	}
}

func testRace(t *testing.T, f Fabric) {
	const hosts = 8
	var (
		wg  sync.WaitGroup
		mu  sync.Mutex
		won []string
	)
	for i := range hosts {
		name := "h" + string(rune('a'+i))
		s := f.Store(t, name)
		wg.Go(func() {
			c := ask(netip.AddrFrom4([4]byte{192, 0, 2, byte(10 + i)}).String(), "10.5.1.0/24")
			_, err := s.Claim(t.Context(), c)
			switch {
			case err == nil:
				mu.Lock()
				won = append(won, name)
				mu.Unlock()
			case !errors.Is(err, lease.ErrTaken):
				t.Errorf("%s: %v", name, err)
			}
		})
	}
	wg.Wait()
	if len(won) != 1 {
		t.Errorf("%v got the one subnet", won)
	}
}

func testSnapshots(t *testing.T, f Fabric) {
	h1 := f.Store(t, "h1")
	early := Watch(t, h1)
	for i, subnet := range []string{"10.5.20.0/24", "10.5.3.0/24", "10.5.100.0/24"} {
		host := "h" + string(rune('1'+i))
		must(t, f.Store(t, host), ask("192.0.2.1"+string(rune('0'+i)), subnet))
	}
	want := []string{"10.5.3.0-24", "10.5.20.0-24", "10.5.100.0-24"}
	late := Watch(t, f.Store(t, "h9"))
	for name, v := range map[string]*View{"early": early, "late": late} {
		s := v.Await(t, "three leases", count(3))
		if !slices.Equal(Keys(s), want) || !s.Synced || s.Origin.LastKnownGood {
			t.Errorf("%s picture: %v, %+v", name, Keys(s), s)
		}
	}
}

func testCut(t *testing.T, f Fabric) {
	if f.Link == nil {
		t.Skip("needs a link to cut: this store has none")
	}
	h1, h2 := f.Store(t, "h1"), f.Store(t, "h2")
	v := Watch(t, h1)
	h := must(t, h2, ask("192.0.2.2", "10.5.2.0/24"))
	v.Await(t, "one lease", count(1))
	f.Link(t, "h1", false)
	must(t, h2, ask("192.0.2.2", "10.5.3.0/24"))
	if err := h2.Release(t.Context(), h); err != nil {
		t.Fatal(err)
	}
	f.Link(t, "h1", true)
	v.Await(t, "the other lease", func(s lease.Snapshot) bool {
		return slices.Equal(Keys(s), []string{"10.5.3.0-24"})
	})
	must(t, h1, ask("192.0.2.1", "10.5.1.0/24"))
}
