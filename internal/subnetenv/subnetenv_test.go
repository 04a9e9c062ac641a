package subnetenv_test

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/subnetenv"
)

// TestRecorded reads and rewrites the files that flannel v0.28.9 wrote.
func TestRecorded(t *testing.T) {
	files, err := filepath.Glob("testdata/*.subnet.env")
	if err != nil || len(files) != 16 {
		t.Fatalf("recorded files: %d, %v; want 16", len(files), err)
	}
	for _, name := range files {
		t.Run(filepath.Base(name), func(t *testing.T) {
			want, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			env, err := subnetenv.Parse(want)
			if err != nil {
				t.Fatal(err)
			}
			if got := subnetenv.Format(env); got != string(want) {
				t.Errorf("rewritten:\n%s\nwant:\n%s", got, want)
			}
		})
	}
}

func prefixes(ipv4, ipv6 string) addr.ByFamily[netip.Prefix] {
	var out addr.ByFamily[netip.Prefix]
	for f, s := range map[addr.Family]string{addr.IPv4: ipv4, addr.IPv6: ipv6} {
		if s != "" {
			out.Put(f, netip.MustParsePrefix(s))
		}
	}
	return out
}

func TestFormat(t *testing.T) {
	for name, tt := range map[string]struct {
		env  subnetenv.Env
		want string
	}{
		"dual": {
			subnetenv.Env{prefixes("10.5.0.0/16", "fc00:5::/48"), prefixes("10.5.72.1/24", "fc00:5:0:12::1/64"), 1450, true},
			"FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET=10.5.72.1/24\nFLANNEL_IPV6_NETWORK=fc00:5::/48\n" +
				"FLANNEL_IPV6_SUBNET=fc00:5:0:12::1/64\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n",
		},
		"ipv6": {
			subnetenv.Env{prefixes("", "fc00:5::/48"), prefixes("", "fc00:5:0:12::1/64"), 1430, false},
			"FLANNEL_IPV6_NETWORK=fc00:5::/48\nFLANNEL_IPV6_SUBNET=fc00:5:0:12::1/64\nFLANNEL_MTU=1430\nFLANNEL_IPMASQ=false\n",
		},
	} {
		t.Run(name, func(t *testing.T) {
			if got := subnetenv.Format(tt.env); got != tt.want {
				t.Errorf("got:\n%s\nwant:\n%s", got, tt.want)
			}
		})
	}
}

func TestParse(t *testing.T) {
	ipv4 := subnetenv.Env{prefixes("10.5.0.0/16", ""), prefixes("10.5.72.1/24", ""), 1450, true}
	for name, tt := range map[string]struct {
		text string
		want subnetenv.Env
		err  string // part of the error; "" wants none
	}{
		"empty": {},
		"by hand": {
			text: "# mine\n\n export FLANNEL_NETWORK = \"10.5.0.0/16\" # net\r\nFLANNEL_SUBNET='10.5.72.1/24'\n" +
				"FLANNEL_MTU=1450 # bytes\nOTHER=1\nFLANNEL_IPMASQ=true",
			want: ipv4,
		},
		"line without equals sign": {
			text: "FLANNEL_NETWORK\nFLANNEL_MTU=1450\n", want: subnetenv.Env{MTU: 1450},
			err: `subnet.env line 1: no NAME=value in "FLANNEL_NETWORK"`,
		},
		"list with one valid": {
			text: "FLANNEL_NETWORK=, 10.5.0.0/16,none\n", want: subnetenv.Env{Networks: prefixes("10.5.0.0/16", "")},
		},
		"list with two": {
			text: "FLANNEL_SUBNET=10.5.1.1/24,10.5.2.1/24\nFLANNEL_MTU=9\n", want: subnetenv.Env{MTU: 9},
			err: "line 1: FLANNEL_SUBNET \"10.5.1.1/24,10.5.2.1/24\": must be one IPv4 CIDR, has 2",
		},
		"wrong family": {text: "FLANNEL_IPV6_SUBNET=10.5.1.1/24\n", err: "must be one IPv6 CIDR, has 0"},
		"bad MTU":      {text: "FLANNEL_MTU=70000\n", err: "FLANNEL_MTU \"70000\": must be 0..65535"},
		"bad IPMASQ":   {text: "FLANNEL_IPMASQ=yes\n", err: "FLANNEL_IPMASQ \"yes\": must be true or false"},
		"last counts":  {text: "FLANNEL_MTU=1\nFLANNEL_MTU=2\n", want: subnetenv.Env{MTU: 2}},
		"open quote":   {text: "FLANNEL_MTU=\"2\n", err: "must be 0..65535"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := subnetenv.Parse([]byte(tt.text))
			if got != tt.want {
				t.Errorf("got %+v, want %+v", got, tt.want)
			}
			if (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
				t.Errorf("error %v, want %q", err, tt.err)
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	f.Add("FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET=10.5.72.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n")
	f.Add("export A='b' # c\nFLANNEL_IPV6_NETWORK=fc00::/48,\n=\nx")
	f.Fuzz(func(t *testing.T, text string) {
		env, err := subnetenv.Parse([]byte(text))
		if err != nil || !complete(env) {
			return
		}
		again, err := subnetenv.Parse([]byte(subnetenv.Format(env)))
		if err != nil || again != env {
			t.Errorf("%+v came back as %+v, %v", env, again, err)
		}
	})
}

// complete says whether each family has both lines or none, as the daemon
// writes it.
func complete(e subnetenv.Env) bool {
	for _, f := range addr.Families() {
		if e.Networks.At(f).IsValid() != e.Subnets.At(f).IsValid() {
			return false
		}
	}
	return true
}
