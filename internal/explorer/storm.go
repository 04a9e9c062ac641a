package explorer

import (
	"context"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/lease"
	"github.com/flannel-ng/flannel-ng/internal/store/etcd"
	"github.com/flannel-ng/flannel-ng/internal/store/etcd/fake"
	"github.com/flannel-ng/flannel-ng/internal/store/etcd/kv"
)

// operator is the client name of a person with etcdctl.
const operator = "admin"

// storm starts everybody at about the same time and then does harm.
func (w *world) storm(ctx context.Context) {
	for _, m := range w.machines {
		m.start(ctx, false)
		sleep(ctx, w.upTo(time.Duration(w.rng.IntN(3))*time.Second+time.Millisecond))
	}
	for _, f := range w.flannels {
		f.start(ctx)
		sleep(ctx, w.upTo(time.Second))
	}
	w.setLoss(w.plan.Loss)
	harms := w.harms(ctx)
	for range w.plan.Faults {
		sleep(ctx, w.upTo(2*w.plan.Every))
		if w.violated() {
			return
		}
		harms[w.rng.IntN(len(harms))]()
	}
	sleep(ctx, w.upTo(2*w.plan.Every))
}

func (w *world) upTo(d time.Duration) time.Duration {
	return 1 + time.Duration(w.rng.Int64N(int64(d)+1))
}

func (w *world) setLoss(share float64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.loss = share
	w.note("world", "share of lost requests is %v", share)
}

// harms lists what can be done; what is listed twice is done more often.
func (w *world) harms(ctx context.Context) []func() {
	hs := []func(){
		func() { w.machine().crash() },
		func() { w.machine().stop(ctx) },
		func() { w.restart(ctx, w.machine()) },
		func() { w.restart(ctx, w.machine()) },
		func() { w.reboot(ctx, w.machine()) },
		func() { w.cut(w.machine()) },
		func() { w.cut(w.machine()) },
		func() { w.heal(w.machine()) },
		func() { w.heal(w.machine()) },
		func() { w.setLoss([]float64{0, 0.05, 0.3, 0.6}[w.rng.IntN(4)]) },
		func() { w.server.CancelWatches() },
		func() { w.server.Compact(w.server.Rev()) },
		func() { w.leaderless(ctx) },
		func() { w.reserve(ctx) },
		func() { w.pin(ctx) },
		func() { w.remove(ctx) },
		func() { w.revoke() },
		func() { w.announce(w.machine()) },
	}
	for _, f := range w.flannels {
		overwrite := func() { w.overwrite(ctx, f) }
		hs = append(hs, overwrite, overwrite,
			func() { f.crash() },
			func() { w.up(ctx, f) },
			func() { f.crash(); w.up(ctx, f) },
			func() { w.sever(f) },
			func() { w.sever(f) },
			func() { w.join(f) },
		)
	}
	if w.plan.Restores {
		hs = append(hs, w.restore(ctx), w.restore(ctx))
	}
	return hs
}

func (w *world) machine() *machine { return w.machines[w.rng.IntN(len(w.machines))] }

// restart crashes the daemon if it runs and starts the next, at once or after
// a while.
func (w *world) restart(ctx context.Context, m *machine) {
	m.crash()
	sleep(ctx, w.upTo([]time.Duration{time.Millisecond, time.Second, sessionTTL, leaseTTL}[w.rng.IntN(4)]))
	m.start(ctx, w.rng.IntN(2) == 0)
}

// reboot is a restart with another boot id, and sometimes with a new disk.
func (w *world) reboot(ctx context.Context, m *machine) {
	m.crash()
	m.boot++
	if w.rng.IntN(3) == 0 {
		m.id = fmt.Sprintf("%s-%d", m.id, m.boot)
		w.mu.Lock()
		m.previous, m.stored = addr.ByFamily[netip.Prefix]{}, lease.Snapshot{}
		w.mu.Unlock()
	}
	sleep(ctx, w.upTo(2*sessionTTL))
	m.start(ctx, true)
}

