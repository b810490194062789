"""Replacements one after the other under every kind of traffic. ZT_HANDOVER_ROUNDS: how many; more than a few by hand."""

import os
import random
import threading

import pytest

from harness import apps
from harness.handover import count, replace, talk
from harness.mesh import Mesh
from harness.process import eventually

ROUNDS = int(os.environ.get("ZT_HANDOVER_ROUNDS", "6"))

def test_nothing_is_lost_while_proxies_of_both_nodes_are_replaced_one_after_the_other():
    with Mesh() as mesh:
        first, second = mesh.nodes
        client, web, plain = first.pod("client"), second.pod("web"), second.pod("plain", captured=False)
        web.serve(8080)
        plain.serve(8080)
        mesh.start()
        done, errors, opened = threading.Event(), [], []

        def worker(target, seed, lasting):
            chance = random.Random(seed)
            try:
                while not done.is_set():
                    over = done
                    if not lasting:  # connections that come and go
                        over = threading.Event()
                        threading.Timer(chance.random() * 0.2, over.set).start()
                    sock = client.connect(chance.choice([target.ip, target.ip6]), 8080, timeout=30)
                    opened.append(talk(sock, chance.random(), over))
            except Exception as error:
                errors.append(f"{'lasting' if lasting else 'short'} to {target.name}: {error!r}")

        threads = []
        for seed in range(4):
            threads.append(apps.start(lambda s=seed: worker(web, s, True)))
            threads.append(apps.start(lambda s=seed: worker(web, 100 + s, False)))
        threads.append(apps.start(lambda: worker(plain, 200, True)))
        threads.append(apps.start(lambda: worker(plain, 201, False)))
        eventually(lambda: len(opened) > 10, "connections that have come and gone")
        lines = []
        try:
            for number in range(ROUNDS):
                lines.append(replace(mesh, mesh.nodes[number % 2])[1])
                if errors:
                    break
                while len(mesh.beside) > 4:
                    mesh.beside.pop(0).delete()
        finally:
            done.set()
            for thread in threads:
                thread.join(60)
        print("\n".join(lines))
        assert errors == [], "\n".join(lines)
        assert [server.errors for server in web.servers + plain.servers] == [[], []]
        assert [count(line, "left") for line in lines] == [0] * ROUNDS, "\n".join(lines)
        assert len(opened) > ROUNDS
