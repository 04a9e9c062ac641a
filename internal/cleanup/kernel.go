package cleanup

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/config"
	drivers "github.com/flannel-ng/flannel-ng/internal/driver/all"
	"github.com/flannel-ng/flannel-ng/internal/driver/filter/ipt"
	"github.com/flannel-ng/flannel-ng/internal/driver/filter/nft"
	"github.com/flannel-ng/flannel-ng/internal/driver/hook"
	"github.com/flannel-ng/flannel-ng/internal/driver/route"
	"github.com/flannel-ng/flannel-ng/internal/driver/sysctl"
	"github.com/flannel-ng/flannel-ng/internal/reconcile"
	"github.com/flannel-ng/flannel-ng/internal/state"
	"github.com/flannel-ng/flannel-ng/internal/store/lastgood"
	"github.com/flannel-ng/flannel-ng/internal/subnetenv"
	"github.com/flannel-ng/flannel-ng/internal/tunnel"
)

// passes is how often what failed is tried: once more, because an object may
// have stood in another one's way.
const passes = 2

// findNetworks collects the cluster networks: they tell our routes on a foreign
// link that have no nexthop object of ours. Files that cannot be read are no
// obstacle; what is missed for that is named by others.
func (c *cleaner) findNetworks() []netip.Prefix {
	out := slices.Clone(c.o.Networks)
	if raw, err := os.ReadFile(c.o.SubnetFile); err == nil {
		env, _ := subnetenv.Parse(raw) // what can be read
		for _, f := range addr.Families() {
			out = append(out, env.Networks.At(f))
		}
	}
	if raw, err := lastgood.Config(c.picture()); err == nil && raw != nil {
		if n, err := config.Parse(raw); err == nil {
			for _, f := range n.Families() {
				out = append(out, n.Pools.At(f).Network)
			}
		}
	}
	return slices.DeleteFunc(out, func(p netip.Prefix) bool { return !p.IsValid() })
}

func (c *cleaner) picture() string { return filepath.Join(c.o.StateDir, lastgood.FileName) }

// drivers are those of everything but switches, with both kinds of firewall:
// which one was in use last does not matter.
func (c *cleaner) drivers() ([]reconcile.Driver, *hook.Driver) {
	hooks := hook.New(hook.Options{
		Journal: state.HookJournal(c.o.SubnetFile), Allowed: c.o.AllowExtension, Wake: func() {}, Log: c.o.Log,
	})
	all := drivers.All(drivers.Options{
		Owner: c.owner, Networks: c.networks, Wake: func() {}, Log: c.o.Log,
		Forwarder: tunnel.Process{Socket: state.TunnelSocket(c.o.SubnetFile), Build: c.o.Build},
	})
	return append(all,
		nft.New(nft.Options{Owner: c.owner, Log: c.o.Log}),
		ipt.New(ipt.Options{Owner: c.owner, Log: c.o.Log}),
		hooks,
	), hooks
}

// kernel removes what drivers know as ours.
func (c *cleaner) kernel(ctx context.Context) {
	all, hooks := c.drivers()
	defer func() { c.failed("connections of the cleanup", reconcile.Close(all)) }()
	var out reconcile.Outcome
	for range passes {
		out = reconcile.Execute(ctx, all, &state.Set{}, true)
		hooks.Wait()
		c.done(out, Removed)
		if len(out.Failed())+len(out.Unread) == 0 {
			break
		}
	}
	c.missed(out)
	c.elsewhere(ctx, nil)
}

// done says what was successful.
func (c *cleaner) done(out reconcile.Outcome, a Act) {
	for _, r := range out.Results {
		if r.Err == nil {
			c.say(a, r.Object.String(), "")
		}
	}
	for s, n := range out.More {
		c.say(a, fmt.Sprintf("%d more of kind %s", n, s.Kind), "")
		c.report.Done += n - 1
	}
}

// missed says what was not.
func (c *cleaner) missed(out reconcile.Outcome) {
	for _, r := range out.Failed() {
		c.failed(r.Object.String(), r.Err)
	}
	for _, k := range slices.Sorted(maps.Keys(out.Unread)) {
		c.failed("all of kind "+string(k), out.Unread[k])
	}
}

