"""Peers that leave while a request is on its way to them. Nothing of the application's has been sent then, so the request is made
again, and the application notices nothing."""

import time

import pytest

from harness.hbone_frames import CONNECT_ERROR, HboneServer
from harness.mesh import Mesh
from harness.process import eventually


@pytest.fixture
def mesh():
    with Mesh(nodes=1) as mesh:
        mesh.client = mesh.nodes[0].pod("client")
        mesh.server = mesh.nodes[0].pod("server", captured=False)
        mesh.server.speaks_hbone = True
        mesh.start()
        yield mesh


def resent(mesh):
    _, text = mesh.nodes[0].http(15020, "/metrics")
    return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith("zt_connects_resent_total"))


def talks(mesh, timeout=10):
    with mesh.client.connect(mesh.server.ip, 8080, timeout=timeout) as sock:
        sock.sendall(b"hello")
        return sock.recv(5)


def says_goodbye_and_never_answers(connection, _stream):
    """As istio/ztunnel does with a request that crosses its GOAWAY: the connection stays open until its drain ends."""
    connection.say_goodbye()


def says_goodbye_before_it(connection, stream):
    connection.say_goodbye(last_stream=stream - 2 if stream > 2 else 0)


def refuses_the_stream(connection, stream):
    connection.refuse(stream)


def closes_the_connection(connection, _stream):
    connection.close()


@pytest.mark.parametrize("leave", [says_goodbye_and_never_answers, says_goodbye_before_it, refuses_the_stream, closes_the_connection],
                         ids=lambda leave: leave.__name__)
def test_a_request_that_a_leaving_peer_leaves_undone_is_made_again(mesh, leave):
    server = HboneServer(mesh.server, mesh, lambda connection, stream, number: leave(connection, stream) if number == 2 else connection.accept(stream))
    assert talks(mesh) == b"hello"  # the tunnel exists
    begun = time.monotonic()
    assert talks(mesh) == b"hello"
    assert time.monotonic() - begun < 5
    assert server.requests == 3
    eventually(lambda: resent(mesh) == 1, "the metric")


def test_a_request_that_nobody_deals_with_is_not_made_for_ever(mesh):
    server = HboneServer(mesh.server, mesh, lambda connection, stream, _number: connection.refuse(stream))
    mark = mesh.nodes[0].ztunnel.mark()
    with pytest.raises(ConnectionResetError):
        talks(mesh)
    assert server.requests == 3
    mesh.nodes[0].ztunnel.wait_line("stream closed before CONNECT was answered", since=mark)


def test_an_answer_is_an_answer(mesh):
    """The server tried, and its application reset the connection: trying again is the application's affair."""
    server = HboneServer(mesh.server, mesh, lambda connection, stream, _number: connection.refuse(stream, CONNECT_ERROR))
    with pytest.raises(ConnectionResetError):
        talks(mesh)
    assert server.requests == 1 and resent(mesh) == 0
