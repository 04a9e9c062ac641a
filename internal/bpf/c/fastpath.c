/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * The udp backend's packets, carried by the kernel. Three programs:
 *
 *   fl_out   egress of the TUN device: inner packets to a peer in the map get
 *            an outer IP and UDP header and leave by the uplink.
 *   fl_in    ingress of the uplink: datagrams of such a peer get a VXLAN and an
 *            Ethernet header and the socket of the hidden VXLAN device, whose
 *            receive path takes the outer headers off. On the way there the
 *            firewall sees the datagram that came, with its port.
 *   fl_decap ingress of the hidden device: what passes the checks goes on as
 *            received by the TUN device. Nothing else comes through here.
 *
 * fl_out and fl_in touch nothing that they do not carry whole: the forwarder in
 * user space gets it, judges it and counts it.
 */
#include "kernel.h"

#define ETH_IPV4 be16(0x0800)
#define FAMILY_IPV4 2
#define PROTO_UDP 17
#define PROTO_TCP 6
#define ETH_LEN 14
#define IP_LEN 20
#define UDP_LEN 8
#define OUTER_LEN (IP_LEN + UDP_LEN)
#define VXLAN_LEN (8 + ETH_LEN)
#define MAX_PACKET 65535
#define FRAGMENT be16(0x3fff) /* more fragments, or not the first */

struct ip {
	u8 version_ihl, tos;
	be16 tot_len, id, frag;
	u8 ttl, protocol;
	u16 check;
	be32 saddr, daddr;
};

struct udp {
	be16 source, dest, len;
	u16 check;
};

struct settings {
	u32 uplink, tunnel; /* indexes of devices */
	be32 source;        /* own address on the underlay */
	be32 local, mask;   /* own subnet */
	be16 port;          /* UDP, here and at every peer */
	be16 decap;         /* UDP port of the hidden device */
};

struct subnet {
	u32 bits;
	be32 addr;
};

struct peer {
	be32 dst; /* address on the underlay */
	u32 bits; /* of the subnet: a lookup that finds a larger one can be told */
};

/* The order is that of Counters in Go. */
struct counters {
	u64 sent_packets, sent_bytes, received_packets, received_bytes;
	u64 malformed, inner_source, inner_dest, send_error, deliver_error;
};

struct {
	uint_of(type, MAP_ARRAY);
	type_of(key, u32);
	type_of(value, struct settings);
	uint_of(max_entries, 1);
} fl_settings SEC(".maps");

struct {
	uint_of(type, MAP_LPM_TRIE);
	type_of(key, struct subnet);
	type_of(value, struct peer);
	uint_of(max_entries, 131072);
	uint_of(map_flags, MAP_NO_PREALLOC);
} fl_peers SEC(".maps");

struct {
	uint_of(type, MAP_PERCPU_ARRAY);
	type_of(key, u32);
	type_of(value, struct counters);
	uint_of(max_entries, 1);
} fl_counters SEC(".maps");

inline_always struct settings *get_settings(void)
{
	u32 zero = 0;
	return map_lookup(&fl_settings, &zero);
}

inline_always struct counters *get_counters(void)
{
	u32 zero = 0;
	return map_lookup(&fl_counters, &zero);
}

inline_always struct peer *peer_of(be32 addr)
{
	struct subnet host = {.bits = 32, .addr = addr};
	return map_lookup(&fl_peers, &host);
}

inline_always u32 segments(struct sk_buff_view *skb, u32 len)
{
	if (!skb->gso_size)
		return 1;
	if (skb->gso_segs)
		return skb->gso_segs;
	return (len + skb->gso_size - 1) / skb->gso_size;
}

inline_always u16 ip_check(const struct ip *ip)
{
	const u16 *w = (const u16 *)ip;
	u32 sum = 0;
#pragma unroll
	for (int i = 0; i < IP_LEN / 2; i++)
		sum += w[i];
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return (u16)~sum;
}

/*
 * On the wire a super-packet becomes datagrams of this length: what the path
 * must carry. 0: unknown.
 */
inline_always u32 datagram_len(struct sk_buff_view *skb, const struct ip *ip, const void *end)
{
	u32 len = be16(ip->tot_len), header = (ip->version_ihl & 15) * 4;
	const u8 *l4 = (const u8 *)ip + header;

	if (!skb->gso_size)
		return len + OUTER_LEN;
	if (ip->protocol == PROTO_UDP)
		return header + UDP_LEN + skb->gso_size + OUTER_LEN;
	if (ip->protocol != PROTO_TCP || (const void *)(l4 + 20) > end)
		return 0;
	return header + (l4[12] >> 4) * 4 + skb->gso_size + OUTER_LEN;
}

