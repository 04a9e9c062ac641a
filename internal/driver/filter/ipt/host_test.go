package ipt_test

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/driver/filter/filtertest"
	"github.com/flannel-ng/flannel-ng/internal/driver/filter/ipt"
	"github.com/flannel-ng/flannel-ng/internal/reconcile"
	"github.com/flannel-ng/flannel-ng/internal/state"
	"github.com/flannel-ng/flannel-ng/internal/traffic/traffictest"
)

// fake is a host whose programs print what the test says.
type fake struct {
	output map[string]string // by command line; the programs that exist
	legacy bool
	ran    []string // command lines other than --version
	input  []string // of restores
}

func (h *fake) Has(program string) bool {
	for line := range h.output {
		if strings.Fields(line)[0] == program {
			return true
		}
	}
	return false
}

func (h *fake) Run(_ context.Context, stdin string, argv []string) (string, error) {
	line := strings.Join(argv, " ")
	if !strings.HasSuffix(line, "--version") {
		h.ran = append(h.ran, line)
	}
	if strings.Contains(argv[0], "restore") {
		h.input = append(h.input, stdin)
		return "", nil
	}
	out, ok := h.output[line]
	if !ok {
		return "", fmt.Errorf("unexpected command %q", line)
	}
	return out, nil
}

func (h *fake) LegacyTables(addr.Family) bool { return h.legacy }

// programs says which programs exist; saves maps a save program to its output.
func programs(version string, saves map[string]string) map[string]string {
	out := map[string]string{}
	for save, text := range saves {
		base := strings.TrimSuffix(save, "-save")
		out[save], out[base+"-restore"] = text, ""
		out[base+" --version"] = base + " " + version
	}
	return out
}

func newDriver(h ipt.Host) *ipt.Driver {
	return ipt.New(ipt.Options{Log: slog.New(slog.DiscardHandler), Host: h})
}

