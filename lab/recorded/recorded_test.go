package recorded_test

import (
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/flannel-ng/flannel-ng/lab/recorded"
)

func load(t *testing.T) (recorded.Table, []recorded.Case) {
	t.Helper()
	table, cases, err := recorded.Load(os.DirFS("../testdata/recorded"))
	if err != nil {
		t.Fatal(err)
	}
	return table, cases
}

func TestDocumentIsCurrent(t *testing.T) {
	want, err := recorded.Document(load(t))
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile("../../docs/recorded-facts.md")
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Error("docs/recorded-facts.md is stale: run go generate ./lab/recorded")
	}
	for _, title := range []string{"## Nexthop objects", "| vxlan |", "-FLANNEL_MTU=1450\n+FLANNEL_MTU=1430"} {
		if !strings.Contains(want, title) {
			t.Errorf("the page lacks %q", title)
		}
	}
}

// TestTableSpeaksOfRecordings finds rows about lines that were never recorded,
// and patterns that no case matches, without running anything.
func TestTableSpeaksOfRecordings(t *testing.T) {
	table, cases := load(t)
	seen := map[int]bool{}
	for _, c := range cases {
		for _, v := range views(t, c.Facts) {
			for _, e := range table.Entries {
				seen[e.Row] = seen[e.Row] || e.Covers(c.Name)
				for _, edit := range e.Edits {
					section, here := v.Sections[e.Section]
					if here && e.Covers(c.Name) && edit.Ours == slices.Contains(section, edit.Line) && !repeated(edit) {
						t.Errorf("line %d, %s at %s: %s", e.Row, c.Name, v.Place, edit)
					}
				}
			}
		}
	}
	for _, e := range table.Entries {
		if !seen[e.Row] {
			t.Errorf("line %d: no case of these names", e.Row)
		}
	}
}

// repeated lines of a block say nothing alone.
func repeated(e recorded.Edit) bool { return strings.TrimSpace(e.Line) == "}" || e.Line == "" }

// TestSymbolsHideNothingElse puts one run into symbols and looks at the result.
func TestSymbolsHideNothingElse(t *testing.T) {
	_, cases := load(t)
	i := slices.IndexFunc(cases, func(c recorded.Case) bool { return c.Name == "vxlan-dual-stack" })
	v := views(t, cases[i].Facts)
	for _, want := range []struct{ section, line string }{
		{
			recorded.EtcdSection,
			`/coreos.com/network/subnets/<h1>.0-24&<h1 v6>::-64 {"PublicIP":"<h1 uplink>","PublicIPv6":"<h1 uplink v6>","BackendType":"vxlan",` +
				`"BackendData":{"VNI":1,"VtepMAC":"<h1 flannel.1 MAC>"},"BackendV6Data":{"VNI":1,"VtepMAC":"<h1 flannel-v6.1 MAC>"}}`,
		},
		{recorded.PacketsSection, "ethernet <h1 eth0 MAC> > <h2 eth0 MAC> type 0x0800"},
		{recorded.PacketsSection, "      vxlan flags 0x08 reserved 0x000000 vni 1 reserved 0x00"},
		{recorded.PacketsSection, "          ipv4 <h1>.2 > <h2>.2 length 52 tos 0x00 ttl 63 flags 0x4000 protocol 1"},
		{recorded.EnvSection, "FLANNEL_IPV6_SUBNET=<own v6>::1/64"},
		{"bridge fdb show dev flannel-v6.1", "<peer flannel-v6.1 MAC> dst <peer uplink v6> self permanent"},
		{"ip -6 route show table main", "<peer v6>::/64 via <peer v6>:: dev flannel-v6.1 metric 1024 onlink pref medium"},
		{"iptables-save", `-A FLANNEL-POSTRTG -s <own>.0/24 -d 10.5.0.0/16 -m comment --comment "flanneld masq" -j RETURN`},
	} {
		if !slices.ContainsFunc(v, func(v recorded.View) bool { return slices.Contains(v.Sections[want.section], want.line) }) {
			t.Errorf("%s lacks %s", want.section, want.line)
		}
	}
	if !reflect.DeepEqual(v[1].Sections, v[2].Sections) {
		t.Error("the two recorded hosts do not say the same in symbols")
	}
}

