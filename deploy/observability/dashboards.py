#!/usr/bin/env python3
"""Writes the Grafana dashboards beside it from the list below. `dashboards.py --check` says whether they are up to date."""
import json
import pathlib
import sys

I = 'instance=~"$instance"'
RATE = "[$__rate_interval]"


def rate(metric, labels="", by=""):
    return f"sum{f' by ({by}) ' if by else ''}(rate({metric}{{{', '.join(filter(None, (I, labels)))}}}{RATE}))"


def quantile(q, histogram, labels="", by=""):
    return f"histogram_quantile({q}, sum by (le{', ' + by if by else ''}) (rate({histogram}_bucket{{{', '.join(filter(None, (I, labels)))}}}{RATE})))"


def latency(histogram, by=""):
    name = f"{{{{{by}}}}} " if by else ""
    return [(f"{quantile(q, histogram, by=by)} >= 0 or vector(0)", name + f"p{q * 100:.0f}") for q in (0.5, 0.99)]


def or_none(query):
    return f"{query} or vector(0)"


# Title: (title, unit, [(query, legend)], what it says)
NODE = [
    ("Proxies that answer", "short", [(f'sum(up{{{I}}})', "up")], "Targets that Prometheus reaches."),
    ("Connections opened", "ops", [(rate("istio_tcp_connections_opened_total", by="reporter"), "{{reporter}}")], "source: pods of this node call; destination: they are called."),
    ("Failed, by response flag", "ops", [(or_none(rate("istio_tcp_connections_failed_total", by="response_flags")), "{{response_flags}}")], "docs/reasons.md says what each flag means."),
    ("Refused before anything was known", "ops", [(or_none(rate("zt_early_denials_total", by="reason")), "{{reason}}")], "No traffic metric counts these."),
    ("Bytes", "Bps", [(rate("istio_tcp_sent_bytes_total"), "server to client"), (rate("istio_tcp_received_bytes_total"), "client to server")], ""),
    ("Open connections, by worker", "short", [(f"sum by (instance, worker) (zt_worker_connections{{{I}}})", "{{instance}} {{worker}}")], "Uneven workers are corrected with new connections only."),
    ("Open tunnels", "short", [(f"sum by (role) (zt_tunnels_open{{{I}}})", "{{role}}")], ""),
    ("First byte of the server", "s", latency("zt_first_byte_seconds", "reporter"), "From accepting a connection, so with everything below in it, and the server."),
    ("TCP connect", "s", latency("zt_connect_duration_seconds", "to"), "peer: another proxy; application: a pod here; plain: outside of the mesh."),
    ("TLS handshake", "s", latency("zt_tunnel_handshake_duration_seconds", "role"), ""),
    ("Wait for a stream of a tunnel", "s", latency("zt_pool_wait_seconds"), "Certificate, connect and handshake are in it when no tunnel was there."),
    ("Wait for a certificate", "s", latency("zt_certificate_wait_seconds"), "Of connections that had to wait."),
    ("Handshakes", "ops", [(or_none(rate("zt_tunnel_handshakes_total", by="role, result")), "{{role}} {{result}}")], ""),
    ("Receivers that stall", "ops", [(or_none(rate("zt_connection_stall_seconds_count", by="reporter")), "{{reporter}}")], "Connections that ended and whose receiver had stopped for a while."),
    ("Memory for slow receivers", "bytes", [(f"sum(zt_memory_held_bytes{{{I}}})", "held"), (f"sum(zt_memory_promised_bytes{{{I}}})", "promised"), (f"sum(zt_memory_budget_bytes{{{I}}})", "budget")], ""),
    ("Ended for want of memory", "ops", [(rate("zt_memory_cuts_total"), "cuts")], "ZT_MEMORY_BUDGET."),
    ("Memory, by pod", "bytes", [(f"topk(10, sum by (namespace, pod) (zt_pod_memory_bytes{{{I}}}))", "{{namespace}}/{{pod}}")], ""),
    ("Longest turn of a worker", "s", [(f"max by (instance, worker) (zt_worker_longest_turn_seconds{{{I}}})", "{{instance}} {{worker}}")], "How long what was ready had to wait at most."),
    ("Descriptors", "percentunit", [(f"max by (instance) (process_open_fds{{{I}}} / process_max_fds{{{I}}})", "{{instance}}")], ""),
    ("Agent and control plane", "short", [(f"min(zt_agent_connected{{{I}}})", "agent"), (or_none(f"min(zt_xds_connected{{{I}}})"), "control plane")], "1: connected."),
    ("What is known", "short", [(f"max(zt_workloads{{{I}}})", "workloads"), (f"max(zt_services{{{I}}})", "services"), (f"max(zt_policies{{{I}}})", "policies")], ""),
    ("Certificates: least time left", "s", [(f"min by (instance) (zt_certificate_expiration_timestamp_seconds{{{I}}} - time())", "{{instance}}")], ""),
    ("Certificates fetched", "ops", [(rate("zt_certificate_fetches_total", by="result"), "{{result}}")], ""),
    ("DNS queries", "ops", [(or_none(rate("istio_dns_requests_total", by="request_query_type")), "{{request_query_type}}")], ""),
    ("DNS upstream", "s", latency("istio_dns_upstream_request_duration_seconds"), ""),
    ("Limits reached", "ops", [(or_none(rate("zt_limit_reached_total", by="limit")), "{{limit}}")], ""),
    ("Log lines dropped, label sets", "short", [(rate("zt_log_dropped_lines_total"), "lines dropped"), (f"sum(zt_metrics_series{{{I}}})", "label sets")], ""),
]
W = 'destination_workload_namespace=~"$namespace"'
WORKLOAD = [
    ("Who calls whom", "ops", [(f"topk(15, {rate('istio_tcp_connections_opened_total', W, 'source_workload, destination_workload')})", "{{source_workload}} to {{destination_workload}}")], ""),
    ("Open connections", "short", [(f"topk(15, sum by (destination_workload) (istio_tcp_connections_opened_total{{{I}, {W}}}) - sum by (destination_workload) (istio_tcp_connections_closed_total{{{I}, {W}}}) or sum by (destination_workload) (istio_tcp_connections_opened_total{{{I}, {W}}}))", "{{destination_workload}}")], ""),
    ("Received by servers", "Bps", [(f"topk(15, {rate('istio_tcp_received_bytes_total', W, 'destination_workload')})", "{{destination_workload}}")], ""),
    ("Sent by servers", "Bps", [(f"topk(15, {rate('istio_tcp_sent_bytes_total', W, 'destination_workload')})", "{{destination_workload}}")], ""),
    ("Failed, by flag", "ops", [(or_none(rate("istio_tcp_connections_failed_total", W, "destination_workload, response_flags")), "{{destination_workload}} {{response_flags}}")], "docs/reasons.md."),
    ("Denied by policies", "ops", [(or_none(rate("istio_tcp_connections_closed_total", W + ', response_flags="DENY"', "source_principal, destination_workload")), "{{source_principal}} to {{destination_workload}}")], ""),
    ("Share that is encrypted and authenticated", "percentunit", [(f"{rate('istio_tcp_connections_opened_total', W + ', connection_security_policy=' + chr(34) + 'mutual_tls' + chr(34))} / {rate('istio_tcp_connections_opened_total', W)}", "mutual TLS")], "The rest has an end that is not in the mesh."),
    ("By service", "ops", [(f"topk(15, {rate('istio_tcp_connections_opened_total', W, 'destination_service')})", "{{destination_service}}")], ""),
    ("Connections of a pod", "short", [(f"topk(15, sum by (namespace, pod) (zt_pod_connections{{{I}, namespace=~\"$namespace\"}}))", "{{namespace}}/{{pod}}")], ""),
    ("Tunnels of peers to a pod", "short", [(f"topk(15, sum by (namespace, pod) (zt_pod_tunnels{{{I}, namespace=~\"$namespace\"}}))", "{{namespace}}/{{pod}}")], ""),
    ("Memory held for a pod", "bytes", [(f"topk(15, sum by (namespace, pod) (zt_pod_memory_bytes{{{I}, namespace=~\"$namespace\"}}))", "{{namespace}}/{{pod}}")], ""),
]
UPGRADE = [
    ("What runs", "short", [("count by (tag) (istio_build{" + I + "})", "{{tag}}")], ""),
    ("Pods served", "short", [(f"sum by (instance) (workload_manager_active_proxy_count{{{I}}})", "{{instance}}"), (f"sum(workload_manager_pending_proxy_count{{{I}}})", "pending")], ""),
    ("Pods begun and ended", "ops", [(rate("workload_manager_proxies_started_total"), "begun"), (rate("workload_manager_proxies_stopped_total"), "ended")], ""),
    ("Connections handed over", "short", [(or_none(f"sum by (way) (zt_handover_connections_total{{{I}}})"), "{{way}}")], "given: to the next process; taken: from the one before."),
    ("Connections that stayed with the old one", "short", [(or_none(f"sum by (cause) (zt_handover_stayed_total{{{I}}})"), "{{cause}}")], "docs/handover.md says what holds them."),
    ("Open connections, by proxy", "short", [(f"sum by (instance) (zt_worker_connections{{{I}}})", "{{instance}}")], ""),
    ("Ended, by flag", "ops", [(or_none(rate("istio_tcp_connections_closed_total", by="response_flags")), "{{response_flags}}")], "An upgrade should show no more than before."),
    ("Requests sent again, other endpoints", "ops", [(rate("zt_connects_resent_total"), "sent again"), (or_none(rate("zt_connect_failovers_total")), "other endpoint")], "What a peer that leaves left undone."),
    ("Streams to the control plane", "ops", [(or_none(rate("zt_xds_streams_total")), "begun")], ""),
    ("Certificates fetched", "ops", [(rate("zt_certificate_fetches_total", by="result"), "{{result}}")], ""),
]


