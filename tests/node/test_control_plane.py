"""The proxy under a control plane: what it tells it, what it makes of what it is told, and what becomes of traffic while the control
plane is away, wrong or malicious. Each fault is also seen from outside: in the log, in the metrics, in the dump."""

import json
import os
import re
import signal
import socket
import threading
import time

import pytest

from harness import apps, dedicated, istiod as control
from harness.hbone import Tunnel, client_hello
from harness.istiod import ControlledMesh
from harness.mesh import CAPTURE_PORTS, write_file
from harness.process import eventually

GOLDEN = os.path.join(os.path.dirname(__file__), "../golden")
WEB = "shop/web.shop.svc.cluster.local"
VIP = "10.96.0.10"
NO_8080 = control.policy("no-8080", [{"destinationPorts": [8080]}], action="DENY")


@pytest.fixture
def shop():
    """Two captured pods that the control plane knows; nothing is started yet."""
    with ControlledMesh() as mesh:
        mesh.client, mesh.web = mesh.node.pod("client"), mesh.node.pod("web")
        mesh.web.serve(8080)
        mesh.istiod.addresses(control.service("web", VIP, {80: 8080}), control.workload(mesh.client),
                              control.workload(mesh.web, services=[(WEB, {80: 8080})]))
        yield mesh


def talks(pod, address, port=8080):
    try:
        with pod.connect(address, port) as sock:
            sock.sendall(b"x")
            return sock.recv(1) == b"x"
    except OSError:
        return False


def certificate(mesh, pod):
    return next((c for c in mesh.dump()["certificates"] if c["identity"] == pod.identity), {"state": "none", "certChain": []})


def connected(mesh, value):
    mesh.wait_metric(lambda now: now == value, "zt_xds_connected")


def test_pods_live_on_what_the_control_plane_says(shop):
    shop.istiod.say("token", "first-token")
    shop.start()
    mark = shop.node.ztunnel.mark()
    assert talks(shop.client, VIP, 80)
    line = shop.node.ztunnel.wait_line(r'access\tconnection complete.*direction="inbound"', since=mark)
    assert f'src.identity="{shop.client.identity}"' in line and f'dst.identity="{shop.web.identity}"' in line

    assert {shop.client.identity, shop.web.identity} <= set(shop.istiod.say("certificates"))
    requests = shop.istiod.say("received")
    assert 'id: "ztunnel~192.168.77.1~ztunnel-x.istio-system~istio-system.svc.cluster.local"' in requests[0]
    assert "istio.workload.Address" in requests[0] and "istio.security.Authorization" in requests[1]

    shop.wait_metric(lambda n: n, "istio_xds_message_total", url=control.ADDRESS)
    assert shop.metric("istio_xds_message_bytes_total", url=control.AUTHORIZATION) > 0
    assert shop.metric("zt_xds_connected") == 1 and 0 <= shop.metric("zt_xds_last_ack_age_seconds") < 60
    assert shop.metric("zt_ca_request_duration_seconds_count", result="ok") >= 2
    for pod in (shop.client, shop.web):
        assert shop.metric("zt_certificate_expiration_timestamp_seconds", identity=pod.identity) > 0
        assert certificate(shop, pod)["state"] == "Available"
    assert shop.metric("zt_certificate_waiting") == 0 and shop.metric("zt_certificates_pending") == 0


def test_a_policy_push_cuts_what_it_denies_and_its_removal_lets_in_again(shop):
    shop.start()
    with shop.client.connect(shop.web.ip, 8080) as sock:
        sock.sendall(b"x")
        assert apps.read_exactly(sock, 1) == b"x"
        mark = shop.node.ztunnel.mark()
        shop.istiod.policies(NO_8080)
        assert apps.read_to_end(sock)[0] == b""
    shop.node.ztunnel.wait_line("connection closed due to policy change", since=mark)
    assert not talks(shop.client, shop.web.ip)
    shop.istiod.policies(removed=[NO_8080[0]])
    eventually(lambda: talks(shop.client, shop.web.ip), "the removal to take effect")


