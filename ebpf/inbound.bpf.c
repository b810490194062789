/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/* In a pod's namespace: new connections go to the proxy's listener, and keep their destination. One copy a pod, since nothing tells
   such a program where it runs. */
#include "ebpf/maps.bpf.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

const volatile __u64 netns = 0;

SEC("sk_lookup") int zt_inbound(struct bpf_sk_lookup* ctx) {
  if (ctx->protocol != IPPROTO_TCP || ctx->local_port == ZT_HBONE_PORT) return SK_PASS;
  __u64 key = netns;
  struct zt_pod* pod = bpf_map_lookup_elem(&pods, &key);
  if (!pod || !(pod->flags & ZT_CAPTURES) || (pod->flags & ZT_INGRESS)) return SK_PASS;
  struct zt_connection_key ends = {.netns = netns};
  if (ctx->family == AF_INET) {
    zt_from_v4(&ends.from, ctx->remote_ip4);
    zt_from_v4(&ends.to, ctx->local_ip4);
  } else {
    if (!(pod->flags & ZT_IPV6)) return SK_PASS;
    ends.from.word[0] = ctx->remote_ip6[0];
    ends.from.word[1] = ctx->remote_ip6[1];
    ends.from.word[2] = ctx->remote_ip6[2];
    ends.from.word[3] = ctx->remote_ip6[3];
    ends.to.word[0] = ctx->local_ip6[0];
    ends.to.word[1] = ctx->local_ip6[1];
    ends.to.word[2] = ctx->local_ip6[2];
    ends.to.word[3] = ctx->local_ip6[3];
  }
  if (zt_is_loopback(&ends.to) || zt_is_probe(&ends.from)) return SK_PASS;
  ends.from_port = (__u16)ctx->remote_port;
  ends.to_port = bpf_htons((__u16)ctx->local_port);
  if (bpf_map_lookup_elem(&passing, &ends)) return SK_PASS;
  ends.netns = 0; /* the kubelet's, from whatever address the node has */
  if (bpf_map_lookup_elem(&passing, &ends)) return SK_PASS;

  struct zt_listener_key slot = {.netns = netns};
#pragma unroll
  for (int i = 0; i < ZT_LISTENER_SLOTS; ++i) {
    slot.slot = i;
    struct bpf_sock* listener = bpf_map_lookup_elem(&listeners, &slot);
    if (!listener) continue;
    const long failed = bpf_sk_assign(ctx, listener, 0);
    bpf_sk_release(listener);
    if (!failed) return SK_PASS;
  }
  return SK_DROP; /* no proxy: refused, never let past */
}
