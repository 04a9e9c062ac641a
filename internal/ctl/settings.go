package ctl

import (
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/config"
)

// setting is one key of the network config and its value in effect.
type setting struct {
	Key    string `json:"key"`
	Value  string `json:"value"` // for people and programs: no secrets
	secret string // what Value hides, so that a change of it shows
}

// settingsOf lists what a config means, in the words of its keys.
func settingsOf(n config.Network) []setting {
	var out []setting
	add := func(key, value string) { out = append(out, setting{Key: key, Value: value}) }
	for _, f := range addr.Families() {
		add("Enable"+f.String(), strconv.FormatBool(n.Pools.At(f).Network.IsValid()))
	}
	for _, f := range n.Families() {
		pool, prefix := n.Pools.At(f), ""
		if f == addr.IPv6 {
			prefix = f.String() // IPv4's keys carry no family (reference §2)
		}
		add(prefix+"Network", pool.Network.String())
		add(prefix+"SubnetLen", strconv.Itoa(pool.SubnetLen))
		add(prefix+"SubnetMin", pool.Min.Addr().String())
		add(prefix+"SubnetMax", pool.Max.Addr().String())
	}
	add("EnableNFTables", strconv.FormatBool(n.NFTables))
	add("Backend.Type", n.Backend.Type)
	return append(out, options(n.Backend.Options)...)
}

// options lists the keys of the Backend object besides Type, as written.
func options(raw json.RawMessage) []setting {
	var values map[string]json.RawMessage
	if len(raw) == 0 || json.Unmarshal(raw, &values) != nil {
		return nil // config.Parse has refused anything but an object
	}
	var out []setting
	for _, key := range slices.Sorted(maps.Keys(values)) {
		if strings.EqualFold(key, "Type") {
			continue
		}
		s := setting{Key: "Backend." + key, Value: string(values[key])}
		if isSecret(key) {
			s.Value, s.secret = "(secret)", s.Value
		}
		out = append(out, s)
	}
	return out
}

// isSecret names the backend keys that must not show up in a terminal's
// history or a pipeline's log (reference §5, W18).
func isSecret(key string) bool {
	for _, s := range []string{"PSK", "AccessKeyID", "AccessKeySecret"} {
		if strings.EqualFold(key, s) {
			return true
		}
	}
	return false
}

// change is one setting that differs; "" is absent.
type change struct {
	Key string `json:"key"`
	Was string `json:"was"`
	Is  string `json:"is"`
}

// compare lists what differs, in the order of is and then of what went.
func compare(was, is []setting) []change {
	before := make(map[string]setting, len(was))
	for _, s := range was {
		before[s.Key] = s
	}
	out := []change{}
	for _, s := range is {
		if old := before[s.Key]; old != s {
			out = append(out, change{Key: s.Key, Was: old.Value, Is: s.Value})
		}
		delete(before, s.Key)
	}
	for _, s := range was {
		if _, gone := before[s.Key]; gone {
			out = append(out, change{Key: s.Key, Was: s.Value})
		}
	}
	return out
}
