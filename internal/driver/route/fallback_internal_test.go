package route

import (
	"strings"
	"testing"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/driver/drivertest"
	"github.com/flannel-ng/flannel-ng/internal/driver/kernel"
	"github.com/flannel-ng/flannel-ng/internal/nl"
	"github.com/flannel-ng/flannel-ng/internal/reconcile"
	"github.com/flannel-ng/flannel-ng/internal/state"
)

// A kernel before 5.3 refuses to list nexthop objects: then routes are made
// without them.
func TestKernelWithoutNexthops(t *testing.T) {
	drivertest.Namespace(t)
	f := drivertest.FabricOf(1)
	drivertest.Ground(t, f)
	c, err := nl.Dial()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	w := &writer{
		conn: c, o: Options{Owner: f.Owner, Networks: f.Networks()}, links: kernel.NewIndexes(c, f.Owner),
		objects: nexthops{all: true}, // what readNexthops makes of EOPNOTSUPP
	}
	var results []reconcile.Result
	for i := 1; i <= 9; i++ {
		for _, family := range addr.Families() {
			results = append(results, reconcile.Result{Change: reconcile.Change{Op: reconcile.Add, Object: f.Peer(family, i).Routes[0]}})
		}
	}
	w.put(t.Context(), results)
	for _, r := range results {
		if r.Err != nil {
			t.Errorf("%s: %v", r.Object, r.Err)
		}
	}
	for _, v := range []string{"-4", "-6"} {
		out := drivertest.Output(t, "ip "+v+" route show proto 70 dev "+map[string]string{"-4": f.Link(addr.IPv4), "-6": f.Link(addr.IPv6)}[v])
		if strings.Contains(out, "nhid") || strings.Count(out, " via ") != 9 {
			t.Errorf("ip %s route:\n%s", v, out)
		}
	}
}

// Objects are found again where they were put, also when another hop has the
// first place.
func TestSlots(t *testing.T) {
	r := idsOf(state.Owner{})
	n := nexthops{all: true, byID: map[uint32]nl.Nexthop{}}
	f := drivertest.FabricOf(1)
	hops := make([]nl.Hop, 3000)
	for i := range hops {
		hops[i] = nl.Hop{Link: 7, Via: f.Subnet(addr.IPv4, i).Addr(), Onlink: true}
		there, id, ok := n.slot(r, hops[i])
		if there || !ok || !r.contains(id) || n.byID[id].ID != 0 {
			t.Fatalf("hop %d: there %v, id %x, %v", i, there, id, ok)
		}
		n.byID[id] = nl.Nexthop{ID: id, Protocol: state.Protocol, Hop: hops[i]}
	}
	for i, hop := range hops {
		if there, id, ok := n.slot(r, hop); !there || !ok || n.byID[id].Hop != hop {
			t.Errorf("hop %d is not found again", i)
		}
	}
	part := nexthops{supported: true, byID: map[uint32]nl.Nexthop{}, free: map[uint32]bool{}}
	if _, id, ok := part.slot(r, hops[0]); ok || id == 0 {
		t.Error("an answer without asking the kernel")
	}
}
