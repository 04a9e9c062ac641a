package config

import (
	"encoding/json"
	"errors"
	"strings"

	"github.com/flannel-ng/flannel-ng/internal/addr"
)

// DefaultBackend is the type of a config without a Backend object, as in
// flannel (its documentation says otherwise).
const DefaultBackend = "udp"

const (
	typeKey    = "Type"
	backendKey = "Backend"
)

// switches are the keys that choose families and firewall.
type switches struct {
	EnableIPv4     bool `default:"true" doc:"give every host an IPv4 subnet"`
	EnableIPv6     bool `default:"false" doc:"give every host an IPv6 subnet"`
	EnableNFTables bool `default:"false" doc:"install traffic rules with nftables instead of iptables"`
}

func (s switches) enabled(f addr.Family) bool {
	if f == addr.IPv4 {
		return s.EnableIPv4
	}
	return s.EnableIPv6
}

// carrier is the key that chooses the backend.
type carrier struct {
	Backend json.RawMessage `doc:"the backend: its Type (whatever the case) and its own keys, see below; absent means {\"Type\": \"udp\"}"`
}

// Warning is a warning among errors.
type Warning string

func (w Warning) Error() string { return "warning: " + string(w) }

// Parse reads a network config. All broken rules are reported at once, each
// as a line that names key, value and rule. Keys that are not understood end
// up in Network.Warnings.
func Parse(b []byte) (Network, error) {
	members, err := readObject(b)
	if err != nil {
		return Network{}, err
	}
	var (
		d = decoder{members: members}
		s switches
		c carrier
		n Network
	)
	d.fill("", &s)
	for _, f := range addr.Families() {
		n.Pools.Put(f, d.pool(f, s.enabled(f)))
	}
	d.fill("", &c)
	n.NFTables = s.EnableNFTables
	n.Backend = d.backend(c)
	if !s.EnableIPv4 && !s.EnableIPv6 {
		d.reject("EnableIPv4 and EnableIPv6", "false", "one of them must be true")
	}
	d.findUnknown()
	n.Warnings = d.warnings
	if len(d.errs) > 0 {
		for _, w := range d.warnings { // a misspelt key may explain a missing one
			d.errs = append(d.errs, Warning(w))
		}
		return Network{}, errors.Join(d.errs...)
	}
	return n, nil
}

// backend reads the type and leaves the other keys to the backend itself.
func (d *decoder) backend(c carrier) Backend {
	if len(c.Backend) == 0 {
		return Backend{Type: DefaultBackend}
	}
	const rule = `must be an object such as {"Type": "vxlan"}`
	members, err := readObject(c.Backend)
	if err != nil {
		d.reject(backendKey, string(c.Backend), rule)
		return Backend{}
	}
	raw, ok := lookup(members, typeKey)
	if !ok {
		d.reject(backendKey, string(c.Backend), `must have a Type, such as "vxlan"`)
		return Backend{}
	}
	var name string
	if json.Unmarshal(raw, &name) != nil || name == "" {
		d.reject(backendKey+"."+typeKey, string(raw), `must be a string in quotes, such as "vxlan"`)
		return Backend{}
	}
	return Backend{Type: strings.ToLower(name), Options: c.Backend}
}
