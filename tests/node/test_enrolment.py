"""Pods come and go, the agent comes and goes; connections of everybody else never notice."""

import subprocess
import threading

import pytest

from harness import apps
from harness.mesh import program
from harness.netns import Netns
from harness.process import Process, eventually


@pytest.fixture
def shop(mesh):
    first, second = mesh.nodes
    mesh.client, mesh.web = first.pod("client"), second.pod("web")
    mesh.web.serve(8080)
    return mesh


class LiveConnection:
    """An exchange of a byte every few milliseconds that must not miss a beat."""

    def __init__(self, pod, address, port=8080):
        self.sock = pod.connect(address, port)
        self.beats, self.error, self._stop = 0, None, threading.Event()
        self._thread = apps.start(self._run)

    def _run(self):
        try:
            while not self._stop.is_set():
                self.sock.sendall(b"x")
                assert apps.read_exactly(self.sock, 1) == b"x"
                self.beats += 1
                self._stop.wait(0.005)
        except (OSError, AssertionError) as error:
            self.error = error

    def assert_beats(self, more=20):
        """It is still in use, now."""
        goal = self.beats + more
        eventually(lambda: self.error or self.beats >= goal, "the live connection to go on")
        assert self.error is None, f"the live connection broke: {self.error!r}"

    def close(self):
        self._stop.set()
        self._thread.join()
        self.sock.close()


class Calls:
    """One call after the other, none of which may fail."""

    def __init__(self, pod, address):
        self.made, self.error, self._stop = 0, None, threading.Event()
        self._thread = apps.start(lambda: self._run(pod, address))

    def _run(self, pod, address):
        try:
            while not self._stop.wait(0.005):
                assert echo_works(pod, address)
                self.made += 1
        except (OSError, AssertionError) as error:
            self.error = error

    def assert_some(self, more=20):
        goal = self.made + more
        eventually(lambda: self.error or self.made >= goal, "calls to go on")
        assert self.error is None, f"a call failed: {self.error!r}"

    def end(self):
        self._stop.set()
        self._thread.join()
        assert self.error is None, f"a call failed: {self.error!r}"


def echo_works(pod, address, port=8080):
    with pod.connect(address, port) as sock:
        sock.sendall(b"x")
        return apps.read_exactly(sock, 1) == b"x"


def enrol(mesh, node, pods=None):
    node.write_pods(pods)
    mesh.edit()


def through_tunnel(mesh, server):
    """Does a call of the client reach the server through the tunnel?"""
    mark = mesh.nodes[0].ztunnel.mark()
    assert echo_works(mesh.client, server.ip)
    line = mesh.nodes[0].ztunnel.wait_line(r'connection complete.*direction="outbound"', since=mark)
    return "dst.hbone_addr" in line


def test_a_pod_is_enrolled_alive_and_its_connections_live_on(shop):
    pod = shop.nodes[1].pod("late", captured=False)
    pod.serve(8080)
    shop.start()
    into = LiveConnection(shop.client, pod.ip)
    out_of = LiveConnection(pod, shop.web.ip)
    into.assert_beats()
    out_of.assert_beats()
    pod.captured = pod.speaks_hbone = True
    enrol(shop, shop.nodes[1])
    pod.wait_captured()
    into.assert_beats(100)
    out_of.assert_beats(100)
    assert through_tunnel(shop, pod), "new connections use the tunnel"
    into.close()
    out_of.close()


def test_a_pod_leaves_and_its_connections_are_not_cut_in_mid_stream(shop):
    shop.start()
    before = LiveConnection(shop.client, shop.web.ip)
    before.assert_beats()
    shop.web.captured = shop.web.speaks_hbone = False
    enrol(shop, shop.nodes[1])
    eventually(lambda: not _redirected(shop.web), "the redirection to go")
    assert not through_tunnel(shop, shop.web)
    before.assert_beats()
    before.close()


def _redirected(pod):
    return "redirect" in pod.netns.run("nft", "list", "ruleset")


def test_a_pod_is_removed_and_others_do_not_notice(shop):
    other = shop.nodes[1].pod("other")
    other.serve(8080)
    shop.start()
    live = LiveConnection(shop.client, shop.web.ip)
    enrolled = [p for p in shop.nodes[1].pods if p is not other]
    other.delete()
    enrol(shop, shop.nodes[1], enrolled)
    live.assert_beats()
    live.close()


