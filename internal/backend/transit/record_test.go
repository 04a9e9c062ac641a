package transit_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/backend/transit"
)

const twoWays = `{"carriers":[{"wire":"udp port 8285","backend":{"Type":"udp"}},` +
	`{"wire":"vxlan vni 1 port 8472","backend":{"Type":"vxlan"},"receiveOnly":true,"data":{"ipv4":{"VNI":1,"VtepMAC":"02:00:00:00:00:01"}}}],` +
	`"udp":{"bpf":1}}`

// What a host writes is what others read, and what else an extra holds stays.
func TestRecordThereAndBack(t *testing.T) {
	r, err := transit.Parse(twoWays)
	if err != nil || len(r.Entries) != 2 || !r.Entries[1].ReceiveOnly || r.Entries[1].Data.At(addr.IPv4) == "" {
		t.Fatalf("%+v, %v", r, err)
	}
	if text, err := r.Format(`{"udp":{"bpf":1}}`); err != nil || text != twoWays {
		t.Errorf("got  %s, %v\nwant %s", text, err, twoWays)
	}
}

// A host of an older version has no record, and says nothing wrong.
func TestNoRecord(t *testing.T) {
	for _, extra := range []string{"", `{"udp":{"bpf":1}}`, `{"carriers":[]}`, `{"carriers":null}`} {
		if r, err := transit.Parse(extra); err != nil || len(r.Entries) != 0 {
			t.Errorf("%s: %+v, %v", extra, r, err)
		}
	}
}

func TestBadRecord(t *testing.T) {
	for name, extra := range map[string]string{
		"no object": `[1]`,
		"no list":   `{"carriers":{"wire":"host-gw"}}`,
		"no wire":   `{"carriers":[{"backend":{}}]}`,
		"long wire": `{"carriers":[{"wire":"` + strings.Repeat("x", 65) + `"}]}`,
		"twice":     `{"carriers":[{"wire":"a"},{"wire":"a"}]}`,
		"too many":  `{"carriers":[` + strings.TrimSuffix(strings.Repeat(`{"wire":"a"},`, 9), ",") + `]}`,
	} {
		if r, err := transit.Parse(extra); !errors.Is(err, transit.ErrRecord) {
			t.Errorf("%s: %+v, %v", name, r, err)
		}
	}
}

// What others write into a record is believed as far as it makes sense, and never
// names a command.
func TestCarrierOfRecord(t *testing.T) {
	for options, want := range map[string]string{
		`{"Type":"vxlan"}`: "vxlan vni 1 port 8472",
		`{"Type":"vxlan","VNI":7,"Port":4789,"GBP":true}`: "vxlan vni 7 port 4789 gbp",
		`{"Type":"udp"}`:           "udp port 8285",
		`{"Type":"host-gw"}`:       "host-gw",
		`{"Type":"vxlan","VNI":0}`: "",
		`{"Type":"extension","PostStartupCommand":"touch /x"}`: "",
		`{"Type":"alloc"}`:                       "",
		`{"Type":"gre"}`:                         "",
		`7`:                                      "",
		``:                                       "",
		`{"Type":"vxlan"},"Network":"0.0.0.0/0"`: "",
		`{"Type":"vxlan","x":"` + strings.Repeat("x", 1000) + `"}`: "",
	} {
		c, err := kit().Carrier(transit.Entry{Wire: want, Backend: []byte(options)})
		if (err == nil) != (want != "") || c.Wire.Name != want {
			t.Errorf("%.80s: %+v, %v", options, c.Wire, err)
		}
	}
	if _, err := kit().Carrier(transit.Entry{Wire: "udp port 1", Backend: []byte(`{"Type":"udp"}`)}); !errors.Is(err, transit.ErrRecord) {
		t.Errorf("options of another wire: %v", err)
	}
}

func FuzzRecord(f *testing.F) {
	f.Add(twoWays)
	f.Add(`{"carriers":[{"wire":"host-gw","backend":{"Type":"host-gw"},"extra":{"a":1}}]}`)
	f.Add(`{"carriers":[{"wire":"x"},{"wire":"y","data":{}}],"carriers":null}`)
	f.Fuzz(func(t *testing.T, extra string) {
		r, err := transit.Parse(extra)
		if err != nil || len(r.Entries) == 0 {
			return
		}
		for _, e := range r.Entries {
			if c, err := kit().Carrier(e); err == nil && c.Wire.Name != e.Wire {
				t.Errorf("%+v is taken for %+v", e, c)
			}
		}
		text, err := r.Format("")
		if err != nil {
			return // too long, or without options
		}
		again, err := transit.Parse(text)
		if err != nil || len(again.Entries) != len(r.Entries) {
			t.Fatalf("%s became %s, %v", extra, text, err)
		}
		for i := range r.Entries {
			if a, b := r.Entries[i], again.Entries[i]; a.Wire != b.Wire || a.ReceiveOnly != b.ReceiveOnly {
				t.Errorf("%+v became %+v", a, b)
			}
		}
		if third, err := again.Format(""); err != nil || third != text {
			t.Errorf("%s became %s, %v", text, third, err)
		}
	})
}
