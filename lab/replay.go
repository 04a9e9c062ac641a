package lab

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/flannel-ng/flannel-ng/internal/addr"
)

// replay makes a host look, to its peers and to its own kernel, as if plain
// flannel v0.28.9 ran on it: testdata/flannel holds the recordings. It is a
// witness that flannel-ng gets along, and shares no code with it.
type replay struct {
	host  *Host
	trace trace
	peers map[string]tracePeer // by etcd key, what the last sync installed

	forwarder *standIn // of the udp backend
}

// newReplay picks subnets and MACs; flannel draws them by lot.
func newReplay(h *Host) *replay {
	return &replay{host: h}
}

func (r *replay) start(ctx context.Context) error {
	var err error
	if r.trace, err = r.pick(); err != nil {
		return err
	}
	if err := r.host.fabric.Etcd.putLease(ctx, r.trace.lease(), 24*time.Hour); err != nil {
		return err
	}
	if err := r.writeSubnetFile(); err != nil {
		return err
	}
	if err := r.devices(ctx); err != nil {
		return fmt.Errorf("replay on %s: %w", r.host.Name, err)
	}
	return r.rules(ctx)
}

// restart is what flannel does on a host that has its device, lease and rules
// from before, as the recordings of a restart show: it writes its lease and file
// again, keeps a device that is as it wants it, replaces nftables rules in one
// transaction, leaves iptables rules that are there, and enters all peers again.
func (r *replay) restart(ctx context.Context) error {
	if err := r.host.fabric.Etcd.putLease(ctx, r.trace.lease(), 24*time.Hour); err != nil {
		return err
	}
	if err := r.writeSubnetFile(); err != nil {
		return err
	}
	if err := r.found(ctx); err != nil {
		return err
	}
	if r.trace.nftables {
		for _, table := range []string{"ip flannel-ipv4", "ip6 flannel-ipv6"} {
			if _, err := r.host.Run(ctx, "nft", "add", "table", table); err != nil {
				return err
			}
		}
		rules := "delete table ip flannel-ipv4\ndelete table ip6 flannel-ipv6\n" + r.trace.nftRules()
		if err := r.host.feed(ctx, rules, "nft", "-f", "-"); err != nil {
			return err
		}
	}
	r.peers = map[string]tracePeer{}
	return r.sync(ctx)
}

// found says whether the devices are such that flannel keeps them: it compares
// id, local address, link, port and learning, and would make others anew.
func (r *replay) found(ctx context.Context) error {
	if r.trace.carrier.kind != kindVXLAN {
		return nil
	}
	for _, f := range r.trace.families() {
		side := r.trace.sides.At(f)
		out, err := r.host.Run(ctx, "ip", "-d", "link", "show", traceDevice(f))
		if err != nil {
			return err
		}
		for _, want := range []string{
			side.mac.String(), "vxlan id 1 ", "local " + side.public.String() + " ", "dev eth0 ", "dstport 8472 ", "nolearning ",
		} {
			if !strings.Contains(out, want) {
				return fmt.Errorf("flannel would make %s on %s anew: no %q in %s", traceDevice(f), r.host.Name, want, out)
			}
		}
	}
	return nil
}

func (r *replay) devices(ctx context.Context) error {
	switch r.trace.carrier.kind {
	case kindVXLAN:
		for _, f := range r.trace.families() {
			if err := r.device(ctx, f); err != nil {
				return err
			}
		}
		return nil
	case kindUDP:
		return r.forward(ctx)
	default:
		return nil
	}
}

func (r *replay) pick() (trace, error) {
	o := r.host.fabric.Options
	t := trace{nftables: o.Firewall == NFTables}
	var err error
	if t.carrier, err = o.carrier(); err != nil {
		return t, err
	}
	third := byte(200 + r.host.Index)
	for _, f := range o.Families {
		if f == addr.IPv6 && !t.carrier.dualStack() {
			continue
		}
		side := traceSide{
			network: clusterNetwork(f),
			public:  r.host.Underlay(f),
			mac:     addr.MAC{0x0e, byte(f), 0x79, 0x98, 0x7f, third},
		}
		if f == addr.IPv4 {
			side.subnet = netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 5, third, 0}), 24)
		} else {
			base := clusterNetwork(f).Addr().As16()
			base[7] = third
			side.subnet = netip.PrefixFrom(netip.AddrFrom16(base), 64)
		}
		t.sides.Put(f, side)
	}
	if len(t.families()) == 0 {
		return t, fmt.Errorf("replay on %s: plain flannel's backend %s knows no IPv6", r.host.Name, t.carrier.kind)
	}
	return t, nil
}