def test_a_pod_comes_back_with_its_uid_in_another_namespace(shop):
    shop.start()
    uid = shop.web.uid
    shop.web.delete()
    again = shop.nodes[1].pod("web")
    again.uid = uid
    again.serve(8080)
    enrol(shop, shop.nodes[1])
    again.wait_captured()
    assert through_tunnel(shop, again)


def test_the_agent_restarts_and_nothing_is_lost(shop):
    shop.start()
    live = LiveConnection(shop.client, shop.web.ip)
    shop.nodes[1].agent.kill()
    eventually(lambda: not shop.nodes[1].ready(), "the node to say that its agent is gone")
    live.assert_beats()
    assert echo_works(shop.client, shop.web.ip), "new connections work without the agent"
    shop.nodes[1].start_agent()
    shop.nodes[1].wait_ready()
    live.assert_beats()
    late = shop.nodes[1].pod("late")
    late.serve(8080)
    enrol(shop, shop.nodes[1])
    late.wait_captured()
    assert through_tunnel(shop, late), "and the new agent enrols"
    live.close()


def test_the_agent_ends_by_sigterm_and_leaves_the_redirection_in_place(shop):
    shop.start()
    shop.nodes[1].agent.signal(15)
    assert shop.nodes[1].agent.wait_exit() == 0
    assert _redirected(shop.web), "fail closed: an upgrade of the agent opens nothing"
    assert through_tunnel(shop, shop.web)


def test_a_pod_deleted_while_the_agent_is_away_is_forgotten_at_the_snapshot(shop):
    other = shop.nodes[1].pod("other")
    shop.start()
    shop.nodes[1].agent.kill()
    enrolled = [p for p in shop.nodes[1].pods if p is not other]
    shop.nodes[1].write_pods(enrolled)
    shop.nodes[1].start_agent()
    other.wait_released()
    assert through_tunnel(shop, shop.web)


def a_pod_that_is_gone(node):
    """Its entry is still in the pods file, its namespace is not there any more."""
    ghost = node.pod("ghost")
    ghost.delete()
    return ghost


def test_an_entry_whose_namespace_is_gone_costs_only_itself(shop):
    shop.start()
    node, live = shop.nodes[1], LiveConnection(shop.client, shop.web.ip)
    ghost = a_pod_that_is_gone(node)
    late = node.pod("late")
    late.serve(8080)
    mark = node.agent.mark()
    enrol(shop, node, [ghost, *node.pods])
    late.wait_captured()
    assert through_tunnel(shop, late), "never in the clear for another's mistake"
    assert "No such file" in node.agent.wait_line(rf"error.*{ghost.uid}.*node2-pods\.yaml:\d+:\d+", since=mark)
    live.assert_beats()
    live.close()


def test_an_entry_whose_namespace_is_gone_keeps_neither_an_agent_nor_a_proxy_from_starting(shop):
    shop.start()
    node = shop.nodes[1]
    ghost = a_pod_that_is_gone(node)
    node.write_pods([ghost, *node.pods])
    node.agent.kill()
    node.start_agent()
    node.wait_ready()
    node.agent.wait_line(rf"error.*{ghost.uid}.*node2-pods\.yaml:\d+:\d+")
    assert through_tunnel(shop, shop.web)
    node.ztunnel.kill()
    node.start_ztunnel()
    node.wait_ready()
    shop.web.wait_captured()
    assert through_tunnel(shop, shop.web)


def test_a_broken_entry_leaves_its_pod_as_it_is(shop):
    shop.start()
    node = shop.nodes[1]
    late = node.pod("late")
    late.serve(8080)
    mark = node.agent.mark()
    shop.web.account = "No Account"
    node.write_pods()
    shop.web.account = "web"
    shop.edit()
    late.wait_captured()
    assert "serviceAccount" in node.agent.wait_line(rf"error.*{shop.web.uid}.*node2-pods\.yaml:\d+:\d+", since=mark)
    assert through_tunnel(shop, late)
    assert through_tunnel(shop, shop.web)


