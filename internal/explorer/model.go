package explorer

import (
	"encoding/json"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/lease"
	"github.com/flannel-ng/flannel-ng/internal/store/etcd"
	"github.com/flannel-ng/flannel-ng/internal/store/etcd/fake"
	"github.com/flannel-ng/flannel-ng/internal/store/etcd/kv"
)

// The directories of the fabric, as docs/lease-protocol.md has them.
const (
	subnetsDir  = prefix + "/subnets/"
	claimsDir   = prefix + "/ng/claims/"
	addressDir  = prefix + "/ng/addresses/"
	sessionsDir = prefix + "/ng/alive/"
)

// model is the store as the checks see it, built from the commits alone and
// from who asked for them; it does not trust what the values say of owners.
type model struct {
	leases   map[string]record // by key
	sessions map[string]string // host id to the daemon that wrote it
	holders  map[string]holder // by claim or address key
	restored bool              // create revisions no longer tell who was first
}

// record is a lease and who wrote it.
type record struct {
	lease.Lease
	grant  kv.LeaseID
	writer string // name of a daemon of ours, or of another
}

// holder is whom a claim or address record names, what extra it has, and who
// wrote it.
type holder struct{ host, extra, writer string }

func newModel() model {
	return model{leases: map[string]record{}, sessions: map[string]string{}, holders: map[string]holder{}}
}

func (m model) clone() model {
	return model{leases: maps.Clone(m.leases), sessions: maps.Clone(m.sessions), holders: maps.Clone(m.holders), restored: m.restored}
}

// committed checks a write at the moment it is applied. It runs under the
// server's lock.
func (w *world) committed(c fake.Commit) {
	w.mu.Lock()
	defer w.mu.Unlock()
	who := c.Client
	if who == "" {
		who = "etcd"
	}
	d := w.daemonNamed(c.Client)
	before := w.model.clone()
	for _, e := range c.Events {
		w.note(who, "rev %d: %s", c.Rev, event(e))
		if d != nil {
			w.judge(before, d, e)
		}
		w.model.apply(who, d, e)
		if e.Deleted && strings.HasPrefix(e.Entry.Key, subnetsDir) {
			w.vanished++
		}
	}
	w.noOverlap()
}

// event prints as what it does.
type event kv.Event

func (e event) String() string {
	key := strings.TrimPrefix(e.Entry.Key, prefix)
	if e.Deleted {
		return "delete " + key
	}
	return "put " + key + " " + e.Entry.Value
}

// daemonNamed finds a daemon of ours, also one that is gone: what it sent may
// arrive late. Others are nil.
func (w *world) daemonNamed(name string) *daemon { return w.daemons[name] }

func (m *model) apply(who string, d *daemon, e kv.Event) {
	key := e.Entry.Key
	switch {
	case strings.HasPrefix(key, subnetsDir):
		delete(m.leases, key)
		if !e.Deleted {
			m.leases[key] = newRecord(who, d, e.Entry)
		}
	case strings.HasPrefix(key, sessionsDir):
		delete(m.sessions, strings.TrimPrefix(key, sessionsDir))
		if !e.Deleted {
			m.sessions[strings.TrimPrefix(key, sessionsDir)] = who
		}
	case strings.HasPrefix(key, claimsDir), strings.HasPrefix(key, addressDir):
		delete(m.holders, key)
		if !e.Deleted {
			m.holders[key] = newHolder(who, e.Entry.Value)
		}
	}
}

func newRecord(who string, d *daemon, e kv.Entry) record {
	name := strings.TrimPrefix(e.Key, subnetsDir)
	subnets, _ := etcd.ParseKey(name)
	public, _, _ := etcd.ParseValue(e.Value)
	r := record{grant: e.Lease, writer: who, Lease: lease.Lease{
		Key: name, Subnets: subnets, Public: public, Reserved: e.Lease == 0, Created: e.Create, Modified: e.Mod,
	}}
	if d != nil {
		r.Owner = d.id
	}
	return r
}

func newHolder(who, value string) holder {
	var v struct {
		Host  string          `json:"host"`
		Extra json.RawMessage `json:"extra"`
	}
	_ = json.Unmarshal([]byte(value), &v)
	return holder{v.Host, string(v.Extra), who}
}

// judge checks I3 and the fence for one write of a daemon of ours against the
// store as it was before.
func (w *world) judge(before model, d *daemon, e kv.Event) {
	key, id := e.Entry.Key, d.id
	switch {
	case strings.HasPrefix(key, subnetsDir):
		w.judgeLease(before, d, e)
	case strings.HasPrefix(key, sessionsDir):
		if writer, live := before.sessions[id]; live && !w.predecessor(writer, d) {
			w.fail("I3: %s replaced or ended the live session of %s", d.name, writer)
		}
	case strings.HasPrefix(key, claimsDir), strings.HasPrefix(key, addressDir):
		h, held := before.holders[key]
		if held && h.host != id && before.sessions[h.host] != "" {
			w.fail("I3: %s took %s from live host %s", d.name, key, h.host)
		}
		if held && strings.HasPrefix(key, claimsDir) && !e.Deleted {
			w.rob(h.writer, d)
		}
	}
}

