#!/usr/bin/env bash
# The demo (./dev demo): two nodes and four pods as network namespaces, a real ztunnel and a real ztunnel-agent on each node, stock
# programs in the pods. First without the mesh, then the pods are enrolled alive, and the same programs do the same again.
# Every statement that the transcript makes is checked; the exit status is 0 only if all of them held.
#
#   usage: demo.sh FOLDER-OF-PROGRAMS [--keep | --stop]
set -euo pipefail
HERE=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
BIN=$(readlink -f "$1")
KEEP='' ; STOP=''
for word in "${@:2}"; do
  case $word in
    --keep) KEEP=1 ;;
    --stop) STOP=1 ;;
    *) echo "demo: unknown option '$word' (--keep leaves it up, --stop ends one that was kept)" >&2; exit 2 ;;
  esac
done

STATE=/run/ztunnel-demo   # files and logs of a demo that is up
PREFIX=ztdemo             # its network namespaces: ztdemo-node-1, ztdemo-checkout, …
SECRET='card 4111-1111-1111-1111'

# ------------------------------------------------------------------------------------------------------------ how it looks
if [ -t 1 ]; then bold=$'\e[1m' dim=$'\e[2m' green=$'\e[32m' red=$'\e[31m' cyan=$'\e[36m' plain=$'\e[0m'; else bold='' dim='' green='' red='' cyan='' plain=''; fi
failed=0
title() { printf '\n%s%s%s\n' "$bold" "$*" "$plain"; }
typed() { printf '  %s%s$%s %s\n' "$cyan" "$1" "$plain" "$2"; }
note() { printf '    %s%s%s\n' "$dim" "$*" "$plain"; }
# held TEXT COMMAND…: a statement and what proves it.
held() {
  local text=$1; shift
  if "$@"; then printf '    %s✓%s %s\n' "$green" "$plain" "$text"
  else printf '    %s✗ %s%s\n' "$red" "$text" "$plain"; failed=$((failed + 1)); fi
}