func TestDiff(t *testing.T) {
	for _, c := range []struct{ recorded, ours, want string }{
		{"a b c", "a b c", ""},
		{"a b c", "a c", "-b"},
		{"a c", "a b c", "+b"},
		{"a b c", "a d c", "-b +d"},
		{"", "a", "+a"},
		{"a a", "a", "-a"},
		{"a b", "b a", "-a +a"},
	} {
		var got []string
		for _, e := range recorded.Diff(strings.Fields(c.recorded), strings.Fields(c.ours)) {
			got = append(got, e.String())
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%q to %q: %v, want %q", c.recorded, c.ours, got, c.want)
		}
	}
}

const small = "reason r | R\nBecause.\n\nin a* | subnet.env | r\n-old\n+new\n"

func TestJudge(t *testing.T) {
	table, err := recorded.ParseTable(small)
	if err != nil {
		t.Fatal(err)
	}
	view := func(lines ...string) recorded.View {
		return recorded.View{Place: "h1", Sections: map[string][]string{recorded.EnvSection: lines}}
	}
	for _, c := range []struct {
		name, ours string
		wrong      int
	}{
		{"a1", "same new", 0},
		{"a1", "same old", 2},       // no longer so, twice
		{"a1", "same new extra", 1}, // unlisted
		{"a1", "other new", 1},      // unlisted, both ways
		{"b", "same old", 0},
		{"b", "same new", 1},
	} {
		wrong := table.Judge(c.name, view("same", "old"), view(strings.Fields(c.ours)...))
		if len(wrong) != c.wrong {
			t.Errorf("%s with %q: %q, want %d", c.name, c.ours, wrong, c.wrong)
		}
	}
}

func TestParseTableRefuses(t *testing.T) {
	for name, text := range map[string]string{
		"words alone":      "hello\n",
		"no reason":        "in a | s | r\n-x\n",
		"reason twice":     small + "\nreason r | R\nAgain.\n",
		"reason unused":    small + "\nreason s | S\nWhy.\n",
		"reason wordless":  "reason r | R\n\nin a | s | r\n-x\n",
		"no lines":         "reason r | R\nBecause.\n\nin a | s | r\n",
		"neither + nor -":  "reason r | R\nBecause.\n\nin a | s | r\nx\n",
		"a column missing": "reason r | R\nBecause.\n\nin a | r\n-x\n",
	} {
		if _, err := recorded.ParseTable(text); err == nil {
			t.Errorf("%s: was read", name)
		}
	}
}

func TestDecodeRefuses(t *testing.T) {
	for name, dump := range map[string]string{
		"bytes of no packet": "\t0x0010:  0800\n",
		"no hexadecimal":     "\t0x0000:  08zz\n",
		"short ethernet":     "\t0x0000:  0800\n",
		"short IPv4":         "\t0x0000:  0000 0000 0000 0000 0000 0000 0800 4500\n",
	} {
		if lines, err := recorded.Decode(dump); err == nil {
			t.Errorf("%s: %q", name, lines)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add("IP\n\t0x0000:  aa92 bde9 e1b1 de42 896d 5282 0800 4500\n\t0x0010:  0014 0000 0000 4032 0000 c633 6401 c633\n\t0x0020:  6402\n")
	f.Add("\t0x0000:  aa92 bde9 e1b1 de42 896d 5282 86dd\n")
	f.Fuzz(func(t *testing.T, dump string) {
		lines, err := recorded.Decode(dump)
		if again, err2 := recorded.Decode(dump); !slices.Equal(lines, again) || (err == nil) != (err2 == nil) {
			t.Errorf("not the same twice: %q %v, %q %v", lines, err, again, err2)
		}
	})
}

func FuzzParseTable(f *testing.F) {
	f.Add(small)
	f.Fuzz(func(t *testing.T, text string) {
		table, err := recorded.ParseTable(text)
		if err != nil {
			return
		}
		if _, err := recorded.Document(table, nil); err != nil {
			t.Errorf("read, but not written: %v", err)
		}
	})
}
