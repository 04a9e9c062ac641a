package engine

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"testing"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/backend"
	"github.com/flannel-ng/flannel-ng/internal/backend/all"
	"github.com/flannel-ng/flannel-ng/internal/backend/backendtest"
	"github.com/flannel-ng/flannel-ng/internal/config"
	"github.com/flannel-ng/flannel-ng/internal/facts"
	"github.com/flannel-ng/flannel-ng/internal/lease"
	"github.com/flannel-ng/flannel-ng/internal/state"
)

// hostOf is a host with a lease in a dual-stack fabric.
func hostOf(tb testing.TB, conf string) Inputs {
	tb.Helper()
	network, err := config.Parse([]byte(conf))
	if err != nil {
		tb.Fatal(err)
	}
	b, _, err := all.New(backend.Setup{Options: network.Backend, Families: network.Families()})
	if err != nil {
		tb.Fatal(err)
	}
	n := facts.Node{
		HostID: "me", Uplink: facts.Link{Name: "eth0", MTU: 1500},
		Routes: []facts.Route{{Dst: netip.MustParsePrefix("198.51.100.0/24"), Link: "eth0"}},
	}
	n.Public = addr.Pair(netip.MustParseAddr("198.51.100.1"), netip.MustParseAddr("2001:db8::1"))
	n.Source = n.Public
	offer, err := b.Offer(n, nil)
	if err != nil {
		tb.Fatal(err)
	}
	in := Inputs{Network: network, Backend: backendtest.Alone(network, b), Node: n, Snapshot: lease.Snapshot{Synced: true}}
	in.Own.State = lease.Owned
	in.Own.Lease.Lease = lease.Lease{Key: "own", Owner: "me", Public: n.Public, Offer: offer}
	in.Own.Lease.Subnets = addr.Pair(netip.MustParsePrefix("10.5.0.0/24"), netip.MustParsePrefix("fd00:5::/64"))
	return in
}

const dualVXLAN = `{"Network":"10.5.0.0/16","EnableIPv6":true,"IPv6Network":"fd00:5::/48","Backend":{"Type":"vxlan","DirectRouting":true}}`

// anyLease is one of few, so that every kind of conflict comes up soon: nested
// and equal subnets, those of this host, foreign networks, shared MAC
// addresses, unusable data and addresses.
func anyLease(r *rand.Rand) lease.Lease {
	pick := func(of ...string) string { return of[r.IntN(len(of))] }
	l := lease.Lease{Key: fmt.Sprintf("k%d", r.IntN(40)), Owner: pick("", "a", "b", "me"), Created: r.Int64N(9), Modified: r.Int64N(3)}
	l.Offer.Backend = pick("vxlan", "vxlan", "vxlan", "udp")
	if r.IntN(8) > 0 {
		a := netip.AddrFrom4([4]byte{10, 5 + byte(r.IntN(30)/29), byte(r.IntN(24)), 0})
		l.Subnets.Put(addr.IPv4, netip.PrefixFrom(a, []int{24, 24, 24, 23, 25, 20}[r.IntN(6)]).Masked())
	}
	if r.IntN(3) > 0 {
		l.Subnets.Put(addr.IPv6, netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfd, 0, 0, 5, 0, 0, 0, byte(r.IntN(24))}), 64))
	}
	l.Public.Put(addr.IPv4, netip.MustParseAddr(pick("198.51.100.7", "203.0.113.9", "198.51.100.1", "0.0.0.0", "224.0.0.1")))
	if r.IntN(2) > 0 {
		l.Public.Put(addr.IPv6, netip.MustParseAddr(pick("2001:db8::7", "2001:db8::8")))
	}
	for _, f := range addr.Families() {
		l.Offer.Data.Put(f, fmt.Sprintf(`{"VNI":%d,"VtepMAC":"02:00:00:00:00:%02x"}`, 1+r.IntN(12)/11, r.IntN(30)))
	}
	return l
}

// edited is leases after a few changes, with every key once.
func edited(r *rand.Rand, leases []*lease.Lease) []*lease.Lease {
	byKey := map[string]*lease.Lease{}
	for _, l := range leases {
		byKey[l.Key] = l
	}
	for range 1 + r.IntN(3) {
		l := anyLease(r)
		if _, there := byKey[l.Key]; there && r.IntN(2) == 0 {
			delete(byKey, l.Key)
		} else {
			byKey[l.Key] = &l
		}
	}
	return slices.SortedFunc(maps.Values(byKey), lease.Compare)
}

