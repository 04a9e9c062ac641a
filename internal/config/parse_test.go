package config_test

import (
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/config"
)

func pool(network string, subnetLen int, first, last string) config.Pool {
	return config.Pool{
		Network: netip.MustParsePrefix(network), SubnetLen: subnetLen,
		Min: netip.PrefixFrom(netip.MustParseAddr(first), subnetLen),
		Max: netip.PrefixFrom(netip.MustParseAddr(last), subnetLen),
	}
}

func TestParsePools(t *testing.T) {
	for name, tt := range map[string]struct {
		text string
		want addr.ByFamily[config.Pool]
	}{
		"/16": {`{"Network":"10.5.0.0/16"}`, addr.Pair(pool("10.5.0.0/16", 24, "10.5.1.0", "10.5.255.0"), config.Pool{})},
		"/22": {`{"Network":"10.5.0.0/22"}`, addr.Pair(pool("10.5.0.0/22", 24, "10.5.1.0", "10.5.3.0"), config.Pool{})},
		"/23": {`{"Network":"10.5.0.0/23"}`, addr.Pair(pool("10.5.0.0/23", 25, "10.5.0.128", "10.5.1.128"), config.Pool{})},
		"/28": {`{"Network":"10.5.0.0/28"}`, addr.Pair(pool("10.5.0.0/28", 30, "10.5.0.4", "10.5.0.12"), config.Pool{})},
		"half the internet": {
			`{"Network":"0.0.0.0/1","SubnetLen":3}`,
			addr.Pair(pool("0.0.0.0/1", 3, "32.0.0.0", "96.0.0.0"), config.Pool{}),
		},
		"IPv6 /48": {
			`{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fc00::/48"}`,
			addr.Pair(config.Pool{}, pool("fc00::/48", 64, "fc00:0:0:1::", "fc00:0:0:ffff::")),
		},
		"IPv6 /63": {
			`{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fc00::/63"}`,
			addr.Pair(config.Pool{}, pool("fc00::/63", 65, "fc00:0:0:0:8000::", "fc00:0:0:1:8000::")),
		},
		"IPv6 /124": {
			`{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fc00::/124"}`,
			addr.Pair(config.Pool{}, pool("fc00::/124", 126, "fc00::4", "fc00::c")),
		},
		"both, host bits, other case, null": {
			`{"network":"10.5.3.4/16","enableipv6":true,"IPV6NETWORK":"fc00::7/48","SubnetLen":null,"Backend":null}`,
			addr.Pair(pool("10.5.0.0/16", 24, "10.5.1.0", "10.5.255.0"), pool("fc00::/48", 64, "fc00:0:0:1::", "fc00:0:0:ffff::")),
		},
		"given": {
			`{"Network":"10.5.0.0/16","SubnetLen":18,"SubnetMin":"10.5.64.0","SubnetMax":"10.5.64.0"}`,
			addr.Pair(pool("10.5.0.0/16", 18, "10.5.64.0", "10.5.64.0"), config.Pool{}),
		},
		"base of the network": {
			`{"Network":"10.5.0.0/16","SubnetLen":0,"SubnetMin":"10.5.0.0"}`,
			addr.Pair(pool("10.5.0.0/16", 24, "10.5.0.0", "10.5.255.0"), config.Pool{}),
		},
		"IPv6 given": {
			`{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fc00::/48","IPv6SubnetLen":56,"IPv6SubnetMin":"fc00:0:0:200::","IPv6SubnetMax":"fc00:0:0:300::"}`,
			addr.Pair(config.Pool{}, pool("fc00::/48", 56, "fc00:0:0:200::", "fc00:0:0:300::")),
		},
	} {
		t.Run(name, func(t *testing.T) {
			n, err := config.Parse([]byte(tt.text))
			if err != nil {
				t.Fatal(err)
			}
			if n.Pools != tt.want {
				t.Errorf("got %+v, want %+v", n.Pools, tt.want)
			}
			if len(n.Warnings) > 0 {
				t.Errorf("warnings %q", n.Warnings)
			}
		})
	}
}