def test_a_policy_that_a_workload_names_is_waited_for_and_its_absence_denies(shop):
    shop.start(ZT_POLICY_WAIT="300ms")
    mark = shop.node.ztunnel.mark()
    shop.istiod.addresses(control.workload(shop.web, policies=["shop/late"]), version="v2")
    eventually(lambda: not talks(shop.client, shop.web.ip), "the missing policy to deny")
    shop.node.ztunnel.wait_line("shop/late", since=mark)
    shop.istiod.policies(control.policy("late", [{"destinationPorts": [8080]}], scope="WORKLOAD_SELECTOR"))
    eventually(lambda: talks(shop.client, shop.web.ip), "the policy to let in")


def test_an_open_connection_whose_allow_is_withdrawn_is_cut_though_another_policy_is_missing(shop):
    def allow(account):
        return control.policy("who", [{"principals": [{"exact": f"cluster.local/ns/shop/sa/{account}"}]}])

    shop.istiod.policies(allow("client"))
    shop.start(ZT_POLICY_WAIT="300ms")
    with shop.client.connect(shop.web.ip, 8080) as sock:
        sock.sendall(b"x")
        assert apps.read_exactly(sock, 1) == b"x"
        shop.istiod.addresses(control.workload(shop.web, policies=["shop/late"]), version="v2")
        eventually(lambda: not talks(shop.client, shop.web.ip), "the missing policy to deny new connections")
        sock.sendall(b"x")
        assert apps.read_exactly(sock, 1) == b"x", "that it is named cuts nothing"
        mark = shop.node.ztunnel.mark()
        shop.istiod.policies(allow("other"))
        assert apps.read_to_end(sock)[0] == b""
    shop.node.ztunnel.wait_line("connection closed due to policy change", since=mark)


def test_a_connection_that_waits_for_a_policy_is_judged_by_the_list_that_its_workload_has_then(shop):
    shop.istiod.addresses(control.workload(shop.web, policies=["shop/late"]))
    shop.start(ZT_POLICY_WAIT="30s")
    mark = shop.node.ztunnel.mark()
    with shop.client.connect(shop.web.ip, 8080) as sock:
        sock.sendall(b"x")
        shop.node.ztunnel.wait_line('connection opened.*direction="inbound"', since=mark)
        shop.istiod.addresses(control.workload(shop.web), version="v2")
        assert apps.read_exactly(sock, 1) == b"x"


def test_without_a_first_state_nothing_is_accepted_and_nothing_goes_around_the_proxy(shop):
    shop.start()
    assert talks(shop.client, shop.web.ip)
    shop.node.ztunnel.kill()
    shop.istiod.say("down")
    mark = shop.node.agent.mark()
    shop.node.start_ztunnel(**shop.environment)
    shop.node.ztunnel.wait_line("XDS client connection error: gRPC connection error")
    assert shop.node.http(15021, "/healthz/ready") == (500, "not ready, pending: state manager, workload proxy manager\n")
    with pytest.raises(ConnectionRefusedError):
        shop.client.connect(shop.web.ip, 8080)
    assert not shop.node.agent.matching("proxy connected", since=mark)
    attempts = len(shop.node.ztunnel.matching("XDS client connection error"))
    assert attempts <= 12, "pauses grow"

    shop.istiod.say("up")
    shop.node.wait_ready()
    eventually(lambda: talks(shop.client, shop.web.ip), "traffic once the state has come")


def test_an_answer_to_one_type_only_is_not_enough(shop):
    shop.istiod.addresses(("bad", {"workload": {"uid": "bad", "addresses": ["YWJj"]}}))
    shop.launch()
    shop.node.ztunnel.wait_line("malformed resources")
    assert shop.node.http(15021, "/healthz/ready")[1] == "not ready, pending: state manager, workload proxy manager\n"
    shop.istiod.addresses(removed=["bad"])
    shop.node.wait_ready()


