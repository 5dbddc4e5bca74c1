from __future__ import annotations

import threading
import time
from dataclasses import replace

import pytest

from llamatelemetry.backends.echo import EchoBackend, EchoScript
from llamatelemetry.backends.request import InferenceRequest
from llamatelemetry.errors import (
    BackendConnectionError,
    BackendStartError,
    ConfigurationError,
    ContextOverflowError,
    DeadlineExceededError,
    EngineClosedError,
    LlamatelemetryError,
    ModelFileError,
    QueueFullError,
)
from llamatelemetry.inference.engine import InferenceEngine
from llamatelemetry.inference.policy import FIFO, SchedulerConfig
from llamatelemetry.inference.retry import RetryPolicy

SOON = RetryPolicy(first_wait_s=0.01, longest_wait_s=0.02)


def request(name: str = "", **fields) -> InferenceRequest:
    return InferenceRequest(prompt="x", request_id=name, **fields)


def test_urgent_requests_go_first_and_equal_ones_in_order_of_arrival(gated) -> None:
    backend = gated()
    with InferenceEngine(backend) as engine:
        futures = [engine.submit(request("first"))]
        futures += [engine.submit(request(f"late-{n}", priority=5)) for n in range(2)]
        futures += [engine.submit(request(f"soon-{n}", priority=1)) for n in range(2)]
        backend.gate.set()
        for future in futures:
            future.result(10)
    assert backend.order == ["first", "soon-0", "soon-1", "late-0", "late-1"]


def test_tenants_take_turns_however_much_one_of_them_asks(gated) -> None:
    backend = gated()
    fair = SchedulerConfig(quantum=1)
    with InferenceEngine(backend, scheduling=fair) as engine:
        futures = [engine.submit(request("first"))]
        futures += [engine.submit(request(f"many-{n}", tenant="many", max_tokens=10)) for n in range(6)]
        futures += [engine.submit(request(f"few-{n}", tenant="few", max_tokens=10)) for n in range(2)]
        backend.gate.set()
        for future in futures:
            future.result(10)
    assert backend.order.index("few-1") <= 5


def test_first_in_first_out_knows_no_priority(gated) -> None:
    backend = gated()
    with InferenceEngine(backend, scheduling=FIFO) as engine:
        names = [str(n) for n in range(5)]
        futures = [engine.submit(request(name, priority=-int(name))) for name in names]
        backend.gate.set()
        for future in futures:
            future.result(10)
    assert backend.order == names


def test_a_deadline_passes_while_every_slot_is_busy(gated, sink) -> None:
    backend = gated()
    with InferenceEngine(backend) as engine:
        running = engine.submit(request("running"))
        late = engine.submit(request("late", deadline_s=0.05))
        with pytest.raises(DeadlineExceededError):
            late.result(10)
        assert not running.done()
        backend.gate.set()
        running.result(10)
    assert backend.order == ["running"]
    assert {record.opening.request.request_id: record.dispatched_ns is None for record in sink.records} == {
        "late": True,
        "running": False,
    }


def test_a_full_queue_says_how_full_and_ends_what_it_refuses(gated, sink) -> None:
    backend = gated()
    small = SchedulerConfig(max_waiting=2)
    with InferenceEngine(backend, scheduling=small) as engine:
        futures = [engine.submit(request()) for _ in range(3)]
        with pytest.raises(QueueFullError) as caught:
            engine.submit(request("refused"))
        assert (caught.value.depth, caught.value.limit) == (2, 2)
        with pytest.raises(QueueFullError):
            next(engine.stream(request("refused")))
        backend.gate.set()
        for future in futures:
            future.result(10)
        assert engine.stats().rejected == {"queue_full_requests": 2}
    refused = [record for record in sink.records if record.opening.request.request_id == "refused"]
    assert [type(record.error) for record in refused] == [QueueFullError] * 2


def test_a_prompt_that_fits_no_slot_never_reaches_the_backend(gated) -> None:
    backend = gated()
    with InferenceEngine(backend, scheduling=SchedulerConfig(context_length=8)) as engine:
        with pytest.raises(ContextOverflowError) as caught:
            engine.generate(InferenceRequest(prompt="word " * 20))
        assert caught.value.context_length == 8
    assert backend.order == []


class SizedBackend(EchoBackend):
    """An echo that says how many tokens a slot, or all of them together, can hold."""

    def __init__(self, context_length: int, *, slots: int = 2, kv_tokens: int | None = None) -> None:
        super().__init__(EchoScript(tokens=["a"] * 1000, per_token_s=0.002), slots=slots)
        self._info = replace(self._info, context_length=context_length, kv_tokens=kv_tokens)


def test_a_prompt_that_just_fits_a_slot_is_not_kept_out_by_whole_pages() -> None:
    with InferenceEngine(SizedBackend(100)) as engine:
        assert engine.generate(InferenceRequest(prompt="w " * 98, max_tokens=1)).output_tokens == 1
        with pytest.raises(ContextOverflowError):
            engine.generate(InferenceRequest(prompt="w " * 100, max_tokens=1))
        assert engine.stats().kv_pages_limit == 4


def test_slots_that_share_their_cache_wait_for_pages_and_not_only_for_slots(eventually) -> None:
    with InferenceEngine(SizedBackend(256, slots=4, kv_tokens=256)) as engine:
        large = [engine.submit(InferenceRequest(prompt="w", max_tokens=100)) for _ in range(3)]
        assert eventually(lambda: engine.stats().requests_active == 2)
        assert engine.stats().queue_depth == 1
        assert engine.stats().kv_pages_used == 4
        assert [future.result(30).output_tokens for future in large] == [100] * 3
        assert engine.stats().kv_pages_used == 0