func TestParseErrors(t *testing.T) {
	for text, want := range map[string]string{
		``:                            "JSON document: unexpected end of JSON input",
		"{\n \"Network\": 10.5.\n}":   "JSON document, line 2, column 17: invalid character",
		`{"Network":"10.5.0.0/16"} x`: "JSON document, line 1, column 27: invalid character 'x' after top-level value",
		`["Network"]`:                 `["Network"]: must be a JSON object`,
		`{}`:                          "Network (absent): must be given while EnableIPv4 is true",
		`{"Network":10}`:              `Network 10: must be a CIDR in quotes, such as "10.5.0.0/16" or "fc00::/48"`,
		`{"Network":""}`:              `Network "": must be a CIDR`,
		`{"Network":"10.5.0.0"}`:      `Network "10.5.0.0": must be a CIDR`,
		`{"Network":"fc00::/48"}`:     `Network fc00::/48: must be an IPv4 CIDR such as "10.5.0.0/16"`,
		`{"Network":"10.5.0.0/29"}`:   "Network 10.5.0.0/29: must be at most /28, to have room for subnets",
		`{"Network":"0.0.0.0/0"}`:     "Network 0.0.0.0/0: must be at least /1: this is every address there is",
		`{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"::/0"}`:                                          "IPv6Network ::/0: must be at least /1",
		`{"Network":"10.5.0.0/16","SubnetLen":31}`:                                                             "SubnetLen 31: must be at most 30",
		`{"Network":"10.5.0.0/16","SubnetLen":17}`:                                                             "SubnetLen 17: must be at least 18, two more than Network 10.5.0.0/16",
		`{"Network":"10.5.0.0/16","SubnetLen":-1}`:                                                             "SubnetLen -1: must be at least 18",
		`{"Network":"10.5.0.0/16","SubnetLen":"24"}`:                                                           `SubnetLen "24": must be a whole number, without quotes`,
		`{"Network":"10.5.0.0/16","SubnetLen":24.5}`:                                                           `SubnetLen 24.5: must be a whole number`,
		`{"Network":"10.5.0.0/16","SubnetLen":true}`:                                                           `SubnetLen true: must be a whole number`,
		`{"Network":"10.5.0.0/16","SubnetMin":"10.5.1.5"}`:                                                     "SubnetMin 10.5.1.5: must be the first address of a /24, such as 10.5.1.0",
		`{"Network":"10.5.0.0/16","SubnetMin":"10.6.1.0"}`:                                                     "SubnetMin 10.6.1.0: must be inside 10.5.0.0/16",
		`{"Network":"10.5.0.0/16","SubnetMax":"10.4.0.0"}`:                                                     "SubnetMax 10.4.0.0: must be inside 10.5.0.0/16",
		`{"Network":"10.5.0.0/16","SubnetMax":"fc00::"}`:                                                       "SubnetMax fc00::: must be an IPv4 address",
		`{"Network":"10.5.0.0/16","SubnetMax":7}`:                                                              `SubnetMax 7: must be an IP address in quotes`,
		`{"Network":"10.5.0.0/16","SubnetMin":"10.5.9.0","SubnetMax":"10.5.8.0"}`:                              "SubnetMin 10.5.9.0: must not be above SubnetMax 10.5.8.0",
		`{"Network":"10.5.0.0/16","EnableIPv6":"true"}`:                                                        `EnableIPv6 "true": must be true or false, without quotes`,
		`{"Network":"10.5.0.0/16","EnableIPv6":true}`:                                                          "IPv6Network (absent): must be given while EnableIPv6 is true",
		`{"EnableIPv4":false}`:                                                                                 "EnableIPv4 and EnableIPv6 false: one of them must be true",
		`{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"10.5.0.0/16"}`:                                   `IPv6Network 10.5.0.0/16: must be an IPv6 CIDR such as "fc00::/48"`,
		`{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"::ffff:10.5.0.0/112"}`:                           "must be an IPv6 CIDR",
		`{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fc00::/125"}`:                                    "IPv6Network fc00::/125: must be at most /124",
		`{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fc00::/48","IPv6SubnetLen":127}`:                 "IPv6SubnetLen 127: must be at most 126",
		`{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fc00::/48","IPv6SubnetMin":"fc00:0:0:1::%eth0"}`: "IPv6SubnetMin fc00:0:0:1::%eth0: must be an IPv6 address",
		`{"Network":"10.5.0.0/16","Backend":"vxlan"}`:                                                          `Backend "vxlan": must be an object such as {"Type": "vxlan"}`,
		`{"Network":"10.5.0.0/16","Backend":{}}`:                                                               `Backend {}: must have a Type, such as "vxlan"`,
		`{"Network":"10.5.0.0/16","Backend":{"Type":null}}`:                                                    `must have a Type`,
		`{"Network":"10.5.0.0/16","Backend":{"Type":7}}`:                                                       `Backend.Type 7: must be a string in quotes`,
		`{"Network":"10.5.0.0/16","Backend":{"Type":""}}`:                                                      `Backend.Type "": must be a string in quotes`,
	} {
		n, err := config.Parse([]byte(text))
		if err == nil {
			t.Errorf("%s: parsed as %+v, want an error", text, n)
			continue
		}
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%s:\n got %s\nwant %s", text, err, want)
		}
	}
}

