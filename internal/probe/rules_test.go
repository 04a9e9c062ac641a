package probe_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/driver/drivertest"
	"github.com/flannel-ng/flannel-ng/internal/driver/filter/ipt"
	"github.com/flannel-ng/flannel-ng/internal/driver/filter/nft"
	"github.com/flannel-ng/flannel-ng/internal/probe"
	"github.com/flannel-ng/flannel-ng/internal/reconcile"
	"github.com/flannel-ng/flannel-ng/internal/state"
)

// shell runs a command as a grandchild: children of this process are its own.
func shell(t *testing.T, command string) {
	t.Helper()
	if out, err := exec.CommandContext(t.Context(), "sh", "-c", command+"; exit $?").CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", command, err, out)
	}
}

// watchRules runs WatchRules on the test host.
func watchRules(t *testing.T) (*log, *probe.Children) {
	t.Helper()
	drivertest.Namespace(t)
	for _, tool := range []string{"nft", "iptables-nft"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("needs %s: %v", tool, err)
		}
	}
	tool, err := exec.LookPath("nft")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.Symlink(tool, filepath.Join(dir, "mark")); err != nil {
		t.Fatal(err)
	}
	t.Setenv("MARK", dir)
	var l log
	var children probe.Children
	w := probe.RuleWatcher{Tell: l.tell, Children: &children, Concerns: func(f addr.Family, table, chain string) bool {
		return table == "marks" || nft.Concerns(state.Owner{}, f, table, chain) || ipt.Concerns(state.Owner{}, table, chain)
	}}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	drivertest.Go(t, func() { done <- probe.WatchRules(ctx, w) })
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("watch rules: %v", err)
		}
	})
	until(t, "first news", func() bool { return l.count() > 0 })
	return &l, &children
}

// settleRules waits until all that happened so far has been told: notifications
// come in order. It returns what was told since the last time, but for marks.
func settleRules(t *testing.T, l *log) []probe.Change {
	t.Helper()
	before, start := l.seen, l.count()
	isMark := func(c probe.Change) bool { return strings.HasPrefix(c.By, "mark (process ") }
	marked := -1
	until(t, "mark", func() bool {
		if n := l.count(); n > marked { // the last one came together with other news
			marked = n
			shell(t, "PATH=$MARK:$PATH; mark 'add table ip marks; delete table ip marks'")
		}
		return slices.ContainsFunc(l.since(start), isMark)
	})
	l.seen = l.count()
	return slices.DeleteFunc(l.since(before), isMark)
}

func filterOf(mode state.FilterMode) *state.Set {
	network := state.Match{Prefix: netip.MustParsePrefix("10.5.0.0/16")}
	return &state.Set{Filters: []state.Filter{{
		Mode: mode, Family: addr.IPv4,
		Postrouting: []state.Rule{{Src: network, Dst: network, Verdict: state.Return}, {Src: network, Verdict: state.Masquerade}},
		Forward:     []state.Rule{{Src: network, Verdict: state.Accept}, {Dst: network, Verdict: state.Accept}},
	}}}
}

// Every change of rules that ours are among is told with who made it.
func TestWatchRules(t *testing.T) {
	l, _ := watchRules(t)
	for _, c := range []struct{ command, by string }{
		{"nft add table ip flannel-ipv4", "nft"},
		{"nft add chain ip flannel-ipv4 postrtg", "nft"},
		{"nft add rule ip flannel-ipv4 postrtg accept", "nft"},
		{"nft add set ip flannel-ipv4 s '{ type ipv4_addr; }'", "nft"},
		{"nft flush chain ip flannel-ipv4 postrtg", "nft"},
		{"nft delete table ip flannel-ipv4", "nft"},
		{"nft add table ip6 flannel-ipv6", "nft"},
		{"iptables-nft -A FORWARD -j ACCEPT", "iptables-nft"},
		{"iptables-nft -I FORWARD 1 -s 192.0.2.1 -j DROP", "iptables-nft"},
		{"iptables-nft -P FORWARD DROP", "iptables-nft"},
		{"iptables-nft -F FORWARD", "iptables-nft"},
		{"iptables-nft -N DOCKER-USER", "iptables-nft"},
		{"iptables-nft -A DOCKER-USER -j RETURN", "iptables-nft"},
		{"iptables-nft -N FLANNEL-FWD", "iptables-nft"},
		{"iptables-nft -X FLANNEL-FWD", "iptables-nft"},
		{"iptables-nft -t nat -N FLANNEL-POSTRTG", "iptables-nft"},
		{"iptables-nft -t nat -A POSTROUTING -j FLANNEL-POSTRTG", "iptables-nft"},
		{"iptables-nft -t nat -F", "iptables-nft"},
		{"iptables-nft -t nat -X FLANNEL-POSTRTG", "iptables-nft"},
		{"ip6tables-nft -A FORWARD -j ACCEPT", "ip6tables-nft"},
		{"nft flush ruleset", "nft"},
	} {
		before := l.count()
		shell(t, c.command)
		until(t, c.command, func() bool { return l.count() > before })
		if got := l.since(before)[0]; !got.Facts || got.Doubt || !strings.HasPrefix(got.By, c.by+" (process ") {
			t.Errorf("%s: %+v", c.command, got)
		}
	}
}

