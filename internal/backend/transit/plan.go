package transit

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/flannel-ng/flannel-ng/internal/backend"
	"github.com/flannel-ng/flannel-ng/internal/lease"
)

// Grace is how long a host goes on receiving by a carrier that nobody can send
// by any more: for packets that are on their way.
const Grace = 2 * time.Second

// Situation is all that a plan depends on.
type Situation struct {
	// Config is the carrier that the network config names.
	Config Carrier
	// Fresh: Config is that of the first config since the start. It need not
	// stand beside what there was before.
	Fresh  bool
	Others *Census
	// Trusted: the picture shows every host.
	Trusted bool
	// Shown is this host's lease in the picture, Held the lease that it holds,
	// Asked what it has asked for last; nil: none.
	Shown, Held, Asked *lease.Offer
	// Placed are the wires whose objects on this host are all in place.
	Placed map[string]bool
	// Using are the wires by which packets may leave since the last pass; nil:
	// not known.
	Using map[string]bool
	// Last are the carriers of the last plan.
	Last []Carrier
	// Idle says since when nobody can have sent by a wire.
	Idle map[string]time.Time
	Now  time.Time
}

// Plan is what a host does about carriers until something changes.
type Plan struct {
	// Solo: there is one carrier, which cannot stand beside others.
	Solo bool
	// Receive are the carriers to receive by, the primary first.
	Receive []Carrier
	// Publish is what other hosts are to know, the primary first.
	Publish []Listing
	// Target is the wire to send by wherever that may be, Send those that packets
	// may leave by.
	Target string
	Send   []string
	// Guess is the wire of hosts that have no record, by what their lease says.
	Guess map[Mark]string
	// Idle is Situation.Idle of the next plan, Wake when that has to be made.
	Idle  map[string]time.Time
	Wake  time.Time
	State State
}

// ways are those by which a host may be sent to that receives by says, its
// primary first, in the order to try them in. All hosts prefer one: a host that
// has no room for another is left by the others as soon as possible.
func (p Plan) ways(says []string) []string {
	var out []string
	for _, w := range append([]string{p.Target}, says...) {
		if slices.Contains(says, w) && slices.Contains(p.Send, w) && !slices.Contains(out, w) {
			out = append(out, w)
		}
	}
	return out
}

// Listing is an entry of the record to be.
type Listing struct {
	Wire        string
	ReceiveOnly bool
}

// Mark is what the lease of a host without a record tells of its carrier.
type Mark struct {
	Type string
	VNI  uint32
}

// State tells people how far a change is.
type State struct {
	Phase Phase
	// Carrier is the wire by which this host is known to all, Config that of the
	// network config.
	Carrier, Config string
	Why             string // what is waited for; "" when steady
}

// Phase is a step of a change.
type Phase string

// The phases, in their order.
const (
	Steady    Phase = "steady"
	Blocked   Phase = "blocked"   // the new carrier cannot stand beside the old one
	Held      Phase = "held"      // by hosts that know the old one only
	Preparing Phase = "preparing" // the new one is being put in place here
	Receiving Phase = "receiving" // by both; others do not yet
	Sending   Phase = "sending"   // by the new one to all who can
	Keeping   Phase = "keeping"   // the old one is received: others may still send by it
)

// planner makes one plan.
type planner struct {
	Situation
	shown, held, asked *Record
	known              map[string]Carrier
	order              []string // of known, the likeliest first
	groups             []*group
	guess              map[Mark]string
	own                string // primary
	target             string
	blocked            error
	out                Plan
}

// Next makes the plan of a situation. It is a pure function.
func Next(s Situation) Plan {
	if s.Config.Wire == (backend.Wire{}) {
		return Plan{Solo: true, Receive: []Carrier{s.Config}, State: State{Phase: Steady, Carrier: s.Config.Backend.Type, Config: s.Config.Backend.Type}}
	}
	p := &planner{Situation: s, known: map[string]Carrier{}, guess: map[Mark]string{}, groups: s.Others.sorted()}
	p.learn()
	p.shown, p.held, p.asked = p.record(s.Shown), p.record(s.Held), p.record(s.Asked)
	p.own = cmp.Or(p.shown.primary(), p.held.primary())
	p.choose()
	p.receive()
	p.agree()
	p.send()
	p.publish()
	p.idle()
	p.describe()
	return p.out
}

