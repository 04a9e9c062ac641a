package torture

import (
	"math/rand/v2"
	"net/netip"

	"github.com/flannel-ng/flannel-ng/internal/addr"
)

// probe is a packet and what must come of it.
type probe struct {
	send []byte
	via  offload
	want [][]byte // what reaches the receiver
	back *answer  // what comes back to the sender
	odd  bool     // a checksum is wrong, or none, on purpose
}

// answer is an ICMP error.
type answer struct {
	from  netip.Prefix // the host that answers
	kind  [2]byte      // type and code
	mtu   uint32       // 0: has none
	quote []byte       // the packet that it is about, as that host got it
}

// group is a set of probes with one subject.
type group struct {
	name  string
	whole bool // compare after fragments are put together
	mark  int  // ECN that the network sets on outer headers, 0 none
	path  int  // MTU of the path between the hosts, if it is a small one
	need  func(stage) bool
	make  func(*kit) []probe
}

// kit makes packets for a stage and a family.
type kit struct {
	family addr.Family
	ends   [2]netip.Addr   // sender, receiver
	homes  [2]netip.Prefix // subnets of the hosts
	nobody netip.Addr      // in the cluster network, but of no host
	mtu    int             // of the tunnel
	full   bool
	tunnel tunnel

	dice *rand.Rand
	id   uint16
}

// packet is an ordinary one; ids never repeat within 65,536 packets.
func (k *kit) packet(proto byte) packet {
	k.id++
	if proto == protoICMP && k.family == addr.IPv6 {
		proto = protoICMPv6
	}
	return packet{from: k.ends[0], to: k.ends[1], ttl: 64, proto: proto, id: k.id, df: k.family == addr.IPv4}
}

// data is as good as random, the same in every run.
func (k *kit) data(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(k.dice.Uint32())
	}
	return b
}

// udp is a datagram with so many bytes of data.
func (k *kit) udp(ports [2]uint16, size int) packet {
	p := k.packet(protoUDP)
	p.body = udp(p, ports, k.data(size))
	return p
}

// passes is a packet that has to arrive as it is.
func passes(p packet) probe {
	raw := p.bytes()
	return probe{send: raw, want: [][]byte{hop(raw, 2)}}
}

// choose is one of two numbers, by whether the run is a full one.
func (k *kit) choose(full, short int) int {
	if k.full {
		return full
	}
	return short
}

// v4 picks by family.
func (k *kit) v4() bool { return k.family == addr.IPv4 }
