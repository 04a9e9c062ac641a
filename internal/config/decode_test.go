package config_test

import (
	"encoding/json"
	"net/netip"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/flannel-ng/flannel-ng/internal/config"
)

// options has one field of every sort.
type options struct {
	VNI    uint32          `default:"1" range:"1..16777215" doc:"network"`
	Port   uint16          `doc:"port"`
	Offset int8            `default:"-3" range:"-5..5"`
	Big    uint64          `json:"Huge,omitempty"`
	Mode   string          `default:"auto"`
	Fast   bool            `default:"true"`
	Peer   netip.Addr      `default:"192.0.2.1"`
	Net    netip.Prefix    `default:"192.0.2.0/24"`
	Extra  json.RawMessage `doc:"as it is"`
	Choice *bool           `doc:"or nothing"`
}

func preset() options {
	return options{
		VNI: 1, Offset: -3, Mode: "auto", Fast: true,
		Peer: netip.MustParseAddr("192.0.2.1"), Net: netip.MustParsePrefix("192.0.2.0/24"),
	}
}

func TestDecode(t *testing.T) {
	everything := options{
		VNI: 16777215, Port: 65535, Offset: 5, Big: 1<<64 - 1, Mode: "x", Extra: json.RawMessage(`[1, 2]`),
		Peer: netip.MustParseAddr("2001:db8::1"), Net: netip.MustParsePrefix("2001:db8::/32"),
	}
	for text, want := range map[string]options{
		``:                         preset(),
		`{"Type":"x"}`:             preset(),
		`{"VNI":null,"mode":null}`: preset(),
		`{"vni":16777215,"PORT":65535,"offset":5,"huge":18446744073709551615,"Mode":"x","fast":false,
		  "peer":"2001:db8::1","net":"2001:db8::/32","extra":[1, 2]}`: everything,
	} {
		got := options{Port: 9, Extra: json.RawMessage("stale")}
		warnings, err := config.Backend{Options: []byte(text)}.Decode(&got)
		if err != nil || len(warnings) > 0 || !reflect.DeepEqual(got, want) {
			t.Errorf("%s:\n got %+v, %q, %v\nwant %+v", text, got, warnings, err, want)
		}
	}
}

// A *bool tells "no" from "nothing said".
func TestDecodeDecision(t *testing.T) {
	for text, want := range map[string]string{
		`{}`: "", `{"Choice":null}`: "", `{"Choice":true}`: "true", `{"choice":false}`: "false",
	} {
		stale := true
		got := options{Choice: &stale}
		warnings, err := config.Backend{Options: []byte(text)}.Decode(&got)
		said := ""
		if got.Choice != nil {
			said = strconv.FormatBool(*got.Choice)
		}
		if err != nil || len(warnings) > 0 || said != want || !stale {
			t.Errorf("%s: got %q, %q, %v, want %q", text, said, warnings, err, want)
		}
	}
}

func TestDecodeErrors(t *testing.T) {
	for text, want := range map[string]string{
		`{"VNI":16777216}`:    "Backend.VNI 16777216: must be 1..16777215",
		`{"VNI":0}`:           "Backend.VNI 0: must be 1..16777215",
		`{"VNI":-1}`:          "Backend.VNI -1: must be 1..16777215",
		`{"VNI":"7"}`:         `Backend.VNI "7": must be 1..16777215, without quotes`,
		`{"VNI":1e3}`:         "Backend.VNI 1e3: must be 1..16777215",
		`{"VNI":[1]}`:         "Backend.VNI [1]: must be 1..16777215",
		`{"Port":65536}`:      "Backend.Port 65536: must be 0..65535",
		`{"Offset":-6}`:       "Backend.Offset -6: must be -5..5",
		`{"Huge":-1}`:         "Backend.Huge -1: must be a whole number",
		`{"Mode":1}`:          "Backend.Mode 1: must be a string in quotes",
		`{"Fast":1}`:          "Backend.Fast 1: must be true or false, without quotes",
		`{"Choice":"yes"}`:    `Backend.Choice "yes": must be true or false, without quotes`,
		`{"Choice":0}`:        "Backend.Choice 0: must be true or false, without quotes",
		`{"Peer":"x"}`:        `Backend.Peer "x": must be an IP address in quotes`,
		`{"Net":"192.0.2.1"}`: `Backend.Net "192.0.2.1": must be a CIDR in quotes`,
		`[]`:                  "network config key Backend: []: must be a JSON object",
		`{"Mode":{"long":"` + strings.Repeat("é", 100) + `"}}`: `Backend.Mode {"long":"` + strings.Repeat("é", 51) + "…: must be",
	} {
		_, err := config.Backend{Options: []byte(text)}.Decode(&options{})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s:\n got %v\nwant %s", text, err, want)
		}
	}
}

