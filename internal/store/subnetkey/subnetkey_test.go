package subnetkey_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/store/subnetkey"
)

func TestKeys(t *testing.T) {
	for key, want := range map[string][2]string{
		"10.5.34.0-24":                     {"10.5.34.0/24", ""},
		"10.5.34.0-24&fc00:5:0:12::-64":    {"10.5.34.0/24", "fc00:5:0:12::/64"},
		"0.0.0.0-0&fc00::-64":              {"", "fc00::/64"},
		"10.5.34.2-31&fc00:5:0:12::10-127": {"10.5.34.2/31", "fc00:5:0:12::10/127"},
		"128.0.0.0-1":                      {"128.0.0.0/1", ""},
	} {
		got, err := subnetkey.Parse(key)
		if err != nil {
			t.Errorf("%s: %v", key, err)
			continue
		}
		for i, f := range addr.Families() {
			var p netip.Prefix
			if want[i] != "" {
				p = netip.MustParsePrefix(want[i])
			}
			if got.At(f) != p {
				t.Errorf("%s: %s is %v, want %v", key, f, got.At(f), p)
			}
		}
		if back := subnetkey.Format(got); back != key {
			t.Errorf("%s comes back as %s", key, back)
		}
	}
}

func TestBadKeys(t *testing.T) {
	for _, key := range []string{
		"", "x", "10.5.34.0", "10.5.34.0-", "-24", "10.5.34.0-32", "10.5.34.0-33", "10.5.34.0-0", "0.0.0.0-0",
		"10.5.34.1-24", "10.5.034.0-24", "10.5.34.0-024", "10.5.34.0-24 ", " 10.5.34.0-24", "x10.5.34.0-24",
		"10.5.34.0-24&", "&fc00::-64", "fc00::-64", "10.5.34.0-24&10.5.35.0-24", "10.5.34.0-24&fc00::1-64",
		"10.5.34.0-24&FC00::-64", "10.5.34.0-24&fc00:0::-64", "10.5.34.0-24&fc00::-128", "10.5.34.0-24&fc00::-0",
		"10.5.34.0-24&fc00::-64&fc00::-64", "10.5.34.0-24&::ffff:10.0.0.0-104", "10.5.34.0-24&fe80::%eth0-64",
		"0.0.0.0-0&", "10.5.34.0/24",
	} {
		if got, err := subnetkey.Parse(key); err == nil {
			t.Errorf("%q was read as %v", key, got)
		}
	}
}

func TestErrorsDoNotRepeatLongKeys(t *testing.T) {
	long := strings.Repeat("1", 1<<20)
	for _, key := range []string{long, "10.5.34.0-24&" + long, long + "&fc00::-64", "10.5.34.0-" + long} {
		if _, err := subnetkey.Parse(key); err == nil || len(err.Error()) > 300 {
			t.Errorf("key of %d bytes: error of %d", len(key), len(fmt.Sprint(err)))
		}
		if _, err := subnetkey.ParseHalf(key, addr.IPv4); err == nil || len(err.Error()) > 300 {
			t.Errorf("half of %d bytes: error of %d", len(key), len(fmt.Sprint(err)))
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, key := range []string{"10.5.34.0-24", "10.5.34.0-24&fc00:5:0:12::-64", "0.0.0.0-0&fc00::-64", "::-1&-"} {
		f.Add(key)
	}
	f.Fuzz(func(t *testing.T, key string) {
		subnets, err := subnetkey.Parse(key)
		if err != nil {
			return
		}
		if back := subnetkey.Format(subnets); back != key {
			t.Errorf("%q comes back as %q: two keys for one subnet", key, back)
		}
	})
}
