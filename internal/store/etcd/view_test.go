package etcd_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/flannel-ng/flannel-ng/internal/lease"
	"github.com/flannel-ng/flannel-ng/internal/store/etcd"
	"github.com/flannel-ng/flannel-ng/internal/store/etcd/fake"
	"github.com/flannel-ng/flannel-ng/internal/store/etcd/kv"
)

// album keeps all pictures of a watch.
type album struct {
	mu       sync.Mutex
	pictures []lease.Snapshot
	shown    [][]lease.Lease // as pictures were when they came
}

// collect follows s until the test ends.
func collect(t *testing.T, s *etcd.Store) *album {
	t.Helper()
	a := &album{}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Watch(ctx, func(p lease.Snapshot) {
			a.mu.Lock()
			defer a.mu.Unlock()
			a.pictures = append(a.pictures, p)
			a.shown = append(a.shown, values(p))
		})
	}()
	t.Cleanup(func() {
		cancel()
		<-done
		for i, p := range a.pictures {
			if !slices.Equal(values(p), a.shown[i]) {
				t.Errorf("picture %d was changed after it was shown", i)
			}
		}
	})
	return a
}

func values(p lease.Snapshot) []lease.Lease {
	var out []lease.Lease
	for _, l := range p.Leases {
		out = append(out, *l)
	}
	return out
}

// all are the pictures once everybody waits.
func (a *album) all() []lease.Snapshot {
	synctest.Wait()
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.pictures)
}

func subnetOf(i int) string { return fmt.Sprintf("10.%d.%d.0-24", 5+i>>8, i&0xff) }

// populate writes so many leases, each with its claim.
func (w *world) populate(t *testing.T, n int) {
	t.Helper()
	for i := range n {
		w.lease(t, i, "h")
	}
}

func (w *world) lease(t *testing.T, i int, host string) {
	t.Helper()
	_, err := w.Client("").Txn(t.Context(), kv.Txn{Then: []kv.Op{
		{Action: kv.Put, Span: kv.One(prefix + "/subnets/" + subnetOf(i)), Value: someValue},
		{Action: kv.Put, Span: kv.One(prefix + "/ng/claims/" + subnetOf(i)), Value: `{"host":"` + host + `","public":["192.0.2.7"]}`},
	}})
	if err != nil {
		t.Fatal(err)
	}
}

// differing are the keys of leases in which two pictures differ.
func differing(a, b lease.Snapshot) []string {
	index := func(s lease.Snapshot) map[string]lease.Lease {
		m := map[string]lease.Lease{}
		for _, l := range s.Leases {
			same := *l
			same.Modified = 0
			m[l.Key] = same
		}
		return m
	}
	x, y := index(a), index(b)
	keys := []string{}
	for k, l := range x {
		if y[k] != l {
			keys = append(keys, k)
		}
	}
	for k := range y {
		if _, ok := x[k]; !ok {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	return keys
}

// The hint names every lease that differs. What came and went back in between
// may be named too.
func TestChangedIsWhatChanged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.populate(t, 40)
		a := collect(t, w.store("h1"))
		dice := rand.New(rand.NewPCG(3, 4))
		a.all()
		for range 500 {
			i := dice.IntN(50)
			switch dice.IntN(5) {
			case 0:
				w.delete(t, "subnets/"+subnetOf(i))
			case 1:
				w.put(t, "ng/claims/"+subnetOf(i), `{"host":"other","public":["192.0.2.7"]}`, 0)
			case 2:
				w.delete(t, "ng/claims/"+subnetOf(i))
			default:
				w.lease(t, i, "h")
			}
			if dice.IntN(3) == 0 {
				wait(time.Duration(dice.IntN(100)) * time.Microsecond)
			}
			if dice.IntN(50) == 0 {
				w.CancelWatches()
				wait(10 * time.Second)
			}
		}
		wait(20 * time.Second)
		pictures := a.all()
		if len(pictures) < 100 || pictures[0].Changed != nil {
			t.Fatalf("%d pictures, first hint %v", len(pictures), pictures[0].Changed)
		}
		exact := 0
		for i, p := range pictures[1:] {
			want := differing(pictures[i], p)
			if p.Changed == nil || !slices.IsSorted(p.Changed) {
				t.Fatalf("picture %d: hint %v", i+1, p.Changed)
			}
			for _, key := range want {
				if !slices.Contains(p.Changed, key) {
					t.Errorf("picture %d: %s differs and is not in %v", i+1, key, p.Changed)
				}
			}
			if slices.Equal(want, p.Changed) {
				exact++
			}
		}
		if exact < len(pictures)*9/10 {
			t.Errorf("only %d of %d hints are exact", exact, len(pictures))
		}
	})
}

