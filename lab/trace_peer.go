package lab

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"regexp"

	"github.com/flannel-ng/flannel-ng/internal/addr"
)

// tracePeer is another host's lease as plain flannel reads it. Comparable.
type tracePeer struct {
	kind  string // BackendType, empty for udp and alloc
	sides addr.ByFamily[traceSide]
}

// leaseKey is the pattern of keys that flannel can read.
func leaseKey() *regexp.Regexp {
	return regexp.MustCompile(`^` + regexp.QuoteMeta(Prefix) +
		`/subnets/(\d+\.\d+\.\d+\.\d+)-(\d+)(?:&([a-f\d:]+)-(\d+))?$`)
}

func parseTracePeer(p Pair) (tracePeer, error) {
	m := leaseKey().FindStringSubmatch(p.Key)
	if m == nil {
		return tracePeer{}, fmt.Errorf("key %s is no lease", p.Key)
	}
	var v struct {
		PublicIP, PublicIPv6       netip.Addr
		BackendType                string
		BackendData, BackendV6Data struct{ VtepMAC string }
	}
	if err := json.Unmarshal([]byte(p.Value), &v); err != nil {
		return tracePeer{}, fmt.Errorf("value of %s: %w", p.Key, err)
	}
	peer := tracePeer{kind: v.BackendType}
	for f, in := range map[addr.Family]struct {
		subnet, mac string
		public      netip.Addr
	}{
		addr.IPv4: {m[1] + "/" + m[2], v.BackendData.VtepMAC, v.PublicIP},
		addr.IPv6: {m[3] + "/" + m[4], v.BackendV6Data.VtepMAC, v.PublicIPv6},
	} {
		if !in.public.IsValid() || in.public.IsUnspecified() {
			continue
		}
		side, err := parseTraceSide(in.subnet, in.mac)
		if err != nil {
			return tracePeer{}, fmt.Errorf("lease %s %s: %w", p.Key, p.Value, err)
		}
		side.public = in.public
		peer.sides.Put(f, side)
	}
	return peer, nil
}

func parseTraceSide(subnet, mac string) (s traceSide, err error) {
	if s.subnet, err = netip.ParsePrefix(subnet); err != nil || mac == "" {
		return s, err
	}
	s.mac, err = addr.ParseMAC(mac)
	return s, err
}

// traceLines are instructions for ip, bridge and the udp backend's forwarder.
type traceLines struct{ ip, bridge, forwarder []string }

func (l *traceLines) append(more traceLines) {
	l.ip = append(l.ip, more.ip...)
	l.bridge = append(l.bridge, more.bridge...)
	l.forwarder = append(l.forwarder, more.forwarder...)
}

// add is what flannel does for a peer that came.
func (t trace) add(p tracePeer) (l traceLines) {
	for _, f := range t.families() {
		side, dev := p.sides.At(f), traceDevice(f)
		if !side.subnet.IsValid() {
			continue
		}
		base := side.subnet.Addr()
		switch {
		case t.carrier.kind == kindUDP:
			l.forwarder = append(l.forwarder, fmt.Sprintf("set %s %s", side.subnet, side.public))
		case t.carrier.kind == kindHostGW || t.carrier.direct:
			l.ip = append(l.ip, fmt.Sprintf("route replace %s via %s dev eth0", side.subnet, side.public))
		default:
			l.ip = append(l.ip,
				fmt.Sprintf("neigh replace %s lladdr %s dev %s nud permanent", base, side.mac, dev),
				fmt.Sprintf("route replace %s via %s dev %s onlink", side.subnet, base, dev))
			l.bridge = append(l.bridge, fmt.Sprintf("fdb replace %s dev %s dst %s self permanent", side.mac, dev, side.public))
		}
	}
	return l
}

// remove is what flannel does for a peer that went.
func (t trace) remove(p tracePeer) (l traceLines) {
	for _, f := range t.families() {
		side, dev := p.sides.At(f), traceDevice(f)
		if !side.subnet.IsValid() {
			continue
		}
		switch {
		case t.carrier.kind == kindUDP:
			l.forwarder = append(l.forwarder, fmt.Sprintf("del %s", side.subnet))
		case t.carrier.kind == kindHostGW || t.carrier.direct:
			l.ip = append(l.ip, fmt.Sprintf("route del %s dev eth0", side.subnet))
		default:
			l.ip = append(l.ip,
				fmt.Sprintf("route del %s dev %s", side.subnet, dev),
				fmt.Sprintf("neigh del %s dev %s", side.subnet.Addr(), dev))
			l.bridge = append(l.bridge, fmt.Sprintf("fdb del %s dev %s dst %s self", side.mac, dev, side.public))
		}
	}
	return l
}
