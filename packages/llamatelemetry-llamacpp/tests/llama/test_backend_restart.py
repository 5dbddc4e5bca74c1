"""What the backend makes of a server that ends, and of one that comes back."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from llamatelemetry.backends.protocol import (
    EndExplaining,
    HealthReporting,
    Placement,
    Restartable,
    StreamEnd,
    TokenDelta,
)
from llamatelemetry.backends.request import InferenceRequest, SamplingParams
from llamatelemetry.errors import BackendError, BackendStartError, StreamInterruptedError
from llamatelemetry.llama.backend import LlamaCppBackend
from llamatelemetry.llama.model_files import demo_model
from llamatelemetry.llama.ports import free_port
from llamatelemetry.llama.server import LlamaServer

STORY = InferenceRequest(prompt="Once upon a time", max_tokens=400, sampling=SamplingParams(temperature=0))
SHORT = InferenceRequest(prompt="Once upon a time", max_tokens=4, sampling=SamplingParams(temperature=0))


def own(model=None, **options) -> LlamaCppBackend:
    return LlamaCppBackend(
        demo_model() if model is None else model, **{"slots": 2, "context_length": 512, "threads": 1, **options}
    )


@pytest.fixture
def backend() -> Iterator[LlamaCppBackend]:
    opened = own()
    opened.open()
    yield opened
    opened.close()


def answer(backend: LlamaCppBackend) -> str:
    *deltas, end = backend.stream(SHORT, Placement())
    assert isinstance(end, StreamEnd)
    return "".join(delta.text for delta in deltas)


def kill(backend: LlamaCppBackend) -> int:
    """Kills the server and returns once that was noticed."""
    assert backend.server is not None
    pid = backend.server.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    assert backend.server.exit_reason(wait_s=10)
    return pid


def used() -> tuple[int, int]:
    """Files and threads this process has open."""
    return psutil.Process().num_fds(), threading.active_count()


def test_a_server_killed_in_the_middle_of_an_answer_is_started_anew(backend):
    assert isinstance(backend, Restartable)
    assert backend.alive()
    expected, before = answer(backend), backend.open()
    pid = backend.server.pid
    stream = backend.stream(STORY, Placement())
    assert isinstance(next(stream), TokenDelta)
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(StreamInterruptedError, match="SIGKILL"):
        list(stream)
    assert not backend.alive()
    with pytest.raises(StreamInterruptedError, match="SIGKILL"):
        answer(backend)
    after = backend.restart()
    assert backend.alive()
    assert after == backend.open()
    assert after.server_port == backend.server.port
    assert (after.model, after.slots, after.context_length) == (before.model, before.slots, before.context_length)
    assert answer(backend) == expected
    assert backend.server.pid != pid
    assert not psutil.pid_exists(pid), "gone, and not as a zombie"


def test_starting_anew_leaves_nothing_of_the_old_one(backend):
    pids = []
    for _ in range(3):
        answer(backend)
        backend.tokenize("asks over a connection of its own")
        pids.append((backend.server.pid, used()))
        kill(backend)
        backend.restart()
    backend.tokenize("asks over a connection of its own")
    assert not any(psutil.pid_exists(pid) for pid, _ in pids)
    assert {usage for _, usage in pids} == {used()}


def test_an_answer_nobody_read_on_fails_by_itself(backend):
    stream = backend.stream(STORY, Placement())
    next(stream)
    kill(backend)
    backend.restart()
    with pytest.raises(StreamInterruptedError):
        list(stream)
    assert answer(backend)


class Caller(threading.Thread):
    """Asks again and again, as an engine does: starts the server anew when an answer failed and it has ended."""

    def __init__(self, backend: LlamaCppBackend) -> None:
        super().__init__()
        self.answers: list[str] = []
        self.ports: list[int | None] = []
        self.over = False
        self._backend = backend

    def run(self) -> None:
        while not self.over:
            with suppress(BackendError):
                self.answers.append(answer(self._backend))
            if not self._backend.alive():
                self.ports.append(self._backend.restart().server_port)


def wait_for_more(callers: list[Caller], what: str) -> None:
    """Returns when each caller has three more of it."""
    wanted = [len(getattr(caller, what)) + 3 for caller in callers]
    limit = time.monotonic() + 30
    while any(len(getattr(caller, what)) < count for caller, count in zip(callers, wanted, strict=True)):
        assert time.monotonic() < limit
        time.sleep(0.01)


def test_callers_that_all_start_it_anew_get_one_server_and_whole_answers(backend):
    callers = [Caller(backend) for _ in range(2)]
    ports = {backend.open().server_port}
    for caller in callers:
        caller.start()
    try:
        for _ in range(3):
            wait_for_more(callers, "answers")
            os.kill(backend.server.pid, signal.SIGKILL)
            wait_for_more(callers, "answers")
    finally:
        for caller in callers:
            caller.over = True
            caller.join(30)
    assert len({text for caller in callers for text in caller.answers}) == 1
    ports.update(port for caller in callers for port in caller.ports)
    assert len(ports) == 4, "one server for each that was killed"


def test_a_server_that_runs_is_not_started_anew(backend):
    pid = backend.server.pid
    assert backend.restart() == backend.open()
    assert backend.server.pid == pid


def test_a_closed_backend_is_not_started_anew(backend):
    backend.close()
    assert not backend.alive()
    with pytest.raises(BackendStartError, match="open"):
        backend.restart()
    with pytest.raises(BackendStartError, match="open"):
        own().restart()


def test_what_fails_to_start_anew_can_be_tried_again(model_path, tmp_path):
    model = tmp_path / model_path.name
    model.symlink_to(model_path)
    backend = own(model)
    try:
        backend.open()
        kill(backend)
        model.unlink()
        for _ in range(2):
            with pytest.raises(BackendStartError, match=model.name):
                backend.restart()
            assert not backend.alive()
            with pytest.raises(BackendError):
                answer(backend)
        model.symlink_to(model_path)
        backend.restart()
        assert answer(backend)
    finally:
        backend.close()


def test_closing_ends_a_start_that_goes_on(model_path):
    closing: list[threading.Thread] = []

    def close_once(_elapsed_s: float, _line: str) -> None:
        if killed and not closing:
            closing.append(threading.Thread(target=backend.close))
            closing[0].start()

    killed = False
    backend = own(on_progress=close_once)
    backend.open()
    kill(backend)
    killed = True
    with pytest.raises(BackendStartError):
        backend.restart()
    closing[0].join(20)
    assert not closing[0].is_alive()
    assert not backend.server.running


def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def serve(model: Path, port: int) -> LlamaServer:
    return LlamaServer(model, port=port, slots=1, context_length=256, threads=1)


def test_a_server_that_is_not_ours_is_found_again_once_it_is_back(model_path):
    port = unused_port()
    foreign = LlamaCppBackend(server_url=f"http://127.0.0.1:{port}")
    with serve(model_path, port):
        before = foreign.open()
        expected = answer(foreign)
        assert foreign.alive()
    assert not foreign.alive()
    with pytest.raises(BackendStartError, match="not ours to start"):
        foreign.restart()
    with serve(model_path, port):
        assert foreign.alive()
        assert foreign.restart() == before
        assert answer(foreign) == expected
    foreign.close()
    assert not foreign.alive()


def test_a_server_that_changed_is_described_anew(model_path):
    port = unused_port()
    foreign = LlamaCppBackend(server_url=f"http://127.0.0.1:{port}")
    with serve(model_path, port):
        assert foreign.open().slots == 1
    with LlamaServer(model_path, port=port, slots=3, context_length=512, threads=1):
        info = foreign.restart()
    assert (info.slots, info.context_length) == (3, 512)
    foreign.close()


def test_a_server_that_hangs_is_not_waited_for(server):
    foreign = LlamaCppBackend(server_url=server.url)
    foreign.open()
    os.kill(server.pid, signal.SIGSTOP)
    try:
        begun = time.monotonic()
        assert not foreign.alive()
        assert time.monotonic() - begun < 5, "a second, on a machine with time"
    finally:
        os.kill(server.pid, signal.SIGCONT)
    foreign.close()


def test_a_backend_has_the_port_that_it_was_given_and_says_why_its_server_ended() -> None:
    port = free_port()
    backend = own(port=port)
    assert isinstance(backend, EndExplaining)
    try:
        assert backend.open().server_port == port
        assert backend.exit_reason() is None
        kill(backend)
        assert "SIGKILL" in (backend.exit_reason() or "")
        assert backend.restart().server_port == port
    finally:
        backend.close()
    assert backend.exit_reason() is None


def test_a_server_is_asked_how_it_is_without_being_opened() -> None:
    port = free_port()
    stranger = LlamaCppBackend(server_url=f"http://127.0.0.1:{port}")
    assert isinstance(stranger, HealthReporting)
    assert "127.0.0.1" in stranger.unhealthy(1)
    with LlamaServer(demo_model(), port=port, slots=1, context_length=256, threads=1):
        assert stranger.unhealthy(1) == ""
    assert stranger.unhealthy(1)
    assert "call start() first" in own().unhealthy(1)