// A list that finds nothing new changes nothing, and says so.
func TestRelistOfTheSame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.populate(t, 30)
		a := collect(t, w.store("h1"))
		before := a.all()
		w.conn("h1").Cut()
		w.put(t, "ng/alive/somebody", "{}", 0)
		w.Compact(w.Rev())
		wait(time.Minute)
		w.conn("h1").Heal()
		wait(time.Minute)
		after := a.all()
		if len(before) != 1 || len(after) != 2 || after[1].Changed == nil || len(after[1].Changed) != 0 {
			t.Fatalf("%d pictures before, %d after, hint %v", len(before), len(after), after[len(after)-1].Changed)
		}
		if !reflect.DeepEqual(after[1].Leases, before[0].Leases) || after[1].Epoch != before[0].Epoch {
			t.Errorf("before %+v\nafter  %+v", before[0], after[1])
		}
	})
}

// Renewals of others wake nobody at once; a change takes them along.
func TestRenewalsOfOthersWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.populate(t, 5)
		a := collect(t, w.store("h1"))
		a.all()
		w.lease(t, 1, "h")
		wait(9 * time.Second)
		if n := len(a.all()); n != 1 {
			t.Fatalf("%d pictures soon after a renewal", n)
		}
		wait(2 * time.Second)
		got := a.all()
		if len(got) != 2 || len(got[1].Changed) != 0 || got[1].Leases[1].Modified != w.Rev() {
			t.Fatalf("pictures %+v", got)
		}
		w.lease(t, 2, "h")
		w.lease(t, 3, "another")
		wait(time.Millisecond)
		got = a.all()
		if len(got) != 3 || !slices.Equal(got[2].Changed, []string{subnetOf(3)}) || got[2].Leases[3].Owner != "another" {
			t.Errorf("hint %v", got[len(got)-1].Changed)
		}
	})
}

// A burst of changes becomes a few pictures, and the last shows all of it.
func TestBurst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const hosts = 3000
		w := newWorld(t)
		w.populate(t, hosts)
		a := collect(t, w.store("h1"))
		first := len(a.all())
		for i := range 300 {
			w.lease(t, i, "another")
			wait(10 * time.Microsecond)
		}
		wait(time.Second)
		got := a.all()[first:]
		if len(got) > 20 { // 3 ms at 0.3 ms each
			t.Errorf("%d pictures of 300 changes", len(got))
		}
		if last := got[len(got)-1]; last.Rev != w.Rev() || last.Leases[299].Owner != "another" {
			t.Errorf("the last picture is of revision %d, not %d", last.Rev, w.Rev())
		}
	})
}

// Sessions and addresses of others do not reach a host.
func TestOthersSessionsStayAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a := collect(t, w.store("h1"))
		a.all()
		var mu sync.Mutex
		messages := 0
		w.SetHook(func(c fake.Call) fake.Effect {
			mu.Lock()
			defer mu.Unlock()
			if c.Client == "h1" && c.Method == fake.MethodDeliver {
				messages++
			}
			return fake.Effect{}
		})
		for i := range 100 {
			w.put(t, fmt.Sprintf("ng/alive/h%d", i+2), "{}", 0)
			w.put(t, fmt.Sprintf("ng/addresses/192.0.2.%d", i+2), `{"host":"x"}`, 0)
		}
		synctest.Wait()
		mu.Lock()
		defer mu.Unlock()
		if messages != 0 || len(a.all()) != 1 {
			t.Errorf("%d messages for nothing", messages)
		}
	})
}

