"""Faults of what the proxy depends on, end to end: each is brought about under a running proxy with pods that talk, and the test says
what a user sees of it: traffic, readiness, the log line that names the fault, the metric, and what the control plane is told. What is
not here is in test_control_plane.py: outages, garbage, expired and empty tokens, late roots, roots that rotate under load."""

import os
import re
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from harness import apps, istiod as control
from harness.apps import refused
from harness.faults import Authority, Link, Mount, Traffic, WallClock, small_disk
from harness.istiod import ControlledMesh
from harness.mesh import write_file
from harness.process import eventually

STATE_PENDING = "not ready, pending: state manager, workload proxy manager\n"


@pytest.fixture
def shop():
    """Two captured pods that the control plane knows; nothing is started yet."""
    with ControlledMesh() as mesh:
        mesh.client, mesh.web = mesh.node.pod("client"), mesh.node.pod("web")
        mesh.web.serve(8080, apps.echo_whatever_comes)
        mesh.istiod.addresses(control.workload(mesh.client), control.workload(mesh.web))
        yield mesh


def talks(pod, server, port=8080):
    try:
        with pod.connect(server.ip, port) as sock:
            sock.sendall(b"x")
            return sock.recv(1) == b"x"
    except OSError:
        return False


def enrol(mesh, name):
    """One more captured pod, of which the control plane has just told."""
    pod = mesh.node.pod(name)
    pod.serve(8080)
    mesh.istiod.addresses(control.workload(pod))
    mesh.node.write_pods()
    pod.wait_captured()
    return pod


def elsewhere(number, address=None):
    """A workload of another node."""
    uid = f"Kubernetes//Pod/mass/p{number}"
    return uid, {"workload": {
        "uid": uid, "name": f"p{number}", "namespace": "mass", "serviceAccount": "mass", "node": "elsewhere", "tunnelProtocol": "HBONE",
        "addresses": [address or control.packed(f"10.128.{number // 250}.{number % 250 + 1}")]}}


def names_held(mesh):
    return {w["uid"] for w in mesh.dump()["workloads"]}


# ---- what the control plane says


def test_one_bad_resource_among_ten_thousand_is_named_and_all_others_are_applied(shop):
    shop.start()
    bad, why = "Kubernetes//Pod/mass/p5000", "failed to parse address, had 3 bytes"
    push = [elsewhere(n) for n in range(10_000)]
    push[5000] = elsewhere(5000, "YWJj")
    with Traffic(shop.client, shop.web):
        shop.istiod.addresses(*push)
        shop.node.ztunnel.wait_line(rf'malformed resources; all others are applied.*rejected=1 resources=10000 error="{bad}: {why}"')
        held = names_held(shop)
        assert bad not in held and len(held) == 9_999 + len(shop.pods)
        nacks = [r for r in shop.istiod.say("received") if "error_detail" in r]
        assert len(nacks) == 1 and f"{bad}: {why}" in nacks[0]
        shop.wait_metric(lambda n: n == 1, "zt_xds_nacks_total")
        assert shop.metric("zt_xds_rejected_resources_total") == 1
        assert shop.metric("zt_workloads") == 9_999 + len(shop.pods)
        assert shop.node.ready() and shop.metric("zt_xds_connected") == 1

        shop.istiod.addresses(elsewhere(5000), version="v2")
        eventually(lambda: bad in names_held(shop), "the mended one")
    assert shop.metric("zt_xds_nacks_total") == 1 and shop.istiod.streams() == 1


def test_a_resource_of_a_wrong_type_is_named_and_a_response_of_another_type_is_passed_over(shop):
    shop.start()
    policy = control.policy("stray", [{"destinationPorts": [8080]}], action="DENY")
    stray = (policy[0], {"@type": control.AUTHORIZATION, **policy[1]})
    with Traffic(shop.client, shop.web):
        shop.istiod.raw(control.response(control.ADDRESS, [elsewhere(1), stray, elsewhere(2)]))
        shop.node.ztunnel.wait_line(r'rejected=1 resources=3 error="shop/stray: decode: failed to decode Protobuf message"')
        eventually(lambda: any("shop/stray: decode" in r for r in shop.istiod.say("received")), "the NACK")
        assert {elsewhere(1)[0], elsewhere(2)[0]} <= names_held(shop)

        other = "type.googleapis.com/google.protobuf.Struct"
        shop.istiod.raw(control.response(other, [("thing", {"value": {}})]))
        shop.node.ztunnel.wait_line(f'a type that we did not ask for; acknowledged, not used.*type="{other}"')
        shop.istiod.policies(control.policy("harmless", [{"destinationPorts": [1]}], action="DENY"))
        eventually(lambda: len(shop.dump()["policies"]) == 1, "what comes after")
    shop.wait_metric(lambda n: n == 1, "istio_xds_message_total", url="other")
    assert shop.istiod.streams() == 1, "no reason to end the stream"