func recorded(t *testing.T, f addr.Family) string {
	t.Helper()
	text, err := os.ReadFile("testdata/flannel." + strings.ToLower(f.String()))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestInterchangeable: what plain flannel installed is exactly what we want,
// and what we would install is, line by line, what flannel does.
func TestInterchangeable(t *testing.T) {
	want := traffictest.Want(state.ModeIPTables)
	texts := addr.Pair(recorded(t, addr.IPv4), recorded(t, addr.IPv6))
	flannels := newDriver(&fake{output: programs("v1.8.9 (nf_tables)", map[string]string{
		"iptables-save": texts.At(addr.IPv4), "ip6tables-save": texts.At(addr.IPv6),
	})})
	if changes, err := flannels.Plan(t.Context(), want); err != nil || len(changes) > 0 {
		t.Errorf("on flannel's rules: %v, %v", changes, err)
	}
	empty := &fake{output: programs("v1.8.9 (nf_tables)", map[string]string{"iptables-save": "", "ip6tables-save": ""})}
	apply(t, newDriver(empty), want)
	for i, f := range addr.Families() {
		if got, want := rules(empty.input[i]), rules(texts.At(f)); !slices.Equal(got, want) {
			t.Errorf("%s: installs\n%s\nwant\n%s", f, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
}

func rules(text string) []string {
	var out []string
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "-A") {
			out = append(out, strings.TrimSpace(line))
		}
	}
	slices.Sort(out)
	return out
}

func apply(t *testing.T, d reconcile.Driver, want *state.Set) []reconcile.Change {
	t.Helper()
	changes, err := d.Plan(t.Context(), want)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range d.Apply(t.Context(), changes) {
		if r.Err != nil {
			t.Fatal(r.Err)
		}
	}
	return changes
}

func TestOldIPTables(t *testing.T) {
	h := &fake{output: programs("v1.6.1", map[string]string{"iptables-save": "", "ip6tables-save": ""})}
	apply(t, newDriver(h), traffictest.Want(state.ModeIPTables))
	if strings.Contains(h.input[0], "random") || !strings.Contains(h.input[0], "-j MASQUERADE\n") {
		t.Errorf("1.6.1 knows no --random-fully:\n%s", h.input[0])
	}
	if !slices.Contains(h.ran, "iptables-restore --noflush") {
		t.Errorf("1.6.1 knows no --wait: %q", h.ran)
	}
}

// TestFlavour: rules go where Docker or Kubernetes keep theirs, and ours
// vanish from the other flavour.
func TestFlavour(t *testing.T) {
	const docker = "*filter\n:FORWARD DROP [0:0]\n:DOCKER-USER - [0:0]\nCOMMIT\n"
	for _, c := range []struct {
		name, nft, legacyText string
		legacy                bool
		ran                   []string
	}{
		{"only nft", "", "", false, []string{"iptables-restore --noflush --wait 5"}},
		{"docker in legacy", "", docker, true, []string{"iptables-legacy-restore --noflush --wait 5"}},
		{"docker in both", docker, docker, true, []string{"iptables-restore --noflush --wait 5"}},
		{
			"ours in legacy", docker, recorded(t, addr.IPv4), true,
			[]string{"iptables-restore --noflush --wait 5", "iptables-legacy-restore --noflush --wait 5"},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			out := programs("v1.8.9 (nf_tables)", map[string]string{"iptables-save": c.nft, "iptables-nft-save": c.nft})
			maps.Copy(out, programs("v1.8.9 (legacy)", map[string]string{"iptables-legacy-save": c.legacyText}))
			h := &fake{output: out, legacy: c.legacy}
			want := traffictest.Want(state.ModeIPTables)
			want.Filters = want.Filters[:1]
			apply(t, newDriver(h), want)
			got := slices.DeleteFunc(h.ran, func(s string) bool { return !strings.Contains(s, "restore") })
			if !slices.Equal(got, c.ran) {
				t.Errorf("ran %q, want %q", got, c.ran)
			}
		})
	}
}

func TestWithoutIPTables(t *testing.T) {
	d := newDriver(&fake{})
	if changes, err := d.Plan(t.Context(), traffictest.Want(state.ModeNFTables)); err != nil || len(changes) > 0 {
		t.Errorf("nftables mode: %v, %v", changes, err)
	}
	if _, err := d.Plan(t.Context(), traffictest.Want(state.ModeIPTables)); err == nil {
		t.Error("iptables mode without iptables is no error")
	}
}

// TestUnreadable: rules that iptables cannot show might be ours.
func TestUnreadable(t *testing.T) {
	d := newDriver(&fake{output: programs("v1.8.9 (nf_tables)", map[string]string{
		"iptables-save": "# Table `filter' is incompatible, use 'nft' tool.\n", "ip6tables-save": "",
	})})
	if _, err := d.Plan(t.Context(), &state.Set{}); err == nil {
		t.Error("no error")
	}
}

// TestJumps checks the exact input of iptables-restore for chains of others.
func TestJumps(t *testing.T) {
	const head, tail = "*filter\n:FORWARD ACCEPT [0:0]\n:FLANNEL-FWD - [0:0]\n", "COMMIT\n"
	const jump = `FORWARD -m comment --comment "flanneld forward" -j FLANNEL-FWD`
	const content = `-A FLANNEL-FWD -s 10.5.0.0/16 -m comment --comment "flanneld forward" -j ACCEPT
-A FLANNEL-FWD -d 10.5.0.0/16 -m comment --comment "flanneld forward" -j ACCEPT
`
	for _, c := range []struct{ name, saved, input string }{
		{"in place", "-A FORWARD -i x -j DROP\n-A " + jump + "\n-A FORWARD -j REJECT\n", ""},
		{"behind others'", "-A " + jump + "\n-A FORWARD -j policy\n", ""},
		{"missing", "-A FORWARD -i x -j DROP\n", "-A " + jump + "\n"},
		{
			"behind reject", "-A FORWARD -i x -j DROP\n-A FORWARD -j REJECT\n-A " + jump + "\n",
			"-D " + jump + "\n-I FORWARD 2 " + strings.TrimPrefix(jump, "FORWARD ") + "\n",
		},
		{
			"twice", "-A " + jump + "\n-A FORWARD -j DROP\n-A " + jump + "\n",
			"-D " + jump + "\n-D " + jump + "\n-I FORWARD 1 " + strings.TrimPrefix(jump, "FORWARD ") + "\n",
		},
		{"without comment", "-A FORWARD -j FLANNEL-FWD\n", "-D FORWARD -j FLANNEL-FWD\n-A " + jump + "\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := &fake{output: programs("v1.8.9 (nf_tables)", map[string]string{
				"iptables-save": head + content + c.saved + tail,
			})}
			want := traffictest.Want(state.ModeIPTables)
			want.Filters = want.Filters[:1]
			want.Filters[0].Postrouting = nil
			apply(t, newDriver(h), want)
			expect := ""
			if c.input != "" {
				expect = "*filter\n" + c.input + "COMMIT\n"
			}
			if got := strings.Join(h.input, ""); got != expect {
				t.Errorf("restored\n%s\nwant\n%s", got, expect)
			}
		})
	}
}

