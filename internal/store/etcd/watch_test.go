package etcd_test

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/flannel-ng/flannel-ng/internal/lease"
	"github.com/flannel-ng/flannel-ng/internal/store/etcd/kv"
	"github.com/flannel-ng/flannel-ng/internal/store/storetest"
)

const someValue = `{"PublicIP":"192.0.2.7","PublicIPv6":null,"BackendType":"host-gw"}`

func keys(want ...string) func(lease.Snapshot) bool {
	return func(s lease.Snapshot) bool { return slices.Equal(storetest.Keys(s), want) }
}

func TestBadEntriesHarmOnlyThemselves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		for key, value := range map[string]string{
			"config": "not judged here", "subnets/10.5.1.0-24": someValue, "subnets/garbage": someValue,
			"subnets/10.5.2.0-24": "{", "subnets/10.5.3.7-24": someValue, "subnetsx": "", "unrelated": "x",
			"ng/claims/10.5.1.0-24": "{", "ng/future/x": "?", "ng/recent/10.5.9.0-24": "",
		} {
			w.put(t, key, value, 0)
		}
		v := storetest.Watch(t, w.store("h1"))
		s := v.Await(t, "the good lease", keys("10.5.1.0-24"))
		var bad []string
		for _, b := range s.Bad {
			bad = append(bad, b.Key)
			if b.Reason == "" {
				t.Errorf("%s without a reason", b.Key)
			}
		}
		want := []string{"ng/claims/10.5.1.0-24", "subnets/10.5.2.0-24", "subnets/10.5.3.7-24", "subnets/garbage", "subnetsx"}
		if !slices.Equal(bad, want) {
			t.Errorf("bad %v, want %v", bad, want)
		}
		if string(s.Config) != "not judged here" || len(s.Recent) != 1 || s.Recent[0].Subnet.String() != "10.5.9.0/24" {
			t.Errorf("config %q, recent %v", s.Config, s.Recent)
		}
		if s.Cluster != "c1/coreos.com/network" {
			t.Errorf("cluster %q", s.Cluster)
		}
		w.delete(t, "subnets/garbage")
		v.Await(t, "one bad key less", func(s lease.Snapshot) bool { return len(s.Bad) == 4 })
	})
}

// Whatever others write, what people see of it stays short.
func TestHugeEntriesStaySmall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		long := strings.Repeat("7", 1<<20)
		for key, value := range map[string]string{
			"subnets/10.5.1.0-24":               fmt.Sprintf(`{"PublicIP":%q}`, long),
			"subnets/10.5.2.0-24":               fmt.Sprintf(`{"BackendType":%q}`, long),
			"subnets/10.5.3.0-24":               fmt.Sprintf(`{"BackendType":"vxlan","BackendData":{"VtepMAC":%q}}`, long),
			"subnets/10.5.4.0-24":               fmt.Sprintf(`{"PublicIP":%q}`, long[:1<<15]),
			"subnets/10.5.5.0-24":               fmt.Sprintf(`{"PublicIP":%s}`, long[:1<<15]),
			"subnets/10.5.6.0-24":               fmt.Sprintf(`{"BackendType":%q}`, long[:65]),
			"subnets/" + long:                   someValue,
			"subnets/10.5.7.0-24&fc00::" + long: someValue,
			"subnets" + long:                    "",
			"ng/claims/10.5.8.0-24":             fmt.Sprintf(`{"host":%q}`, long[:65]),
			"ng/addresses/192.0.2.9":            fmt.Sprintf(`{"host":%q}`, long),
			"ng/recent/" + long:                 "",
		} {
			w.put(t, key, value, 0)
		}
		extension := `{"PublicIP":"192.0.2.7","BackendType":"extension","BackendData":"` + long[:4<<10] + `"}`
		w.put(t, "subnets/10.5.9.0-24", extension, 0)
		s := storetest.Watch(t, w.store("h1")).Await(t, "the good lease", keys("10.5.9.0-24"))
		if len(s.Bad) != 11 { // address records concern only who claims them
			t.Errorf("%d bad entries, want 11", len(s.Bad))
		}
		for _, b := range s.Bad {
			if b.Reason == "" || len(b.Key)+len(b.Reason) > 420 {
				t.Errorf("key of %d bytes, reason of %d: %.60s: %.60s", len(b.Key), len(b.Reason), b.Key, b.Reason)
			}
		}
		// A session of thousands of addresses in our place.
		w.put(t, "ng/alive/h1", `{"public":["192.0.2.1`+strings.Repeat(`","192.0.2.1`, 4000)+`"]}`, 0)
		_, err := w.store("h1").Claim(t.Context(), ask("192.0.2.1", "10.5.10.0/24"))
		if err == nil || len(err.Error()) > 1000 {
			t.Errorf("error of %d bytes", len(fmt.Sprint(err)))
		}
	})
}

