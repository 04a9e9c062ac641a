/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * What fastpath.c uses of the kernel's interface to programs (linux/bpf.h,
 * which never changes what is there), so that building needs clang and no
 * headers of a libc or a kernel.
 */
#pragma once

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long s64;
typedef u16 be16;
typedef u32 be32;

#define SEC(name) __attribute__((section(name), used))
#define inline_always static inline __attribute__((always_inline))
#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define be16(x) ((be16)__builtin_bswap16((u16)(x)))
#define be32(x) ((be32)__builtin_bswap32((u32)(x)))
#else
#define be16(x) ((be16)(x))
#define be32(x) ((be32)(x))
#endif

/* Maps describe themselves in BTF. */
#define uint_of(name, value) int (*name)[value]
#define type_of(name, value) value *name

enum { MAP_ARRAY = 2, MAP_PERCPU_ARRAY = 6, MAP_LPM_TRIE = 11 };
enum { MAP_NO_PREALLOC = 1 };

/* What a program says of a packet. Of others no word is needed. */
enum { NEXT = -1, PASS = 0, DROP = 2 };

struct sk_buff_view { /* struct __sk_buff */
	u32 len, pkt_type, mark, queue_mapping, protocol, vlan_present, vlan_tci, vlan_proto, priority;
	u32 ingress_ifindex, ifindex, tc_index, cb[5], hash, tc_classid, data, data_end, napi_id, family;
	u32 remote_ip4, local_ip4, remote_ip6[4], local_ip6[4], remote_port, local_port, data_meta;
	u64 flow_keys, tstamp;
	u32 wire_len, gso_segs;
	u64 sk;
	u32 gso_size;
};

struct fib_lookup { /* struct bpf_fib_lookup */
	u8 family, l4_protocol;
	be16 sport, dport;
	u16 tot_len;
	u32 ifindex;
	u32 tos;
	be32 src[4], dst[4];
	be16 vlan_proto, vlan_tci;
	u8 smac[6], dmac[6];
};
enum { FIB_SUCCESS = 0, FIB_NO_NEIGH = 7 };

struct redirect_neigh { /* struct bpf_redir_neigh */
	u32 family;
	be32 nexthop[4];
};

struct tunnel_key { /* the first version of struct bpf_tunnel_key */
	u32 id, remote; /* in host order */
};

struct sock_tuple { /* the first part of struct bpf_sock_tuple */
	be32 saddr, daddr;
	be16 sport, dport;
};

enum { ROOM_NET = 0, ROOM_MAC = 1 };
enum { ROOM_FIXED_GSO = 1, ROOM_ENCAP_IPV4 = 2, ROOM_ENCAP_UDP = 16 };
enum { STORE_RECOMPUTE_CSUM = 1 };
enum { REDIRECT_INGRESS = 1 };
enum { CSUM_LEVEL_RESET = 3 };
enum { THIS_NETNS = -1 };

static void *(*const map_lookup)(void *map, const void *key) = (void *)1;
static long (*const skb_store_bytes)(struct sk_buff_view *, u32 at, const void *, u32 len, u64 flags) = (void *)9;
static long (*const skb_get_tunnel_key)(struct sk_buff_view *, struct tunnel_key *, u32 size, u64 flags) = (void *)20;
static long (*const redirect)(u32 ifindex, u64 flags) = (void *)23;
static long (*const skb_pull_data)(struct sk_buff_view *, u32 len) = (void *)39;
static long (*const skb_change_head)(struct sk_buff_view *, u32 len, u64 flags) = (void *)43;
static long (*const skb_adjust_room)(struct sk_buff_view *, int len, u32 mode, u64 flags) = (void *)50;
static long (*const fib_lookup)(void *ctx, struct fib_lookup *, int size, u32 flags) = (void *)69;
static void *(*const sk_lookup_udp)(void *ctx, struct sock_tuple *, u32 size, u64 netns, u64 flags) = (void *)85;
static long (*const sk_release)(void *sock) = (void *)86;
static long (*const sk_assign)(void *ctx, void *sock, u64 flags) = (void *)124;
static long (*const csum_level)(struct sk_buff_view *, u64 level) = (void *)135;
static long (*const redirect_neigh)(u32 ifindex, struct redirect_neigh *, int size, u64 flags) = (void *)152;

_Static_assert(__builtin_offsetof(struct sk_buff_view, gso_segs) == 164, "as struct __sk_buff");
_Static_assert(__builtin_offsetof(struct sk_buff_view, gso_size) == 176, "as struct __sk_buff");
_Static_assert(sizeof(struct fib_lookup) == 64, "as struct bpf_fib_lookup");
_Static_assert(sizeof(struct redirect_neigh) == 20, "as struct bpf_redir_neigh");