def test_a_pod_whose_redirection_cannot_be_removed_is_tried_again_until_it_can(shop):
    shop.start(agent={"AMBIENT_DNS_CAPTURE": "false"})  # so that there is no such table yet
    node, web = shop.nodes[1], shop.web
    # A table that belongs to a process: whoever else touches it is refused, while that process lives.
    owner = subprocess.Popen([*web.netns.prefix(), "nft", "-i"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    try:
        owner.stdin.write(b"add table inet istio-ambient-raw { flags owner; }\n")
        owner.stdin.flush()
        eventually(lambda: "istio-ambient-raw" in web.netns.run("nft", "list", "tables"), "the table to be there")
        mark = node.agent.mark()
        web.captured = web.speaks_hbone = False
        enrol(shop, node)
        node.agent.wait_line(rf"error.*cannot remove the pod's redirection.*{web.uid}.*not permitted", since=mark)
        assert not through_tunnel(shop, web), "it captures nothing any more"
    finally:
        owner.stdin.close()
        owner.wait()
    node.agent.wait_line(f"pod left.*{web.uid}", since=mark)
    assert "istio" not in web.netns.run("nft", "list", "ruleset")
    assert "lookup 100" not in web.netns.run("ip", "rule")


def test_the_proxy_restarts_and_serves_its_pods_again(shop):
    shop.start()
    shop.nodes[1].ztunnel.kill()
    shop.nodes[1].start_ztunnel()
    shop.nodes[1].wait_ready()
    shop.web.wait_captured()
    eventually(lambda: _try(shop), "calls to work again")


def _try(shop):
    try:
        return echo_works(shop.client, shop.web.ip)
    except (ConnectionError, AssertionError):
        return False


def test_two_proxies_overlap_during_an_upgrade_and_no_call_fails(shop):
    """As a DaemonSet with a surge does it: the new one runs in a namespace of its own beside the old one, on the same agent."""
    shop.start(TERMINATION_GRACE_PERIOD_SECONDS="20", ZT_HAND_OVER="false")
    node, old = shop.nodes[1], shop.nodes[1].ztunnel
    held = LiveConnection(shop.client, shop.web.ip)
    calls = Calls(shop.client, shop.web.ip)
    beside = Netns("new")
    try:
        new = Process("the new ztunnel", [program("ztunnel"), "proxy", "ztunnel"], node.proxy_env(), beside)
        shop.processes.append(new)
        eventually(lambda: node.http(15021, "/healthz/ready", netns=beside)[0] == 200, "the new proxy to be ready")
        mark = new.mark()
        calls.assert_some()
        old.signal(15)
        new.wait_line('connection complete.*direction="inbound"', since=mark)
        calls.assert_some()
        held.assert_beats()
        assert old.alive(), "it has a connection left"
        held.close()
        assert old.wait_exit() == 0
        calls.assert_some()
        assert through_tunnel(shop, shop.web), "the pod stays captured when the old one has left the agent"
        calls.end()
        # The new one is now the only one that the agent tells of pods.
        late = node.pod("late")
        late.serve(8080)
        enrol(shop, node)
        late.wait_captured()
        assert through_tunnel(shop, late)
    finally:
        beside.delete()


def test_without_the_proxy_a_captured_pod_is_closed_not_open(shop):
    shop.start()
    shop.nodes[0].ztunnel.kill()
    with pytest.raises((ConnectionError, AssertionError)):
        echo_works(shop.client, shop.web.ip)


def test_a_taken_port_in_a_pod_holds_up_only_that_pod_and_is_retried(shop):
    blocker = shop.nodes[1].pod("blocked")
    blocker.serve(8080)
    taken = blocker.serve(15008)
    shop.write()
    for node in shop.nodes:
        node.write_pods()
        node.start_agent()
        node.start_ztunnel()
    shop.web.wait_captured()
    shop.client.wait_captured()
    assert through_tunnel(shop, shop.web)
    assert "15008" in shop.nodes[1].ztunnel.wait_line(r"(warn|error).*15008")
    taken.close()
    blocker.servers.remove(taken)
    blocker.wait_captured()
    shop.nodes[1].wait_ready()
    assert through_tunnel(shop, blocker)


def test_rules_that_somebody_removed_come_back(shop):
    shop.start()
    shop.client.netns.run("nft", "flush", "ruleset")
    eventually(lambda: _redirected(shop.client), "the agent to repair the pod's rules", timeout=30)
    assert through_tunnel(shop, shop.web)
