package probe

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/nl"
)

// RuleWatcher is who is told of changed firewall rules.
type RuleWatcher struct {
	// Tell says that rules changed that ours are among, or stand beside. There
	// is no doubt about anything else.
	Tell func(Change)
	// Concerns says whether rules of ours are, or belong, in a chain; chain "":
	// whether anything of ours is in the table. It must not block.
	Concerns func(f addr.Family, table, chain string) bool
	// Children are the programs that this process changed rules with.
	Children *Children
}

// WatchRules tells w whenever anybody but this process changes rules that matter,
// until ctx ends or notifications cannot be had. Lost ones are told, too.
//
// The kernel tells of nftables only, which iptables-nft writes as well. Legacy
// iptables is left to the periodic pass.
func WatchRules(ctx context.Context, w RuleWatcher) error {
	for {
		s, err := nl.SubscribeRules()
		if err != nil {
			return err
		}
		err = w.listen(ctx, s)
		_ = s.Close()
		switch {
		case errors.Is(err, nl.ErrOverrun):
		case errors.Is(err, ctx.Err()):
			return nil
		default:
			return err
		}
	}
}

func (w RuleWatcher) listen(ctx context.Context, s *nl.RuleSubscription) error {
	touched := false // by the transaction on its way
	for change := (Change{Facts: true}); ; {
		if change.matters() {
			w.Tell(change)
		}
		change = Change{}
		err := s.Receive(ctx, nl.RuleVisitor{
			Changed: func(c nl.RuleChange) {
				touched = touched || c.Table == "" || w.Concerns(c.Family, c.Table, c.Chain)
			},
			Committed: func(c nl.Commit) {
				if touched && !c.Own && !w.Children.had(int(c.Port)) {
					change.add(Change{Facts: true, By: committer(c)})
				}
				touched = false
			},
		})
		if err != nil {
			return err
		}
	}
}

// committer names who made a transaction: the kernel tells the name, too.
func committer(c nl.Commit) string {
	if c.Process == 0 {
		return ""
	}
	return describe(c.Process, printable(c.Name))
}

// Children remembers programs that this process ran, for a while: a notification
// may come when they have ended. It is safe for concurrent use.
type Children struct {
	mu   sync.Mutex
	last []child
}

type child struct {
	number int
	since  time.Time
}

const (
	childrenKept = 64
	// childTime is how long a child counts at most: after that its number may
	// be another's.
	childTime = time.Minute
)

// Add notes that a program was started.
func (c *Children) Add(number int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last = append(c.last, child{number, time.Now()})
	if len(c.last) > childrenKept {
		c.last = append([]child(nil), c.last[1:]...)
	}
}

// had says whether that was a child. One that was started this moment may not be
// noted yet, but it is still there then: nobody waited for it.
func (c *Children) had(number int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, k := range c.last {
		if k.number == number && time.Since(k.since) < childTime {
			return true
		}
	}
	return parentOf(number) == os.Getpid()
}

// parentOf reads the number of a process' parent; 0: not known.
func parentOf(number int) int {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", number))
	if err != nil {
		return 0
	}
	// pid (comm) state ppid …, and comm may contain anything.
	_, rest, _ := strings.Cut(string(raw[strings.LastIndexByte(string(raw), ')')+1:]), " ")
	var status string
	var parent int
	if _, err := fmt.Sscan(rest, &status, &parent); err != nil {
		return 0
	}
	return parent
}
