package chaos

import (
	"context"
	"fmt"
	"strings"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/lab"
)

// The firewall, emptied, reordered and restarted by others.
func firewallFaults() []fault {
	return []fault{
		{name: "nft flush ruleset", inject: script("nft flush ruleset"), gone: rulesOfOurs, undo: replant},
		{name: "iptables -F and -X in nat and filter", gone: rulesOfOurs, undo: replant, inject: eachTool(
			"TOOL -F", "TOOL -t nat -F", "TOOL -X", "TOOL -t nat -X")}, // -X of iptables-nft takes FORWARD along
		{name: "our table deleted", applies: nft, inject: eachFamily("nft delete table FAMILY flannel-TABLE")},
		{name: "our jump removed", applies: ipt, inject: eachTool(
			`TOOL -S FORWARD | grep -i flannel | sed s/^-A/-D/ | xargs -L1 TOOL`,
			`TOOL -t nat -S POSTROUTING | grep -i flannel | sed s/^-A/-D/ | xargs -L1 TOOL -t nat`)},
		{name: "our accepts in FORWARD removed", applies: nft, inject: eachTool(
			`TOOL -S FORWARD | grep -i flannel | sed s/^-A/-D/ | xargs -L1 TOOL`)},
		{
			name: "our rules behind an unconditional DROP", inject: eachTool("TOOL -I FORWARD -j DROP"),
			gone: aheadOf("DROP"), undo: eachTool("TOOL -D FORWARD -j DROP"),
		},
		{name: "rule inserted between ours", applies: nft, inject: eachFamily("nft insert rule FAMILY flannel-TABLE postrtg counter accept")},
		{name: "rule inserted between ours", applies: ipt, inject: eachTool("TOOL -t nat -I FLANNEL-POSTRTG 2 -j RETURN")},
		{name: "our rules in another order", applies: ipt, inject: eachTool(
			`r=$(TOOL -t nat -S FLANNEL-POSTRTG 1 | sed s/^-A/-D/); eval TOOL -t nat $r; eval TOOL -t nat $(echo "$r" | sed s/^-D/-A/)`)},
		{
			name: "firewalld restarted", inject: script(firewalldStarts), gone: aheadOf("REJECT"),
			undo: both(script(firewalldStops), replant),
		},
		{
			name: "Docker started", inject: func(ctx context.Context, t *trial) error { return t.host.Docker(ctx) },
			gone: pastDocker, undo: both(script(dockerStops), replant),
		},
	}
}

func nft(v variant) bool { return v.firewall == lab.NFTables }

func ipt(v variant) bool { return v.firewall == lab.IPTables }

// firewalldStarts is what firewalld does with its iptables backend: it flushes
// all and ends FORWARD with a REJECT.
const firewalldStarts = `
for t in iptables ip6tables; do
	$t -F; $t -t nat -F; $t -X; $t -t nat -X
	$t -N FORWARD_direct
	$t -A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
	$t -A FORWARD -i lo -j ACCEPT
	$t -A FORWARD -j FORWARD_direct
	$t -A FORWARD -m conntrack --ctstate INVALID -j DROP
	$t -A FORWARD -j REJECT
done`

const firewalldStops = `
for t in iptables ip6tables; do
	$t -D FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
	$t -D FORWARD -i lo -j ACCEPT
	$t -D FORWARD -j FORWARD_direct
	$t -D FORWARD -m conntrack --ctstate INVALID -j DROP
	$t -D FORWARD -j REJECT
	$t -X FORWARD_direct
done`

const dockerStops = `
for t in iptables ip6tables; do
	$t -P FORWARD ACCEPT
	$t -D FORWARD -j DOCKER-USER; $t -D FORWARD -j DOCKER-FORWARD
	$t -F DOCKER-USER; $t -F DOCKER-FORWARD; $t -X DOCKER-USER; $t -X DOCKER-FORWARD
done`

func script(text string) func(context.Context, *trial) error {
	return func(ctx context.Context, t *trial) error { return t.host.Feed(ctx, text, "sh", "-s") }
}

