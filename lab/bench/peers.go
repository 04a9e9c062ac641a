package bench

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/lab"
)

// population is a cluster of hosts that are only leases in etcd.
type population struct {
	etcd    *lab.Etcd
	prefix  string
	backend string // vxlan or host-gw
}

// peer is one of them.
type peer struct {
	subnet netip.Prefix
	public netip.Addr
	mac    addr.MAC
}

// peerAt gives the peer with number i its subnet, address and MAC. They are on
// the underlay's wide segment, so host-gw reaches them too.
func peerAt(i int) peer {
	return peer{
		subnet: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(1 + i>>8), byte(i), 0}), 24),
		public: netip.AddrFrom4([4]byte{198, byte(18 + (i+256)>>16), byte((i + 256) >> 8), byte(i)}),
		mac:    addr.MAC{0x0e, 0xbe, 0, byte(i >> 16), byte(i >> 8), byte(i)},
	}
}

// maxPeers is how many /24 subnets are below 10.200.0.0, where the host's own is.
const maxPeers = 199 << 8

// config is the network of them all; our own subnet is above theirs.
func (p population) config() string {
	return fmt.Sprintf(`{"Network":"10.0.0.0/8","SubnetMin":"10.200.0.0","SubnetMax":"10.250.0.0",`+
		`"EnableNFTables":true,"Backend":{"Type":%q}}`, p.backend)
}

// lease is the key and value that plain flannel would write.
func (p population) lease(i int) (key, value string) {
	at := peerAt(i)
	key = fmt.Sprintf("%s/subnets/%s-%d", p.prefix, at.subnet.Addr(), at.subnet.Bits())
	if p.backend == "vxlan" {
		return key, fmt.Sprintf(`{"PublicIP":%q,"PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":%q}}`,
			at.public, at.mac)
	}
	return key, fmt.Sprintf(`{"PublicIP":%q,"PublicIPv6":null,"BackendType":%q}`, at.public, p.backend)
}

// operations is how many of them etcd takes in one transaction.
const operations = 128

// join writes the leases of peers from up to, but not including, to, on one
// etcd lease: revoking it lets all of them leave in one instant.
func (p population) join(ctx context.Context, from, to int) (clientv3.LeaseID, error) {
	grant, err := p.etcd.Client.Grant(ctx, int64((24 * time.Hour).Seconds()))
	if err != nil {
		return 0, fmt.Errorf("etcd grant: %w", err)
	}
	for from < to {
		var ops []clientv3.Op
		for ; from < to && len(ops) < operations; from++ {
			key, value := p.lease(from)
			ops = append(ops, clientv3.OpPut(key, value, clientv3.WithLease(grant.ID)))
		}
		if _, err := p.etcd.Client.Txn(ctx).Then(ops...).Commit(); err != nil {
			return 0, fmt.Errorf("etcd put leases: %w", err)
		}
	}
	return grant.ID, nil
}

// subnets of peers.
func subnets(from, to int) []netip.Prefix {
	var all []netip.Prefix
	for i := from; i < to; i++ {
		all = append(all, peerAt(i).subnet)
	}
	return all
}

// CrowdConfig is the network config of a fabric most of whose hosts are only
// leases, put there by Populate. Real hosts get subnets above theirs.
func CrowdConfig(backend string) string { return population{backend: backend}.config() }

// Populate puts the leases of so many hosts into the store, as plain flannel would.
func Populate(ctx context.Context, e *lab.Etcd, backend string, hosts int) error {
	_, err := population{etcd: e, prefix: lab.Prefix, backend: backend}.join(ctx, 0, hosts)
	return err
}