def test_an_outage_stops_no_traffic_and_is_caught_up_with(shop):
    other = shop.node.pod("other")
    shop.istiod.addresses(control.workload(other))
    shop.start()
    eventually(lambda: certificate(shop, other)["state"] == "Available", "its certificate, which nobody has asked for")
    with shop.client.connect(shop.web.ip, 8080) as old:
        shop.istiod.say("down")
        connected(shop, 0)
        old.sendall(b"x")
        assert apps.read_exactly(old, 1) == b"x"
        assert talks(shop.client, shop.web.ip), "a new connection"
        assert talks(other, shop.web.ip), "a new connection that needs a new tunnel"
        assert shop.node.ready()
    assert shop.metric("zt_xds_streams_total") <= 12

    shop.istiod.policies(NO_8080)
    shop.istiod.say("up")
    connected(shop, 1)
    eventually(lambda: not talks(shop.client, shop.web.ip), "the policy of meanwhile")
    again = [r for r in shop.istiod.say("received") if "node {" in r and "workload.Address" in r and "initial_resource_versions" in r]
    assert again and all(f'key: "{name}"' in again[-1] for name in (WEB, "Kubernetes//Pod/shop/client", "Kubernetes//Pod/shop/other"))
    assert shop.metric("istio_xds_connection_terminations_total") >= 1


def test_what_is_malformed_is_refused_by_name_and_harms_nothing_else(shop):
    shop.start()
    late = shop.node.pod("late", captured=False)
    shop.istiod.addresses(("bad", {"workload": {"uid": "bad", "addresses": ["YWJj"]}}), control.workload(late))
    shop.node.ztunnel.wait_line(r'malformed resources.*rejected=1 .*error="bad: failed to parse address, had 3 bytes"')
    shop.wait_metric(lambda n: n == 1, "zt_xds_nacks_total")
    assert shop.metric("zt_xds_rejected_resources_total") == 1
    assert any("bad: failed to parse address" in r and "error_detail" in r for r in shop.istiod.say("received"))
    assert "Kubernetes//Pod/shop/late" in [w["uid"] for w in shop.dump()["workloads"]]

    for content, said in ((b"\xff" * 100, "is not a DeltaDiscoveryResponse"), (b"\x0a\x05ab", "is not a DeltaDiscoveryResponse")):
        mark, streams = shop.node.ztunnel.mark(), shop.istiod.streams()
        shop.istiod.raw(content)
        shop.node.ztunnel.wait_line(f"ending the stream.*{said}", since=mark)
        eventually(lambda: shop.istiod.streams() == streams + 1, "a new stream")
    shop.wait_metric(lambda n: n == 2, "zt_xds_undecodable_messages_total")
    shop.wait_metric(lambda n: n == 2, "istio_xds_connection_terminations_total", reason="Error")
    connected(shop, 1)
    assert talks(shop.client, shop.web.ip) and shop.node.ready()


def test_a_control_plane_that_refuses_us_is_not_called_in_a_loop_and_an_expired_token_is_replaced(shop):
    shop.istiod.say("token", "first-token")
    shop.start()
    shop.istiod.say("token", "second-token")
    shop.istiod.say("end", "14")
    shop.node.ztunnel.wait_line("XDS client connection error.*UNAUTHENTICATED")
    assert talks(shop.client, shop.web.ip) and shop.node.ready()
    write_file(shop.token, "\n")
    shop.node.ztunnel.wait_line("the token file .* is empty")
    write_file(shop.token, "second-token\n")
    connected(shop, 1)
    assert shop.istiod.streams() <= 14
    assert not shop.node.ztunnel.matching("first-token|second-token"), "no secret in the log"


def test_a_root_that_is_mounted_late_or_is_another_ones_is_named_and_used_once_it_is_right(shop):
    root = os.path.join(shop.folder, "mounted.pem")
    shop.launch(XDS_ROOT_CA=root, CA_ROOT_CA=root)
    assert root in shop.node.ztunnel.wait_line("XDS client connection error")
    other = os.path.join(GOLDEN, "ca/root-cert.pem")
    mark = shop.node.ztunnel.mark()
    with open(other) as file:
        write_file(root, file.read())
    shop.node.ztunnel.wait_line("XDS client connection error.*UNAVAILABLE", since=mark)
    assert not shop.node.ready()
    with open(shop.istiod.root) as file:
        write_file(root, file.read())
    shop.node.wait_ready()
    shop.client.wait_captured()
    eventually(lambda: talks(shop.client, shop.web.ip), "traffic")