// eachTool runs lines of sh for the iptables of every family, or of that whose
// turn it is not.
func eachTool(lines ...string) func(context.Context, *trial) error {
	return func(ctx context.Context, t *trial) error {
		var all []string
		for _, f := range t.families() {
			for _, line := range lines {
				all = append(all, strings.ReplaceAll(line, "TOOL", iptables(f)))
			}
		}
		return script(strings.Join(all, "\n"))(ctx, t)
	}
}

// eachFamily does the same for nft.
func eachFamily(line string) func(context.Context, *trial) error {
	return func(ctx context.Context, t *trial) error {
		var all []string
		for _, f := range t.families() {
			words := strings.NewReplacer("FAMILY", "ip", "TABLE", "ipv4")
			if f == addr.IPv6 {
				words = strings.NewReplacer("FAMILY", "ip6", "TABLE", "ipv6")
			}
			all = append(all, words.Replace(line))
		}
		return script(strings.Join(all, "\n"))(ctx, t)
	}
}

func both(first, second func(context.Context, *trial) error) func(context.Context, *trial) error {
	return func(ctx context.Context, t *trial) error {
		if err := first(ctx, t); err != nil {
			return err
		}
		return second(ctx, t)
	}
}

// rulesOfOurs demands all but the rules in a FORWARD that is gone with its
// owner: they come back with it.
func rulesOfOurs(ctx context.Context, t *trial) error {
	return t.asBefore(ctx, func(line string) bool {
		return t.firewall == lab.NFTables && strings.Contains(line, "chain FORWARD")
	})
}

// aheadOf demands that packets of the cluster meet our rule in FORWARD before
// the one that stops everything.
func aheadOf(verdict string) func(context.Context, *trial) error {
	return func(ctx context.Context, t *trial) error {
		for _, f := range t.families() {
			out, err := t.host.Run(ctx, iptables(f), "-S", "FORWARD")
			if err != nil {
				return err
			}
			if !ahead(out, "-A FORWARD -j "+verdict) {
				return fmt.Errorf("%s: not ahead of %s:\n%s", iptables(f), verdict, out)
			}
		}
		return nil
	}
}

// ahead says whether all rules of flannel's come before the one that begins so.
func ahead(rules, stop string) bool {
	ours, theirs := -1, -1
	for i, line := range strings.Split(rules, "\n") {
		switch {
		case flannels(line):
			ours = i
		case strings.HasPrefix(line, stop):
			theirs = i
		}
	}
	return ours >= 0 && theirs > ours
}

// pastDocker demands a rule of ours where Docker's policy DROP cannot undo it.
func pastDocker(ctx context.Context, t *trial) error {
	for _, f := range t.families() {
		out, err := t.host.Run(ctx, iptables(f), "-S")
		if err != nil {
			return err
		}
		if !strings.Contains(out, "-P FORWARD DROP") || !flannels(out) {
			return fmt.Errorf("%s: nothing of flannel's beside Docker:\n%s", iptables(f), out)
		}
	}
	return nil
}

// Switches below /proc/sys, reset.
func sysctlFaults() []fault {
	set := func(lines ...string) func(context.Context, *trial) error {
		return func(_ context.Context, t *trial) error {
			var all []string
			for _, line := range lines {
				all = append(all, strings.ReplaceAll(line, "DEV", t.device()))
			}
			return t.host.Sysctl(all...)
		}
	}
	four := func(v variant) bool { return v.has(addr.IPv4) }
	six := func(v variant) bool { return v.has(addr.IPv6) }
	sixth := func(v variant) bool { return v.family == "6" && v.tunnels() }
	return []fault{
		{name: "forwarding of the uplink off", inject: set("ipv4/conf/eth0/forwarding=0"), applies: four, slow: true},
		{
			name: "forwarding of the tunnel off", inject: set("ipv4/conf/DEV/forwarding=0"), slow: true,
			applies: func(v variant) bool { return v.tunnels() && v.family == "4" },
		},
		{name: "IPv6 forwarding off", inject: set("ipv6/conf/all/forwarding=0"), applies: six, slow: true},
		{name: "accept_ra of the tunnel on", inject: set("ipv6/conf/DEV/accept_ra=1"), applies: sixth, slow: true},
		{
			name: "rp_filter of the tunnel strict", inject: set("ipv4/conf/DEV/rp_filter=1"), slow: true,
			applies: func(v variant) bool { return v.tunnels() && v.family == "4" },
		},
	}
}
