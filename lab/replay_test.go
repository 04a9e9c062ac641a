package lab_test

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/lab"
)

// TestReplayedKernel runs two replayed hosts for every recording and compares
// what they have made of etcd, files and kernel with it, byte for byte. Only the
// subnets and MACs differ, which flannel draws by lot.
func TestReplayedKernel(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip(lab.ErrNotRoot)
	}
	needTools(t)
	bin := binaries(t)
	files, err := filepath.Glob("testdata/flannel/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no recordings: %v", err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".txtar")
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			compareReplay(t, recorded(t, name), bin)
		})
	}
}

func compareReplay(t *testing.T, want map[string]string, bin lab.Binaries) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	f := replayedFabric(ctx, t, want, bin)
	pairs, err := f.Etcd.List(ctx, lab.Prefix)
	if err != nil {
		t.Fatal(err)
	}
	draws := drawn(t, want["etcd"], pairs)
	var etcd strings.Builder
	for _, p := range pairs {
		etcd.WriteString(p.Key + "\n" + p.Value + "\n")
	}
	h := f.Hosts[0]
	env, err := os.ReadFile(h.Path(h.SubnetFile()))
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{"etcd": etcd.String(), "subnet.env": string(env)}
	for section, commands := range kernelSections() {
		for _, c := range commands {
			out, err := h.Run(ctx, strings.Fields(c)...)
			if err != nil {
				t.Fatal(err)
			}
			got[section] += out
		}
	}
	for section, text := range got {
		if is, want := condense(text), condense(draws.Replace(want[section])); !slices.Equal(is, want) {
			t.Errorf("%s\n%s\nwant\n%s", section, strings.Join(is, "\n"), strings.Join(want, "\n"))
		}
	}
}

// kernelSections are the parts of a recording and how the kernel is asked.
func kernelSections() map[string][]string {
	return map[string][]string{
		"link":  {"ip -d link show type vxlan", "ip -d link show type tun"},
		"route": {"ip route show table main", "ip -6 route show table main"},
		"neigh": {"ip neigh show nud permanent"},
		"fdb":   {"bridge fdb show"},
	}
}

// replayedFabric starts two replayed hosts under the recorded config.
func replayedFabric(ctx context.Context, t *testing.T, want map[string]string, bin lab.Binaries) *lab.Fabric {
	t.Helper()
	config := strings.Split(want["etcd"], "\n")[1]
	o := lab.Options{
		Hosts: 2, Replayed: 2, Families: []addr.Family{addr.IPv4}, Firewall: lab.IPTables,
		Underlay: lab.L2, Binaries: bin, NetConf: config,
	}
	if strings.Contains(config, "IPv6Network") {
		o.Families = append(o.Families, addr.IPv6)
	}
	if strings.Contains(config, "EnableNFTables") {
		o.Firewall = lab.NFTables
	}
	f, err := lab.New(ctx, o)
	t.Cleanup(func() {
		end, cancel := context.WithTimeout(context.Background(), limit)
		defer cancel()
		if err := f.Close(end); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range f.Hosts {
		if err := h.Start(ctx); err != nil {
			t.Fatal(err)
		}
	}
	for _, h := range f.Hosts {
		if err := h.Sync(ctx); err != nil {
			t.Fatal(err)
		}
	}
	return f
}

// drawn maps the recording's subnets and MACs to those of this run, host by host.
func drawn(t *testing.T, recording string, pairs []lab.Pair) *strings.Replacer {
	t.Helper()
	lines := strings.Split(recording, "\n")
	var old []lab.Pair
	for i := 0; i+1 < len(lines); i += 2 {
		old = append(old, lab.Pair{Key: lines[i], Value: lines[i+1]})
	}
	var words []string
	for _, was := range old[1:] {
		for _, is := range pairs[1:] {
			if publicIP(t, was) == publicIP(t, is) {
				words = append(words, interleave(lots(was), lots(is))...)
			}
		}
	}
	return strings.NewReplacer(words...)
}

func publicIP(t *testing.T, p lab.Pair) string {
	t.Helper()
	var v struct{ PublicIP string }
	if err := json.Unmarshal([]byte(p.Value), &v); err != nil {
		t.Fatal(err)
	}
	return v.PublicIP
}

// lots are what is drawn: subnets up to their host part, and MACs.
func lots(p lab.Pair) []string {
	return regexp.MustCompile(`10\.5\.\d+\.|fc00:5:0:[a-f\d]+:|(?:[a-f\d]{2}:){5}[a-f\d]{2}`).
		FindAllString(p.Key+p.Value, -1)
}

func interleave(a, b []string) []string {
	var all []string
	for i := range a {
		all = append(all, a[i], b[i])
	}
	return all
}

// condense drops what the recordings leave out: numbers of links, the bridge and
// queues that differ between kernels, the underlay, the order of lines.
func condense(text string) []string {
	skip := regexp.MustCompile(`link/|^default |^fe80::|dev eth0 proto kernel|dev flannel0 proto kernel|` +
		`^(33:33|01:00:5e)|master|dev p-`)
	cut := regexp.MustCompile(`^\d+: | qdisc.*| addrgenmode.*| dev \S+( dst \S+ self permanent)`)
	var lines []string
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(cut.ReplaceAllString(line, "$1")); line != "" && !skip.MatchString(line) {
			lines = append(lines, line)
		}
	}
	slices.Sort(lines)
	return lines
}
