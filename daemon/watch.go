package daemon

import (
	"context"
	"time"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/driver/filter/ipt"
	"github.com/flannel-ng/flannel-ng/internal/driver/filter/nft"
	"github.com/flannel-ng/flannel-ng/internal/driver/route"
	"github.com/flannel-ng/flannel-ng/internal/probe"
	"github.com/flannel-ng/flannel-ng/internal/state"
)

// watchKernel rings when something changes that this host's facts or objects
// depend on. Without it every change still is found, by the next periodic pass
// that reads all.
func (p *parts) watchKernel(ctx context.Context) error {
	w := probe.Watcher{
		Tell: p.tell, Wants: p.engine.Wants, Wanted: p.engine.Wanted, Device: p.world.device, Carries: p.world.carries,
		Nexthop: func(id uint32) bool { return route.Reserved(p.world.owner, id) },
	}
	return p.watch(ctx, func() error { return probe.Watch(ctx, w) })
}

// watchRules rings when somebody changes firewall rules that ours are among.
func (p *parts) watchRules(ctx context.Context) error {
	owner := p.world.owner
	w := probe.RuleWatcher{Tell: p.tell, Children: &p.children, Concerns: func(f addr.Family, table, chain string) bool {
		return nft.Concerns(owner, f, table, chain) || ipt.Concerns(owner, table, chain)
	}}
	return p.watch(ctx, func() error { return probe.WatchRules(ctx, w) })
}

// watch keeps a subscription going. A kernel that lacks what it takes says so
// every time, and is told of once.
func (p *parts) watch(ctx context.Context, subscribe func() error) error {
	told := ""
	for ctx.Err() == nil {
		if err := subscribe(); err != nil && err.Error() != told {
			told = err.Error()
			p.log.Warn("kernel notifications ended, subscribing again", "err", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(resubscribe):
		}
	}
	return nil
}

// tell rings for a change that somebody made.
func (p *parts) tell(c probe.Change) {
	p.log.Debug("changed from outside", "facts", c.Facts, "doubt", c.Doubt, "by", c.By)
	if c.Facts {
		p.engine.RingBy(c.By)
	}
	switch {
	case !c.Doubt:
	case c.Of == state.Key{}:
		p.engine.DoubtBy(c.By)
	default:
		p.engine.DoubtOf(c.Of, c.By)
	}
}