@pytest.mark.parametrize("direct", ["false", "true"], ids=["over tunnels", "without"])
def test_a_certificate_that_is_wrong_is_refused_and_no_traffic_goes_without_one(shop, direct):
    shop.start(ZT_LOCAL_DIRECT=direct)
    faults = ("other", "7")  # another identity, PERMISSION_DENIED; tests/istiod_ca has all that can be wrong with an answer
    for fault in faults:
        pod = shop.node.pod(f"pod-{fault}")
        shop.istiod.say("ca", fault)
        shop.istiod.addresses(control.workload(pod))
        shop.node.write_pods()
        pod.wait_captured()
        assert not talks(pod, shop.web.ip), fault
        state = certificate(shop, pod)["state"]
        assert state.startswith("Unavailable: ") or state == "Initializing", (fault, state)
        assert not shop.web.servers[0].errors
        shop.istiod.say("ca", "good")
        eventually(lambda: talks(pod, shop.web.ip), f"a certificate after {fault}")
        assert certificate(shop, pod)["state"] == "Available"
    shop.wait_metric(lambda n: n >= len(faults), "zt_certificate_fetches_total", result="failed")
    assert shop.metric("zt_ca_request_duration_seconds_count", result="failed") >= len(faults)
    assert talks(shop.client, shop.web.ip), "who has a certificate keeps it"


def test_a_connection_waits_for_its_own_workload_to_become_known(shop):
    shop.start()
    early = shop.node.pod("early")
    shop.node.write_pods()
    early.wait_captured()
    with early.connect(shop.web.ip, 8080) as sock:
        sock.sendall(b"x")
        sock.settimeout(0.3)
        with pytest.raises(TimeoutError):
            sock.recv(1)
        sock.settimeout(apps.TIMEOUT)
        shop.istiod.addresses(control.workload(early))
        assert apps.read_exactly(sock, 1) == b"x"


def test_a_certificate_comes_and_goes_with_the_workloads_that_need_it(shop):
    shop.start()
    one, two = (shop.node.pod(name, account="worker", captured=False) for name in ("one", "two"))
    elsewhere = shop.node.pod("elsewhere", captured=False)
    for pod in (one, two, elsewhere):
        pod.speaks_hbone = True
    far = control.workload(elsewhere)
    far[1]["workload"]["node"] = "another"
    shop.istiod.addresses(control.workload(one), control.workload(two), far)
    eventually(lambda: certificate(shop, one)["state"] == "Available", "a certificate that nobody has asked for")
    assert certificate(shop, elsewhere)["state"] == "none", "it is another node's"
    assert shop.istiod.say("certificates").count(one.identity) == 1
    shop.istiod.addresses(removed=["Kubernetes//Pod/shop/one"])
    eventually(lambda: len(shop.dump()["workloads"]) == 4, "the removal")
    assert certificate(shop, two)["state"] == "Available", "two still needs it"
    shop.istiod.addresses(removed=["Kubernetes//Pod/shop/two"])
    eventually(lambda: certificate(shop, two)["state"] == "none", "the certificate to go with the last one")


@pytest.mark.parametrize("direct", ["false", "true"], ids=["over tunnels", "without"])
def test_a_change_of_the_root_under_load_fails_no_connection(shop, direct):
    # Lifetimes of seconds make renewals come by themselves; after a pause the tunnel is gone and the next burst shakes hands anew.
    shop.istiod.say("lifetime", "5")
    shop.start(POOL_UNUSED_RELEASE_TIMEOUT="1s", ZT_LOCAL_DIRECT=direct)
    failed, made, stop = [], [], threading.Event()

    def load(client, server):
        while not stop.wait(1.1):
            for _ in range(10):
                (made if talks(client, server.ip) else failed).append(1)

    shop.client.serve(8080)
    threads = [apps.start(lambda pair=pair: load(*pair)) for pair in ((shop.client, shop.web), (shop.web, shop.client))]
    root_of = lambda pod: certificate(shop, pod).get("rootCerts", [])
    try:
        for step, roots in (("both", 2), ("both-new-signs", 2), ("new", 1)):
            before = {pod: certificate(shop, pod)["certChain"] for pod in (shop.client, shop.web)}
            shop.istiod.say("roots", step)
            eventually(lambda: all(certificate(shop, pod)["certChain"] != before[pod] for pod in before), f"renewals after {step}")
            eventually(lambda: all(len(root_of(pod)) == roots for pod in before), f"{roots} roots after {step}")
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not failed and len(made) > 50, (len(failed), len(made))
    shop.wait_metric(lambda n: n >= 2, "zt_trust_root_changes_total")


