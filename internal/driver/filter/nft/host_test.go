package nft_test

import (
	"log/slog"
	"os"
	"strings"
	"testing"

	"github.com/flannel-ng/flannel-ng/internal/driver/filter/filtertest"
	"github.com/flannel-ng/flannel-ng/internal/driver/filter/nft"
	"github.com/flannel-ng/flannel-ng/internal/state"
	"github.com/flannel-ng/flannel-ng/internal/traffic/traffictest"
)

func newDriver() *nft.Driver {
	return nft.New(nft.Options{Log: slog.New(slog.DiscardHandler)})
}

// TestHostRules checks in which chain of others our pair stands, and where.
func TestHostRules(t *testing.T) {
	filtertest.Need(t, "iptables", "nft")
	const pair = `-s 10.5.0.0/16 -m comment --comment "flanneld forward" -j ACCEPT|` +
		`-d 10.5.0.0/16 -m comment --comment "flanneld forward" -j ACCEPT`
	for _, c := range []struct {
		name  string
		setup []string
		chain string
		want  string // rules of that chain, joined
	}{
		{"no chain", nil, "", ""},
		{"appended", []string{"iptables -A FORWARD -i x -j DROP"}, "FORWARD", "-i x -j DROP|" + pair},
		{
			"before reject",
			[]string{"iptables -A FORWARD -i x -j ACCEPT", "iptables -A FORWARD -j REJECT"},
			"FORWARD",
			"-i x -j ACCEPT|" + pair + "|-j REJECT --reject-with icmp-port-unreachable",
		},
		{
			"comment is no condition",
			[]string{"iptables -A FORWARD -m comment --comment all -j DROP"},
			"FORWARD",
			pair + "|-m comment --comment all -j DROP",
		},
		{
			"docker",
			[]string{
				"iptables -N DOCKER-USER", "iptables -A FORWARD -j DOCKER-USER",
				"iptables -A DOCKER-USER -s 192.0.2.1 -j DROP", "iptables -A DOCKER-USER -j RETURN",
			},
			"DOCKER-USER",
			"-s 192.0.2.1/32 -j DROP|" + pair + "|-j RETURN",
		},
		{
			"docker not reached",
			[]string{"iptables -N DOCKER-USER", "iptables -A FORWARD -i x -j ACCEPT"},
			"FORWARD",
			"-i x -j ACCEPT|" + pair,
		},
		{
			"policy behind docker",
			[]string{
				"iptables -N DOCKER-USER", "iptables -N policy",
				"iptables -A FORWARD -j DOCKER-USER", "iptables -A FORWARD -j policy",
			},
			"FORWARD",
			"-j DOCKER-USER|-j policy|" + pair,
		},
		{
			"refusal behind docker",
			[]string{
				"iptables -N DOCKER-USER",
				"iptables -A FORWARD -j DOCKER-USER", "iptables -A FORWARD -i x -j DROP",
			},
			"FORWARD",
			"-j DOCKER-USER|-i x -j DROP|" + pair,
		},
		{"policy before docker", []string{
			"iptables -N DOCKER-USER", "iptables -N policy",
			"iptables -A FORWARD -j policy", "iptables -A FORWARD -j DOCKER-USER",
		}, "DOCKER-USER", pair},
	} {
		t.Run(c.name, func(t *testing.T) {
			ns := filtertest.NewSpace(t)
			ns.Sh(t, c.setup...)
			d, want := newDriver(), traffictest.Want(state.ModeNFTables)
			filtertest.Converge(t, ns, d, want)
			if did := filtertest.Pending(t, ns, newDriver(), want); len(did) > 0 {
				t.Errorf("still wants to change: %v", did)
			}
			if c.chain == "" {
				if out := ns.Sh(t, "iptables-save"); out != "" {
					t.Errorf("a table was made: %s", out)
				}
				return
			}
			if got := rulesOf(t, ns, c.chain); got != c.want {
				t.Errorf("chain %s:\n%s\nwant:\n%s", c.chain, got, c.want)
			}
		})
	}
}

func rulesOf(t *testing.T, ns *filtertest.Space, chain string) string {
	t.Helper()
	var out []string
	for line := range strings.Lines(ns.Sh(t, "iptables-save -t filter")) {
		if rule, ok := strings.CutPrefix(strings.TrimSpace(line), "-A "+chain+" "); ok {
			out = append(out, rule)
		}
	}
	return strings.Join(out, "|")
}

