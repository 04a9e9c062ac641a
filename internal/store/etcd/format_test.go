package etcd_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/lease"
	"github.com/flannel-ng/flannel-ng/internal/store/etcd"
	"github.com/flannel-ng/flannel-ng/internal/store/storetest"
	"github.com/flannel-ng/flannel-ng/internal/store/subnetkey"
)

// recorded reads keys and values as flannel v0.28.9 wrote them.
func recorded(t *testing.T, file string) map[string]string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	pairs := map[string]string{}
	for i := 0; i+1 < len(lines); i += 2 {
		pairs[lines[i]] = lines[i+1]
	}
	return pairs
}

func TestRecordedLeases(t *testing.T) {
	files, err := filepath.Glob("testdata/*.etcd.txt")
	if err != nil || len(files) != 8 {
		t.Fatalf("recordings %v, %v", files, err)
	}
	for _, file := range files {
		backend := strings.TrimSuffix(filepath.Base(file), ".etcd.txt")
		leases := 0
		for key, value := range recorded(t, file) {
			name, ok := strings.CutPrefix(key, prefix+"/subnets/")
			if !ok {
				continue
			}
			leases++
			subnets, err := subnetkey.Parse(name)
			if err != nil {
				t.Errorf("%s: %v", file, err)
			}
			if back := subnetkey.Format(subnets); back != name {
				t.Errorf("%s: key %q comes back as %q", file, name, back)
			}
			public, offer, err := etcd.ParseValue(value)
			if err != nil {
				t.Errorf("%s: %v", file, err)
			}
			if back, err := etcd.FormatValue(public, offer); err != nil || back != value {
				t.Errorf("%s: %v\nvalue %s\nback  %s", file, err, value, back)
			}
			if want := offer.Backend; want != "udp" && !strings.HasPrefix(backend, want) || backend == "udp" && want != "udp" {
				t.Errorf("%s: backend %q", file, want)
			}
		}
		if leases != 2 {
			t.Errorf("%s: %d leases, want 2", file, leases)
		}
	}
}

func TestFormatValue(t *testing.T) {
	for _, tc := range []struct {
		public []string
		offer  lease.Offer
		want   string
	}{
		{
			[]string{"2001:db8::1"},
			lease.Offer{Backend: "vxlan", Data: addr.Pair("", `{"VNI":1}`)},
			`{"PublicIP":"0.0.0.0","PublicIPv6":"2001:db8::1","BackendType":"vxlan","BackendV6Data":{"VNI":1}}`,
		},
		{[]string{"192.0.2.1"}, lease.Offer{Backend: "tencent-vpc"}, `{"PublicIP":"192.0.2.1","PublicIPv6":null}`},
		{[]string{"192.0.2.1"}, lease.Offer{Backend: "alloc"}, `{"PublicIP":"192.0.2.1","PublicIPv6":null}`},
		{[]string{"192.0.2.1"}, lease.Offer{}, `{"PublicIP":"192.0.2.1","PublicIPv6":null}`},
		{
			[]string{"192.0.2.1"},
			lease.Offer{Backend: "extension", Data: addr.Pair(`"a b"`, "")},
			`{"PublicIP":"192.0.2.1","PublicIPv6":null,"BackendType":"extension","BackendData":"a b"}`,
		},
	} {
		got, err := etcd.FormatValue(storetest.Public(tc.public...), tc.offer)
		if err != nil || got != tc.want {
			t.Errorf("%v\ngot  %s\nwant %s", err, got, tc.want)
		}
	}
	if got, err := etcd.FormatValue(storetest.Public("192.0.2.1"), lease.Offer{Data: addr.Pair("{", "")}); err == nil {
		t.Errorf("backend data that is no JSON became %s", got)
	}
}

func TestParseValue(t *testing.T) {
	for text, want := range map[string]lease.Lease{
		`{}`:                  {Offer: lease.Offer{Backend: "udp"}},
		`{"PublicIP":null}`:   {Offer: lease.Offer{Backend: "udp"}},
		`{"PublicIPv6":"::"}`: {Offer: lease.Offer{Backend: "udp"}},
		`{"PublicIP":"192.0.2.1","BackendType":"VXLAN","BackendData":null,"Future":[1]}`: {
			Public: storetest.Public("192.0.2.1"), Offer: lease.Offer{Backend: "vxlan"},
		},
	} {
		public, offer, err := etcd.ParseValue(text)
		if err != nil || public != want.Public || offer != want.Offer {
			t.Errorf("%s: %v %+v %v", text, public, offer, err)
		}
	}
	for _, text := range []string{
		``, `x`, `[]`, `{"PublicIP":"x"}`, `{"PublicIP":"2001:db8::1"}`, `{"PublicIPv6":"192.0.2.1"}`,
		`{"PublicIP":3}`, `{"BackendType":1}`, `{"PublicIPv6":"fe80::1%eth0"}`, `{} {}`,
	} {
		if public, offer, err := etcd.ParseValue(text); err == nil {
			t.Errorf("%s was read as %v %v", text, public, offer)
		}
	}
}

func FuzzParseValue(f *testing.F) {
	f.Add(`{"PublicIP":"192.0.2.1","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1}}`)
	f.Add(`{"PublicIP":"0.0.0.0","PublicIPv6":"2001:db8::1","BackendV6Data":[1, 2]}`)
	f.Add(`{"PublicIP":"::ffff:192.0.2.1","BackendData":"<&>"}`)
	f.Fuzz(func(t *testing.T, text string) {
		public, offer, err := etcd.ParseValue(text)
		if err != nil || len(text) > 8<<10 { // escapes make a value up to six times longer
			return
		}
		written, err := etcd.FormatValue(public, offer)
		if err != nil {
			t.Fatalf("%q cannot be written again: %v", text, err)
		}
		again, offerAgain, err := etcd.ParseValue(written)
		if err != nil || again != public {
			t.Errorf("%q became %q: %v", text, written, err)
		}
		if rewritten, err := etcd.FormatValue(again, offerAgain); err != nil || rewritten != written {
			t.Errorf("%q became %q, then %q", text, written, rewritten)
		}
	})
}
