package nft

import (
	"fmt"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/driver/filter"
	"github.com/flannel-ng/flannel-ng/internal/state"
)

// An accept in our own table ends our table only: another table's drop still
// drops. So where iptables-nft keeps "filter FORWARD", which Docker and ufw
// turn to DROP, our accepts stand there too. They stand there whatever the
// policy is at the moment: it turns with the start of a daemon, and waiting
// for the next pass would be an outage.

// home is the chain of others in which our rules belong now, or nil.
//
// DOCKER-USER is better than the end of FORWARD, because Docker drops what
// goes to its bridges unasked before that end. But it stands at the front,
// and an accept in it skips everything behind it in FORWARD. So it is chosen
// only if nothing but Docker's own rules would be skipped.
func (n names) home(rs ruleset) *chain {
	if rs.forward == nil || rs.docker == nil {
		return rs.forward
	}
	jumped := false
	for _, r := range rs.forward.rules {
		s := shapeOf(r.Exprs)
		switch {
		case !jumped:
			jumped = !s.conditional && s.verdict == expr.VerdictJump && s.target == hostDocker
		case n.isOurs(r):
		case s.stops():
			return rs.docker
		case s.mayRefuse():
			return rs.forward
		}
	}
	if jumped {
		return rs.docker
	}
	return rs.forward
}

// shape is what placement has to know of a foreign rule.
type shape struct {
	conditional bool
	verdict     expr.VerdictKind
	decides     bool   // has a verdict or target
	target      string // of a jump
}

func shapeOf(exprs []expr.Any) shape {
	var s shape
	for _, e := range exprs {
		switch e := e.(type) {
		case *expr.Counter, *expr.Log:
		case *expr.Verdict:
			s.decides, s.verdict, s.target = true, e.Kind, e.Chain
		case *expr.Reject:
			s.decides, s.verdict = true, expr.VerdictDrop
		case *expr.Target:
			s.decides, s.verdict = true, targetVerdict(e.Name)
		case *expr.Match:
			s.conditional = s.conditional || e.Name != "comment"
		default:
			s.conditional = true
		}
	}
	return s
}

// targetVerdict: of the xtables targets only REJECT ends a packet; the others
// (LOG, MARK, CT, …) let it go on.
func targetVerdict(name string) expr.VerdictKind {
	if name == "REJECT" {
		return expr.VerdictDrop
	}
	return expr.VerdictContinue
}

func (s shape) stops() bool {
	return s.decides && !s.conditional && (s.verdict == expr.VerdictDrop || s.verdict == expr.VerdictReturn)
}

// mayRefuse says whether the rule could be somebody's policy: anything but
// accepting, going on, Docker's own chains, and those of iptables mode, which
// another instance may use, or this one until a moment ago.
func (s shape) mayRefuse() bool {
	if !s.decides {
		return false
	}
	switch s.verdict {
	case expr.VerdictAccept, expr.VerdictContinue:
		return false
	case expr.VerdictJump, expr.VerdictGoto:
		return !strings.HasPrefix(s.target, "DOCKER") && !strings.HasPrefix(s.target, "FLANNEL-FWD")
	default:
		return true
	}
}

func (n names) compareHost(f addr.Family, want state.Filter, have ruleset) []string {
	home := n.home(have)
	var out []string
	for _, c := range []*chain{have.docker, have.forward} {
		if c == nil {
			continue
		}
		var rules []state.Rule
		if c == home {
			rules = want.Forward
		}
		out = append(out, n.compareHostChain(f, rules, *c)...)
	}
	return out
}

func (n names) compareHostChain(f addr.Family, want []state.Rule, have chain) []string {
	ours := n.ours(have)
	if len(ours) != len(want) {
		return []string{fmt.Sprintf("chain %s has %d rules of ours instead of %d", have.Name, len(ours), len(want))}
	}
	for i, w := range want {
		if h, ok := decode(f, ours[i].Exprs); !ok || h != w {
			return []string{fmt.Sprintf("chain %s: rule %d of ours is another", have.Name, i+1)}
		}
	}
	if !filter.Reached(n.lines(have)) {
		return []string{fmt.Sprintf("chain %s: our rules are not reached", have.Name)}
	}
	return nil
}

func (n names) ours(c chain) []*nftables.Rule {
	var out []*nftables.Rule
	for _, r := range c.rules {
		if n.isOurs(r) {
			out = append(out, r)
		}
	}
	return out
}

func (n names) lines(c chain) []filter.Line {
	out := make([]filter.Line, len(c.rules))
	for i, r := range c.rules {
		out[i] = filter.Line{Ours: n.isOurs(r), Stops: shapeOf(r.Exprs).stops()}
	}
	return out
}

// replaceHostRules queues the removal of our rules from all chains of others
// and puts the wanted ones into their home.
func (n names) replaceHostRules(conn *nftables.Conn, f addr.Family, want state.Filter, have ruleset) {
	for _, c := range []*chain{have.docker, have.forward} {
		if c == nil {
			continue
		}
		for _, r := range n.ours(*c) {
			// The error is about a zero handle, which no read rule has.
			_ = conn.DelRule(r)
		}
	}
	home := n.home(have)
	if home == nil {
		return
	}
	before := n.stopper(*home)
	for _, w := range want.Forward {
		r := &nftables.Rule{
			Table: &nftables.Table{Name: hostTable, Family: tableFamily(f)}, Chain: home.Chain,
			Exprs: render(w), UserData: n.userData(),
		}
		if before == nil {
			conn.AddRule(r)
			continue
		}
		r.Position = before.Handle
		conn.InsertRule(r)
	}
}

// stopper is the foreign rule just before which ours belong; nil: at the end.
func (n names) stopper(c chain) *nftables.Rule {
	var foreign []*nftables.Rule
	for _, r := range c.rules {
		if !n.isOurs(r) {
			foreign = append(foreign, r)
		}
	}
	if i := filter.Place(n.lines(c)); i < len(foreign) {
		return foreign[i]
	}
	return nil
}