struct outer {
	struct ip ip;
	struct udp udp;
};

SEC("tc")
int fl_out(struct sk_buff_view *skb)
{
	struct settings *s = get_settings();
	struct counters *count = get_counters();
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct ip *inner = data;

	/* A TUN device has no header below that of IP. */
	if (!s || !count || skb->protocol != ETH_IPV4 || data + sizeof(*inner) > end)
		return NEXT;
	u32 len = be16(inner->tot_len);
	if ((inner->version_ihl >> 4) != 4 || (inner->version_ihl & 15) < 5 || len != skb->len ||
	    len > MAX_PACKET - OUTER_LEN)
		return NEXT;
	struct peer *p = peer_of(inner->daddr);
	if (!p)
		return NEXT;

	struct fib_lookup fib = {
		.family = FAMILY_IPV4,
		.l4_protocol = PROTO_UDP,
		.sport = s->port,
		.dport = s->port,
		.tot_len = datagram_len(skb, inner, end),
		.ifindex = s->tunnel,
		.src = {s->source},
		.dst = {p->dst},
	};
	u8 ecn = inner->tos & 3; /* RFC 6040 §4.1, normal mode */
	be32 dst = p->dst;
	if (!fib.tot_len)
		return NEXT;
	long rc = fib_lookup(skb, &fib, sizeof(fib), 0);
	/* Too large for the path, no route, another link, a gateway of IPv6. */
	if ((rc != FIB_SUCCESS && rc != FIB_NO_NEIGH) || fib.ifindex != s->uplink || fib.family != FAMILY_IPV4)
		return NEXT;

	u32 packets = segments(skb, len);
	struct outer o = {
		.ip = {
			.version_ihl = 0x45,
			.tos = ecn,
			.tot_len = be16((u16)(len + OUTER_LEN)),
			.frag = be16(0x4000), /* don't fragment */
			.ttl = 64,
			.protocol = PROTO_UDP,
			.saddr = s->source,
			.daddr = dst,
		},
		.udp = {
			.source = s->port,
			.dest = s->port,
			.len = be16((u16)(len + UDP_LEN)),
		},
	};
	o.ip.check = ip_check(&o.ip);
	if (skb_adjust_room(skb, OUTER_LEN, ROOM_MAC, ROOM_FIXED_GSO | ROOM_ENCAP_IPV4 | ROOM_ENCAP_UDP))
		return NEXT;
	/* From here on it is no inner packet any more. */
	if (skb_store_bytes(skb, 0, &o, sizeof(o), 0) || skb_change_head(skb, ETH_LEN, 0)) {
		count->send_error += packets;
		return DROP;
	}
	count->sent_packets += packets;
	count->sent_bytes += len;
	/*
	 * While the neighbour's address is looked up the packet waits, and goes
	 * by its route then: that of the TUN device, unless it gets another.
	 */
	if (rc == FIB_NO_NEIGH)
		return redirect_neigh(s->uplink, 0, 0, 0);
	struct redirect_neigh to = {.family = FAMILY_IPV4, .nexthop = {fib.dst[0]}};
	return redirect_neigh(s->uplink, &to, sizeof(to), 0);
}

struct decap {
	struct udp udp;
	u8 vxlan[8];
	u8 to[6], from[6];
	be16 type;
};

/* Adds the room of the VXLAN header to the outer length, and to its checksum. */
inline_always int lengthen(struct sk_buff_view *skb)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct ip *ip = data + ETH_LEN;

	if (data + ETH_LEN + IP_LEN > end)
		return -1;
	ip->tot_len = be16((u16)(be16(ip->tot_len) + VXLAN_LEN));
	ip->check = 0;
	ip->check = ip_check(ip);
	return 0;
}

