from __future__ import annotations

import threading
import time

from llamatelemetry.llama.client import LlamaClient
from llamatelemetry.llama.testing import deferred_requests, watching_deferrals


def finish(client: LlamaClient, slot: int) -> None:
    body = {"prompt": "Once upon a time", "n_predict": 60, "ignore_eos": True}
    list(client.complete(body, id_slot=slot))


def test_more_requests_than_slots_are_seen_to_wait(server):
    with LlamaClient(server.url) as client:
        assert deferred_requests(client) == 0
        with watching_deferrals(server.url) as watch:
            threads = [threading.Thread(target=finish, args=(client, 0)) for _ in range(3)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert watch.most == 2
        assert deferred_requests(client) == 0


def test_as_many_requests_as_slots_are_not(server):
    with LlamaClient(server.url) as client, watching_deferrals(server.url) as watch:
        threads = [threading.Thread(target=finish, args=(client, slot)) for slot in (0, 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        while not watch.looks:
            time.sleep(0.01)
    assert watch.most == 0
