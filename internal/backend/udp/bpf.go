package udp

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/backend"
	"github.com/flannel-ng/flannel-ng/internal/config"
	"github.com/flannel-ng/flannel-ng/internal/facts"
	"github.com/flannel-ng/flannel-ng/internal/lease"
	"github.com/flannel-ng/flannel-ng/internal/state"
)

// ErrBPF says that the kernel of this host cannot carry packets, and that the
// fabric's config demands it.
var ErrBPF = errors.New(`"BPF": "on" cannot be had`)

// mode is the fabric's word on programs in the kernel.
type mode string

const (
	modeAuto mode = "auto" // where it can be had
	modeOn   mode = "on"   // a host without it is not ready
	modeOff  mode = "off"
)

func (m mode) check() error {
	switch m {
	case modeAuto, modeOn, modeOff:
		return nil
	default:
		return fmt.Errorf("Backend.BPF %q: must be auto, on or off", string(m))
	}
}

// decap is the name of the fast path's own device, unless that is taken.
const decap = "flannel0-in"

// bpfVersion is that of what the kernels agree on: a datagram without a UDP
// checksum is one whole inner packet, whose own checksums may be left to the
// network card.
const bpfVersion = 1

// extra is Offer.Extra.
type extra struct {
	UDP struct {
		BPF int `json:"bpf"` // version that this host's kernel takes; 0: none
	} `json:"udp"`
}

// everything is the extra of a host that can all there is.
const everything = `{"udp":{"bpf":1}}`

// offers says whether the holder of an offer takes datagrams in its kernel. A
// later version takes those of this one, too. What cannot be read offers
// nothing.
func offers(o lease.Offer) bool {
	var x extra
	return json.Unmarshal([]byte(o.Extra), &x) == nil && x.UDP.BPF >= bpfVersion
}

// without says why the kernel of this host carries no packets, or "".
func (m mode) without(families []addr.Family, n facts.Node) string {
	if why := m.unable(families, n.FastPath); why != "" {
		return why
	}
	if n.Uplink.MAC == (addr.MAC{}) {
		return "it needs Ethernet, and the uplink " + n.Uplink.Name + " has none"
	}
	return ""
}

// unable is without, apart from the uplink, of which Peer knows little.
func (m mode) unable(families []addr.Family, a facts.Ability) string {
	switch {
	case m == modeOff:
		return "in the network config"
	case !slices.Contains(families, addr.IPv4):
		return "it carries IPv4 only, and the network has none"
	case !a.OK:
		return cmp.Or(a.Why, "nobody has looked whether the kernel can")
	default:
		return ""
	}
}

// WithoutFastPath says why the kernel of host n carries no packets in a fabric,
// or "".
func WithoutFastPath(fabric config.Network, n facts.Node) string {
	var o Options
	if _, err := fabric.Backend.Decode(&o); err != nil {
		return err.Error()
	}
	return mode(o.BPF).without(fabric.Families(), n)
}

// announce completes an offer.
func (u *udp) announce(n facts.Node, o lease.Offer) (lease.Offer, error) {
	if u.bpf.without(u.families, n) != "" {
		return o, nil
	}
	var x extra
	x.UDP.BPF = bpfVersion
	text, err := json.Marshal(x)
	if err != nil {
		return lease.Offer{}, fmt.Errorf("udp: encode offer: %w", err)
	}
	o.Extra = string(text)
	return o, nil
}

// fastPath is the kernel's part of tunnel t.
func (u *udp) fastPath(t state.Tunnel, n facts.Node) ([]state.FastPath, error) {
	why := u.bpf.without(u.families, n)
	if why != "" && u.bpf == modeOn {
		return nil, fmt.Errorf("udp: %w: %s", ErrBPF, why)
	}
	if why != "" {
		return nil, nil
	}
	return []state.FastPath{{
		Link: t.Link, Uplink: n.Uplink.Name, Decap: u.decap(n), Port: t.Port,
		Source: t.Source.At(addr.IPv4), Local: t.Local.At(addr.IPv4), Optional: u.bpf == modeAuto,
	}}, nil
}

// decap is the name of the hidden device. It has another mark than other
// devices of ours, so that any of the name that is not the default instance's
// counts as foreign.
func (u *udp) decap(n facts.Node) string {
	fits := func(l facts.Link) bool { return l.Alias == state.FastPathAlias(u.owner) }
	if l, ok := n.LinkNamed(decap); ok && fits(l) {
		return decap
	}
	return backend.LinkName(n.Links, u.owner, decap, fits)
}

// fastPeer is the kernel's part towards one peer. The forwarder's stands beside
// it. Without a fast path it is nothing.
func (u *udp) fastPeer(n facts.Node, e state.TunnelEnd, p lease.Lease) []state.FastPeer {
	if addr.Of(e.Dst) != addr.IPv4 || p.Owner == "" || !offers(p.Offer) || u.bpf.unable(u.families, n.FastPath) != "" {
		return nil
	}
	return []state.FastPeer{{Link: e.Link, Subnet: e.Subnet, Dst: e.Dst}}
}
