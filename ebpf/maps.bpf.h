/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
#ifndef ZT_EBPF_MAPS_BPF_H
#define ZT_EBPF_MAPS_BPF_H
#include <linux/bpf.h>
#include <linux/in.h>
/* after these: */
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "ebpf/redirect.h"

#define ZT_PROXY_MARK 0x539
#define ZT_LOOP_MARK 0x111
#define ZT_MARK_MASK 0xfff
#define ZT_OUTBOUND_PORT 15001
#define ZT_INBOUND_PORT 15006
#define ZT_HBONE_PORT 15008
#define ZT_DNS_PORT 15053

#define AF_INET 2
#define AF_INET6 10

/* The enrolled pods: without an entry nothing happens to a namespace. */
struct {
  __uint(type, BPF_MAP_TYPE_HASH);
  __uint(max_entries, 4096);
  __type(key, __u64);
  __type(value, struct zt_pod);
} pods SEC(".maps");

/* The pods' own addresses. */
struct {
  __uint(type, BPF_MAP_TYPE_HASH);
  __uint(max_entries, 16384);
  __type(key, struct zt_own_key);
  __type(value, __u8);
} own_addresses SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(max_entries, 1);
  __type(key, __u32);
  __type(value, struct zt_node);
} node SEC(".maps");

/* Sockets of the kubelet. */
struct {
  __uint(type, BPF_MAP_TYPE_SK_STORAGE);
  __uint(map_flags, BPF_F_NO_PREALLOC);
  __type(key, int);
  __type(value, __u8);
} probing SEC(".maps");

/* Where a captured socket wanted to go. */
struct {
  __uint(type, BPF_MAP_TYPE_SK_STORAGE);
  __uint(map_flags, BPF_F_NO_PREALLOC);
  __type(key, int);
  __type(value, struct zt_destination);
} dialled SEC(".maps");

/* The same by the socket's own address: what the proxy sees of it. */
struct {
  __uint(type, BPF_MAP_TYPE_LRU_HASH);
  __uint(max_entries, 65536);
  __type(key, struct zt_source_key);
  __type(value, struct zt_destination);
} captured SEC(".maps");

/* Connections of a pod to itself, and of the kubelet (of no namespace: 0), which are not to be captured on their way in. */
struct {
  __uint(type, BPF_MAP_TYPE_LRU_HASH);
  __uint(max_entries, 65536);
  __type(key, struct zt_connection_key);
  __type(value, __u8);
} passing SEC(".maps");

/* The proxies' listeners at 15006: several processes may listen in a pod at once. */
struct {
  __uint(type, BPF_MAP_TYPE_SOCKHASH);
  __uint(max_entries, 32768);
  __type(key, struct zt_listener_key);
  __type(value, __u64);
} listeners SEC(".maps");

static __always_inline void zt_from_v4(struct zt_address* address, __u32 ip) {
  address->word[0] = 0;
  address->word[1] = 0;
  address->word[2] = bpf_htonl(0xffff);
  address->word[3] = ip;
}

static __always_inline int zt_is_v4(const struct zt_address* address) {
  return address->word[0] == 0 && address->word[1] == 0 && address->word[2] == bpf_htonl(0xffff);
}

static __always_inline int zt_is_zero(const struct zt_address* address) {
  return (address->word[0] | address->word[1] | address->word[2] | address->word[3]) == 0;
}

/* What the kernel takes to lo without looking at routes; the unspecified address means the same to connect(). */
static __always_inline int zt_is_loopback(const struct zt_address* address) {
  if (zt_is_v4(address)) return (address->word[3] & bpf_htonl(0xff000000)) == bpf_htonl(0x7f000000) || address->word[3] == 0;
  return (address->word[0] | address->word[1] | address->word[2]) == 0 &&
         (address->word[3] == bpf_htonl(1) || address->word[3] == 0);
}

/* What host probes come from by a node agent that rewrites them (contract §2.1): neither they nor the answers are captured. */
static __always_inline int zt_is_probe(const struct zt_address* address) {
  if (zt_is_v4(address)) return address->word[3] == bpf_htonl(0xa9fe077f); /* 169.254.7.127 */
  return address->word[0] == bpf_htonl(0xfd169254) && address->word[1] == bpf_htonl(0x71271337) &&
         (address->word[2] & address->word[3]) == 0xffffffff; /* fd16:9254:7127:1337:ffff:ffff:ffff:ffff */
}

static __always_inline int zt_same(const struct zt_address* a, const struct zt_address* b) {
  return a->word[0] == b->word[0] && a->word[1] == b->word[1] && a->word[2] == b->word[2] && a->word[3] == b->word[3];
}
#endif