// TestHostRulesRepaired damages the pair and the chain around it.
func TestHostRulesRepaired(t *testing.T) {
	filtertest.Need(t, "iptables", "nft")
	ns, d := filtertest.NewSpace(t), newDriver()
	want := traffictest.Want(state.ModeNFTables)
	ns.Sh(t, "iptables -P FORWARD DROP")
	filtertest.Converge(t, ns, d, want)
	before := rulesOf(t, ns, "FORWARD")
	for name, lines := range map[string][]string{
		"one deleted":   {"iptables -D FORWARD 1"},
		"all deleted":   {"iptables -F FORWARD"},
		"doubled":       {`iptables -A FORWARD -d 10.5.0.0/16 -m comment --comment "flanneld forward" -j ACCEPT`},
		"other network": {"iptables -D FORWARD 1", `iptables -I FORWARD -s 10.6.0.0/16 -m comment --comment "flanneld forward" -j ACCEPT`},
	} {
		ns.Sh(t, lines...)
		if rulesOf(t, ns, "FORWARD") == before {
			t.Fatalf("%s: changed nothing", name)
		}
		filtertest.Converge(t, ns, d, want)
		if after := rulesOf(t, ns, "FORWARD"); after != before {
			t.Errorf("%s: repaired to %s", name, after)
		}
	}
	// Tools that save and restore rules write ours in another form.
	ns.Sh(t, "iptables-save >/tmp/$$.rules", "iptables-restore </tmp/$$.rules", "rm /tmp/$$.rules")
	if did := filtertest.Pending(t, ns, d, want); len(did) > 0 {
		t.Errorf("after save and restore: %v", did)
	}
	filtertest.Converge(t, ns, d, &state.Set{})
	if left := rulesOf(t, ns, "FORWARD"); left != "" {
		t.Errorf("left over: %s", left)
	}
}

// TestTakeover starts on the table that plain flannel leaves behind.
func TestTakeover(t *testing.T) {
	filtertest.Need(t, "nft")
	recorded, err := os.ReadFile("testdata/flannel.nft")
	if err != nil {
		t.Fatal(err)
	}
	ns, d := filtertest.NewSpace(t), newDriver()
	ns.Sh(t, "nft -f - <<'END'\n"+string(recorded)+"\nEND")
	want := traffictest.Want(state.ModeNFTables)
	did := filtertest.Converge(t, ns, d, want)
	if len(did) != 2 || !strings.Contains(did[0], "update filter nftables IPv4") ||
		!strings.Contains(did[0], "chain postrtg: rule 1 is another and 1 more") {
		t.Errorf("took over with %v; want the two rules that mean something else to be seen", did)
	}
	if did := filtertest.Pending(t, ns, d, want); len(did) > 0 {
		t.Errorf("still wants to change: %v", did)
	}
}

func TestWarnings(t *testing.T) {
	filtertest.Need(t, "nft", "iptables", "iptables-legacy", "iptables-legacy-save")
	ns, d := filtertest.NewSpace(t), newDriver()
	want := traffictest.Want(state.ModeNFTables)
	if got := warnings(t, ns, d, want); len(got) != 0 {
		t.Errorf("on an empty host: %v", got)
	}
	ns.Sh(t, "iptables -P FORWARD DROP", "nft 'table inet wall { chain gate { type filter hook forward priority 0; policy drop; }; }'",
		"iptables-legacy -P FORWARD DROP")
	got := strings.Join(warnings(t, ns, d, want), "\n")
	for _, chain := range []string{"nftables chain inet wall gate", "legacy iptables chain FORWARD (IPv4)", "10.5.0.0/16", "fc00:5::/48"} {
		if !strings.Contains(got, chain) {
			t.Errorf("%s is not named:\n%s", chain, got)
		}
	}
	if strings.Contains(got, "ip filter FORWARD") || strings.Contains(got, "legacy iptables chain FORWARD (IPv6)") {
		t.Errorf("names a chain that does not stop us:\n%s", got)
	}
	if got := warnings(t, ns, d, &state.Set{}); len(got) != 0 {
		t.Errorf("with nothing wanted: %v", got)
	}
}

func warnings(t *testing.T, ns *filtertest.Space, d *nft.Driver, want *state.Set) []string {
	t.Helper()
	var out []string
	var err error
	ns.Do(func() { out, err = d.Warnings(t.Context(), want) })
	if err != nil {
		t.Fatal(err)
	}
	return out
}