func (w *world) judgeLease(before model, d *daemon, e kv.Event) {
	id := d.id
	old, existed := before.leases[e.Entry.Key]
	switch {
	case !e.Deleted && before.sessions[id] != d.name:
		w.fail("fence: %s wrote %s without a session; it is %q's", d.name, e.Entry.Key, before.sessions[id])
	case !existed:
	case old.Owner == id:
	case old.Owner == "" && old.Reserved && before.claimed(old, id): // pinned by hand: still id's
	case e.Deleted && old.Owner != "":
		w.fail("I3: %s deleted %s of %s", d.name, old.Key, old.Owner)
	case !sharesAddress(old.Public, d.machine.public):
		w.fail("I3: %s wrote over %s of %s", d.name, old.Key, old.writer)
	case old.Owner != "" && before.sessions[old.Owner] != "":
		w.fail("I3: %s took %s from live host %s", d.name, old.Key, old.Owner)
	}
}

// predecessor says whether d may end the session that the daemon called writer
// wrote: it is its own, or its predecessor's on the same machine.
func (w *world) predecessor(writer string, d *daemon) bool {
	return w.daemonNamed(writer).machine == d.machine
}

// claimed says whether all claims on r name host id.
func (m model) claimed(r record, id string) bool {
	return !slices.ContainsFunc(r.Prefixes(), func(p netip.Prefix) bool { return m.holders[claimKey(p)].host != id })
}

func claimKey(p netip.Prefix) string {
	return claimsDir + strings.ReplaceAll(p.String(), "/", "-")
}

// rob marks the daemon called writer, if it is not on d's machine: d took a
// claim of it, to which it was entitled (dead session, and one address or id),
// and the daemon learns of it from the next picture.
func (w *world) rob(writer string, d *daemon) {
	if victim := w.daemonNamed(writer); victim != nil && victim.machine != d.machine {
		victim.robbed = true
	}
}

// noOverlap checks I2.
func (w *world) noOverlap() {
	keys := slices.Sorted(maps.Keys(w.model.leases))
	for i, a := range keys {
		for _, b := range keys[i+1:] {
			x, y := w.model.leases[a], w.model.leases[b]
			if x.Owner != "" && y.Owner != "" && x.Owner != y.Owner && x.Overlaps(y.Lease) {
				w.fail("I2: %s of %s overlaps %s of %s", x.Key, x.Owner, y.Key, y.Owner)
			}
		}
	}
}

// changed checks the holdings whenever one of them changes.
func (w *world) changed(d *daemon) {
	now := d.keeper.Holding()
	w.mu.Lock()
	defer w.mu.Unlock()
	if d.machine.run != d {
		return
	}
	w.note(d.name, "%s %v token %d %s", now.State, now.Lease.Prefixes(), now.Lease.Token, now.Reason)
	if d.robbed && (now.State != lease.Owned || now.Lease.Token != d.last.Lease.Token) {
		d.robbed = false
	}
	d.last = now
	if now.State != lease.Owned {
		return
	}
	d.machine.previous = now.Lease.Subnets
	w.exclusive(d, now)
	w.firstCome(d, now)
}

// exclusive checks I1: nobody else holds what d holds. A daemon that was robbed
// is cut off, cannot know, and has the thief's address or host id.
func (w *world) exclusive(d *daemon, now lease.Holding) {
	for _, m := range w.machines {
		o := m.run
		if o == nil || o == d || o.robbed || d.robbed {
			continue
		}
		if h := o.keeper.Holding(); h.State == lease.Owned && h.Lease.Overlaps(now.Lease.Lease) {
			w.fail("I1: %s and %s hold %v and %v", d.name, o.name, now.Lease.Prefixes(), h.Lease.Prefixes())
		}
	}
}

// firstCome checks I4: what a host holds was not leased when it came.
func (w *world) firstCome(d *daemon, now lease.Holding) {
	own, ok := w.model.leases[subnetsDir+now.Lease.Key]
	if !ok || lease.Token(own.Modified) != now.Lease.Token || w.model.restored {
		return
	}
	if o, found := w.model.earlier(own); found {
		w.fail("I4: %s holds %s, which came after %s of %s", d.name, own.Key, o.Key, o.writer)
	}
}

// earlier finds a lease of somebody else on a subnet of own that was there
// first.
func (m model) earlier(own record) (record, bool) {
	for _, k := range slices.Sorted(maps.Keys(m.leases)) {
		o := m.leases[k]
		if o.Created < own.Created && o.Owner != own.Owner && samePrefix(o.Lease, own.Lease) {
			return o, true
		}
	}
	return record{}, false
}

func samePrefix(a, b lease.Lease) bool {
	for _, f := range addr.Families() {
		if p := a.Subnets.At(f); p.IsValid() && p == b.Subnets.At(f) {
			return true
		}
	}
	return false
}

func sharesAddress(a, b addr.ByFamily[netip.Addr]) bool {
	for _, f := range addr.Families() {
		if x := a.At(f); x.IsValid() && x == b.At(f) {
			return true
		}
	}
	return false
}
