/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/* On the root cgroup, for every pod: who dials leaves for the proxy; the proxy is told where to. */
#include "ebpf/maps.bpf.h"

#define SOL_SOCKET 1
#define SO_MARK 36
#define SOL_IP 0
#define SOL_IPV6 41
#define SO_ORIGINAL_DST 80 /* IP6T_SO_ORIGINAL_DST is the same */
#define PAGE 4096

char LICENSE[] SEC("license") = "Dual BSD/GPL";

static __always_inline int is_own(__u64 netns, const struct zt_address* address) {
  struct zt_own_key key = {.netns = netns, .address = *address};
  return bpf_map_lookup_elem(&own_addresses, &key) != 0;
}

/* The address that the caller has bound its socket to; 0: none. */
static __always_inline void bound_to(struct bpf_sock_addr* ctx, struct zt_address* address, int v4) {
  struct bpf_sock* sk = ctx->sk;
  __builtin_memset(address, 0, sizeof *address);
  if (!sk) return;
  if (v4) {
    __u32 ip = sk->src_ip4;
    if (ip) zt_from_v4(address, ip);
  } else {
    address->word[0] = sk->src_ip6[0];
    address->word[1] = sk->src_ip6[1];
    address->word[2] = sk->src_ip6[2];
    address->word[3] = sk->src_ip6[3];
  }
}

/* Decides for a destination; changes it if it is to be the proxy. Redirection contract §2.2, in order. */
static __always_inline int redirect(struct bpf_sock_addr* ctx, struct zt_destination* to) {
  struct bpf_sock* sk = ctx->sk;
  if (!sk) return 0;
  __u64 netns = bpf_get_netns_cookie(ctx);
  struct zt_pod* pod = bpf_map_lookup_elem(&pods, &netns);
  if (!pod) return 0;
  const int v4 = zt_is_v4(&to->address);
  const int tcp = ctx->protocol == IPPROTO_TCP;
  if (!tcp && ctx->protocol != IPPROTO_UDP) return 0;
  const __u32 mark = sk->mark & ZT_MARK_MASK;
  struct zt_address bound;
  bound_to(ctx, &bound, v4);
  if (mark == ZT_PROXY_MARK) {
    /* To the application, under a client's address: the answers have to find the way back (§2.3). The accepted socket inherits the
       mark (tcp_fwmark_accept), and the policy route leads it to lo. */
    if (tcp && !zt_is_zero(&bound) && !zt_is_loopback(&bound) && is_own(netns, &to->address) && !is_own(netns, &bound)) {
      __u32 loop = ZT_LOOP_MARK;
      bpf_setsockopt(ctx, SOL_SOCKET, SO_MARK, &loop, sizeof loop);
    }
    return 0;
  }
  if (mark == ZT_LOOP_MARK || !(pod->flags & ZT_CAPTURES)) return 0;
  if (!v4 && !(pod->flags & ZT_IPV6)) return 0;
  const int dns = to->port == bpf_htons(53) && (pod->flags & ZT_DNS);
  if (!tcp && !dns) return 0;
  if (zt_is_loopback(&to->address) || zt_is_probe(&to->address)) return 0;
  const int own = is_own(netns, &to->address);
  if (own && !(tcp && dns)) return 0;

  struct zt_destination* stored = bpf_sk_storage_get(&dialled, sk, to, BPF_SK_STORAGE_GET_F_CREATE);
  if (!stored) return -1;
  *stored = *to; /* what is there already, of an earlier dial, is not changed by the call */
  if (dns) {
    if (v4) {
      zt_from_v4(&to->address, bpf_htonl(0x7f000001));
    } else {
      __builtin_memset(&to->address, 0, sizeof to->address);
      to->address.word[3] = bpf_htonl(1);
    }
    to->port = bpf_htons(ZT_DNS_PORT);
    return 1;
  }
  /* To an address of the pod and not to lo's, so that the connection's own address is what it would be. */
  if (!zt_is_zero(&bound) && is_own(netns, &bound)) {
    to->address = bound;
  } else if (v4) {
    if (zt_is_zero(&pod->own4))
      zt_from_v4(&to->address, bpf_htonl(0x7f000001));
    else
      to->address = pod->own4;
  } else {
    to->address = pod->own6;
    if (zt_is_zero(&pod->own6)) to->address.word[3] = bpf_htonl(1);
  }
  to->port = bpf_htons(ZT_OUTBOUND_PORT);
  return 1;
}

static __always_inline int is_the_proxys(__u16 port) {
  return port == bpf_htons(ZT_OUTBOUND_PORT) || port == bpf_htons(ZT_DNS_PORT);
}

