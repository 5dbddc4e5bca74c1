from __future__ import annotations

import asyncio
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamatelemetry.backends.echo import EchoBackend, EchoScript
from llamatelemetry.backends.protocol import TokenDelta
from llamatelemetry.backends.request import InferenceRequest
from llamatelemetry.clock import SYSTEM_CLOCK
from llamatelemetry.inference.delivery import DELTA_LIMIT, DeltaQueue, LoopDeltas
from llamatelemetry.inference.engine import InferenceEngine

MANY = DELTA_LIMIT * 3


def write(deltas: DeltaQueue | LoopDeltas, count: int, held: list[int]) -> None:
    for number in range(count):
        held += [deltas.put(TokenDelta(str(number)))]
    deltas.end()


@settings(deadline=None, max_examples=30)
@given(st.integers(2, 20), st.integers(0, 200))
def test_every_delta_arrives_once_and_in_order_whatever_the_bound(limit: int, count: int) -> None:
    deltas, held = DeltaQueue(SYSTEM_CLOCK, limit), []
    writer = threading.Thread(target=write, args=(deltas, count, held))
    writer.start()
    received = [delta.text for delta in iter(deltas.get, None)]
    writer.join(10)
    assert received == [str(number) for number in range(count)]


def test_a_writer_is_held_back_until_half_is_read_and_told_for_how_long(eventually) -> None:
    deltas, held = DeltaQueue(SYSTEM_CLOCK, 10), []
    writer = threading.Thread(target=write, args=(deltas, 12, held))
    writer.start()
    assert eventually(lambda: len(held) == 9)
    time.sleep(0.05)
    assert len(held) == 9
    for _ in range(4):
        deltas.get()
    assert len(held) == 9
    deltas.get()
    writer.join(10)
    assert held[9] >= 50_000_000
    assert held[:9] == [0] * 9


@pytest.mark.parametrize("kind", ["thread", "loop"])
def test_letting_go_frees_a_writer_that_nobody_reads_from(kind: str, eventually) -> None:
    async def main() -> None:
        deltas = (
            DeltaQueue(SYSTEM_CLOCK, 4) if kind == "thread" else LoopDeltas(asyncio.get_running_loop(), SYSTEM_CLOCK, 4)
        )
        held: list[int] = []
        writer = threading.Thread(target=write, args=(deltas, 50, held))
        writer.start()
        assert eventually(lambda: len(held) == 3)
        deltas.let_go()
        writer.join(10)
        assert len(held) == 50

    asyncio.run(main())


def test_a_slow_reader_is_seen_as_such_and_not_as_a_slow_model() -> None:
    script = EchoScript(tokens=["x"] * MANY)
    with InferenceEngine(EchoBackend(script)) as engine:
        stream = engine.stream(InferenceRequest(prompt="x"))
        next(stream)
        time.sleep(0.3)
        assert sum(1 for _ in stream) == MANY - 1
        result = stream.result()
    assert result.duration_ms is not None
    assert result.duration_ms > 300
    assert sum(result.itl_ms) < result.duration_ms - 200
    assert result.tps is not None
    assert result.tps > MANY / (result.duration_ms / 1e3)


def test_a_result_asked_for_without_reading_is_not_held_back() -> None:
    with InferenceEngine(EchoBackend(EchoScript(tokens=["x"] * MANY))) as engine:
        assert engine.stream(InferenceRequest(prompt="x")).result(timeout_s=30).output_tokens == MANY

        async def main() -> int | None:
            return (await engine.astream(InferenceRequest(prompt="x")).result()).output_tokens

        assert asyncio.run(main()) == MANY


def test_closing_the_engine_does_not_wait_for_a_reader_who_never_comes() -> None:
    with InferenceEngine(EchoBackend(EchoScript(tokens=["x"] * MANY))) as engine:
        stream = engine.stream(InferenceRequest(prompt="x"))
        next(stream)
    assert stream.result().output_tokens == MANY


def test_a_held_back_request_can_be_cancelled(eventually) -> None:
    with InferenceEngine(EchoBackend(EchoScript(tokens=["x"] * MANY), slots=1)) as engine:
        stream = engine.stream(InferenceRequest(prompt="x"))
        next(stream)
        stream.close()
        assert eventually(lambda: engine.stats().requests_active == 0)
        assert engine.generate(InferenceRequest(prompt="x", max_tokens=1)).output_tokens == 1
