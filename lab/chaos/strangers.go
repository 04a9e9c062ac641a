package chaos

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/lab"
)

// planting puts things of strangers on a host: what routing daemons, VPNs,
// firewalls and administrators have. It can be run again, and then puts back
// what is missing.
const planting = `
ip link show foreign0 >/dev/null 2>&1 || ip link add foreign0 type veth peer name foreign1
ip link show fvx >/dev/null 2>&1 || ip link add fvx type vxlan id 777 dstport 4790 nolearning
ip -batch - <<EOF
link set foreign0 up
link set foreign1 up
link set fvx up
addr replace 192.0.2.1/24 dev foreign0
addr replace 2001:db8:77::1/64 dev foreign0 nodad
route replace 203.0.113.64/26 via 192.0.2.254 dev foreign0
route replace 203.0.113.128/26 dev foreign0 proto 99 metric 7
route replace 10.99.0.0/16 via 192.0.2.254 dev foreign0
route replace blackhole 203.0.113.32/28
route replace 2001:db8:7700::/48 via 2001:db8:77::fe dev foreign0
nexthop replace id 4242 via 192.0.2.250 dev foreign0
route replace 203.0.113.200/32 nhid 4242
route replace 203.0.113.0/28 dev foreign0 table 77
neigh replace 192.0.2.250 lladdr 02:00:00:00:00:50 dev foreign0 nud permanent
neigh replace 198.51.100.200 lladdr 02:00:00:00:00:51 dev eth0 nud permanent
neigh replace 192.0.2.77 lladdr 02:00:00:00:00:52 dev fvx nud permanent
EOF
bridge fdb replace 02:00:00:00:00:52 dev fvx dst 192.0.2.9
ip rule show pref 5000 | grep -q . || ip rule add from 192.0.2.0/24 lookup 77 pref 5000
sysctl -qw net.ipv4.conf.foreign0.rp_filter=2 net.ipv6.conf.foreign0.accept_ra=2 net.ipv4.conf.foreign1.forwarding=0
nft list table inet stranger >/dev/null 2>&1 || nft -f - <<EOF
table inet stranger {
	set known { type ipv4_addr; elements = { 192.0.2.7 }; }
	chain in { type filter hook input priority 10; ip saddr @known tcp dport 1 drop; }
	chain through { type filter hook forward priority 10; tcp dport 1 drop; }
}
EOF
rule() { "$1" -t "$2" -C "${@:3}" 2>/dev/null || "$1" -t "$2" -A "${@:3}"; }
for t in iptables ip6tables; do
	"$t" -N STRANGER 2>/dev/null
	"$t" -t nat -N STRANGER-NAT 2>/dev/null
	rule $t filter STRANGER -p tcp --dport 2 -j DROP
	rule $t filter FORWARD -p tcp --dport 1 -j STRANGER
	rule $t nat STRANGER-NAT -p tcp --dport 2 -j RETURN
	rule $t nat POSTROUTING -o foreign0 -j STRANGER-NAT
done
`

// plant runs planting on a host.
func (s *scene) plant(ctx context.Context, h *lab.Host) error {
	return h.Feed(ctx, planting, "bash", "-s")
}

// iptables is the tool for a family.
func iptables(f addr.Family) string {
	if f == addr.IPv6 {
		return "ip6tables"
	}
	return "iptables"
}

// strangers plants, waits until the daemons have answered to it, and notes what
// is foreign and what all hosts are then.
func (s *scene) strangers(ctx context.Context) error {
	for _, e := range s.eyes {
		if err := s.learn(ctx, e); err != nil {
			return err
		}
	}
	for i := range s.eyes {
		if err := poll(ctx, func(ctx context.Context) error { return s.accepted(ctx, i) }); err != nil {
			return err
		}
	}
	return s.settle(ctx)
}

// learn plants on a host and notes what that made.
func (s *scene) learn(ctx context.Context, e *eye) error {
	bare, err := e.look(ctx)
	if err != nil {
		return err
	}
	if err := s.plant(ctx, e.host); err != nil {
		return err
	}
	after, err := e.look(ctx)
	if err != nil {
		return err
	}
	for _, line := range bare.difference(after) {
		if text, more := strings.CutPrefix(line, "+ "); more && !flannels(text) {
			s.foreign[text] = true
		}
	}
	return nil
}

// accepted says whether packets of the cluster are accepted in FORWARD, which
// exists since the strangers made it.
func (s *scene) accepted(ctx context.Context, host int) error {
	now, err := s.eyes[host].look(ctx)
	if err != nil {
		return err
	}
	for _, f := range s.families() {
		if !hasRule(now, f) {
			return fmt.Errorf("no rule of flannel's in FORWARD of %s on %s", iptables(f), s.fabric.Hosts[host].Name)
		}
	}
	return nil
}

func hasRule(p picture, f addr.Family) bool {
	table := "nft table ip filter chain FORWARD: "
	if f == addr.IPv6 {
		table = "nft table ip6 filter chain FORWARD: "
	}
	for _, line := range p {
		if strings.HasPrefix(line, table) && flannels(line) {
			return true
		}
	}
	return false
}

// calm is how long nothing may change before it is taken for the way things are.
const calm = time.Second

// settle waits until nothing changes, and takes that for what is right.
func (s *scene) settle(ctx context.Context) error {
	for {
		first, err := s.look(ctx)
		if err != nil {
			return err
		}
		if err := lab.Pause(ctx, calm); err != nil {
			return err
		}
		if s.before, err = s.look(ctx); err != nil {
			return err
		}
		same := true
		for i := range first {
			same = same && first[i].equal(s.before[i])
		}
		if same {
			return nil
		}
	}
}