def test_on_demand_what_a_connection_needs_is_asked_for_when_it_needs_it(shop):
    shop.istiod.addresses(control.service("web", VIP, {80: 8080}), aliases={WEB: [f"/{VIP}"]}, version="v2")
    shop.istiod.say("node", shop.node.name)
    outside = shop.node.pod("outside", captured=False)
    outside.serve(9000)
    shop.start(XDS_ON_DEMAND="true", ISTIO_META_DNS_CAPTURE="false")
    assert not shop.dump()["services"], "nobody has asked"
    assert talks(shop.client, VIP, 80)
    assert talks(shop.client, outside.ip, 9000), "what the control plane does not know is passed through"
    asked = [r for r in shop.istiod.say("received") if f'resource_names_subscribe: "/{VIP}"' in r]
    assert len(asked) == 1
    assert [s["hostname"] for s in shop.dump()["services"]] == ["web.shop.svc.cluster.local"]
    shop.wait_metric(lambda n: n and n >= 2, "zt_xds_lookups_total", result="answered")
    assert shop.metric("zt_xds_lookups_waiting") == 0


def test_on_demand_what_the_control_plane_is_silent_about_is_not_called_in_plain_text(shop):
    shop.istiod.say("node", shop.node.name)
    outside = shop.node.pod("outside", captured=False)
    outside.serve(9000)
    shop.start(XDS_ON_DEMAND="true", ISTIO_META_DNS_CAPTURE="false")
    shop.istiod.say("silent")
    assert apps.refused(shop.client, outside.ip, 9000)
    shop.node.ztunnel.wait_line(f"connection failed.*the control plane did not say in time what it knows of /{outside.ip}")
    assert not outside.servers[0].peers
    shop.wait_metric(lambda n: n == 1, "zt_early_denials_total", reporter="source", reason="lookup_failed")


def test_on_demand_a_name_about_which_the_control_plane_is_silent_is_not_said_to_be_nobodys(shop):
    shop.istiod.say("node", shop.node.name)
    outside = shop.node.pod("outside", captured=False)
    shop.ca_folder = os.path.join(shop.folder, "ca")
    shop.start(XDS_ON_DEMAND="true", ISTIO_META_DNS_CAPTURE="false", EMBEDDED_CA_DIR=shop.ca_folder, CA_ADDRESS=None)
    tunnel = Tunnel(outside, shop.web.ip, shop, shop.client.identity)
    assert tunnel.connect("nowhere.example:80") == 503
    shop.wait_metric(lambda n: n == 1, "zt_early_denials_total", reporter="destination", reason="no_service")
    shop.istiod.say("silent")
    assert tunnel.connect("elsewhere.example:80") == 503
    shop.wait_metric(lambda n: n == 1, "zt_early_denials_total", reporter="destination", reason="lookup_failed")


def test_on_demand_the_source_of_a_connection_is_asked_for_once_and_never_waited_for_long(shop):
    def described(pod):
        name, message = control.workload(pod)
        message["workload"]["node"] = "another"  # so that nobody is told of it unasked
        shop.istiod.addresses((name, message), aliases={name: [f"/{pod.ip}"]})
        return pod

    def opened(source):
        return shop.metric("istio_tcp_connections_opened_total", reporter="destination", source_workload=source)

    shop.istiod.say("node", shop.node.name)
    caller, late, stranger = described(shop.node.pod("caller", captured=False)), *(shop.node.pod(n, captured=False) for n in ("late", "stranger"))
    shop.start(XDS_ON_DEMAND="true", ISTIO_META_DNS_CAPTURE="false")
    for _ in range(3):
        assert talks(caller, shop.web.ip) and talks(stranger, shop.web.ip)
    assert 'src.workload="caller" src.namespace="shop"' in shop.node.ztunnel.wait_line(rf"connection complete.*src.addr={caller.ip}:")
    shop.wait_metric(lambda n: n == 3, "istio_tcp_connections_opened_total", reporter="destination", source_workload="caller")
    assert opened("unknown") == 3

    shop.istiod.say("silent")
    begun = time.monotonic()
    assert talks(late, shop.web.ip) and talks(late, shop.web.ip)
    assert time.monotonic() - begun < 2, "5 s is the limit of what a route needs"
    assert opened("unknown") == 5
    asked = [key for r in shop.istiod.say("received") for key in re.findall(r'resource_names_subscribe: "/([0-9.]+)"', r)]
    assert sorted(asked) == sorted(pod.ip for pod in (caller, stranger, late))