# -------------------------------------------------------------------------------------------------- nothing is left behind
take_down() {
  local name pid
  disown -a 2>/dev/null || true   # or the shell announces each one's end
  if [ -f "$STATE/forwards" ]; then kill $(cat "$STATE/forwards") 2>/dev/null || true; fi
  for name in $(ip netns list 2>/dev/null | awk -v p="^$PREFIX-" '$1 ~ p {print $1}'); do
    for pid in $(ip netns pids "$name"); do kill -9 "$pid" 2>/dev/null || true; done
    ip netns del "$name" || true
  done
  rm -rf "$STATE"
}
finish() {
  local status=$?
  trap - EXIT INT TERM
  if [ $status != 0 ] && [ $status != 130 ] && [ -d "$STATE" ]; then
    printf '\n%sThe demo failed; the last lines of its programs:%s\n' "$red" "$plain" >&2
    tail -n 15 "$STATE"/*.log >&2 || true
  fi
  [ -n "$KEEP" ] && [ $status = 0 ] || take_down
  exit $status
}

if [ -n "$STOP" ]; then take_down; echo "The demo is down."; exit 0; fi
if [ -e "$STATE/up" ]; then echo "demo: one is up already (./dev demo --stop ends it)" >&2; exit 1; fi
take_down  # what a demo left that was killed
trap finish EXIT
trap 'echo; echo "Interrupted: taking everything down."; exit 130' INT TERM
mkdir -p "$STATE"

# ------------------------------------------------------------------------------------------------------ two nodes, four pods
in_ns() { nsenter --net=/run/netns/"$PREFIX-$1" "${@:2}"; }
in_ns_exec() { exec nsenter --net=/run/netns/"$PREFIX-$1" "${@:2}"; }   # for background jobs: $! is the program itself

add_namespace() {
  ip netns add "$PREFIX-$1"
  ip -n "$PREFIX-$1" link set lo up
  in_ns "$1" sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.default.rp_filter=0
  # Without pacing (some machines default to bbr): these packets never leave the machine.
  in_ns "$1" sysctl -qw net.ipv4.tcp_congestion_control=cubic 2>/dev/null || in_ns "$1" sysctl -qw net.ipv4.tcp_congestion_control=reno || true
}

# add_pod NODE NAME ADDRESS: a veth to its node and a default route over it, as a point-to-point CNI does it.
add_pod() {
  local node=$1 name=$2 address=$3
  add_namespace "$name"
  ip link add eth0 netns "$PREFIX-$name" type veth peer name "$name" netns "$PREFIX-$node"
  ip -n "$PREFIX-$node" addr add 169.254.1.1/32 dev "$name"
  ip -n "$PREFIX-$node" link set "$name" up
  ip -n "$PREFIX-$node" route add "$address/32" dev "$name"
  ip -n "$PREFIX-$name" addr add "$address/32" dev eth0
  ip -n "$PREFIX-$name" link set eth0 up
  ip -n "$PREFIX-$name" route add 169.254.1.1/32 dev eth0 scope link
  ip -n "$PREFIX-$name" route add default via 169.254.1.1
}

set_up() {
  local n other
  for n in 1 2; do
    add_namespace "node-$n"
    in_ns "node-$n" sysctl -qw net.ipv4.ip_forward=1
  done
  ip link add eth0 netns "$PREFIX-node-1" type veth peer name eth0 netns "$PREFIX-node-2"
  for n in 1 2; do
    other=$((3 - n))
    ip -n "$PREFIX-node-$n" addr add "192.168.77.$n/24" dev eth0
    ip -n "$PREFIX-node-$n" link set eth0 up
    ip -n "$PREFIX-node-$n" route add "10.244.$other.0/24" via "192.168.77.$other"
  done
  add_pod node-1 checkout 10.244.1.2
  add_pod node-1 visitor 10.244.1.3
  add_pod node-2 payments 10.244.2.2
  add_pod node-2 catalog 10.244.2.3

  # The pods' programs: a web server, an echo server and iperf3, straight from Debian's packages.
  mkdir "$STATE/www"
  echo "order 4711: paid with $SECRET" >"$STATE/www/order"
  start payments-www payments /usr/bin/python3 -m http.server 8080 --directory "$STATE/www"
  start catalog-chat catalog socat TCP-LISTEN:7000,reuseaddr,fork EXEC:cat
  start catalog-iperf catalog iperf3 -s
  listening payments 8080; listening catalog 7000; listening catalog 5201
}

start() { in_ns_exec "$2" "${@:3}" >"$STATE/$1.log" 2>&1 </dev/null & }     # start LOG NAMESPACE COMMAND…
listening() { wait_for "port $2 in $1" ports_include "$1" "$2"; }
ports_include() { in_ns "$1" ss -Htln "sport = :$2" | grep -q .; }
wait_for() {                                                                   # wait_for WHAT COMMAND…
  local what=$1 tries; shift
  for ((tries = 0; tries < 400; tries++)); do "$@" >/dev/null 2>&1 && return 0; sleep 0.025; done
  echo "demo: waited 10 s in vain for $what" >&2
  return 1
}

# ---------------------------------------------------------------------------------------------------------------- the mesh
pods_of() {
  local name
  echo "pods:"
  for name in "$@"; do
    case $name in payments) namespace=pay ;; *) namespace=shop ;; esac
    echo "- {uid: $name-0000, name: $name, namespace: $namespace, serviceAccount: $name, netns: /run/netns/$PREFIX-$name}"
  done
}

start_mesh() {
  local n
  cp "$HERE/mesh.yaml" "$STATE/mesh.yaml"
  pods_of checkout visitor >"$STATE/pods-1.yaml"
  pods_of payments catalog >"$STATE/pods-2.yaml"
  for n in 1 2; do
    ZTUNNEL_UDS_ADDRESS=$STATE/zds-$n.sock start "agent-$n" "node-$n" "$BIN/ztunnel-agent" --pods "$STATE/pods-$n.yaml"
    NODE_NAME=node-$n INPOD_UDS=$STATE/zds-$n.sock LOCAL_XDS_PATH=$STATE/mesh.yaml XDS_ADDRESS='' EMBEDDED_CA_DIR=$STATE/ca \
      start "ztunnel-$n" "node-$n" "$BIN/ztunnel" proxy ztunnel
  done
  for n in 1 2; do wait_for "node-$n to be ready" ready "$n"; done
  local name
  for name in checkout visitor payments catalog; do listening "$name" 15008; done
}
ready() { in_ns "node-$1" curl -sf --max-time 2 http://127.0.0.1:15021/healthz/ready; }

# What node 2's proxy wrote since `mark`, and one field of such a line.
mark() { wc -l <"$STATE/ztunnel-2.log"; }
logged() { wait_for "a log line with '$2'" since "$1" "$2"; since "$1" "$2" | head -n 1; }
since() { tail -n +"$(($1 + 1))" "$STATE/ztunnel-2.log" | grep -F -- "$2"; }
field() { sed -n "s/.*\b$1=\"\{0,1\}\([^\" ]*\).*/\1/p"; }
reason() { sed -n 's/.*error="\([^"]*\)".*/\1/p'; }
milliseconds_since() { awk -v a="$1" -v b="$(date +%s%N)" 'BEGIN {printf "%.0f", (b - a) / 1e6}'; }

capture_start() { rm -f "$STATE/tcpdump.log"; start tcpdump node-2 tcpdump -i eth0 -s 0 -U --immediate-mode -Z root -w "$STATE/$1.pcap" tcp; TCPDUMP=$!; wait_for tcpdump grep -q 'listening on' "$STATE/tcpdump.log"; }
capture_end() { sleep 0.2; kill $TCPDUMP; wait $TCPDUMP 2>/dev/null || true; }   # the last packets take a moment to the file
packets() { tcpdump -r "$STATE/$1.pcap" -nn "$2" 2>/dev/null | wc -l; }
in_the_clear() { grep -a -c -F -- "$2" "$STATE/$1.pcap" || true; }
gbit() { in_ns checkout iperf3 -c 10.244.2.3 -t 3 -J | awk -F'[:,]' '/"sum_received"/ {on = 1} on && /bits_per_second/ {printf "%.1f", $2 / 1e9; exit}'; }

# A chat with catalog: descriptor 5 goes to it, 6 comes from it.
chat_open() {
  rm -f "$STATE/to" "$STATE/from"; mkfifo "$STATE/to" "$STATE/from"
  in_ns_exec "$1" socat -t 0.01 - TCP:10.244.2.3:7000 <"$STATE/to" >"$STATE/from" 2>"$STATE/chat.log" &
  exec 5>"$STATE/to" 6<"$STATE/from"
}
chat() { local said=; echo "$1" >&5; read -r -t 5 said <&6 || true; echo "$said"; }
chat_close() { exec 5>&- 6<&-; }

fetch() { in_ns "$1" curl -s -S --max-time 5 "$2" 2>&1; }

# --------------------------------------------------------------------------------------------------------------- the story
printf '%sTwo nodes, one tunnel%s   %s\n' "$bold" "$plain" "$("$BIN/ztunnel" version | sed 's/.*{Version:"\([^"]*\)".*/\1/')"
cat <<PICTURE

    node-1 192.168.77.1                        node-2 192.168.77.2
    ├─ checkout 10.244.1.2                     ├─ payments 10.244.2.2   a web server
    ├─ visitor  10.244.1.3 ═══════ link ═══════╪─ catalog  10.244.2.3   a chat (echo) port, iperf3
    ├─ ztunnel, ztunnel-agent                  ├─ ztunnel, ztunnel-agent
PICTURE
set_up

title '1. Without the mesh'
typed checkout 'curl http://10.244.2.2:8080/order'
capture_start before
answer=$(fetch checkout http://10.244.2.2:8080/order)
capture_end
note "$answer"
held "somebody who listens on the link reads it: \"$SECRET\"" [ "$(in_the_clear before "$SECRET")" -ge 1 ]
held 'anybody may call payments: visitor gets the same answer' [ "$(fetch visitor http://10.244.2.2:8080/order)" = "$answer" ]
direct=$(gbit)
note "iperf3 checkout → catalog: $direct Gbit/s"

title '2. The four pods are enrolled, while their programs run'
chat_open checkout
held 'a chat from checkout to catalog is open' [ "$(chat before)" = before ]
start_mesh
note 'agents: redirection set up in each pod; proxies: listening in each pod, one certificate for each service account'
held 'the chat that was open goes on as if nothing had happened' [ "$(chat after)" = after ]
chat_close

title '3. The same request'
typed checkout 'curl http://10.96.0.80/order'
note '(10.96.0.80 is the address of the service payments)'
from=$(mark)
capture_start after
again=$(fetch checkout http://10.96.0.80/order)
fetch checkout http://10.244.2.2:8080/order >/dev/null
note "$again"
held 'the same answer' [ "$again" = "$answer" ]
line=$(logged "$from" 'connection complete')
held "payments' side saw who called:   $(field src.identity <<<"$line")" [ "$(field src.identity <<<"$line")" = spiffe://cluster.local/ns/shop/sa/checkout ]
held "checkout's side made sure of:    $(field dst.identity <<<"$line")" [ "$(field dst.identity <<<"$line")" = spiffe://cluster.local/ns/pay/sa/payments ]
held "and the application saw the caller's own address" grep -q '^10.244.1.2 ' "$STATE/payments-www.log"

title '4. What the link showed meanwhile'
capture_end
all=$(packets after tcp) tunnel=$(packets after 'tcp port 15008')
held "$all packets, every one of them to or from port 15008" [ "$all" -gt 0 -a "$all" = "$tunnel" ]
held 'the first bytes of the connection are a TLS handshake' [ "$(packets after 'tcp dst port 15008 and tcp[((tcp[12] & 0xf0) >> 2):2] = 0x1603')" -ge 1 ]
held "the payload is nowhere in the clear: \"$SECRET\" found $(in_the_clear after "$SECRET") times" [ "$(in_the_clear after "$SECRET")" = 0 ]

title '5. Who may not'
typed visitor 'curl http://10.96.0.80/order'
from=$(mark)
refusal=$(fetch visitor http://10.96.0.80/order || true)
note "$refusal"
held 'visitor gets no answer: the connection is reset' grep -q '^curl: (\(7\|52\|56\))' <<<"$refusal"
line=$(logged "$from" 'policy rejection')
held "known to payments' side as     $(field src.identity <<<"$line")" [ "$(field src.identity <<<"$line")" = spiffe://cluster.local/ns/shop/sa/visitor ]
note "and refused: policy pay/payments-callers allows shop/checkout and nobody else"
note "($(reason <<<"$line"))"

title '6. A policy edit meets an open connection'
typed visitor 'socat - TCP:10.244.2.3:7000          (a chat with catalog)'
chat_open visitor
held 'the chat is up: catalog echoes' [ "$(chat 'hello?')" = 'hello?' ]
from=$(mark)
note 'mesh.yaml, policy shop/no-chat-for:   serviceAccount: nobody   →   serviceAccount: visitor'
sed 's/serviceAccount: nobody/serviceAccount: visitor/' "$STATE/mesh.yaml" >"$STATE/mesh.yaml.new"
edited=$(date +%s%N)
mv "$STATE/mesh.yaml.new" "$STATE/mesh.yaml"
cut=0; read -r -t 5 line <&6 || cut=$?   # 1: the stream ended; more: nothing happened in time
held "the open connection was cut after $(milliseconds_since "$edited") ms" [ "$cut" = 1 ]
chat_close
line=$(logged "$from" 'due to policy change')
held "node-2 says why: $(reason <<<"$line")" [ "$(field src.identity <<<"$line")" = spiffe://cluster.local/ns/shop/sa/visitor ]
chat_open visitor
held 'and no new one is let in' [ -z "$(chat 'hello again?')" ]
chat_close
line=$(logged "$from" 'policy rejection')
note "($(reason <<<"$line"))"

title '7. What it costs'
tunnelled=$(gbit)
held "iperf3 checkout → catalog: $tunnelled Gbit/s encrypted and authenticated, $direct Gbit/s direct and in the clear" awk "BEGIN {exit !($tunnelled > 0.1)}"
note "(one connection; everything, both nodes and both ends of iperf3, on the $(nproc) CPUs of this machine)"

echo
if [ $failed != 0 ]; then printf '%s%d statements above did not hold.%s\n' "$red" "$failed" "$plain"; exit 1; fi
printf '%sEverything above was checked and held.%s\n' "$green" "$plain"

if [ -n "$KEEP" ]; then
  touch "$STATE/up"
  next() { printf '  %-72s%s\n' "$1" "$2"; }
  # The admin ports are on the nodes' own loopback: a way to them from here, for a browser.
  for n in 1 2; do
    setsid socat TCP-LISTEN:$((18000 + n)),bind=127.0.0.1,reuseaddr,fork EXEC:"nsenter --net=/run/netns/$PREFIX-node-$n socat - TCP\:127.0.0.1\:15000" \
      >"$STATE/forward-$n.log" 2>&1 </dev/null &
    echo $! >>"$STATE/forwards"
  done
  printf '\nIt is up. To go on:\n'
  next 'http://127.0.0.1:18001/  and  http://127.0.0.1:18002/' 'in a browser: the two nodes live, who talks to whom'
  next "nsenter --net=/run/netns/$PREFIX-checkout curl http://10.96.0.80/order" 'be checkout (or visitor, payments, catalog)'
  next "\$EDITOR $STATE/mesh.yaml" 'change policies; both proxies follow'
  next "tail -f $STATE/ztunnel-2.log" 'what node-2 sees'
  next "nsenter --net=/run/netns/$PREFIX-payments nft list ruleset" 'the redirection in a pod'
  next "nsenter --net=/run/netns/$PREFIX-node-2 $BIN/ztunnelctl status" 'what node-2 knows (ztunnelctl --help lists more: connections, top, check)'
  next "nsenter --net=/run/netns/$PREFIX-node-2 $BIN/ztunnelctl recent --failed" 'who was refused on node-2, and why'
  next './dev demo --stop' 'end it; nothing is left'
fi