func (r *replay) writeSubnetFile() error {
	path := r.host.Path(r.host.SubnetFile())
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("replay on %s: %w", r.host.Name, err)
	}
	if err := os.WriteFile(path, []byte(r.trace.subnetEnv()), 0o644); err != nil {
		return fmt.Errorf("replay on %s: %w", r.host.Name, err)
	}
	return nil
}

// device makes the tunnel device as recorded.
func (r *replay) device(ctx context.Context, f addr.Family) error {
	side := r.trace.sides.At(f)
	name := traceDevice(f)
	err := r.host.ip(ctx,
		fmt.Sprintf("link add %s address %s mtu %d type vxlan id 1 local %s dev eth0 dstport 8472 nolearning udpcsum",
			name, side.mac, traceDeviceMTU(f), side.public),
		fmt.Sprintf("addr add %s dev %s%s", addr.Single(side.subnet.Addr()), name, nodad(f)),
		"link set "+name+" up",
	)
	if err != nil {
		return err
	}
	return r.host.sysctl("ipv6/conf/" + name + "/accept_ra=0")
}

func (r *replay) rules(ctx context.Context) error {
	if r.trace.nftables {
		return r.host.feed(ctx, r.trace.nftRules(), "nft", "-f", "-")
	}
	for _, f := range r.trace.families() {
		tool := "iptables-restore"
		if f == addr.IPv6 {
			tool = "ip6tables-restore"
		}
		if err := r.host.feed(ctx, r.trace.iptablesRules(f), tool, "--noflush", "--wait"); err != nil {
			return err
		}
	}
	return nil
}

// Sync lets a replayed host see the leases of the others and program them, as
// flannel does on an event. A key that flannel cannot read is an error: the
// real one would withdraw every route (reference: one unreadable key acts as
// an empty snapshot).
func (h *Host) Sync(ctx context.Context) error {
	if h.replay == nil {
		return fmt.Errorf("%s runs flanneld, which follows etcd by itself", h.Name)
	}
	return h.replay.sync(ctx)
}

func (r *replay) sync(ctx context.Context) error {
	pairs, err := r.host.fabric.Etcd.List(ctx, Prefix+"/subnets")
	if err != nil {
		return err
	}
	want := map[string]tracePeer{}
	for _, p := range pairs {
		peer, err := parseTracePeer(p)
		if err != nil {
			return fmt.Errorf("plain flannel on %s would withdraw all routes: %w", r.host.Name, err)
		}
		if p.Key != r.trace.lease().Key && r.trace.carrier.heeds(peer.kind) {
			want[p.Key] = peer
		}
	}
	return r.program(ctx, want)
}

// program removes the peers that went or changed, and adds the rest.
func (r *replay) program(ctx context.Context, want map[string]tracePeer) error {
	var lines traceLines
	for key, old := range r.peers {
		if want[key] != old {
			lines.append(r.trace.remove(old))
		}
	}
	for key, peer := range want {
		if r.peers[key] != peer {
			lines.append(r.trace.add(peer))
		}
	}
	if err := r.host.ip(ctx, lines.ip...); err != nil {
		return err
	}
	if len(lines.bridge) > 0 {
		if err := r.host.feed(ctx, strings.Join(lines.bridge, "\n")+"\n", "bridge", "-batch", "-"); err != nil {
			return err
		}
	}
	if err := r.forwarder.tell(lines.forwarder); err != nil {
		return fmt.Errorf("replay on %s: %w", r.host.Name, err)
	}
	r.peers = want
	return nil
}