def test_on_demand_the_gateway_to_another_network_is_asked_for(shop):
    far = ("far", {"workload": {
        "uid": "far", "name": "far", "namespace": "shop", "network": "elsewhere", "services": {WEB: {"ports": [{"servicePort": 80, "targetPort": 8080}]}},
        "networkGateway": {"hostname": {"namespace": "istio-system", "hostname": "gateway.example"}, "hboneMtlsPort": 15008}}})
    shop.istiod.addresses(far, control.workload(shop.web), control.service("web", VIP, {80: 8080}),
                          aliases={WEB: [f"/{VIP}"], "far": [f"/{VIP}"]}, version="v2")
    shop.istiod.say("node", shop.node.name)
    shop.start(XDS_ON_DEMAND="true", ISTIO_META_DNS_CAPTURE="false")
    assert not talks(shop.client, VIP, 80)
    shop.node.ztunnel.wait_line("unknown network gateway: istio-system/gateway.example")
    assert any('resource_names_subscribe: "istio-system/gateway.example"' in r for r in shop.istiod.say("received"))


def test_metrics_of_workloads_that_are_gone_go_and_others_stay(shop):
    gone = shop.node.pod("gone")
    shop.istiod.addresses(control.workload(gone))
    shop.start(ZT_METRICS_SERIES_IDLE="1s")
    assert talks(shop.client, shop.web.ip) and talks(gone, shop.web.ip)
    opened = "istio_tcp_connections_opened_total"
    assert shop.metric(opened, source_workload="client") == shop.metric(opened, source_workload="gone") == 2
    shop.istiod.addresses(removed=["Kubernetes//Pod/shop/gone"])
    shop.wait_metric(lambda n: n is None, opened, source_workload="gone")
    assert shop.metric(opened, source_workload="client") == 2


def test_a_local_file_and_the_control_plane_work_side_by_side(shop):
    extra = shop.node.pod("extra")
    extra.serve(8081)
    shop.istiod.policies(NO_8080)
    write_file(shop.file, json.dumps({"workloads": [extra.workload()], "services": [], "policies": []}))
    shop.start(LOCAL_XDS_PATH=shop.file)
    assert talks(shop.client, extra.ip, 8081)
    assert not talks(shop.client, shop.web.ip)
    mark = shop.node.ztunnel.mark()
    write_file(shop.file, json.dumps({"workloads": [], "services": [], "policies": []}))
    shop.node.ztunnel.wait_line("local configuration read", since=mark)
    names = [w["name"] for w in shop.dump()["workloads"]]
    assert "extra" not in names and "web" in names


def start_dedicated(shop, **changes):
    """A proxy of the pod web in the node's own namespace."""
    shop.node.start_ztunnel(**shop.environment, PROXY_MODE="dedicated", PROXY_WORKLOAD_INFO="shop/web/web", **changes)
    return shop.node.ztunnel


def test_a_dedicated_proxy_asks_for_its_certificate_on_nobodys_behalf(shop):
    start_dedicated(shop)
    shop.node.wait_ready()
    with shop.node.netns.entered():
        sock = socket.create_connection(("127.0.0.1", 15008))
    with sock:
        sock.sendall(client_hello())  # who begins a handshake makes it need its certificate
        eventually(lambda: certificate(shop, shop.web)["state"] == "Available", "its certificate")
    assert shop.istiod.say("certificates") == [""]