def test_answers_without_a_bound_get_room_as_they_grow_and_do_not_wait_for_each_other(eventually) -> None:
    with InferenceEngine(SizedBackend(4096, slots=2, kv_tokens=4096)) as engine:
        streams = [engine.stream(InferenceRequest(prompt="w")) for _ in range(2)]
        assert eventually(lambda: engine.stats().requests_active == 2)
        begun = engine.stats().kv_pages_used
        assert begun == 2 * 9
        assert eventually(lambda: (engine.stats().kv_pages_used or 0) >= 2 * 16)
        assert [stream.result(30).output_tokens for stream in streams] == [1000, 1000]
        assert engine.stats().kv_pages_used == 0


def test_two_backends_are_one_engine_and_share_the_load() -> None:
    script = EchoScript(tokens=["t"] * 5, per_token_s=0.02)
    backends = [EchoBackend(script, slots=4), EchoBackend(script, slots=4)]
    with InferenceEngine(backends) as engine:
        assert engine.info.slots == 8
        busy = [engine.submit(request()) for _ in range(2)]
        lanes = {future.result(10).request_id for future in busy}
        assert len(lanes) == 2


def test_the_least_loaded_backend_is_chosen(mortal) -> None:
    backends = [mortal(slots=4), mortal(slots=4)]
    with InferenceEngine(backends) as engine:
        for future in [engine.submit(request()) for _ in range(4)]:
            future.result(10)
    assert [backend.most for backend in backends] == [2, 2]


def test_no_books_are_kept_of_a_cache_that_no_memory_holds() -> None:
    backend = EchoBackend(slots=2)
    backend._info = replace(backend._info, context_length=2**31)
    with InferenceEngine(backend) as engine:
        assert engine.generate(request()).kv_pages is None
        assert engine.stats().kv_pages_limit is None


def test_backends_of_different_models_are_no_engine() -> None:
    with pytest.raises(ConfigurationError, match="one model"):
        InferenceEngine([EchoBackend(model="a"), EchoBackend(model="b")])
    with pytest.raises(ConfigurationError, match="at least one"):
        InferenceEngine([])


def ask_all(engine: InferenceEngine, count: int) -> tuple[list[str], list[LlamatelemetryError]]:
    """Asks from many threads; returns the answers and the errors."""
    answers: list[str] = []
    errors: list[LlamatelemetryError] = []

    def ask() -> None:
        try:
            answers.append(engine.generate(request()).text)
        except LlamatelemetryError as error:
            errors.append(error)

    threads = [threading.Thread(target=ask) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return answers, errors


@pytest.mark.parametrize("restarts", [0, 1])
def test_one_of_two_dies_under_load_and_only_what_had_begun_is_lost(mortal, sink, restarts: int) -> None:
    dying, living = mortal(slots=2, restarts=restarts), mortal(slots=2)
    with InferenceEngine([dying, living], retry=SOON) as engine:
        threading.Timer(0.15, dying.kill).start()
        answers, errors = ask_all(engine, 40)
        assert len(answers) + len(errors) == 40
        assert all(isinstance(error, BackendConnectionError) and error.partial.text for error in errors)
        assert len(errors) <= 2
        assert set(answers) == {"t" * 20}
        before = dying.served
        ask_all(engine, 8)
        assert (dying.served > before) == bool(restarts)
    assert len(sink.records) == len(sink.openings) == 48


def test_a_lone_backend_is_restarted_once_and_waiting_requests_are_kept(mortal) -> None:
    backend = mortal(slots=2, restarts=1)
    with InferenceEngine(backend, retry=SOON) as engine:
        threading.Timer(0.1, backend.kill).start()
        answers, errors = ask_all(engine, 20)
        assert len(answers) + len(errors) == 20
        assert len(errors) <= 2
        assert engine.generate(request()).text == "t" * 20


@pytest.mark.parametrize(
    "failure",
    [
        BackendStartError("it does not start any more"),
        ModelFileError("model.gguf", "it does not start any more"),
        RuntimeError("it does not start any more"),
    ],
    ids=lambda failure: type(failure).__name__,
)
def test_when_no_backend_is_left_everything_ends_with_one_typed_error(mortal, sink, failure: Exception) -> None:
    backend = mortal(slots=1, failure=failure)
    with InferenceEngine(backend, retry=SOON) as engine:
        stream = engine.stream(request())
        next(stream)
        waiting = [engine.submit(request()) for _ in range(5)]
        backend.kill()
        with pytest.raises(BackendConnectionError):
            list(stream)
        for future in waiting:
            with pytest.raises(BackendStartError, match="does not start any more"):
                future.result(10)
        with pytest.raises(EngineClosedError):
            engine.submit(request())
    assert len(sink.records) == 6


def test_thousands_that_wait_cost_no_threads(gated) -> None:
    backend = gated(slots=2)
    before = threading.active_count()
    with InferenceEngine(backend) as engine:
        futures = [engine.submit(request()) for _ in range(3000)]
        assert threading.active_count() - before <= 2
        assert engine.stats().queue_depth == 2998
        start = time.monotonic()
        for future in futures[2:]:
            assert future.cancel()
        assert engine.stats().queue_depth == 0
        assert time.monotonic() - start < 30
        backend.gate.set()
