package config

import (
	"bytes"
	"encoding/json"
	"net/netip"
	"strconv"

	"github.com/flannel-ng/flannel-ng/internal/addr"
)

// Network is the network config of a fabric, parsed, defaulted and validated:
// one meaning for every store.
type Network struct {
	Pools    addr.ByFamily[Pool] // a zero Pool: family not enabled
	NFTables bool
	Backend  Backend
	// Warnings name keys that were not understood; they are kept in the
	// store and have no effect.
	Warnings []string
}

// Pool is the address space of one family and how it is cut.
type Pool struct {
	Network   netip.Prefix // masked
	SubnetLen int          // bits of one lease
	Min, Max  netip.Prefix // first and last lease, inclusive
}

// Backend names the carrier; its own options are parsed by the backend.
type Backend struct {
	Type    string          // lower case
	Options json.RawMessage // the whole Backend object
}

// JSON is the Backend object as one may write it, without spaces.
func (b Backend) JSON() json.RawMessage {
	var out bytes.Buffer
	if len(b.Options) > 0 && json.Compact(&out, b.Options) == nil {
		return out.Bytes()
	}
	return json.RawMessage(`{"Type":` + strconv.Quote(b.Type) + `}`)
}

// Families lists the enabled families, IPv4 first.
func (n Network) Families() []addr.Family {
	var fs []addr.Family
	for _, f := range addr.Families() {
		if n.Pools.At(f).Network.IsValid() {
			fs = append(fs, f)
		}
	}
	return fs
}