def memory(process, which):
    """MiB: VmRSS, or VmHWM for the most since reset_peak()."""
    with open(f"/proc/{process.pid}/status") as file:
        return int(re.search(rf"{which}:\s+(\d+) kB", file.read())[1]) >> 10


def reset_peak(process):
    with open(f"/proc/{process.pid}/clear_refs", "w") as file:
        file.write("5")


def test_a_response_above_200_mib_ends_the_stream_by_name_and_costs_bounded_memory(shop):
    # A sanitizer's allocator keeps what is freed unless it is told not to; the ordinary one does not look at this.
    shop.start(ASAN_OPTIONS=os.environ.get("ASAN_OPTIONS", "") + ":quarantine_size_mb=1:allocator_release_to_os_interval_ms=0")
    ztunnel, megabyte = shop.node.ztunnel, 1 << 20
    with Traffic(shop.client, shop.web):
        removals = control.response(control.ADDRESS, removed=["x" * megabyte])
        shop.istiod.raw(removals, times=190)
        shop.wait_metric(lambda n: n and n > 190 * megabyte, "istio_xds_message_bytes_total", timeout=30, url=control.ADDRESS)
        assert shop.istiod.streams() == 1, "190 MiB are within the limit"

        reset_peak(ztunnel)
        shop.istiod.raw(bytes(megabyte), times=3072)
        ztunnel.wait_line('XDS client error: status: RESOURCE_EXHAUSTED, message: "Received message larger than max', timeout=30)
        assert memory(ztunnel, "VmHWM") < 1024, "of the 3 GiB that were on their way"
        eventually(lambda: shop.istiod.streams() == 2, "a new stream")
        shop.istiod.addresses(elsewhere(1))
        eventually(lambda: elsewhere(1)[0] in names_held(shop), "what comes after")
        assert shop.node.ready()
        eventually(lambda: memory(ztunnel, "VmRSS") < memory(ztunnel, "VmHWM") / 2, "memory to be given back")
    shop.wait_metric(lambda n: n == 1, "istio_xds_connection_terminations_total", reason="Error")


# ---- how it says it


def test_a_control_plane_that_takes_seconds_is_waited_for_and_holds_up_no_traffic(shop):
    link = Link(shop.node.netns, 15013, control.PORT, delay=0.2)
    try:
        shop.launch(XDS_ADDRESS=link.address, CA_ADDRESS=link.address)
        eventually(lambda: shop.node.http(15021, "/healthz/ready")[1] == STATE_PENDING, "to be waiting")
        shop.node.wait_ready()
        for pod in shop.pods:
            pod.wait_captured()
        eventually(lambda: talks(shop.client, shop.web), "certificates, slowly")
        with Traffic(shop.client, shop.web) as traffic:
            shop.istiod.policies(control.policy("no-9090", [{"destinationPorts": [9090]}], action="DENY"))
            eventually(lambda: shop.dump()["policies"], "a policy, slowly")
            link.delay, link.pace = 0, 400_000
            shop.istiod.addresses(*(elsewhere(n) for n in range(5_000)))
            eventually(lambda: len(names_held(shop)) == 5_000 + len(shop.pods), "5 000 workloads, in drops")
            link.pace = None
            link.hold()
            shop.istiod.policies(removed=["shop/no-9090"])
            made = traffic.made
            eventually(lambda: traffic.made >= made + 10, "traffic while nothing passes")
            assert shop.dump()["policies"] and shop.node.ready()
            link.go()
            eventually(lambda: not shop.dump()["policies"], "what was held up")
        assert shop.istiod.streams() == 1 and shop.metric("zt_xds_connected") == 1
    finally:
        link.close()


def test_a_control_plane_that_takes_the_connection_and_never_speaks_is_given_up_by_name_and_tried_again(shop):
    link = Link(shop.node.netns, 15013, control.PORT)
    try:
        link.hold()
        begun = time.monotonic()
        shop.launch(XDS_ADDRESS=link.address)
        shop.node.ztunnel.wait_line(f"XDS client connection error: gRPC connection error connecting to {link.address}: status: UNAVAILABLE")
        assert time.monotonic() - begun > 4.5, "the limit of an attempt is 5 s"
        assert shop.node.http(15021, "/healthz/ready") == (500, STATE_PENDING)
        link.go()
        shop.node.wait_ready()
        shop.client.wait_captured()
        eventually(lambda: talks(shop.client, shop.web), "traffic")
    finally:
        link.close()


