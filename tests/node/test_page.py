"""The page on the admin port, in a real browser: what it draws of a node, and what it says when somebody asks why."""

import gzip
import http.client
import json
import os
import socket

import pytest

from harness.browser import Browser
from harness.process import eventually

SCREENS = os.environ.get("ZT_SCREENSHOTS")  # a folder: pictures for people to look at


@pytest.fixture
def node(mesh):
    first, second = mesh.nodes
    mesh.client, mesh.stranger, mesh.web, mesh.outside = first.pod("client"), first.pod("stranger"), first.pod("web"), second.pod("outside", captured=False)
    mesh.far = second.pod("far")
    for pod in (mesh.web, mesh.far, mesh.outside):
        pod.serve(8080)
    mesh.service("far", "10.96.0.9", 80, 8080, [mesh.far])
    mesh.policy("web-for-client", [[[{"serviceAccounts": [{"namespace": "shop", "serviceAccount": "client"}]}]]])
    for pod in mesh.pods:  # as Kubernetes' workloads, they have names
        pod.workload = lambda known=pod.workload, name=pod.name: {**known(), "workloadName": name}
    mesh.start(ZT_LOCAL_DIRECT="true")
    return mesh


def talk(pod, address, port=8080):
    try:
        with pod.connect(address, port) as sock:
            sock.sendall(b"hello" * 1000)
            return bool(sock.recv(1))
    except ConnectionError:
        return False


def picture(browser, name):
    if SCREENS:
        browser.screenshot(os.path.join(SCREENS, name + ".png"))


def test_the_page_draws_who_talks_to_whom_over_what_and_explains_what_is_clicked(node):
    first = node.nodes[0]
    with Browser(first.netns, node.folder) as browser:
        browser.open("http://localhost:15000/")
        browser.wait("document.getElementById('state').textContent === 'live'", "that it is live")
        held = node.client.connect(node.far.ip, 8080)
        held.sendall(b"x")
        assert held.recv(1) == b"x"

        def traffic():
            assert talk(node.client, "10.96.0.9", 80)
            assert talk(node.client, node.web.ip)
            assert talk(node.client, node.outside.ip)
            assert not talk(node.stranger, node.web.ip)
        traffic()
        rows = "[...document.querySelectorAll('#pairs tbody tr')].map(r => r.innerText)"
        for start, over in (("shop/client\tshop/far\tfar.shop.svc.cluster.local\t", "HBONE"), ("shop/client\tshop/web\t", "local"), ("shop/client\t", "plain"), ("shop/stranger\tshop/web\t", "failed")):
            browser.wait(f"{rows}.some(r => r.startsWith({json.dumps(start)}) && r.includes({json.dumps(over)}))", f"{start} over {over}")
        # The picture says the same, to those who do not see it as well.
        edges = "[...document.querySelectorAll('#map .edge')].map(e => e.getAttribute('aria-label'))"
        for label in ("shop/client to shop/far (far.shop.svc.cluster.local), HBONE", "shop/client to shop/web", "failed or denied in the last minute"):
            browser.wait(f"{edges}.some(l => l.includes({json.dumps(label)}))", label)
        assert browser.script("return [...document.querySelectorAll('#map .edge')].every(e => e.tabIndex === 0 && e.getAttribute('role') === 'button')")
        # Pods with accounts and certificates; latencies.
        browser.wait("[...document.querySelectorAll('#pods tbody tr')].some(r => /shop\\/client\\tclient\\t[1-9]/.test(r.innerText) && /days left|h left/.test(r.innerText))", "the client's pod")
        browser.wait("[...document.querySelectorAll('#latency tbody tr')].some(r => r.innerText.startsWith('connect peer') || r.innerText.startsWith('handshake client'))", "latencies")
        picture(browser, "page-light")

        # A click explains, and so does Enter.
        browser.script("const e = [...document.querySelectorAll('#map .edge')].find(x => /stranger/.test(x.getAttribute('aria-label'))); e.focus();"
                       "e.dispatchEvent(new KeyboardEvent('keydown', {key: 'Enter', bubbles: true}))")
        browser.wait("document.getElementById('details').open && /allow policies exist, but none allowed/.test(document.getElementById('details').innerText)", "why it was refused")
        browser.wait("/What the proxy would do now[^]*web-for-client/.test(document.getElementById('details').innerText)", "the explanation of the proxy")
        picture(browser, "page-explained")
        browser.script("document.getElementById('details').close()")

        # Search, themes.
        browser.script("const s = document.getElementById('search'); s.value = 'stranger'; s.dispatchEvent(new Event('input'))")
        browser.wait(f"{rows}.length === 1 && {rows}[0].includes('stranger')", "only what was searched for")
        browser.script("const s = document.getElementById('search'); s.value = ''; s.dispatchEvent(new Event('input'))")
        light = browser.script("return getComputedStyle(document.body).backgroundColor")
        browser.script("document.documentElement.dataset.theme = 'dark'")
        assert browser.script("return getComputedStyle(document.body).backgroundColor") != light
        picture(browser, "page-dark")
        browser.wait("[...document.querySelectorAll('#events tbody tr')].some(r => r.innerText.includes('closed (inbound)') && r.innerText.includes('stranger'))", "the refused connection among the events")
        # Nothing was blocked by the page's own policy, nothing fetched from elsewhere, no error.
        assert browser.console() == []
        assert browser.script("return performance.getEntriesByType('resource').every(e => e.name.startsWith('http://localhost:15000/'))")
        held.close()
        # The page's own forms are not taken for those of another.
        browser.script("document.querySelector('form[action=logging] button').click()")
        browser.wait("/^current log level is /.test(document.body.innerText)", "the log levels")


def test_whoever_watches_is_bounded_and_leaves_nothing_behind(node):
    first = node.nodes[0]
    with first.netns.entered():
        watchers = []
        for _ in range(8):
            watchers.append(socket.create_connection(("127.0.0.1", 15000), timeout=5))
            watchers[-1].sendall(b"GET /live HTTP/1.1\r\nHost: localhost\r\n\r\n")
    for sock in watchers:
        got = b""
        while b"event: sample" not in got:
            got += sock.recv(65536)
        assert b"text/event-stream" in got
    assert first.http(15000, "/live")[0] == 503
    for sock in watchers:
        sock.close()

    def again():
        with first.netns.entered():
            sock = socket.create_connection(("127.0.0.1", 15000), timeout=5)
        sock.sendall(b"GET /live HTTP/1.1\r\nHost: localhost\r\n\r\n")
        got = sock.recv(65536)
        sock.close()
        return b" 200 " in got
    eventually(again, "room for a watcher again")


def test_a_cpu_profile_is_pprofs_and_names_what_the_workers_did(node):
    first = node.nodes[0]
    with first.netns.entered():
        sock = socket.create_connection(("127.0.0.1", 15000), timeout=30)
    connection = http.client.HTTPConnection("localhost")
    connection.sock = sock
    connection.request("GET", "/debug/pprof/profile?seconds=2&frequency=1000")
    for _ in range(200):
        assert talk(node.client, "10.96.0.9", 80)
    answer = connection.getresponse()
    assert answer.status == 200
    profile = gzip.decompress(answer.read())
    assert b"zt::" in profile and b"nanoseconds" in profile
    connection.close()