func (w *world) cut(m *machine) {
	if d := m.daemonOf(); d != nil {
		w.say(d.name, "is cut off")
		d.conn.Cut()
	}
}

func (w *world) heal(m *machine) {
	if d := m.daemonOf(); d != nil {
		w.say(d.name, "is connected")
		d.conn.Heal()
	}
}

func (w *world) up(ctx context.Context, f *flannel) {
	if f.run == nil {
		f.start(ctx)
	}
}

func (w *world) sever(f *flannel) {
	if f.run != nil {
		w.say(f.name, "is cut off")
		f.run.conn.Cut()
	}
}

func (w *world) join(f *flannel) {
	if f.run != nil {
		w.say(f.name, "is connected")
		f.run.conn.Heal()
	}
}

func (w *world) leaderless(ctx context.Context) {
	w.say("etcd", "has no leader")
	w.server.SetLeader(false)
	sleep(ctx, w.upTo(20*time.Second))
	w.server.SetLeader(true)
}

// byHand is a transaction that nothing delays.
func (w *world) byHand(ctx context.Context, t kv.Txn) {
	_, _ = w.server.Client(operator).Txn(ctx, t)
}

// someLease is a lease key that exists, or "".
func (w *world) someLease() kv.Entry {
	es := slices.DeleteFunc(w.server.Entries(), func(e kv.Entry) bool { return !kv.Prefix(subnetsDir).Contains(e.Key) })
	if len(es) == 0 {
		return kv.Entry{}
	}
	return es[w.rng.IntN(len(es))]
}

// pin makes an existing lease a reservation, as flannel documents it: the same
// value without a lease.
func (w *world) pin(ctx context.Context) {
	if e := w.someLease(); e.Key != "" {
		w.say(operator, "makes %s a reservation", e.Key)
		w.byHand(ctx, kv.Txn{Then: []kv.Op{{Action: kv.Put, Span: kv.One(e.Key), Value: e.Value}}})
	}
}

// reserve sets a free subnet aside for a host, which may have one already.
func (w *world) reserve(ctx context.Context) {
	var subnets addr.ByFamily[netip.Prefix]
	for _, f := range w.network.Families() {
		bs := w.blocks(f)
		subnets.Put(f, bs[w.rng.IntN(len(bs))])
	}
	w.mu.Lock()
	free := true
	for _, r := range w.model.leases {
		free = free && !r.Overlaps(lease.Lease{Subnets: subnets})
	}
	w.mu.Unlock()
	if !free {
		return
	}
	value, _ := etcd.FormatValue(w.machine().public, lease.Offer{Backend: "host-gw"})
	key := subnetsDir + etcd.FormatKey(subnets)
	w.say(operator, "reserves %s", key)
	w.byHand(ctx, kv.Txn{
		If:   []kv.Cmp{kv.Absent(kv.One(key))},
		Then: []kv.Op{{Action: kv.Put, Span: kv.One(key), Value: value}},
	})
}

// remove deletes a lease key.
func (w *world) remove(ctx context.Context) {
	if e := w.someLease(); e.Key != "" {
		w.say(operator, "deletes %s", e.Key)
		w.byHand(ctx, kv.Txn{Then: []kv.Op{{Action: kv.Delete, Span: kv.One(e.Key)}}})
	}
}

// revoke ends the grant of a lease before its time: lease, claims and address
// records are gone at once. Its holder cannot know before the next picture.
func (w *world) revoke() {
	e := w.someLease()
	if e.Lease == 0 {
		return
	}
	w.mu.Lock()
	w.note(operator, "revokes the grant of %s", e.Key)
	if d := w.daemonNamed(w.model.leases[e.Key].writer); d != nil {
		d.robbed = true
	}
	w.mu.Unlock()
	w.server.Expire(e.Lease)
}