// A list of several pages is of one revision, whatever is written meanwhile.
func TestListInPages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const hosts = 1300 // with claims three pages
		w := newWorld(t)
		w.populate(t, hosts)
		ranges := 0
		w.SetHook(func(c fake.Call) fake.Effect {
			if c.Client == "h1" && c.Method == fake.MethodRange {
				ranges++
				w.delete(t, "subnets/"+subnetOf(7))
				w.delete(t, "subnets/"+subnetOf(hosts-1))
				w.lease(t, hosts+ranges, "late")
			}
			return fake.Effect{}
		})
		a := collect(t, w.store("h1"))
		first := a.all()[0]
		if ranges != 2 || len(first.Leases) != hosts {
			t.Errorf("%d pages after the first, %d leases", ranges, len(first.Leases))
		}
		wait(time.Second)
		got := a.all()
		if last := got[len(got)-1]; len(last.Leases) != hosts {
			t.Errorf("at the end %d leases, want two less and two more than %d", len(last.Leases), hosts)
		}
		want, err := etcd.NewClient(w.conn("h2"), prefix).Snapshot(t.Context())
		if err != nil || !reflect.DeepEqual(want.Leases, got[len(got)-1].Leases) {
			t.Errorf("a snapshot has %d leases, %v", len(want.Leases), err)
		}
	})
}

// A host that joins reads the fabric once; its claim reads a few keys.
func TestClaimReadsLittle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.populate(t, 300)
		a := collect(t, w.store("h1"))
		a.all()
		lists, most := 0, 0
		w.SetHook(func(c fake.Call) fake.Effect {
			if c.Client == "h1" && c.Span.End != "" && c.Method == fake.MethodRange {
				lists++
			}
			if c.Client == "h1" && c.Method == fake.MethodTxn {
				most = max(most, len(c.Txn.If)+len(c.Txn.Then))
			}
			return fake.Effect{}
		})
		s := w.store("h1")
		h, err := s.Claim(t.Context(), ask("192.0.2.1", "10.9.1.0/24"))
		if err != nil {
			t.Fatal(err)
		}
		again := ask("192.0.2.1", "10.9.1.0/24")
		again.Token = h.Token
		if h, err = s.Claim(t.Context(), again); err != nil {
			t.Fatal(err)
		}
		if err := s.Release(t.Context(), h); err != nil {
			t.Fatal(err)
		}
		if lists != 0 || most > 12 {
			t.Errorf("%d lists, a transaction of %d parts", lists, most)
		}
	})
}

// When many leases end at once, about one host notes each, and the notes are
// shared among all.
func TestNotesAreShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const hosts, ends = 12, 60
		w := newWorld(t)
		for i := range hosts {
			w.lease(t, i, fmt.Sprintf("n%d", i))
		}
		for i := range ends {
			w.lease(t, 100+i, "gone")
		}
		attempts := map[string]int{}
		var mu sync.Mutex
		for i := range hosts {
			collect(t, w.store(fmt.Sprintf("n%d", i))).all()
		}
		w.SetHook(func(c fake.Call) fake.Effect {
			mu.Lock()
			defer mu.Unlock()
			if c.Method == fake.MethodTxn && len(c.Txn.Then) > 0 && strings.Contains(c.Txn.Then[0].Key, "/ng/recent/") && c.Txn.Then[0].Action == kv.Put {
				attempts[c.Client]++
			}
			return fake.Effect{Before: time.Millisecond, After: time.Millisecond}
		})
		for i := range ends {
			w.delete(t, "subnets/"+subnetOf(100+i))
			w.delete(t, "ng/claims/"+subnetOf(100+i))
		}
		wait(30 * time.Second)
		noted := 0
		for _, e := range w.Entries() {
			if strings.Contains(e.Key, "/ng/recent/") {
				noted++
			}
		}
		mu.Lock()
		defer mu.Unlock()
		total, most := 0, 0
		for _, n := range attempts {
			total, most = total+n, max(most, n)
		}
		if noted != ends || total > ends*3/2 || most > ends*3/4 {
			t.Errorf("%d of %d noted by %d attempts: %v", noted, ends, total, attempts)
		}
	})
}
