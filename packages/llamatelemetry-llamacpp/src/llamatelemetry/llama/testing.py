"""For tests of what sits in front of a llama-server: whether the server ever had to queue for itself.

An engine that orders requests must not send more than the server can run: what the server defers,
it reorders. Its ``requests_deferred`` is a gauge, so it has to be watched.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from llamatelemetry.llama.client import LlamaClient


def deferred_requests(client: LlamaClient) -> int:
    """Requests the server holds back at this moment because it has no slot for them.

    Raises:
        NotSupportedError: The server runs without ``--metrics``.
    """
    return int(client.metrics()["llamacpp:requests_deferred"])


class DeferralWatch:
    """What a watch has seen so far.

    Attributes:
        most: Most requests the server held back at once.
        looks: Times it was asked.
    """

    def __init__(self) -> None:
        self.most: int = 0
        self.looks: int = 0

    def look(self, client: LlamaClient) -> None:
        """Asks once."""
        self.most = max(self.most, deferred_requests(client))
        self.looks += 1


@contextmanager
def watching_deferrals(server_url: str, every_s: float = 0.05) -> Iterator[DeferralWatch]:
    """Asks a server again and again, and a last time at the end, how many requests it holds back.

    It answers between two batches. For tests alone: asked that often, it has less time for its work.

    Args:
        server_url: Base URL of the server; it must outlive the watch.
        every_s: Pause between two questions, in seconds.

    Raises:
        BackendError: The server stopped answering; raised when the watch ends.
    """
    watch, over = DeferralWatch(), threading.Event()
    failures: list[Exception] = []
    with LlamaClient(server_url) as client:

        def run() -> None:
            try:
                while not over.wait(every_s):
                    watch.look(client)
            except Exception as error:  # noqa: BLE001 - kept, and raised where the test sees it
                failures.append(error)

        thread = threading.Thread(target=run, name="deferral-watch")
        thread.start()
        try:
            yield watch
        finally:
            over.set()
            thread.join()
        if failures:
            raise failures[0]
        watch.look(client)
