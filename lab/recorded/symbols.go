package recorded

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"regexp"
	"slices"
	"strings"
)

// side is what is drawn by lot, or differs between the two hosts, on one host.
type side struct {
	subnets []netip.Prefix    // from subnet.env, with the first host address
	uplinks []netip.Addr      // global addresses of eth0
	macs    map[string]string // device of each MAC
}

// errNoUplink is returned for a dump without eth0: it says nothing.
var errNoUplink = errors.New("no address of eth0 in the dump")

func sideOf(h HostFacts) (side, error) {
	s := side{macs: map[string]string{}}
	for _, line := range lines(h.SubnetEnv) {
		key, value, _ := strings.Cut(line, "=")
		if !strings.HasSuffix(key, "_SUBNET") {
			continue
		}
		p, err := netip.ParsePrefix(value)
		if err != nil {
			return s, fmt.Errorf("%s: %w", key, err)
		}
		s.subnets = append(s.subnets, p)
	}
	device := ""
	header := regexp.MustCompile(`^\d+: ([^:@]+)[:@]`)
	for _, line := range lines(h.Kernel) {
		if m := header.FindStringSubmatch(line); m != nil {
			device = m[1]
		}
		if err := s.read(device, strings.Fields(line)); err != nil {
			return s, err
		}
	}
	if len(s.uplinks) == 0 {
		return s, errNoUplink
	}
	return s, nil
}

// read takes what is ours to name from a line about a device.
func (s *side) read(device string, words []string) error {
	switch {
	case len(words) < 2:
	case words[0] == "link/ether":
		s.macs[words[1]] = device
	case strings.HasPrefix(words[0], "inet") && device == "eth0":
		p, err := netip.ParsePrefix(words[1])
		if err != nil {
			return fmt.Errorf("address of eth0: %w", err)
		}
		s.uplinks = append(s.uplinks, p.Addr())
	}
	return nil
}

// symbols are replacements, used in this order.
type symbols []symbol

type symbol struct {
	pattern *regexp.Regexp
	name    string
}

// named is a side as one place calls it.
type named struct {
	name string
	side side
}

func symbolsOf(sides ...named) symbols {
	var all symbols
	for _, n := range sides {
		for _, p := range n.side.subnets {
			all = append(all, subnetSymbol(n.name, p))
		}
		for _, a := range n.side.uplinks {
			all = append(all, symbol{whole(a.String()), "<" + n.name + " uplink" + suffix(a) + ">"})
		}
		for _, mac := range slices.Sorted(maps.Keys(n.side.macs)) {
			all = append(all, symbol{whole(mac), "<" + n.name + " " + n.side.macs[mac] + " MAC>"})
		}
	}
	return all
}

// subnetSymbol names the part that all addresses of a subnet share, so that
// the rest stays to be seen: 10.5.72.1/24 is <own>.1/24.
func subnetSymbol(name string, p netip.Prefix) symbol {
	base := p.Masked().Addr().String()
	end := "."
	if p.Addr().Is6() {
		end = "::"
	}
	shared := base[:strings.LastIndex(base, end)] + end
	return symbol{
		regexp.MustCompile(`\b` + regexp.QuoteMeta(shared)),
		"<" + name + suffix(p.Addr()) + ">" + end,
	}
}

func suffix(a netip.Addr) string {
	if a.Is6() {
		return " v6"
	}
	return ""
}

func whole(text string) *regexp.Regexp {
	return regexp.MustCompile(`\b` + regexp.QuoteMeta(text) + `\b`)
}
