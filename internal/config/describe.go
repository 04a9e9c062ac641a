package config

import (
	"encoding/json"
	"net/netip"
	"reflect"

	"github.com/flannel-ng/flannel-ng/internal/addr"
)

// KeyDoc is what a reader of the documentation learns about one key.
type KeyDoc struct {
	Key     string
	Type    string // boolean, string, number, IP address, CIDR, object
	Default string // "" if the default is none, or computed as Doc says
	Range   string // "lo..hi" for numbers, else ""
	Doc     string
}

// Describe documents the keys of an options struct, in the order of its
// fields, from the tags that Decode obeys.
func Describe(options any) []KeyDoc {
	var out []KeyDoc
	for _, f := range fieldsOf(options) {
		d := KeyDoc{Key: f.key, Type: typeWord(f.value), Default: f.preset, Doc: f.doc}
		if f.lo != "" && !f.open {
			d.Range = f.lo + ".." + f.hi
		}
		if d.Default == "" {
			d.Default = zeroText(f.value.Kind(), d.Type)
		}
		out = append(out, d)
	}
	return out
}

// NetworkKeys documents the keys of the network config.
func NetworkKeys() []KeyDoc {
	out := Describe(switches{})
	for _, f := range addr.Families() {
		for _, d := range Describe(space{}) {
			d.Key = keyPrefix(f) + d.Key
			d.Default = ""
			out = append(out, d)
		}
	}
	return append(out, Describe(carrier{})...)
}

func typeWord(v reflect.Value) string {
	switch v.Interface().(type) {
	case json.RawMessage:
		return "object"
	case netip.Prefix:
		return "CIDR"
	case netip.Addr:
		return "IP address"
	}
	switch {
	case v.Kind() == reflect.Bool, isDecision(v.Type()):
		return "boolean"
	case v.Kind() == reflect.String:
		return "string"
	default:
		return "number"
	}
}

// zeroText is the zero value of a field where that is a value that a user could
// write, else "".
func zeroText(k reflect.Kind, typeWord string) string {
	switch {
	case k == reflect.Bool:
		return "false"
	case typeWord == "number":
		return "0"
	default:
		return ""
	}
}
