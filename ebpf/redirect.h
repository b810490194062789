/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/* What the programs and their loader agree on. Plain C: both compile it. */
#ifndef ZT_EBPF_REDIRECT_H
#define ZT_EBPF_REDIRECT_H
#include <linux/types.h>

/* Addresses are four words in network order; IPv4 as ::ffff:a.b.c.d. Ports are in network order, unless said otherwise. */
struct zt_address {
  __u32 word[4];
};

enum { ZT_CAPTURES = 1, ZT_DNS = 2, ZT_INGRESS = 4, ZT_IPV6 = 8, ZT_SET_MARKS = 16 };

struct zt_pod {
  __u32 flags;
  __u32 reserved;
  struct zt_address own4, own6; /* what the pod's default routes take for its source; 0: none */
};

struct zt_node {
  __u64 kubelet; /* the control group of the kubelet's processes; 0: not known */
};

struct zt_own_key {
  __u64 netns; /* the namespace's cookie */
  struct zt_address address;
};

struct zt_destination {
  struct zt_address address;
  __u16 port;
  __u16 reserved;
};

struct zt_source_key {
  __u64 netns;
  struct zt_address address;
  __u16 port;
  __u16 reserved[3];
};

struct zt_connection_key {
  __u64 netns;
  struct zt_address from, to;
  __u16 from_port, to_port;
  __u16 reserved[2];
};

enum { ZT_LISTENER_SLOTS = 8 };
struct zt_listener_key {
  __u64 netns;
  __u32 slot;
  __u32 reserved;
};
#endif