SEC("tc")
int fl_in(struct sk_buff_view *skb)
{
	const u32 headers = ETH_LEN + OUTER_LEN + IP_LEN;
	struct settings *s = get_settings();

	if (!s || skb->protocol != ETH_IPV4 || skb->vlan_present || skb->len < headers)
		return NEXT;
	if ((void *)(long)skb->data + headers > (void *)(long)skb->data_end && skb_pull_data(skb, headers))
		return NEXT;
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	if (data + headers > end)
		return NEXT;
	struct ip *ip = data + ETH_LEN;
	struct udp *udp = (void *)ip + IP_LEN;
	struct ip *inner = (void *)udp + UDP_LEN;

	if (ip->version_ihl != 0x45 || ip->protocol != PROTO_UDP || udp->dest != s->port || ip->daddr != s->source ||
	    (ip->frag & FRAGMENT))
		return NEXT;
	/* The kernel drops a damaged one; behind lengthen it could not tell. */
	if (ip_check(ip))
		return NEXT;
	/*
	 * A forwarder in user space sends with a checksum, fl_out without. What
	 * the first sent may be many packets in one, or have its checksum not
	 * yet filled in where no wire is between.
	 */
	u32 len = be16(inner->tot_len);
	if (udp->check || (inner->version_ihl >> 4) != 4 || (inner->version_ihl & 15) < 5 ||
	    be16(udp->len) != len + UDP_LEN || be16(ip->tot_len) != len + OUTER_LEN ||
	    skb->len != len + OUTER_LEN + ETH_LEN || len > MAX_PACKET - OUTER_LEN - VXLAN_LEN)
		return NEXT;
	struct peer *p = peer_of(inner->saddr);
	if (!p || p->dst != ip->saddr || (inner->daddr & s->mask) != s->local)
		return NEXT;

	struct sock_tuple tuple = {.saddr = ip->saddr, .daddr = ip->daddr, .sport = udp->source, .dport = s->decap};
	struct decap d = {
		/*
		 * The port stays: a firewall knows it. The source is the one that
		 * the socket below is connected to, none: where conntrack
		 * translates addresses, of whatever else, it takes a socket away
		 * that early demultiplexing could not have found.
		 */
		.udp = {.source = 0, .dest = udp->dest, .len = be16((u16)(len + UDP_LEN + VXLAN_LEN))},
		.vxlan = {8}, /* with a VNI, which is 0 */
		.to = {2, 0, 0, 0, 0, 1},
		.from = {2, 0, 0, 0, 0, 2},
		.type = ETH_IPV4,
	};
	void *sk = sk_lookup_udp(skb, &tuple, sizeof(tuple), THIS_NETNS, 0);
	if (!sk)
		return NEXT;
	if (skb_adjust_room(skb, VXLAN_LEN, ROOM_NET, ROOM_FIXED_GSO)) {
		sk_release(sk);
		return NEXT;
	}
	/* From here on it is no datagram for the forwarder any more. */
	long failed = lengthen(skb) || skb_store_bytes(skb, ETH_LEN + IP_LEN, &d, sizeof(d), STORE_RECOMPUTE_CSUM) ||
		      sk_assign(skb, sk, 0);
	sk_release(sk);
	if (failed) {
		struct counters *count = get_counters();
		if (count)
			count->deliver_error++;
		return DROP;
	}
	/*
	 * What a network card has verified is the outer checksum, and there is
	 * none: it says nothing of the inner one.
	 */
	csum_level(skb, CSUM_LEVEL_RESET);
	return PASS;
}

SEC("tc")
int fl_decap(struct sk_buff_view *skb)
{
	struct settings *s = get_settings();
	struct counters *count = get_counters();
	struct tunnel_key from;

	if (!s || !count)
		return DROP;
	if (skb_get_tunnel_key(skb, &from, sizeof(from), 0))
		goto malformed;
	if ((void *)(long)skb->data + ETH_LEN + IP_LEN > (void *)(long)skb->data_end &&
	    skb_pull_data(skb, ETH_LEN + IP_LEN))
		goto malformed;
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct ip *inner = data + ETH_LEN;
	if (skb->protocol != ETH_IPV4 || data + ETH_LEN + IP_LEN > end)
		goto malformed;
	/*
	 * Checked anew, because the hidden device has a UDP port, too, to which
	 * anybody may send.
	 */
	struct peer *p = peer_of(inner->saddr);
	if (!p || p->dst != be32(from.remote)) {
		count->inner_source++;
		return DROP;
	}
	if ((inner->daddr & s->mask) != s->local) {
		count->inner_dest++;
		return DROP;
	}
	u32 len = skb->len - ETH_LEN;
	count->received_packets += segments(skb, len);
	count->received_bytes += len;
	return redirect(s->tunnel, REDIRECT_INGRESS);
malformed:
	if (count)
		count->malformed++;
	return DROP;
}

_Static_assert(sizeof(struct outer) == OUTER_LEN, "headers without holes");
_Static_assert(sizeof(struct decap) == UDP_LEN + VXLAN_LEN, "headers without holes");

char fl_license[] SEC("license") = "Dual BSD/GPL";