// elsewhere names routes with our mark that nothing tells to be this flanneld's:
// the networks are not known, or another flanneld made them. Those on links that
// go are no question.
func (c *cleaner) elsewhere(ctx context.Context, going map[string]bool) {
	everything := []netip.Prefix{
		netip.PrefixFrom(netip.IPv4Unspecified(), 0), netip.PrefixFrom(netip.IPv6Unspecified(), 0),
	}
	d := route.New(route.Options{Owner: c.owner, Networks: everything})
	changes, err := d.Plan(ctx, &state.Set{})
	if err != nil {
		return // said before
	}
	mine, err := route.New(route.Options{Owner: c.owner, Networks: c.networks}).Plan(ctx, &state.Set{})
	if err != nil {
		return
	}
	known := map[state.Key]bool{}
	for _, ch := range mine {
		known[ch.Object.Key()] = true
	}
	for _, ch := range changes {
		if !known[ch.Object.Key()] && !onAny(ch.Object, going) {
			c.say(Left, ch.Object.String(), "it is flannel-ng's, but in no known network of this flanneld: give it with --network if it is")
		}
	}
}

// switches sets back what is as this flanneld set it. The links have gone by now,
// and their switches with them.
func (c *cleaner) switches(ctx context.Context) {
	o := c.switchOptions()
	c.keptSwitches(o)
	if o.Restore {
		out := reconcile.Execute(ctx, []reconcile.Driver{sysctl.New(o)}, &state.Set{}, true)
		c.done(out, Restored)
		c.missed(out)
		if len(out.Failed())+len(out.Unread) > 0 {
			return
		}
	}
	if known, err := sysctl.Known(o.Record, c.owner); err != nil || !known {
		c.failed("record of switches", err)
		return
	}
	err := sysctl.Forget(o.Record, c.owner)
	if err != nil {
		c.failed("record of switches", err)
	} else if !exists(o.Record) {
		c.say(Removed, "file "+o.Record, "")
	}
}

func (c *cleaner) switchOptions() sysctl.Options {
	return sysctl.Options{Record: state.SwitchRecord(c.o.SubnetFile), Owner: c.owner, Restore: !c.o.KeepForwarding}
}

func (c *cleaner) keptSwitches(o sysctl.Options) {
	kept, err := sysctl.Keeps(o.Record, c.owner)
	c.failed("record of switches", err)
	for _, k := range kept {
		c.say(Left, k.Path, k.Why)
	}
}

// plan is what kernel and switches would do.
func (c *cleaner) plan(ctx context.Context) (removals, restores []reconcile.Change, err error) {
	all, _ := c.drivers()
	removals, err = reconcile.Plan(ctx, all, &state.Set{})
	err = errors.Join(err, reconcile.Close(all))
	if c.o.KeepForwarding {
		return removals, nil, err
	}
	links := linksOf(removals)
	restores, restoreErr := sysctl.New(c.switchOptions()).Plan(ctx, &state.Set{})
	restores = slices.DeleteFunc(restores, func(ch reconcile.Change) bool { return links[state.On(ch.Object)] })
	return removals, restores, errors.Join(err, restoreErr)
}

// onAny says whether a found route leads by one of links. What drivers find is of
// their own types: the text has its link.
func onAny(o state.Object, links map[string]bool) bool {
	words := strings.Fields(o.String())
	i := slices.Index(words, "dev")
	return i >= 0 && i+1 < len(words) && links[words[i+1]]
}

// linksOf names the links that go.
func linksOf(removals []reconcile.Change) map[string]bool {
	links := map[string]bool{}
	for _, ch := range removals {
		if ch.Object.Key().Kind == state.KindLink {
			links[ch.Object.Key().Name] = true
		}
	}
	return links
}

// anything says whether there is something to do, or that cannot be told.
func (c *cleaner) anything(ctx context.Context) bool {
	removals, restores, err := c.plan(ctx)
	known, knownErr := sysctl.Known(state.SwitchRecord(c.o.SubnetFile), c.owner)
	return err != nil || knownErr != nil || known || len(removals)+len(restores)+len(c.present()) > 0
}

// preview says what a cleanup would do.
func (c *cleaner) preview(ctx context.Context) {
	removals, restores, err := c.plan(ctx)
	for _, ch := range slices.Backward(removals) {
		c.say(Removed, ch.Object.String(), "")
	}
	for _, ch := range restores {
		c.say(Restored, ch.Object.String(), "")
	}
	c.failed("reading", err)
	if !c.o.KeepForwarding {
		c.keptSwitches(c.switchOptions())
	}
	for _, f := range c.present() {
		c.say(Removed, "file "+f, "")
	}
	c.elsewhere(ctx, linksOf(removals))
	c.strangers()
}
