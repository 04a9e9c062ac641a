// Package config reads the network config of a fabric: the JSON document that
// every store keeps for all hosts. Parse gives it one meaning, with defaults
// filled in and every rule checked, so that no store has rules of its own.
//
// It owns the keys, their defaults, rules and documentation. It never reads a
// store, a file or the environment. The engine and flannelctl call Parse;
// backends call Backend.Decode for their own options; the documentation
// generator calls NetworkKeys and Describe.
//
// # Options of a backend
//
// A backend declares its options as a struct. Tags say everything about a
// key, to the decoder and to docs/configuration.md alike:
//
//	type Options struct {
//		VNI  uint32 `default:"1" range:"1..16777215" doc:"VXLAN network identifier"`
//		Port uint16 `default:"8472" doc:"UDP port; 0 means 8472"`
//		MTU  int    `range:"0..65535" doc:"MTU of the underlay; 0 means that of the uplink"`
//	}
//
//	var o Options
//	warnings, err := config.Backend{Options: setup.Options}.Decode(&o)
//
// The tags are
//
//	json     the key; without it, the name of the field
//	default  the value of an absent key, as in JSON but without quotes;
//	         without it, the zero value
//	range    "lo..hi", both included, for numbers; without it, what the type
//	         can hold
//	doc      one line for people; end it without a full stop
//
// A field is a bool, a string, an integer, a netip.Addr, a netip.Prefix, a *bool
// that is nil when the key is absent, or a json.RawMessage that is kept as it
// is. Keys match whatever their case. null
// is the same as absent. A value that breaks a rule is an error that reads
// "Backend.VNI 16777216: must be 1..16777215"; a key that no field has is a
// warning, because a newer or older host may know it. A mistake in a tag
// panics: it is ours, and every test of the backend meets it.
package config