// Whatever happens to the leases, the table says what Desire says, and what it
// says has changed leads from one state to the next.
func TestTableIsDesire(t *testing.T) {
	parts := 0
	for seed := range uint64(60) {
		r := rand.New(rand.NewPCG(seed, 7))
		in, table, have := hostOf(t, dualVXLAN), newTable(), map[state.Key]state.Object{}
		for step := range 60 {
			in.Snapshot.Leases = edited(r, in.Snapshot.Leases)
			if step == 30 { // the host's own facts change
				in.Node.Routes = nil
			}
			h, err := desireHost(in)
			if err != nil {
				t.Fatal(err)
			}
			calls := 0
			part := in
			part.Backend = counting{in.Backend, &calls}
			d := table.update(part, h)
			if calls < len(table.entries)-1 {
				parts++
			}
			follow(t, have, d)
			want, err := Desire(in)
			if err != nil {
				t.Fatal(err)
			}
			check(t, have, table.desired(h), want, h)
			if t.Failed() {
				t.Fatalf("seed %d, step %d", seed, step)
			}
		}
	}
	if parts < 200 {
		t.Errorf("all was computed anew but %d times: little was tested", parts)
	}
}

func follow(t *testing.T, have map[state.Key]state.Object, d delta) {
	t.Helper()
	for _, o := range d.gone {
		if have[o.Key()] == nil {
			t.Errorf("not there and gone: %s", o)
		}
		delete(have, o.Key())
	}
	for _, o := range d.put {
		have[o.Key()] = o
	}
}

func check(t *testing.T, have map[state.Key]state.Object, got, want Desired, h host) {
	t.Helper()
	objects := map[state.Key]state.Object{}
	for o := range want.Set.Objects() {
		if !h.keys[o.Key()] {
			objects[o.Key()] = o
		}
	}
	if !reflect.DeepEqual(have, objects) {
		t.Errorf("changes lead to\n%v\nwant\n%v", have, objects)
	}
	if !reflect.DeepEqual(texts(got.Set), texts(want.Set)) {
		t.Errorf("wanted state\n%v\nwant\n%v", texts(got.Set), texts(want.Set))
	}
	if !reflect.DeepEqual(got.Rejected, want.Rejected) {
		t.Errorf("rejected\n%v\nwant\n%v", got.Rejected, want.Rejected)
	}
	if len(got.Peers) != len(want.Peers) {
		t.Fatalf("%d peers, want %d", len(got.Peers), len(want.Peers))
	}
	for i, p := range got.Peers {
		if q := want.Peers[i]; p.Lease != q.Lease || fmt.Sprint(p.Err) != fmt.Sprint(q.Err) || !slices.Equal(p.Keys, q.Keys) {
			t.Errorf("peer\n%+v\nwant\n%+v", p, q)
		}
	}
}

func texts(s state.Set) []string {
	var out []string
	for o := range s.Objects() {
		out = append(out, o.String())
	}
	slices.Sort(out)
	return out
}

// Most changes of one lease concern nobody else, and are computed alone.
func TestOneLeaseCostsOneLease(t *testing.T) {
	in := hostOf(t, dualVXLAN)
	for i := range 200 {
		in.Snapshot.Leases = append(in.Snapshot.Leases, new(plain(i, 1)))
	}
	h, err := desireHost(in)
	if err != nil {
		t.Fatal(err)
	}
	table := newTable()
	table.update(in, h)
	calls := 0
	in.Backend = counting{in.Backend, &calls}
	in.Snapshot.Leases = slices.Clone(in.Snapshot.Leases)
	in.Snapshot.Leases[77] = new(plain(77, 2))
	d := table.update(in, h)
	if calls != 1 || len(d.put) != 2 || len(d.gone) != 1 {
		t.Errorf("%d peers computed, put %v, gone %v; want the neighbour and a forwarding entry in place of another", calls, d.put, d.gone)
	}
}

type counting struct {
	Carrier
	calls *int
}

func (c counting) Send(self lease.Lease, n facts.Node, p lease.Lease) (state.Set, string, error) {
	*c.calls++
	return c.Carrier.Send(self, n, p)
}

// plain is an IPv4 lease without conflicts.
func plain(i, version int) lease.Lease {
	l := lease.Lease{Key: fmt.Sprint("k", i), Owner: fmt.Sprint("h", i), Created: int64(i), Modified: int64(version)}
	l.Subnets.Put(addr.IPv4, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 5, byte(i + 1), 0}), 24))
	l.Public.Put(addr.IPv4, netip.AddrFrom4([4]byte{203, 0, 113, byte(i)}))
	l.Offer.Backend = "vxlan"
	l.Offer.Data.Put(addr.IPv4, fmt.Sprintf(`{"VNI":1,"VtepMAC":"02:00:00:00:%02x:%02x"}`, version, i))
	return l
}