// TestChainInUse: a chain that somebody else jumps to cannot be deleted.
func TestChainInUse(t *testing.T) {
	const head = "*filter\n:FORWARD ACCEPT [0:0]\n:MINE - [0:0]\n:FLANNEL-FWD - [0:0]\n-A MINE -j FLANNEL-FWD\n"
	h := &fake{output: programs("v1.8.9 (nf_tables)", map[string]string{
		"iptables-save": head + "-A FLANNEL-FWD -j ACCEPT\nCOMMIT\n",
	})}
	apply(t, newDriver(h), &state.Set{})
	if want := []string{"*filter\n-F FLANNEL-FWD\nCOMMIT\n"}; !slices.Equal(h.input, want) {
		t.Errorf("restored %q, want %q", h.input, want)
	}
	h = &fake{output: programs("v1.8.9 (nf_tables)", map[string]string{"iptables-save": head + "COMMIT\n"})}
	if did := apply(t, newDriver(h), &state.Set{}); len(did) > 0 {
		t.Errorf("an empty chain in use is not left alone: %v", did)
	}
}

// counting runs real programs and counts them.
type counting struct {
	ipt.System
	runs int
}

func (c *counting) Run(ctx context.Context, stdin string, argv []string) (string, error) {
	c.runs++
	return c.System.Run(ctx, stdin, argv)
}

// TestCost: one process per family reads, and none at all while the kernel
// says that no rule has changed.
func TestCost(t *testing.T) {
	filtertest.Need(t, "nft", "iptables", "ip6tables")
	ns, h := filtertest.NewSpace(t), &counting{}
	d, want := newDriver(h), traffictest.Want(state.ModeIPTables)
	filtertest.Converge(t, ns, d, want)
	for _, c := range []struct {
		name   string
		before string
		runs   int
	}{
		{"first reading", "true", 2},
		{"nothing changed", "true", 0},
		{"foreign change", "nft add table ip other", 2},
		{"nothing changed again", "true", 0},
	} {
		ns.Sh(t, c.before)
		h.runs = 0
		if did := filtertest.Pending(t, ns, d, want); len(did) > 0 {
			t.Errorf("%s: %v", c.name, did)
		}
		if h.runs != c.runs {
			t.Errorf("%s: %d processes, want %d", c.name, h.runs, c.runs)
		}
	}
}

// TestLegacy runs beside a Docker that uses legacy iptables.
func TestLegacy(t *testing.T) {
	filtertest.Need(t, "iptables", "iptables-legacy", "ip6tables-legacy")
	lab := filtertest.NewLab(t)
	filtertest.Docker(t, lab.Host, "iptables-legacy", "ip6tables-legacy")
	d, want := newDriver(nil), traffictest.Want(state.ModeIPTables)
	filtertest.Converge(t, lab.Host, d, want)
	if did := filtertest.Pending(t, lab.Host, newDriver(nil), want); len(did) > 0 {
		t.Errorf("still wants to change: %v", did)
	}
	for _, f := range addr.Families() {
		for _, to := range []string{"remote", "outside"} {
			if !lab.TCP(t, filtertest.Path{From: "container", To: to, Family: f}, filtertest.Arrives) {
				t.Errorf("%s: TCP from container to %s does not pass", f, to)
			}
		}
	}
	lab.Host.Sh(t, "iptables-legacy -t nat -F")
	if did := filtertest.Converge(t, lab.Host, d, want); len(did) != 1 {
		t.Errorf("repair: %v", did)
	}
	if rules := lab.Host.Sh(t, "nft list ruleset"); rules != "" {
		t.Errorf("rules in the other flavour:\n%s", rules)
	}
	filtertest.Converge(t, lab.Host, d, &state.Set{})
	if rules := lab.Host.Sh(t, "iptables-legacy-save; ip6tables-legacy-save"); strings.Contains(rules, "FLANNEL") {
		t.Errorf("left over:\n%s", rules)
	}
}
