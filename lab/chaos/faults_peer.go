package chaos

import (
	"context"
	"fmt"
	"net/netip"
	"regexp"
	"strings"

	"github.com/flannel-ng/flannel-ng/internal/addr"
)

// The ways by which a fabric reaches a peer, broken one at a time.
func peerFaults() []fault {
	return []fault{
		{name: "peer's route deleted", crowd: true, inject: func(ctx context.Context, t *trial) error {
			return t.ip(ctx, "route del %s proto 70", t.reached())
		}, applies: routed},
		{name: "peer's route altered", crowd: true, inject: func(ctx context.Context, t *trial) error {
			return t.ip(ctx, "route replace %s via %s dev eth0 proto 70", t.reached(), t.nowhere())
		}, applies: routed},
		{name: "peer's route replaced by a stranger's", witnessed: true, inject: func(ctx context.Context, t *trial) error {
			return t.ip(ctx, "route replace %s via %s dev eth0", t.reached(), t.nowhere())
		}, applies: routed},
		{name: "peer's neighbour deleted", crowd: true, inject: func(ctx context.Context, t *trial) error {
			return t.ip(ctx, "neigh del %s dev %s", t.reached().Addr(), t.device())
		}, applies: tunnelled},
		{name: "peer's neighbour altered", crowd: true, inject: func(ctx context.Context, t *trial) error {
			return t.ip(ctx, "neigh replace %s lladdr 02:00:00:00:00:99 dev %s nud permanent", t.reached().Addr(), t.device())
		}, applies: tunnelled},
		{name: "peer's neighbour made to expire", inject: func(ctx context.Context, t *trial) error {
			mac, err := t.macOf(ctx)
			if err != nil {
				return err
			}
			t.now()
			return t.ip(ctx, "neigh replace %s lladdr %s dev %s nud stale", t.reached().Addr(), mac, t.device())
		}, applies: tunnelled},
		{name: "peer's FDB entry deleted", crowd: true, inject: func(ctx context.Context, t *trial) error {
			mac, err := t.macOf(ctx)
			if err != nil {
				return err
			}
			t.now()
			_, err = t.host.Run(ctx, "bridge", "fdb", "del", mac, "dev", t.device())
			return err
		}, applies: tunnelled},
		{name: "peer's FDB entry altered", crowd: true, inject: func(ctx context.Context, t *trial) error {
			mac, err := t.macOf(ctx)
			if err != nil {
				return err
			}
			t.now()
			_, err = t.host.Run(ctx, "bridge", "fdb", "replace", mac, "dev", t.device(), "dst", t.nowhere().String())
			return err
		}, applies: tunnelled},
		{name: "peer's nexthop deleted", crowd: true, inject: func(ctx context.Context, t *trial) error {
			return t.nexthop(ctx, func(id string) string { return "nexthop del id " + id })
		}, applies: routed},
		{name: "peer's nexthop altered", crowd: true, inject: func(ctx context.Context, t *trial) error {
			return t.nexthop(ctx, func(id string) string {
				return fmt.Sprintf("nexthop replace id %s via %s dev eth0 proto 70", id, t.nowhere())
			})
		}, applies: routed},
	}
}

// flushes take the ways to all peers at once.
func flushes() []fault {
	return []fault{
		{name: "peers' routes flushed", crowd: true, inject: flushPeers, applies: routed},
		{name: "main table flushed, network manager puts back its own", inject: flushMain},
		{name: "ip neigh flush", crowd: true, inject: func(ctx context.Context, t *trial) error {
			_, err := t.host.Run(ctx, "ip", "neigh", "flush", "dev", t.device(), "nud", "permanent")
			return err
		}, applies: tunnelled},
		{name: "bridge fdb flush", crowd: true, inject: func(ctx context.Context, t *trial) error {
			_, err := t.host.Run(ctx, "bridge", "fdb", "flush", "dev", t.device())
			return err
		}, applies: tunnelled},
	}
}

// tunnelled says whether peers have neighbours and forwarding entries.
func tunnelled(v variant) bool { return v.carrier == vxlan }

// routed says whether peers have routes of their own: udp has one for all.
func routed(v variant) bool { return v.carrier != udp }

// ip runs one line of ip on the host.
func (t *trial) ip(ctx context.Context, format string, args ...any) error {
	return t.host.IP(ctx, fmt.Sprintf(format, args...))
}

// reached is the peer's subnet.
func (t *trial) reached() netip.Prefix {
	gateway, err := t.peer().Gateway(t.family())
	if err != nil {
		return netip.Prefix{} // ip refuses it
	}
	return gateway.Masked()
}