func TestRecovery(t *testing.T) {
	change := func(t *testing.T, w *world) {
		t.Helper()
		w.delete(t, "subnets/10.5.1.0-24")
		w.put(t, "subnets/10.5.2.0-24", someValue, 0)
	}
	for name, disturb := range map[string]func(t *testing.T, w *world){
		"compaction while cut off": func(t *testing.T, w *world) {
			w.conn("h1").Cut()
			change(t, w)
			w.Compact(w.Rev())
			wait(2 * time.Minute)
			w.conn("h1").Heal()
		},
		"cut": func(t *testing.T, w *world) {
			w.conn("h1").Cut()
			change(t, w)
			wait(2 * time.Minute)
			w.conn("h1").Heal()
		},
		"watch cancelled": func(t *testing.T, w *world) {
			w.CancelWatches()
			change(t, w)
		},
		"no leader": func(t *testing.T, w *world) {
			w.SetLeader(false)
			wait(time.Minute)
			if h := w.store("h1").Health(); h.Err == nil || time.Since(h.Since) < 50*time.Second {
				t.Errorf("health without a leader: %+v", h)
			}
			w.SetLeader(true)
			change(t, w)
		},
		"in pieces": func(t *testing.T, w *world) {
			w.SetWatchBatch(1)
			w.conn("h1").Cut()
			change(t, w)
			w.conn("h1").Heal()
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.put(t, "subnets/10.5.1.0-24", someValue, 0)
				s := w.store("h1")
				if s.Health().Err == nil {
					t.Error("healthy before the first list")
				}
				v := storetest.Watch(t, s)
				epoch := v.Await(t, "the first lease", keys("10.5.1.0-24")).Epoch
				if err := s.Health().Err; err != nil {
					t.Errorf("health: %v", err)
				}
				disturb(t, w)
				if got := v.Await(t, "the second lease", keys("10.5.2.0-24")); got.Epoch != epoch {
					t.Errorf("epoch %d became %d", epoch, got.Epoch)
				}
				wait(10 * time.Second)
				if err := s.Health().Err; err != nil {
					t.Errorf("health in the end: %v", err)
				}
			})
		})
	}
}

func TestSilentWatchIsNoticed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		s := w.store("h1")
		storetest.Watch(t, s)
		wait(time.Hour)
		if err := s.Health().Err; err != nil {
			t.Errorf("a quiet fabric looks broken: %v", err)
		}
		w.conn("h1").Cut()
		wait(10 * time.Second)
		if s.Health().Err == nil {
			t.Error("a silent watch looks healthy after ten seconds")
		}
		wait(time.Minute)
		w.conn("h1").Heal()
		wait(6 * time.Second)
		if err := s.Health().Err; err != nil {
			t.Errorf("unhealthy after the cut: %v", err)
		}
	})
}