// record is what this host has said with an offer. Without a record, as an older
// version wrote it, the type in its lease says it.
func (p *planner) record(o *lease.Offer) *Record {
	if o == nil {
		return nil
	}
	r, err := Parse(o.Extra)
	if err == nil && len(r.Entries) > 0 {
		return &r
	}
	if wire := p.guessed(Mark{o.Backend, vniOf(*o)}); wire != "" {
		return &Record{Entries: []Entry{{Wire: wire}}}
	}
	return nil
}

// learn gathers the carriers that are known. The config's word on one counts
// most, then that of this host's own record.
func (p *planner) learn() {
	add := func(c Carrier) {
		if _, ok := p.known[c.Wire.Name]; !ok {
			p.known[c.Wire.Name] = c
			p.order = append(p.order, c.Wire.Name)
		}
	}
	own := p.ownCarriers()
	if p.Fresh || len(own) == 0 {
		own = append([]Carrier{p.Config}, own...)
	}
	p.known[p.Config.Wire.Name] = p.Config
	for _, c := range own {
		if c.Wire.Name == p.Config.Wire.Name {
			c = p.Config
			delete(p.known, c.Wire.Name)
		}
		add(c)
	}
	if !slices.Contains(p.order, p.Config.Wire.Name) {
		p.order = append(p.order, p.Config.Wire.Name)
	}
	for _, g := range p.groups {
		for _, c := range g.has {
			add(c)
		}
	}
}

// ownCarriers are those that this host has spoken of, or has.
func (p *planner) ownCarriers() []Carrier {
	var out []Carrier
	for _, o := range []*lease.Offer{p.Shown, p.Held, p.Asked} {
		if o == nil {
			continue
		}
		r, err := Parse(o.Extra)
		if err != nil {
			continue
		}
		for _, e := range r.Entries {
			if e.Wire == p.Config.Wire.Name {
				out = append(out, p.Config)
			} else if c, err := p.Others.kit.Carrier(e); err == nil {
				out = append(out, c)
			}
		}
	}
	return append(out, p.Last...)
}

// guessed is the wire of a host that has no record, "" if that is none we know.
// A lease of flannel does not tell the port: the likeliest counts.
func (p *planner) guessed(m Mark) string {
	if wire, ok := p.guess[m]; ok {
		return wire
	}
	for _, name := range p.order {
		w := p.known[name].Wire
		if w.Type == m.Type && (w.VNI == 0 || w.VNI == m.VNI) {
			p.guess[m] = name
			return name
		}
	}
	p.guess[m] = ""
	return ""
}

// says is what the hosts of g receive and send by, the primary first.
func (p *planner) says(g *group) []saying {
	if g.says != nil {
		return g.says
	}
	if wire := p.guessed(Mark{g.typ, g.vni}); wire != "" {
		return []saying{{wire, true}}
	}
	return nil
}

func (p *planner) receives(g *group, wire string) bool {
	return slices.ContainsFunc(p.says(g), func(s saying) bool { return s.wire == wire })
}

// intends says whether hosts of g may send by wire.
func (p *planner) intends(g *group, wire string) bool {
	return slices.Contains(p.says(g), saying{wire, true})
}

// lost are hosts whose carrier nobody here knows: nothing waits for them.
func (p *planner) lost(g *group) bool { return len(p.says(g)) == 0 }

// everyone says whether all other hosts receive by wire.
func (p *planner) everyone(wire string) bool {
	return !slices.ContainsFunc(p.groups, func(g *group) bool { return !p.lost(g) && !p.receives(g, wire) })
}

// holds says whether hosts of g keep all on what they know: they have no record,
// so they will never have another carrier while they run.
func (p *planner) holds(g *group) bool {
	return g.says == nil && !p.lost(g) && !p.receives(g, p.Config.Wire.Name)
}

// choose finds the carrier to move to: the config's, unless hosts that know no
// other hold all on theirs.
func (p *planner) choose() {
	p.target = p.Config.Wire.Name
	for _, g := range p.groups { // the largest first
		if p.holds(g) {
			p.target = p.says(g)[0].wire
			return
		}
	}
}

// agree finds another carrier to move to, as long as this host has no room for
// the one wanted: one that all receive by, and the same on every host that sees
// the same picture. When all use that, the rest can go.
func (p *planner) agree() {
	if p.has(p.target) {
		return
	}
	votes := map[string]int{p.own: 1}
	for _, g := range p.groups {
		if says := p.says(g); len(says) > 0 {
			votes[says[0].wire] += g.size
		}
	}
	p.target = p.own
	most := 0
	for _, w := range slices.Sorted(slices.Values(p.wires())) {
		if p.everyone(w) && votes[w]+1 > most {
			p.target, most = w, votes[w]+1
		}
	}
}