def dashboard(uid, title, panels):
    variables = [
        {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Data source"},
        {"name": "instance", "type": "query", "datasource": {"type": "prometheus", "uid": "${datasource}"}, "query": "label_values(zt_workloads, instance)",
         "refresh": 2, "includeAll": True, "multi": True, "allValue": ".*", "current": {"text": "All", "value": "$__all"}},
    ]
    if uid == "ztunnel-workload":
        variables.append({"name": "namespace", "type": "query", "datasource": {"type": "prometheus", "uid": "${datasource}"}, "includeAll": True, "multi": True, "allValue": ".*",
                          "query": "label_values(istio_tcp_connections_opened_total, destination_workload_namespace)", "refresh": 2, "current": {"text": "All", "value": "$__all"}})
    drawn = []
    for number, (name, unit, queries, what) in enumerate(panels):
        drawn.append({
            "id": number + 1, "type": "timeseries", "title": name, "description": what, "datasource": {"type": "prometheus", "uid": "${datasource}"},
            "gridPos": {"h": 8, "w": 8, "x": number % 3 * 8, "y": number // 3 * 8},
            "fieldConfig": {"defaults": {"unit": unit, "min": 0, "custom": {"fillOpacity": 10, "showPoints": "never"}}, "overrides": []},
            "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi", "sort": "desc"}},
            "targets": [{"refId": chr(65 + i), "expr": query, "legendFormat": legend} for i, (query, legend) in enumerate(queries)]})
    return {"uid": uid, "title": title, "tags": ["ztunnel"], "schemaVersion": 39, "editable": True, "refresh": "30s", "time": {"from": "now-1h", "to": "now"},
            "templating": {"list": variables}, "panels": drawn}


DASHBOARDS = {"node": ("ztunnel-node", "ztunnel: nodes", NODE), "workload": ("ztunnel-workload", "ztunnel: workloads", WORKLOAD), "upgrade": ("ztunnel-upgrade", "ztunnel: an upgrade", UPGRADE)}


def main():
    old = []
    for name, arguments in DASHBOARDS.items():
        path = pathlib.Path(__file__).parent / f"dashboard-{name}.json"
        text = json.dumps(dashboard(*arguments), indent=1) + "\n"
        if "--check" not in sys.argv:
            path.write_text(text)
        elif not path.exists() or path.read_text() != text:
            old.append(f"{path.name}: run dashboards.py")
    print("\n".join(old) or "the dashboards are up to date")
    return 1 if old else 0


if __name__ == "__main__":
    sys.exit(main())