// nowhere is an address on the underlay that nobody has.
func (t *trial) nowhere() netip.Addr {
	return t.nowhereIn(t.family())
}

// nowhereAt is one in the first family, in which leases are looked at.
func (t *trial) nowhereAt() netip.Addr { return t.nowhereIn(t.families()[0]) }

func (t *trial) nowhereIn(f addr.Family) netip.Addr {
	switch {
	case f == addr.IPv6:
		return netip.MustParseAddr("2001:db8::bad")
	case t.peers > real3:
		return netip.MustParseAddr("198.19.255.250")
	default:
		return netip.MustParseAddr("198.51.100.222")
	}
}

// device is the tunnel device of the family whose turn it is.
func (t *trial) device() string { return deviceOf(t.variant, t.family()) }

func deviceOf(v variant, f addr.Family) string {
	switch {
	case v.carrier == udp:
		return "flannel0"
	case f == addr.IPv6:
		return "flannel-v6.1"
	default:
		return "flannel.1"
	}
}

// macOf is the link-layer address of the peer's tunnel device.
func (t *trial) macOf(ctx context.Context) (string, error) {
	peer := *t
	peer.host = t.peer()
	return peer.find(ctx, `link/ether (\S+)`, "ip", "link", "show", "dev", t.device())
}

// find runs a command on the host and returns the first group that matched.
func (t *trial) find(ctx context.Context, pattern string, command ...string) (string, error) {
	out, err := t.host.Run(ctx, command...)
	if err != nil {
		return "", err
	}
	for _, group := range regexp.MustCompile(pattern).FindStringSubmatch(out) {
		if group != "" && !strings.Contains(group, " ") {
			return group, nil
		}
	}
	return "", fmt.Errorf("no %s in: %s", pattern, out)
}

func (t *trial) nexthop(ctx context.Context, line func(id string) string) error {
	id, err := t.find(ctx, `nhid (\d+)`, "ip", version(t.family()), "route", "show", t.reached().String())
	if err != nil {
		return err
	}
	t.now()
	return t.host.IP(ctx, line(id))
}

// version is the flag of ip for a family.
func version(f addr.Family) string {
	if f == addr.IPv6 {
		return "-6"
	}
	return "-4"
}

// listed are the routes of the main table, as ip shows them.
func (t *trial) listed(ctx context.Context) ([]string, error) {
	spoken := strings.NewReplacer("pref medium", "", " linkdown", "", " dead", "") // what ip says and does not take
	var lines []string
	for _, f := range addr.Families() {
		out, err := t.host.Run(ctx, "ip", version(f), "route", "show", "table", "main")
		if err != nil {
			return nil, err
		}
		for line := range strings.Lines(out) {
			lines = append(lines, strings.TrimSpace(spoken.Replace(line)))
		}
	}
	return lines, nil
}

// flushPeers deletes the routes one by one: ip of 2022 (6.1) cannot flush those
// that use nexthop objects.
func flushPeers(ctx context.Context, t *trial) error {
	lines, err := t.listed(ctx)
	if err != nil {
		return err
	}
	var gone []string
	for _, line := range lines {
		if strings.Contains(line, "proto 70") {
			gone = append(gone, "route del "+strings.Fields(line)[0]+" proto 70")
		}
	}
	t.now()
	return t.host.IP(ctx, gone...)
}

// flushMain empties the main table and then does what a network manager does:
// it puts back the routes that it knows, the kernel's own among them.
func flushMain(ctx context.Context, t *trial) error {
	lines, err := t.listed(ctx)
	if err != nil {
		return err
	}
	var gone, direct, far []string
	for _, line := range lines {
		switch {
		case strings.Contains(line, "proto 70"):
			gone = append(gone, "route del "+strings.Fields(line)[0]+" proto 70")
			continue
		case strings.Contains(line, "nhid"):
			continue // a stranger's; it comes back with the others of theirs
		case strings.HasPrefix(line, "fe80:"):
			continue // automatic
		case strings.Contains(line, " via "):
			far = append(far, "route replace "+line)
		default:
			direct = append(direct, "route replace "+line)
		}
		gone = append(gone, "route del "+line)
	}
	// What hangs on what just went is gone already.
	if err := script("{ ip -force -batch - || true; } 2>/dev/null <<EOF\n"+strings.Join(gone, "\n")+"\nEOF\n")(ctx, t); err != nil {
		return err
	}
	t.now()
	return t.host.IP(ctx, append(direct, far...)...)
}