// A watch that was resumed on a wiped store waits for a revision far ahead.
func TestWipedStoreIsSeenSoon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		empty := w.Backup()
		w.put(t, "subnets/10.5.1.0-24", someValue, 0)
		v := storetest.Watch(t, w.store("h1"))
		v.Await(t, "the lease", keys("10.5.1.0-24"))
		w.Restore(empty, 0)
		wait(5 * time.Second)
		if got := storetest.Keys(v.Last()); len(got) != 0 {
			t.Errorf("still shows %v", got)
		}
	})
}

// The store was wiped and has passed our revision before the next sign of life:
// the session's grant is the only thing that is known to be missing.
func TestLostGrantHasThePictureReadAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		empty := w.Backup()
		s := w.store("h1")
		v := storetest.Watch(t, s)
		claim(t, s, ask("192.0.2.1", "10.5.1.0/24"))
		v.Await(t, "the lease", keys("10.5.1.0-24"))
		w.Restore(empty, 0)
		for range 10 {
			w.put(t, "config", "new", 0)
		}
		wait(21 * time.Second) // a third of the session's time to live
		if got := storetest.Keys(v.Last()); len(got) != 0 {
			t.Errorf("still shows %v", got)
		}
	})
}

func TestRestoredStore(t *testing.T) {
	for name, cluster := range map[string]uint64{"same cluster": 0, "another cluster": 0xc2} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.put(t, "subnets/10.5.1.0-24", someValue, 0)
				backup := w.Backup()
				w.put(t, "subnets/10.5.2.0-24", someValue, 0)
				v := storetest.Watch(t, w.store("h1"))
				before := v.Await(t, "both leases", keys("10.5.1.0-24", "10.5.2.0-24"))
				w.Restore(backup, cluster)
				after := v.Await(t, "the restored lease", keys("10.5.1.0-24"))
				if after.Epoch == before.Epoch || after.Rev >= before.Rev {
					t.Errorf("epoch %d revision %d after epoch %d revision %d", after.Epoch, after.Rev, before.Epoch, before.Rev)
				}
				if (after.Cluster == before.Cluster) != (cluster == 0) {
					t.Errorf("cluster %q after %q", after.Cluster, before.Cluster)
				}
				wait(time.Minute)
				if _, ok := w.get("ng/recent/10.5.2.0-24"); ok {
					t.Error("a lease that the restored store never had counts as expired")
				}
			})
		})
	}
}

// The picture that grew event by event is the one that a list gives.
func TestIncrementalEqualsList(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		early := storetest.Watch(t, w.store("h1"))
		dice := rand.New(rand.NewPCG(1, 2))
		grants := []kv.LeaseID{0, 0}
		for i := range grants {
			id, err := w.Client("").Grant(t.Context(), 1000*time.Hour)
			if err != nil {
				t.Fatal(err)
			}
			grants[i] = id
		}
		grants = append(grants, 0)
		names := func() string {
			n := dice.IntN(6)
			return []string{
				fmt.Sprintf("subnets/10.5.%d.0-24", n), fmt.Sprintf("subnets/10.5.%d.0-24&fc00:5:0:%d::-64", n, n+1),
				fmt.Sprintf("ng/claims/10.5.%d.0-24", n), fmt.Sprintf("ng/claims/fc00:5:0:%d::-64", n+1),
				"ng/addresses/192.0.2.7", fmt.Sprintf("ng/recent/10.5.%d.0-24", n), "subnets/bad", "config",
			}[dice.IntN(8)]
		}
		values := []string{someValue, `{"host":"h1","public":["192.0.2.7"]}`, `{"host":"h2"}`, "{", `{"until":"2030-01-01T00:00:00Z"}`}
		for range 2000 {
			name := names()
			if dice.IntN(3) == 0 {
				w.delete(t, name)
				continue
			}
			w.put(t, name, values[dice.IntN(len(values))], grants[dice.IntN(len(grants))])
		}
		w.put(t, "config", "end", 0)
		wait(20 * time.Second) // until the store's own notes of what vanished are written
		end := func(s lease.Snapshot) bool { return string(s.Config) == "end" }
		got := early.Await(t, "the end", end)
		want := storetest.Watch(t, w.store("h2")).Await(t, "the end", end)
		got.Changed, want.Changed = nil, nil
		want.Rev = got.Rev // a list has the revision of the store
		if !reflect.DeepEqual(got, want) {
			t.Errorf("grown  %+v\nlisted %+v", got, want)
		}
		if len(got.Leases) < 3 || len(got.Bad) == 0 {
			t.Errorf("the case is too empty: %+v", got)
		}
	})
}