// overwrite is the renewal of a plain flannel host that lost its lease long ago
// while it was cut off: nobody remembers it, and it does not ask.
func (w *world) overwrite(ctx context.Context, f *flannel) {
	e := w.someLease()
	if e.Key == "" {
		return
	}
	ghost := &flannel{world: w, name: "ghost", public: f.public}
	ghost.public.Put(addr.IPv4, netip.AddrFrom4([4]byte{203, 0, 113, byte(1 + w.rng.IntN(9))}))
	sleep(ctx, w.upTo(15*time.Second))
	_, _ = (&flanneld{flannel: ghost, conn: w.server.Client(operator)}).put(ctx, e.Key)
}

// restore goes back to a backup of now at a later time. Nobody can be blamed
// for what he holds until he has seen the new picture.
func (w *world) restore(context.Context) func() {
	var backup *fake.Backup
	var model model
	return func() {
		if backup == nil {
			b := w.server.Backup()
			w.mu.Lock()
			model = w.model.clone()
			w.note(operator, "makes a backup")
			w.mu.Unlock()
			backup = &b
			return
		}
		w.mu.Lock()
		w.note(operator, "restores the backup")
		w.model = model.clone()
		w.model.restored = true
		for _, m := range w.machines {
			if m.run != nil {
				m.run.robbed = true
			}
		}
		w.mu.Unlock()
		w.server.Restore(*backup, 0)
	}
}

// interfere is the hook of every request. Its choices depend on the client, the
// method, what is asked for and the number of such requests alone, so that a
// seed repeats.
func (w *world) interfere(c fake.Call) fake.Effect {
	if c.Client == operator {
		return fake.Effect{}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	name := c.Client + " " + string(c.Method) + " " + c.Span.Key
	if len(c.Txn.Then) > 0 {
		name += c.Txn.Then[0].Key
	}
	stream := w.streams[name]
	if stream == nil {
		stream = streamOf(w.Seed, name)
		w.streams[name] = stream
	}
	var d draws
	for i := range d {
		d[i] = stream.Uint64()
	}
	usual := time.Millisecond
	if w.plan.Slow {
		usual = 500 * time.Millisecond
	}
	return effect(d, usual, w.loss, c.Method == fake.MethodDeliver)
}

func effect(r draws, usual time.Duration, loss float64, deliver bool) fake.Effect {
	e := fake.Effect{Before: r.latency(0, usual), After: r.latency(1, usual)}
	if r.share(2) >= loss {
		return e
	}
	if deliver {
		e.Before += time.Duration(r.share(3) * float64(10*time.Second))
		if r.share(4) < 0.3 {
			e.Fault = fake.DropRequest
		}
		return e
	}
	switch r.at(3) % 5 {
	case 0:
		e.Before += time.Duration(r.share(4) * float64(8*time.Second))
	case 1:
		e.Fault = fake.DropRequest
	case 2:
		e.Fault = fake.DropResponse
	case 3:
		e.Fault, e.After = fake.Late, time.Duration(r.share(4)*float64(2*sessionTTL))
	default:
		e.After += time.Duration(r.share(4) * float64(8*time.Second))
	}
	return e
}

// draws are the random numbers of one request.
type draws [5]uint64

func (d draws) at(i int) uint64     { return d[i] }
func (d draws) share(i int) float64 { return float64(d[i]>>11) / (1 << 53) }

// latency is mostly below the usual one and sometimes a third of a second.
func (d draws) latency(i int, most time.Duration) time.Duration {
	if d[i]%32 == 0 {
		most = 300 * time.Millisecond
	}
	return 1 + time.Duration(d[i]>>8%uint64(most)) //nolint:gosec // below most
}

// streamOf is the random stream called name.
func streamOf(seed uint64, name string) *rand.Rand {
	h := fnv.New64a()
	_, _ = h.Write([]byte(name))
	return rand.New(rand.NewPCG(seed, h.Sum64())) //nolint:gosec // a simulation must be repeatable
}
