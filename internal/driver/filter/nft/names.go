package nft

import (
	"bytes"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"github.com/google/nftables/xt"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/driver/filter"
	"github.com/flannel-ng/flannel-ng/internal/state"
)

// The chains of our tables, and those of others that we add rules to.
const (
	chainNAT     = "postrtg"
	chainForward = "forward"

	hostTable   = "filter"
	hostForward = "FORWARD"
	hostDocker  = "DOCKER-USER"
)

// names knows what the objects of one owner are called.
type names struct{ suffix string }

func tableFamily(f addr.Family) nftables.TableFamily {
	if f == addr.IPv4 {
		return nftables.TableFamilyIPv4
	}
	return nftables.TableFamilyIPv6
}

func (n names) table(f addr.Family) *nftables.Table {
	name := "flannel-ipv6"
	if f == addr.IPv4 {
		name = "flannel-ipv4"
	}
	return &nftables.Table{Name: name + n.suffix, Family: tableFamily(f)}
}

// comment marks our rules in chains of others. It names the owner, because
// several owners share those chains.
func (n names) comment() string { return filter.ForwardComment + n.suffix }

func (n names) userData() []byte {
	return userdata.AppendString(nil, userdata.TypeComment, n.comment())
}

// isOurs says whether a rule in a chain of others is ours: it accepts, and
// carries our comment in nft's form or in the one into which iptables-restore
// turns it. The jump of iptables mode has the same comment and is not.
func (n names) isOurs(r *nftables.Rule) bool {
	marked := bytes.Equal(r.UserData, n.userData())
	accepts := false
	for _, e := range r.Exprs {
		switch e := e.(type) {
		case *expr.Match:
			c, ok := e.Info.(*xt.Comment)
			marked = marked || ok && string(*c) == n.comment()
		case *expr.Verdict:
			accepts = e.Kind == expr.VerdictAccept
		}
	}
	return marked && accepts
}

// wantedChain is a chain of our table with its rules.
type wantedChain struct {
	chain *nftables.Chain
	rules []state.Rule
}

// chains lists what our table has to contain for want.
func (n names) chains(f addr.Family, want state.Filter) []wantedChain {
	accept := nftables.ChainPolicyAccept
	var out []wantedChain
	if len(want.Postrouting) > 0 {
		out = append(out, wantedChain{rules: want.Postrouting, chain: &nftables.Chain{
			Name: chainNAT, Table: n.table(f), Type: nftables.ChainTypeNAT, Policy: &accept,
			Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource,
		}})
	}
	if len(want.Forward) > 0 {
		out = append(out, wantedChain{rules: want.Forward, chain: &nftables.Chain{
			Name: chainForward, Table: n.table(f), Type: nftables.ChainTypeFilter, Policy: &accept,
			Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter,
		}})
	}
	return out
}