# ---- certificates


@pytest.mark.parametrize("silent", ["connection", "call"])
def test_a_ca_that_never_answers_costs_a_connection_its_limit_and_no_more(shop, silent):
    link = Link(shop.node.netns, 15013, control.PORT)
    try:
        shop.start(CA_ADDRESS=link.address, ZT_FIRST_CERTIFICATE_TIMEOUT="1500ms")
        with Traffic(shop.client, shop.web):
            if silent == "connection":
                link.hold()
            else:
                shop.istiod.say("ca", "never")
            late, mark = enrol(shop, "late"), shop.node.ztunnel.mark()
            begun = time.monotonic()
            assert refused(late, shop.web.ip, 8080)
            assert 1.4 < time.monotonic() - begun < 6
            shop.node.ztunnel.wait_line(f'error="identity error: no certificate for {late.identity} in time"', since=mark)
            assert shop.certificate(late)["state"] == "Initializing" and shop.metric("zt_certificates_pending") == 1
            assert shop.node.ready()
            if silent == "connection":
                link.go()
            else:
                shop.istiod.say("ca", "good")
                shop.istiod.say("down")  # as one that hung is restarted
                shop.istiod.say("up")
            eventually(lambda: talks(late, shop.web), "its certificate")
    finally:
        link.close()


def test_a_late_certificate_takes_nothing_from_the_time_that_the_peer_has_to_answer(shop):
    link = Link(shop.node.netns, 15013, control.PORT)
    try:
        shop.start(CA_ADDRESS=link.address, ZT_CONNECT_ANSWER_TIMEOUT="500ms")
        assert talks(shop.client, shop.web)
        link.hold()
        late = enrol(shop, "late")
        with ThreadPoolExecutor(1) as callers:
            call = callers.submit(talks, late, shop.web)
            time.sleep(0.8)  # not for an event: the certificate has to take longer than the peer may take to answer
            link.go()
            assert call.result()
    finally:
        link.close()


def test_a_ca_that_takes_the_connection_and_never_speaks_is_given_up_by_name_and_used_once_it_does(shop):
    link = Link(shop.node.netns, 15013, control.PORT)
    try:
        link.hold()
        shop.start(CA_ADDRESS=link.address)
        begun = time.monotonic()
        assert refused(shop.client, shop.web.ip, 8080)
        assert time.monotonic() - begun < 9, "the limit of an attempt is 5 s"
        shop.node.ztunnel.wait_line(f'cannot get a certificate.*the CA {link.address} answered UNAVAILABLE: failed to connect')
        link.go()
        eventually(lambda: talks(shop.client, shop.web), "certificates")
    finally:
        link.close()


WRONG_ANSWERS = {
    "empty": "the answer holds no certificates",
    "bad-pem": r"element 0 \(leaf\)",
    "garbage": "cannot be decoded",
    "expired": r"the CA gave a certificate that expired at .*\(is our clock right\?\)",
    "other": "is for spiffe://cluster.local/ns/other/sa/other, expected spiffe://cluster.local/ns/shop/sa/",
    "16": "UNAUTHENTICATED",
}


def test_wrong_answers_of_the_ca_give_no_traffic_a_reason_and_a_pause(shop):
    shop.start()
    ztunnel, late = shop.node.ztunnel, {}
    with Traffic(shop.client, shop.web):
        for fault in WRONG_ANSWERS:
            shop.istiod.say("ca", fault, f"gets-{fault}")
            late[fault] = enrol(shop, f"gets-{fault}")
        # Who connects hastens the next attempt and hears what became of it.
        with ThreadPoolExecutor(2 * len(late)) as together:
            calls = [together.submit(refused, *pair, 8080) for pod in late.values() for pair in ((pod, shop.web.ip), (shop.client, pod.ip))]
            assert all(call.result() for call in calls), [call.result() for call in calls]
        for fault, pod in late.items():
            failed = f'cannot get a certificate.*identity="{pod.identity}" error="[^"]*{WRONG_ANSWERS[fault]}[^"]*" failures={{}} retry_ms=(\\d+)$'
            first, second = (int(re.search(r"\d+$", ztunnel.wait_line(failed.format(n)))[0]) for n in (1, 2))
            assert 800 <= first <= 1200 and 1600 <= second <= 2400
            assert re.match(f"Unavailable: .*{WRONG_ANSWERS[fault]}", shop.certificate(pod)["state"])
        asked = shop.istiod.say("certificates")
        assert all(asked.count(pod.identity) <= 6 for pod in late.values()), "pauses, although connections wait"
        shop.wait_metric(lambda n: n >= 2 * len(late), "zt_certificate_fetches_total", result="failed")
        shop.istiod.say("ca", "good")
        with ThreadPoolExecutor(len(late)) as together:
            served = together.map(lambda pod: eventually(lambda: talks(pod, shop.web), f"a certificate for {pod.name}"), late.values())
            assert all(served)
    assert all(shop.certificate(pod)["state"] == "Available" for pod in late.values())