/* A socket that dials again, elsewhere, has no former destination. One that dials the proxy has been sent there, by these programs
   attached twice while they are replaced. */
static __always_inline void forget(struct bpf_sock_addr* ctx) {
  struct bpf_sock* sk = ctx->sk;
  if (sk && !is_the_proxys((__u16)ctx->user_port)) bpf_sk_storage_delete(&dialled, sk);
}

/* The kubelet is known by its control group, which no pod can enter: its probes reach the application whatever the policies say. */
static __always_inline void note_probe(struct bpf_sock_addr* ctx) {
  struct bpf_sock* sk = ctx->sk;
  if (!sk || ctx->protocol != IPPROTO_TCP) return;
  const __u32 zero = 0;
  struct zt_node* here = bpf_map_lookup_elem(&node, &zero);
  if (!here || !here->kubelet || bpf_get_current_cgroup_id() != here->kubelet) return;
  __u8 one = 1;
  bpf_sk_storage_get(&probing, sk, &one, BPF_SK_STORAGE_GET_F_CREATE);
}

static __always_inline int dial4(struct bpf_sock_addr* ctx, int connects) {
  struct zt_destination to = {};
  zt_from_v4(&to.address, ctx->user_ip4);
  to.port = (__u16)ctx->user_port;
  const int redirected = redirect(ctx, &to);
  if (redirected < 0) return 0; /* no memory: refused rather than let past */
  if (!redirected) {
    if (connects) forget(ctx);
    return 1;
  }
  ctx->user_ip4 = to.address.word[3];
  ctx->user_port = to.port;
  return 1;
}

static __always_inline int dial6(struct bpf_sock_addr* ctx, int connects) {
  struct zt_destination to = {};
  to.address.word[0] = ctx->user_ip6[0];
  to.address.word[1] = ctx->user_ip6[1];
  to.address.word[2] = ctx->user_ip6[2];
  to.address.word[3] = ctx->user_ip6[3];
  to.port = (__u16)ctx->user_port;
  const int redirected = redirect(ctx, &to);
  if (redirected < 0) return 0;
  if (!redirected) {
    if (connects) forget(ctx);
    return 1;
  }
  ctx->user_ip6[0] = to.address.word[0];
  ctx->user_ip6[1] = to.address.word[1];
  ctx->user_ip6[2] = to.address.word[2];
  ctx->user_ip6[3] = to.address.word[3];
  ctx->user_port = to.port;
  return 1;
}

SEC("cgroup/connect4") int zt_connect4(struct bpf_sock_addr* ctx) {
  note_probe(ctx);
  return dial4(ctx, 1);
}
SEC("cgroup/connect6") int zt_connect6(struct bpf_sock_addr* ctx) {
  note_probe(ctx);
  return dial6(ctx, 1);
}
SEC("cgroup/sendmsg4") int zt_sendmsg4(struct bpf_sock_addr* ctx) { return dial4(ctx, 0); }
SEC("cgroup/sendmsg6") int zt_sendmsg6(struct bpf_sock_addr* ctx) { return dial6(ctx, 0); }

/* The application sees whom it dialled, if it is the proxy that it is connected to. `only_dns`: of a packet, if it comes from the
   proxy. */
static __always_inline void show4(struct bpf_sock_addr* ctx, int only_dns) {
  struct bpf_sock* sk = ctx->sk;
  struct zt_destination* to = sk ? bpf_sk_storage_get(&dialled, sk, 0, 0) : 0;
  if (!to || !zt_is_v4(&to->address) || !is_the_proxys((__u16)ctx->user_port)) return;
  if (only_dns && (ctx->user_ip4 != bpf_htonl(0x7f000001) || ctx->user_port != bpf_htons(ZT_DNS_PORT))) return;
  ctx->user_ip4 = to->address.word[3];
  ctx->user_port = to->port;
}

static __always_inline void show6(struct bpf_sock_addr* ctx, int only_dns) {
  struct bpf_sock* sk = ctx->sk;
  struct zt_destination* to = sk ? bpf_sk_storage_get(&dialled, sk, 0, 0) : 0;
  if (!to || !is_the_proxys((__u16)ctx->user_port)) return;
  if (only_dns) {
    struct zt_address from;
    from.word[0] = ctx->user_ip6[0];
    from.word[1] = ctx->user_ip6[1];
    from.word[2] = ctx->user_ip6[2];
    from.word[3] = ctx->user_ip6[3];
    if (ctx->user_port != bpf_htons(ZT_DNS_PORT) || !zt_is_loopback(&from) || zt_is_v4(&from) != zt_is_v4(&to->address)) return;
  }
  ctx->user_ip6[0] = to->address.word[0];
  ctx->user_ip6[1] = to->address.word[1];
  ctx->user_ip6[2] = to->address.word[2];
  ctx->user_ip6[3] = to->address.word[3];
  ctx->user_port = to->port;
}