func TestParseReportsEverything(t *testing.T) {
	_, err := config.Parse([]byte(`{"Network":"10.5.0.0/16","SubnetLen":31,"SubnetMin":"x","EnableIPv6":true,"Backend":{"VNI":1}}`))
	if err == nil {
		t.Fatal("no error")
	}
	want := []string{
		"SubnetLen 31: must be at most 30",
		`SubnetMin "x": must be an IP address in quotes, such as "10.5.1.0" or "fc00::"`,
		"IPv6Network (absent): must be given while EnableIPv6 is true",
		`Backend {"VNI":1}: must have a Type, such as "vxlan"`,
	}
	got := strings.Split(err.Error(), "\n")
	slices.Sort(want)
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestParseBackend(t *testing.T) {
	for text, want := range map[string]config.Backend{
		`{"Network":"10.5.0.0/16"}`:                                    {Type: "udp"},
		`{"Network":"10.5.0.0/16","Backend":{"TYPE":"VXLan","VNI":2}}`: {Type: "vxlan", Options: []byte(`{"TYPE":"VXLan","VNI":2}`)},
	} {
		n, err := config.Parse([]byte(text))
		if err != nil || n.Backend.Type != want.Type || string(n.Backend.Options) != string(want.Options) {
			t.Errorf("%s: backend %s %s, %v", text, n.Backend.Type, n.Backend.Options, err)
		}
	}
}

func TestParseWarnings(t *testing.T) {
	n, err := config.Parse([]byte(`{"Network":"10.9.0.0/16","network":"10.5.0.0/16","SubnetLne":25,"Zebra":1,"IPv6Network":"fc00::/48","EnableNFTables":true}`))
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"IPv6Network: no effect: EnableIPv6 is false",
		"network: given more than once, the last one counts",
		"SubnetLne: unknown key, ignored; did you mean SubnetLen?",
		"Zebra: unknown key, ignored",
	}
	if !slices.Equal(n.Warnings, want) {
		t.Errorf("warnings %q, want %q", n.Warnings, want)
	}
	if got := n.Pools.At(addr.IPv4).Network.String(); got != "10.5.0.0/16" || !n.NFTables {
		t.Errorf("network %s, nftables %t", got, n.NFTables)
	}
}

// TestRecorded reads the configs that flannel v0.28.9 was recorded with.
func TestRecorded(t *testing.T) {
	files, err := filepath.Glob("testdata/*.json")
	if err != nil || len(files) != 8 {
		t.Fatalf("recorded configs: %d, %v; want 8", len(files), err)
	}
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		n, err := config.Parse(b)
		if err != nil || len(n.Warnings) > 0 {
			t.Errorf("%s: %v, warnings %q", name, err, n.Warnings)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(`{"Network":"10.5.0.0/16","SubnetLen":26,"SubnetMin":"10.5.1.0","Backend":{"Type":"vxlan","VNI":7}}`)
	f.Add(`{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fc00::/48","IPv6SubnetMax":"fc00:0:0:9::"}`)
	f.Add(`{"network":"0.0.0.0/0","Network":null,"\ud800":{}}`)
	f.Fuzz(func(t *testing.T, text string) {
		n, err := config.Parse([]byte(text))
		if err != nil {
			return
		}
		if len(n.Families()) == 0 || n.Backend.Type == "" {
			t.Errorf("no family or no backend: %+v", n)
		}
		for _, fam := range n.Families() {
			p := n.Pools.At(fam)
			for _, s := range []netip.Prefix{p.Min, p.Max} {
				if s.Bits() != p.SubnetLen || s.Masked() != s || !p.Network.Overlaps(s) || s.Bits() < p.Network.Bits()+2 {
					t.Errorf("%s is no subnet of %+v", s, p)
				}
			}
			if p.Max.Addr().Less(p.Min.Addr()) {
				t.Errorf("pool %+v is empty", p)
			}
		}
	})
}