# ---- files


def read(path):
    with open(path) as file:
        return file.read()


def test_token_and_root_in_a_mounted_folder_are_swapped_under_way(shop):
    old, new = read(shop.istiod.root), read(shop.istiod.next_root)
    mount = Mount(os.path.join(shop.folder, "istio"), {"istio-token": "", "root-cert.pem": old})
    files = {"AUTH_TOKEN": mount.file("istio-token"), "XDS_ROOT_CA": mount.file("root-cert.pem"), "CA_ROOT_CA": mount.file("root-cert.pem")}
    shop.istiod.say("token", "token-one")
    ztunnel = shop.launch(**files)
    ztunnel.wait_line(f"XDS client connection error: .*the token file {mount.file('istio-token')} is empty")
    assert shop.node.http(15021, "/healthz/ready")[1] == STATE_PENDING
    mount.swap({"istio-token": "token-one", "root-cert.pem": old})
    shop.node.wait_ready()
    for pod in shop.pods:
        pod.wait_captured()
    eventually(lambda: talks(shop.client, shop.web), "certificates")

    with Traffic(shop.client, shop.web):
        shop.istiod.say("token", "token-two")  # the stream that is open lives on, the next call is refused
        mark = ztunnel.mark()
        late = enrol(shop, "late")
        ztunnel.wait_line(f'cannot get a certificate.*identity="{late.identity}".*UNAUTHENTICATED: authentication failure', since=mark)
        assert refused(late, shop.web.ip, 8080)
        mount.swap({"istio-token": "token-two", "root-cert.pem": old})
        eventually(lambda: talks(late, shop.web), "its certificate with the new token")

        shop.istiod.say("serve", "next")
        shop.istiod.say("down")
        shop.istiod.say("up")
        ztunnel.wait_line("XDS client connection error.*(CERTIFICATE_VERIFY_FAILED|certificate verify failed)", since=mark)
        later = shop.node.pod("later")
        shop.istiod.addresses(control.workload(later))
        shop.wait_metric(lambda n: n == 0, "zt_xds_connected")
        mount.swap({"istio-token": "token-two", "root-cert.pem": new})
        shop.wait_metric(lambda n: n == 1, "zt_xds_connected")
        shop.node.write_pods()
        later.wait_captured()
        eventually(lambda: talks(later, shop.web), "a certificate from the CA under the new root")
    assert not ztunnel.matching("token-one|token-two"), "no secret in the log"


def test_issuer_roots_and_revocations_in_mounted_folders_are_swapped_under_way(shop):
    old, new = (Authority(shop.folder, name) for name in ("old", "new"))
    issuer = Mount(os.path.join(shop.folder, "cacerts"), old.secret())
    lists = Mount(os.path.join(shop.folder, "crl"), {"mesh.crl": old.revoke()})
    shop.start(EMBEDDED_CA_DIR=issuer.path, CA_ADDRESS=None, CRL_PATH=lists.file("mesh.crl"))
    other = enrol(shop, "other")
    with Traffic(shop.client, shop.web), other.connect(shop.web.ip, 8080) as doomed:
        doomed.sendall(b"x")
        assert apps.read_exactly(doomed, 1) == b"x"
        mark = shop.node.ztunnel.mark()
        number = f"{int(shop.certificate(other)['certChain'][0]['serialNumber']):X}"
        lists.swap({"mesh.crl": old.revoke(number.zfill(len(number) + len(number) % 2))})
        assert apps.how_it_ends(doomed) == apps.RST
        shop.node.ztunnel.wait_line("connection closed: peer certificate revoked by CRL", since=mark)

        issuer.swap(new.secret(old))
        late = enrol(shop, "late")
        shop.node.ztunnel.wait_line('the CA has new roots; they apply to all identities now.*roots=2', since=mark)
        assert talks(late, shop.web) and talks(shop.client, late), "who has a certificate of the old root and who has one of the new"