// receive finds the carriers to receive by. What others may send by stays, and
// so does what was published; others come as far as there is room.
func (p *planner) receive() {
	wires := p.mine()
	had := len(slices.Compact(slices.Sorted(slices.Values(wires))))
	wires = append(wires, p.target, p.Config.Wire.Name)
	for _, g := range p.groups {
		for _, s := range p.says(g) {
			if s.sends {
				wires = append(wires, s.wire)
			}
		}
	}
	for _, w := range wires {
		p.install(w, max(had, MaxCarriers))
	}
}

// mine are the wires that this host may be sent to by, for all it has said and
// has, and that of the config it was started with.
func (p *planner) mine() []string {
	var wires []string
	if p.Fresh {
		wires = append(wires, p.Config.Wire.Name)
	}
	for _, r := range []*Record{p.shown, p.held, p.asked} {
		if r == nil {
			continue
		}
		for _, e := range r.Entries {
			wires = append(wires, e.Wire)
		}
	}
	for _, c := range p.Last {
		if p.wanted(c.Wire.Name) || !p.over(c.Wire.Name) {
			wires = append(wires, c.Wire.Name)
		}
	}
	return wires
}

// wanted says whether there is a reason to receive by wire beside that it was so.
func (p *planner) wanted(wire string) bool {
	return wire == p.target || wire == p.Config.Wire.Name ||
		slices.ContainsFunc(p.groups, func(g *group) bool { return p.intends(g, wire) })
}

// over says whether the time of a carrier that is published no more is over.
func (p *planner) over(wire string) bool {
	since, idle := p.Idle[wire]
	return idle && p.Now.Sub(since) >= Grace
}

// install adds a carrier that is known and can stand beside the others.
func (p *planner) install(wire string, most int) {
	c, ok := p.known[wire]
	if !ok || p.has(wire) || len(p.out.Receive) >= most {
		return
	}
	for _, o := range p.out.Receive {
		if err := c.Wire.Beside(o.Wire); err != nil {
			if wire == p.Config.Wire.Name {
				p.blocked = fmt.Errorf("%s cannot be received beside %s: %w", wire, o.Wire.Name, err)
			}
			return
		}
	}
	p.out.Receive = append(p.out.Receive, c)
}

func (p *planner) has(wire string) bool {
	return slices.ContainsFunc(p.out.Receive, func(c Carrier) bool { return c.Wire.Name == wire })
}

// send finds the wires that this host may send by. Others receive by what they
// list as long as they see, in the same history of the store, that somebody
// says that he may send by it: so that must have been said, and nothing else
// since.
func (p *planner) send() {
	var said []*Record
	for _, r := range []*Record{p.shown, p.held, p.asked} {
		if r != nil {
			said = append(said, r)
		}
	}
	for _, w := range p.wires() {
		if !slices.ContainsFunc(said, func(r *Record) bool { return !r.sends(w) }) {
			p.out.Send = append(p.out.Send, w)
		}
	}
	p.out.Target = p.target
}

// publish finds what to tell others.
func (p *planner) publish() {
	primary := p.primary()
	list := func(wire string) {
		stays := wire == p.target || wire == p.Config.Wire.Name || p.Using[wire] || p.needed(wire)
		there := p.Placed[wire] || p.shown.lists(wire) || p.held.lists(wire)
		asked := slices.ContainsFunc(p.groups, func(g *group) bool { return p.intends(g, wire) })
		if wire == primary || there && (stays || asked || !p.Trusted) {
			p.out.Publish = append(p.out.Publish, Listing{wire, wire != primary && !stays})
		}
	}
	list(primary)
	for _, c := range p.out.Receive {
		if c.Wire.Name != primary {
			list(c.Wire.Name)
		}
	}
	if i := slices.IndexFunc(p.out.Receive, func(c Carrier) bool { return c.Wire.Name == primary }); i > 0 {
		first := p.out.Receive[i]
		p.out.Receive = slices.Insert(slices.Delete(p.out.Receive, i, i+1), 0, first)
	}
	p.out.State.Carrier = primary
	p.out.Guess = p.guess
}