SEC("cgroup/recvmsg4") int zt_recvmsg4(struct bpf_sock_addr* ctx) {
  show4(ctx, 1);
  return 1;
}
SEC("cgroup/recvmsg6") int zt_recvmsg6(struct bpf_sock_addr* ctx) {
  show6(ctx, 1);
  return 1;
}
SEC("cgroup/getpeername4") int zt_getpeername4(struct bpf_sock_addr* ctx) {
  show4(ctx, 0);
  return 1;
}
SEC("cgroup/getpeername6") int zt_getpeername6(struct bpf_sock_addr* ctx) {
  show6(ctx, 0);
  return 1;
}

/* Both ends of a connection that is being made, from its socket; IPv4 over an AF_INET6 socket is IPv4. */
static __always_inline void ends_of(struct bpf_sock_ops* ops, struct zt_connection_key* key) {
  key->to.word[0] = ops->remote_ip6[0];
  key->to.word[1] = ops->remote_ip6[1];
  key->to.word[2] = ops->remote_ip6[2];
  key->to.word[3] = ops->remote_ip6[3];
  if (ops->family == AF_INET || zt_is_v4(&key->to)) {
    zt_from_v4(&key->to, ops->remote_ip4);
    zt_from_v4(&key->from, ops->local_ip4);
  } else {
    key->from.word[0] = ops->local_ip6[0];
    key->from.word[1] = ops->local_ip6[1];
    key->from.word[2] = ops->local_ip6[2];
    key->from.word[3] = ops->local_ip6[3];
  }
  key->from_port = bpf_htons((__u16)ops->local_port);
  key->to_port = bpf_htons((__u16)bpf_ntohl(ops->remote_port));
}

static __always_inline void on_connect(struct bpf_sock_ops* ops, __u64 netns) {
  struct bpf_sock* sk = ops->sk;
  if (!sk) return;
  struct zt_connection_key ends = {.netns = netns};
  if (bpf_sk_storage_get(&probing, sk, 0, 0)) {
    const __u8 probe = 1;
    ends.netns = 0;
    ends_of(ops, &ends);
    bpf_map_update_elem(&passing, &ends, &probe, BPF_ANY);
    bpf_sock_ops_cb_flags_set(ops, ops->bpf_sock_ops_cb_flags | BPF_SOCK_OPS_STATE_CB_FLAG);
    return;
  }
  if (!bpf_map_lookup_elem(&pods, &netns)) return;
  ends_of(ops, &ends);
  struct zt_destination* to = bpf_sk_storage_get(&dialled, sk, 0, 0);
  if (to) {
    struct zt_source_key source = {.netns = netns, .address = ends.from, .port = ends.from_port};
    bpf_map_update_elem(&captured, &source, to, BPF_ANY);
  }
  /* The SYN comes in over lo before the socket is found by anything but this. What the proxy dials may be an address of the pod that
     is too new to be known as one: it would reach the proxy again. */
  const __u32 mark = sk->mark & ZT_MARK_MASK;
  if (mark == ZT_PROXY_MARK || mark == ZT_LOOP_MARK || is_own(netns, &ends.to)) {
    const __u8 one = 1;
    bpf_map_update_elem(&passing, &ends, &one, BPF_ANY);
    bpf_sock_ops_cb_flags_set(ops, ops->bpf_sock_ops_cb_flags | BPF_SOCK_OPS_STATE_CB_FLAG);
  }
}

static __always_inline void on_close(struct bpf_sock_ops* ops, __u64 netns) {
  struct zt_connection_key ends = {.netns = netns};
  ends_of(ops, &ends);
  bpf_map_delete_elem(&passing, &ends);
  struct bpf_sock* sk = ops->sk;
  if (!sk || !bpf_sk_storage_get(&probing, sk, 0, 0)) return;
  ends.netns = 0;
  bpf_map_delete_elem(&passing, &ends);
}

/* Of enrolled pods only: anybody may make namespaces and listen there with any mark, and the slots are numbered. */
static __always_inline void on_listen(struct bpf_sock_ops* ops, __u64 netns) {
  if (ops->local_port != ZT_INBOUND_PORT || !bpf_map_lookup_elem(&pods, &netns)) return;
  struct bpf_sock* sk = ops->sk;
  if (!sk || (sk->mark & ZT_MARK_MASK) != ZT_PROXY_MARK) return;
  struct zt_listener_key key = {.netns = netns};
#pragma unroll
  for (int i = 0; i < ZT_LISTENER_SLOTS; ++i) {
    key.slot = i;
    if (bpf_sock_hash_update(ops, &listeners, &key, BPF_NOEXIST) == 0) return;
  }
}