func TestExpiredSubnetsAreRecorded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		var views []*storetest.View
		for i := range 3 {
			views = append(views, storetest.Watch(t, w.store(fmt.Sprintf("h%d", i))))
		}
		w.foreign(t, lease.Lease{Subnets: storetest.Subnets("10.5.1.0/24", "fc00:5:0:1::/64"), Public: storetest.Public("192.0.2.7")})
		views[0].Await(t, "the lease", keys("10.5.1.0-24&fc00:5:0:1::-64"))
		died := time.Now().Add(leaseTTL)
		wait(leaseTTL + 11*time.Second)
		s := views[0].Await(t, "the notes", func(s lease.Snapshot) bool { return len(s.Recent) == 2 })
		for i, want := range []string{"10.5.1.0/24", "fc00:5:0:1::/64"} {
			r := s.Recent[i]
			if off := r.Until.Sub(died.Add(48 * time.Hour)); r.Subnet.String() != want || off < -time.Second || off > 11*time.Second {
				t.Errorf("note %+v", r)
			}
		}
		e, _ := w.get("ng/recent/10.5.1.0-24")
		if e.Version != 1 || e.Lease == 0 {
			t.Errorf("note %+v", e)
		}
		if n := w.Grants(); n > 2 {
			t.Errorf("%d grants for two notes", n)
		}
		// Whoever gets the subnet ends its quarantine.
		h := claim(t, w.store("h0"), ask("192.0.2.1", "10.5.1.0/24"))
		views[1].Await(t, "one note less", func(s lease.Snapshot) bool { return len(s.Recent) == 1 })
		// A renewal or a move between keys is no expiry.
		c := ask("192.0.2.1", "10.5.1.0/24")
		c.Token = h.Token
		claim(t, w.store("h0"), c)
		wait(49 * time.Hour)
		views[1].Await(t, "no old notes", func(s lease.Snapshot) bool {
			return len(s.Recent) == 1 && s.Recent[0].Subnet.String() == "10.5.1.0/24"
		})
	})
}

func TestQuietWhenInStep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		for i := range 3 {
			host := fmt.Sprintf("h%d", i)
			storetest.Watch(t, w.store(host))
			claim(t, w.store(host), ask(fmt.Sprintf("192.0.2.%d", i+1), fmt.Sprintf("10.5.%d.0/24", i)))
		}
		wait(time.Minute)
		rev := w.Rev()
		wait(12 * time.Hour)
		if now := w.Rev(); now != rev {
			t.Errorf("an idle fabric wrote %d revisions in half a day", now-rev)
		}
	})
}

func TestNoKeyHarmsFlannel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.put(t, "x", "", 0)
		claim(t, w.store("h1"), ask("192.0.2.1", "10.5.1.0/24"))
		for _, e := range w.Entries() {
			if !strings.HasPrefix(e.Key, prefix+"/") {
				t.Errorf("key %q outside the prefix", e.Key)
			}
			rest := strings.TrimPrefix(e.Key, prefix+"/")
			if strings.HasPrefix(rest, "subnets") && rest != "subnets/10.5.1.0-24" {
				t.Errorf("key %q would make plain flannel drop its routes", e.Key)
			}
		}
	})
}