@pytest.mark.parametrize("full, said", [("size=4k", "cannot write {}: No space left on device (free some space)"),
                                        ("nr_inodes=2", "cannot create a file in {}: No space left on device (free some space)")])
def test_a_full_disk_under_the_embedded_ca_is_named_and_nothing_half_written_is_left(mesh, full, said):
    node = mesh.nodes[0]
    client, web = node.pod("client"), node.pod("web")
    web.serve(8080)
    mesh.write()
    os.mkdir(mesh.ca_folder)
    with small_disk(mesh.ca_folder, full):
        filler = os.path.join(mesh.ca_folder, "filler")
        write_file(filler, "x" * 4096)
        node.write_pods()
        node.start_agent()
        node.start_ztunnel()
        assert node.ztunnel.wait_exit() == 1
        where = os.path.join(mesh.ca_folder, "embedded-root.pem") if "size" in full else mesh.ca_folder
        assert said.format(where) in node.ztunnel.text()
        assert os.listdir(mesh.ca_folder) == ["filler"]
        os.unlink(filler)
        node.start_ztunnel()
        node.wait_ready()
        for pod in (client, web):
            pod.wait_captured()
        assert talks(client, web)
        node.ztunnel.stop()


# ---- the clock


@pytest.fixture
def clock(shop):
    """Of the proxy alone: the control plane's is right."""
    clock = WallClock(shop.folder)
    shop.environment |= clock.environment
    return clock


def test_an_hour_ahead_and_back_is_nothing_to_certificates_of_a_day(shop, clock):
    shop.start()
    eventually(lambda: talks(shop.client, shop.web), "certificates")
    with Traffic(shop.client, shop.web) as traffic:
        for hours in (1, 0):
            mark = shop.node.ztunnel.mark()
            clock.jump(hours)
            late = enrol(shop, f"late-{hours}")
            assert talks(late, shop.web), "a new tunnel with a new certificate"
            stamp = time.strftime("%Y-%m-%dT%H", time.gmtime(time.time() + 3600 * hours))
            assert shop.node.ztunnel.wait_line(f"access.*{late.identity}", since=mark).startswith(stamp[:13]), "the jump was seen"
            made = traffic.made
            eventually(lambda: traffic.made >= made + 5, "traffic to go on")
        shop.wait_metric(lambda age: age and age < 60, "zt_xds_last_ack_age_seconds")
        assert len(shop.istiod.say("certificates")) == 4 and shop.istiod.streams() == 1


def test_a_clock_that_jumps_past_the_expiry_ends_service_until_it_is_right(shop, clock):
    shop.istiod.say("lifetime", "1800")
    other = shop.node.pod("other")
    shop.istiod.addresses(control.workload(other))
    shop.start()
    eventually(lambda: talks(shop.client, shop.web), "certificates")
    with shop.client.connect(shop.web.ip, 8080) as live:
        mark = shop.node.ztunnel.mark()
        clock.jump(1)
        assert refused(other, shop.web.ip, 8080)
        shop.node.ztunnel.wait_line(r"the CA gave a certificate that expired at .*\(is our clock right\?\)", since=mark)
        shop.node.ztunnel.wait_line(f'a certificate expired before it could be renewed.*identity="{other.identity}"', since=mark)
        assert shop.certificate(other)["state"].startswith("Unavailable: ")
        shop.wait_metric(lambda n: n >= 1, "zt_certificates_expired_total")
        live.sendall(b"x")
        assert apps.read_exactly(live, 1) == b"x", "what is open lives on"
        clock.jump(0)
        eventually(lambda: talks(other, shop.web), "traffic once the clock is right")


def test_a_clock_that_falls_behind_refuses_what_is_not_yet_valid_until_it_is_right(shop, clock):
    other = shop.node.pod("other")
    shop.istiod.addresses(control.workload(other))
    shop.start()
    eventually(lambda: talks(shop.client, shop.web), "certificates")
    with Traffic(shop.client, shop.web):  # its tunnel is open
        mark = shop.node.ztunnel.mark()
        clock.jump(-1)
        assert refused(other, shop.web.ip, 8080)
        shop.node.ztunnel.wait_line(rf"certificate is not yet valid: {shop.web.identity}, valid from \d+-\S+Z until \d+-\S+Z", since=mark)
        assert shop.node.ready()
        clock.jump(0)
        eventually(lambda: talks(other, shop.web), "traffic once the clock is right")