SEC("sockops") int zt_sockops(struct bpf_sock_ops* ops) {
  const __u32 op = ops->op;
  if (op == BPF_SOCK_OPS_TCP_CONNECT_CB) {
    on_connect(ops, bpf_get_netns_cookie(ops));
  } else if (op == BPF_SOCK_OPS_TCP_LISTEN_CB) {
    on_listen(ops, bpf_get_netns_cookie(ops));
  } else if (op == BPF_SOCK_OPS_STATE_CB && ops->args[1] == BPF_TCP_CLOSE) {
    on_close(ops, bpf_get_netns_cookie(ops));
  }
  return 1;
}

static __always_inline __u32 kept(__u32 value) {
  asm volatile("" : "+r"(value));
  return value;
}

struct sockaddr4 {
  __u16 family, port;
  __u32 address;
  __u8 zero[8];
};
struct sockaddr6 {
  __u16 family, port;
  __u32 flow, address[4], scope;
};

/* The proxy asks as it would with netfilter (SO_ORIGINAL_DST), and so needs to know nothing of this. */
SEC("cgroup/getsockopt") int zt_getsockopt(struct bpf_sockopt* ctx) {
  if (ctx->optname != SO_ORIGINAL_DST || (ctx->level != SOL_IP && ctx->level != SOL_IPV6)) {
    if (ctx->optlen > PAGE) ctx->optlen = 0; /* leave it as the kernel made it: a hook sees a page only */
    return 1;
  }
  if (ctx->retval == 0) {
    /* Connection tracking knows the connection. What it says counts, unless that is where we sent it. */
    const struct sockaddr4* known = ctx->optval;
    if ((void*)(known + 1) > ctx->optval_end) return 1;
    if (known->port != bpf_htons(ZT_OUTBOUND_PORT) && known->port != bpf_htons(ZT_DNS_PORT)) return 1;
  }
  struct bpf_sock* sk = ctx->sk;
  if (!sk || (sk->mark & ZT_MARK_MASK) != ZT_PROXY_MARK) return 1;
  struct zt_source_key source = {.netns = bpf_get_netns_cookie(ctx), .port = sk->dst_port};
  source.address.word[0] = sk->dst_ip6[0];
  source.address.word[1] = sk->dst_ip6[1];
  source.address.word[2] = sk->dst_ip6[2];
  source.address.word[3] = sk->dst_ip6[3];
  if (sk->family == AF_INET) zt_from_v4(&source.address, sk->dst_ip4);
  const __u32 here = sk->src_port;
  /* Read here and kept from being moved: the verifier wants a socket's fields at constant places. */
  struct zt_address own;
  own.word[0] = kept(sk->src_ip6[0]);
  own.word[1] = kept(sk->src_ip6[1]);
  own.word[2] = kept(sk->src_ip6[2]);
  own.word[3] = kept(sk->src_ip6[3]);
  const __u32 own4 = kept(sk->src_ip4);
  if (sk->family == AF_INET) zt_from_v4(&own, own4);
  struct zt_destination to = {};
  if (here == ZT_OUTBOUND_PORT || here == ZT_DNS_PORT) {
    struct zt_destination* dialled_there = bpf_map_lookup_elem(&captured, &source);
    if (!dialled_there) return 1;
    to = *dialled_there;
  } else if (here == ZT_HBONE_PORT || !bpf_map_lookup_elem(&pods, &source.netns)) {
    return 1;
  } else { /* on its way in: the destination is the socket's own address */
    to.address = own;
    to.port = bpf_htons((__u16)here);
  }
  void *value = ctx->optval, *end = ctx->optval_end;
  if (ctx->level == SOL_IP && zt_is_v4(&to.address)) {
    struct sockaddr4* address = value;
    if ((void*)(address + 1) > end) return 1;
    __builtin_memset(address, 0, sizeof *address);
    address->family = AF_INET;
    address->port = to.port;
    address->address = to.address.word[3];
    ctx->optlen = sizeof *address;
    ctx->retval = 0;
  } else if (ctx->level == SOL_IPV6 && !zt_is_v4(&to.address)) {
    struct sockaddr6* address = value;
    if ((void*)(address + 1) > end) return 1;
    __builtin_memset(address, 0, sizeof *address);
    address->family = AF_INET6;
    address->port = to.port;
    address->address[0] = to.address.word[0];
    address->address[1] = to.address.word[1];
    address->address[2] = to.address.word[2];
    address->address[3] = to.address.word[3];
    ctx->optlen = sizeof *address;
    ctx->retval = 0;
  }
  return 1;
}