// What a proxy does in its own chains is not told.
func TestWatchRulesIsQuiet(t *testing.T) {
	l, _ := watchRules(t)
	shell(t, "iptables-nft -A FORWARD -j ACCEPT; iptables-nft -t nat -A POSTROUTING -j ACCEPT")
	settleRules(t, l)
	for _, command := range []string{
		"iptables-nft -t nat -N KUBE-SERVICES",
		"iptables-nft -t nat -A KUBE-SERVICES -d 192.0.2.1 -j ACCEPT",
		`printf '*nat\n:KUBE-SERVICES - [0:0]\n:KUBE-MARK-MASQ - [0:0]\n-A KUBE-MARK-MASQ -j MARK --or-mark 0x4000\nCOMMIT\n' | iptables-nft-restore --noflush`,
		"iptables-nft -A INPUT -j ACCEPT",
		"nft add table ip kube-proxy",
		"nft add table inet firewalld",
		"nft add table ip flannel-ipv4-0123ab",
		"nft delete table ip kube-proxy",
	} {
		shell(t, command)
		if told := settleRules(t, l); len(told) > 0 {
			t.Errorf("%s: %+v", command, told)
		}
	}
}

// What the drivers do, by netlink or by a tool, is no news: repairing does not
// ring for another repair.
func TestWatchRulesOfOurOwn(t *testing.T) {
	l, children := watchRules(t)
	discard := slog.New(slog.DiscardHandler)
	for _, c := range []struct {
		mode   state.FilterMode
		driver reconcile.Driver
	}{
		{state.ModeNFTables, nft.New(nft.Options{Log: discard})},
		{state.ModeIPTables, ipt.New(ipt.Options{Log: discard, Host: ipt.System{Started: children.Add}})},
	} {
		shell(t, "iptables-nft -A FORWARD -j ACCEPT; iptables-nft -t nat -A POSTROUTING -j ACCEPT")
		settleRules(t, l)
		for _, want := range []*state.Set{filterOf(c.mode), {}, filterOf(c.mode)} {
			changes, err := c.driver.Plan(t.Context(), want)
			if err != nil || len(changes) == 0 {
				t.Fatal(c.mode, changes, err)
			}
			for _, r := range c.driver.Apply(t.Context(), changes) {
				if r.Err != nil {
					t.Fatal(c.mode, r.Err)
				}
			}
			if told := settleRules(t, l); len(told) > 0 {
				t.Errorf("%s: %+v", c.mode, told)
			}
		}
		before := l.count()
		shell(t, "nft flush ruleset")
		until(t, "news of the flush", func() bool { return l.count() > before })
		settleRules(t, l)
	}
}

// Transactions that are too long for the socket are told, too.
func TestWatchRulesOverrun(t *testing.T) {
	l, _ := watchRules(t)
	release, held := make(chan struct{}), make(chan struct{})
	next := l.count() + 1
	l.mu.Lock()
	l.hold = func(n int) {
		if n == next {
			close(held)
			<-release
		}
	}
	l.mu.Unlock()
	shell(t, "nft add table ip flannel-ipv4")
	<-held
	file := batch(t, 25000, func(i int) string {
		if i == 0 {
			return "add table ip proxy; add chain ip proxy c"
		}
		return fmt.Sprintf("add rule ip proxy c ip saddr 192.0.2.1 tcp dport %d counter accept comment \"%0120d\"", i, i)
	})
	shell(t, "nft -f "+file)
	close(release)
	until(t, "news of the overrun", func() bool { return l.count() > next })
	if got := l.since(next)[0]; got != (probe.Change{Facts: true}) {
		t.Errorf("%+v", got)
	}
}