// only says whether all packets leave by wire.
func (p *planner) only(wire string) bool {
	for w := range p.Using {
		if w != wire {
			return false
		}
	}
	return p.Using != nil
}

// needed says whether there are hosts that wire is to lead to.
func (p *planner) needed(wire string) bool {
	return slices.ContainsFunc(p.groups, func(g *group) bool {
		var says []string
		for _, s := range p.says(g) {
			if p.has(s.wire) {
				says = append(says, s.wire)
			}
		}
		ways := p.out.ways(says)
		if len(ways) == 0 { // none that this host has spoken of so far
			ways = says
		}
		return len(ways) > 0 && ways[0] == wire
	})
}

// primary is the carrier that all are to know this host by.
func (p *planner) primary() string {
	joins := p.own == "" || !p.has(p.own)
	switch {
	case p.has(p.target) && p.everyone(p.target) && (joins || p.Placed[p.target] && p.only(p.target)):
		return p.target
	case !joins:
		return p.own
	}
	for _, g := range p.groups { // that of most others
		if says := p.says(g); len(says) > 0 && p.has(says[0].wire) {
			return says[0].wire
		}
	}
	return p.out.Receive[0].Wire.Name
}

// idle notes since when nobody speaks of sending by a carrier that is on its way
// out. It goes when this has been so for a while and a picture of it shows that
// this host has said that it receives by it no more: who has not spoken by then
// sees that before he sends.
func (p *planner) idle() {
	p.out.Idle = map[string]time.Time{}
	for _, c := range p.out.Receive {
		wire := c.Wire.Name
		if !p.Trusted || p.wanted(wire) {
			continue
		}
		since, ok := p.Idle[wire]
		if !ok {
			since = p.Now
		}
		p.out.Idle[wire] = since
		if end := since.Add(Grace); p.out.Wake.IsZero() || end.Before(p.out.Wake) {
			p.out.Wake = end
		}
	}
}

// describe tells people how far it is.
func (p *planner) describe() {
	s := &p.out.State
	c := p.Config.Wire.Name
	s.Config = c
	without := func(g *group) bool { return !p.lost(g) && !p.receives(g, c) }
	sender := func(g *group) bool {
		return slices.ContainsFunc(p.says(g), func(s saying) bool { return s.sends && s.wire != c })
	}
	old := slices.DeleteFunc(p.wires(), func(w string) bool { return w == c })
	switch {
	case p.blocked != nil:
		s.Phase, s.Why = Blocked, p.blocked.Error()+": restart flanneld on every host"
	case slices.ContainsFunc(p.groups, p.holds):
		s.Phase, s.Why = Held, fmt.Sprintf("on %s by %s: restart it with the new config, or remove it", p.target, p.holders())
	case !p.Placed[c] && !p.shown.lists(c) && !p.held.lists(c) && p.own != "":
		if s.Phase = Preparing; !p.has(c) {
			s.Why = "there is no room for it beside " + strings.Join(p.wires(), ", ") + ", which hosts may send by"
		}
	case slices.ContainsFunc(p.groups, without):
		s.Phase, s.Why = Receiving, "by both; waits for "+p.Others.names(without)
	case s.Carrier != c || slices.ContainsFunc(old, func(w string) bool { return p.Using[w] }):
		s.Phase = Sending
	case slices.ContainsFunc(p.groups, sender):
		s.Phase, s.Why = Keeping, strings.Join(old, ", ")+"; waits for "+p.Others.names(sender)
	case len(old) > 0:
		s.Phase, s.Why = Keeping, strings.Join(old, ", ")+" for a moment"
	default:
		s.Phase = Steady
	}
}

func (p *planner) wires() []string {
	var out []string
	for _, c := range p.out.Receive {
		out = append(out, c.Wire.Name)
	}
	return out
}

// holders names the hosts that hold all on their carrier.
func (p *planner) holders() string {
	kinds := map[bool]string{false: "plain flannel", true: "an older flanneld"}
	var out []string
	for _, ours := range slices.SortedFunc(maps.Keys(kinds), func(a, b bool) int { return cmp.Compare(kinds[b], kinds[a]) }) {
		names := p.Others.names(func(g *group) bool { return g.ours == ours && p.holds(g) })
		if names != "" {
			out = append(out, fmt.Sprintf("%s (%s)", names, kinds[ours]))
		}
	}
	return strings.Join(out, " and ")
}