def test_who_connects_to_a_dedicated_proxy_before_its_state_waits_for_the_policies(shop):
    outside, node = shop.node.pod("outside", captured=False), shop.node.netns
    gateway, servers = "169.254.1.1", {port: apps.Server(node, port, apps.echo) for port in (8080, 8081)}
    dedicated.redirect(node)
    shop.istiod.policies(NO_8080)
    shop.istiod.say("down")
    start_dedicated(shop, PACKET_MARK="1337").wait_line("XDS client connection error")
    assert CAPTURE_PORTS <= node.listening_ports(), "bound at once"
    denied, allowed = (outside.connect(gateway, port) for port in servers)
    with denied, allowed:
        for sock in (denied, allowed):
            sock.sendall(b"x")
        assert node.waiting_to_be_accepted(15006) == 2
        shop.istiod.say("up")
        assert apps.read_exactly(allowed, 1) == b"x"
        assert apps.how_it_ends(denied) == apps.RST
    assert not servers[8080].peers and servers[8081].peers[0][0] == outside.ip
    for server in servers.values():
        server.close()


def test_a_dedicated_proxy_that_ends_before_its_state_resets_who_waits(shop):
    shop.istiod.say("down")
    ztunnel = start_dedicated(shop)
    ztunnel.wait_line("XDS client connection error")
    with shop.node.netns.entered():
        sock = socket.create_connection(("127.0.0.1", 15006), timeout=apps.TIMEOUT)
    with sock:
        ztunnel.signal(signal.SIGTERM)
        assert apps.how_it_ends(sock) == apps.RST
    assert ztunnel.wait_exit() == 0


def test_a_taken_port_ends_a_dedicated_proxy_though_its_control_plane_is_silent(shop):
    shop.istiod.say("silent")
    with shop.node.netns.socket(socket.AF_INET6) as taken:
        taken.bind(("::", 15006))
        taken.listen()
        ztunnel = start_dedicated(shop)
        assert ztunnel.wait_exit() == 1
    assert ":15006" in ztunnel.text() and "in use" in ztunnel.text()


@pytest.mark.parametrize("state", ["connected", "down", "silent", "never signs"])
def test_the_proxy_ends_at_once_whatever_its_control_plane_does(shop, state):
    if state == "never signs":
        shop.istiod.say("ca", "never")
    elif state in ("down", "silent"):
        shop.istiod.say(state)
    shop.launch()
    if state == "connected":
        shop.node.wait_ready()
    elif state == "down":
        shop.node.ztunnel.wait_line("XDS client connection error")
    else:
        eventually(lambda: shop.istiod.say("certificates" if state == "never signs" else "received"), "it to be asked")
    begun = time.monotonic()
    shop.node.ztunnel.signal(signal.SIGTERM)
    assert shop.node.ztunnel.wait_exit() == 0
    assert time.monotonic() - begun < 3


def test_the_dump_of_recorded_state_is_the_recorded_dump():
    with ControlledMesh() as mesh:
        for file in ("003-resp-address", "005-resp-authorization"):
            mesh.istiod.say("push", os.path.abspath(f"{GOLDEN}/xds/wildcard/{file}.binpb"))
        mesh.start(NODE_NAME="worker-1")
        ours = mesh.dump()
    with open(f"{GOLDEN}/ztunnel/config_dump.json") as file:
        recorded = json.load(file)
    assert ours.keys() == recorded.keys() and not ours["stagedServices"]
    for workload in (*ours["workloads"], *recorded["workloads"]):
        workload.get("services", []).sort()  # the peer's come in no order
    for what, key in (("workloads", "uid"), ("policies", "name"), ("services", "hostname")):
        by = lambda item: (item[key], item["namespace"])
        assert sorted(ours[what], key=by) == sorted(recorded[what], key=by), what


def test_the_log_level_changes_while_the_control_plane_talks(shop):
    shop.start()
    assert shop.node.http(15000, "/logging", method="POST") == (200, "current log level is hickory_server::server=off,access=debug,info\n")
    assert shop.node.http(15000, "/logging?level=xds=debug", method="POST")[0] == 200
    mark = shop.node.ztunnel.mark()
    shop.istiod.addresses(control.workload(shop.web), version="v3")
    assert re.search(r"resources=1", shop.node.ztunnel.wait_line("xds\tapplied a response", since=mark))