func TestDecodeWarnings(t *testing.T) {
	warnings, err := config.Backend{Options: []byte(`{"Type":"x","Prot":1,"Learning":true,"VNI":1,"Vni":2}`)}.Decode(&options{})
	want := []string{
		"Backend.Prot: unknown key, ignored; did you mean Port?",
		"Backend.Learning: unknown key, ignored",
		"Backend.Vni: given more than once, the last one counts",
	}
	if err != nil || !slices.Equal(warnings, want) {
		t.Errorf("got %q, %v, want %q", warnings, err, want)
	}
}

// TestBadTags shows that a mistake in a struct of ours cannot stay unseen.
func TestBadTags(t *testing.T) {
	for name, into := range map[string]any{
		"default out of range": &struct {
			A int `default:"9" range:"1..2"`
		}{},
		"default of another type": &struct {
			A bool `default:"yes"`
		}{},
		"range without dots": &struct {
			A int `range:"1-2"`
		}{},
		"range without numbers": &struct {
			A int `default:"1" range:"a..b"`
		}{},
		"type": &struct {
			A float64 `default:"1"`
		}{},
		"pointer": &struct {
			A *int `default:"1"`
		}{},
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: no panic", name)
				}
			}()
			_, _ = config.Backend{}.Decode(into)
		}()
	}
}

func TestDescribe(t *testing.T) {
	want := []config.KeyDoc{
		{"VNI", "number", "1", "1..16777215", "network"},
		{"Port", "number", "0", "0..65535", "port"},
		{"Offset", "number", "-3", "-5..5", ""},
		{"Huge", "number", "0", "", ""},
		{"Mode", "string", "auto", "", ""},
		{"Fast", "boolean", "true", "", ""},
		{"Peer", "IP address", "192.0.2.1", "", ""},
		{"Net", "CIDR", "192.0.2.0/24", "", ""},
		{"Extra", "object", "", "", "as it is"},
		{"Choice", "boolean", "", "", "or nothing"},
	}
	if got := config.Describe(options{}); !slices.Equal(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

// TestNetworkKeysAreParsed guards against a documented key that Parse does not
// know.
func TestNetworkKeysAreParsed(t *testing.T) {
	keys := config.NetworkKeys()
	if len(keys) != 12 {
		t.Errorf("%d keys, want 12", len(keys))
	}
	for _, k := range keys {
		if k.Doc == "" || k.Type == "" {
			t.Errorf("%s is not documented", k.Key)
		}
		text, err := json.Marshal(map[string]any{k.Key: struct{}{}})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := config.Parse(text); err == nil || !strings.Contains(err.Error(), k.Key+" {}: must") {
			t.Errorf("%s: an object as its value gives %v", k.Key, err)
		}
	}
}

func TestNearest(t *testing.T) {
	known := []string{"etcd-endpoints", "etcd-prefix", "iface", "v"}
	for word, want := range map[string]string{
		"etcd-endpoint": "etcd-endpoints", "ectd-endpoints": "etcd-endpoints", "IFACE": "iface",
		"etcd-suffix": "etcd-prefix", "public-ip": "", "": "", "x": "", strings.Repeat("a", 1000): "",
	} {
		if got, ok := config.Nearest(word, known); got != want || ok != (want != "") {
			t.Errorf("%q: got %q, %t, want %q", word, got, ok, want)
		}
	}
}
