from __future__ import annotations

import asyncio
import gc
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from llamatelemetry.backends.echo import EchoBackend, EchoScript
from llamatelemetry.backends.protocol import ModelInfo, Placement, StreamEnd, TokenDelta
from llamatelemetry.backends.request import InferenceRequest
from llamatelemetry.clock import ManualClock
from llamatelemetry.errors import (
    BackendError,
    BackendResponseError,
    BackendStartError,
    ConfigurationError,
    DeadlineExceededError,
    EngineClosedError,
    NotSupportedError,
    RequestCancelledError,
    StreamInterruptedError,
)
from llamatelemetry.inference import live
from llamatelemetry.inference.engine import InferenceEngine
from llamatelemetry.inference.stream import InferenceStream
from llamatelemetry.testing.emitted import spans_from_otlp_json

SLOW = EchoScript(tokens=["tick "] * 10_000, per_token_s=0.01)


def test_every_way_to_ask_gives_the_same_answer() -> None:
    request = InferenceRequest(prompt="one two three")

    async def by_asyncio(engine: InferenceEngine) -> list[str]:
        stream = engine.astream(request)
        streamed = "".join([delta.text async for delta in stream])
        return [streamed, (await stream.result()).text, (await engine.agenerate(request)).text]

    with InferenceEngine(EchoBackend()) as engine:
        stream = engine.stream(request)
        answers = [
            engine.generate(request).text,
            engine.submit(request).result().text,
            "".join(delta.text for delta in stream),
            stream.result().text,
            *asyncio.run(by_asyncio(engine)),
        ]
    assert answers == ["one two three"] * 7


def test_the_result_carries_what_was_counted_and_measured_and_none_for_the_rest() -> None:
    clock = ManualClock()
    script = EchoScript(tokens=["a", "b", "c"], prefill_s=1.0, per_token_s=0.5)
    with InferenceEngine(EchoBackend(script, clock=clock.clock), clock=clock.clock) as engine:
        result = engine.generate(InferenceRequest(prompt="x y"))
    assert (result.input_tokens, result.output_tokens, result.cached_tokens) == (2, 3, 0)
    assert result.ttft_ms == pytest.approx(1000)
    assert result.tpot_ms == pytest.approx(500)
    assert result.itl_ms == pytest.approx((500, 500))
    assert result.tps == pytest.approx(2)
    assert result.duration_ms == pytest.approx(2000)
    assert result.finish_reason == "stop"
    assert (result.energy_j, result.vram_peak_mb, result.kv_pages, result.trace_id) == (None, None, None, None)


class CountingBackend(EchoBackend):
    def __init__(self, script: EchoScript, slots: int) -> None:
        super().__init__(script, slots=slots)
        self._running = 0
        self.most = 0
        self.order: list[str] = []
        self._lock = threading.Lock()

    def stream(self, request: InferenceRequest, placement: Placement) -> Iterator[TokenDelta | StreamEnd]:
        with self._lock:
            self._running += 1
            self.most = max(self.most, self._running)
            self.order.append(request.request_id)
        try:
            yield from super().stream(request, placement)
        finally:
            with self._lock:
                self._running -= 1


def test_never_more_run_than_there_are_slots_and_threads_are_no_more_either() -> None:
    backend = CountingBackend(EchoScript(tokens=["a"] * 3, per_token_s=0.001), slots=3)
    before = threading.active_count()
    with InferenceEngine(backend) as engine:
        futures = [engine.submit(InferenceRequest(prompt="x")) for _ in range(60)]
        assert threading.active_count() - before <= 3
        assert all(future.result().output_tokens == 3 for future in futures)
    assert backend.most == 3
    assert threading.active_count() == before


def test_requests_run_in_order_of_arrival() -> None:
    backend = CountingBackend(EchoScript(tokens=["a"]), slots=1)
    with InferenceEngine(backend) as engine:
        futures = [engine.submit(InferenceRequest(prompt="x", request_id=str(n))) for n in range(50)]
        for future in futures:
            future.result()
    assert backend.order == [str(n) for n in range(50)]


def test_a_typed_error_reaches_the_caller_with_what_was_generated_before_it() -> None:
    backend = EchoBackend(EchoScript(tokens=["a", "b", "c"], fail_after=2))
    with InferenceEngine(backend) as engine:
        with pytest.raises(BackendResponseError) as caught:
            engine.generate(InferenceRequest(prompt="x"))
        assert caught.value.partial.text == "ab"
        assert caught.value.partial.finish_reason == "error"
        stream = engine.stream(InferenceRequest(prompt="x"))
        received = []
        with pytest.raises(BackendResponseError):
            received.extend(delta.text for delta in stream)
        with pytest.raises(BackendResponseError):
            stream.result()


class BrokenBackend(EchoBackend):
    def __init__(self, failure: Exception | None) -> None:
        super().__init__()
        self._failure = failure

    def stream(self, request: InferenceRequest, placement: Placement) -> Iterator[TokenDelta | StreamEnd]:
        yield TokenDelta("half")
        if self._failure is not None:
            raise self._failure


def test_an_untyped_failure_of_a_backend_becomes_one_typed_error_with_its_cause() -> None:
    with InferenceEngine(BrokenBackend(ZeroDivisionError("oops"))) as engine:
        with pytest.raises(BackendError, match="ZeroDivisionError: oops") as caught:
            engine.generate(InferenceRequest(prompt="x"))
        assert isinstance(caught.value.__cause__, ZeroDivisionError)
        with pytest.raises(BackendError):
            engine.generate(InferenceRequest(prompt="x"))


class Panic(BaseException):
    """As Rust's panics come through PyO3, which tokenizers are made with: no Exception."""


def test_a_panic_in_a_backend_ends_its_own_request_and_the_slot_goes_on(sink) -> None:
    class Panicking(EchoBackend):
        def stream(self, request: InferenceRequest, placement: Placement) -> Iterator[TokenDelta | StreamEnd]:
            if request.prompt == "panic":
                raise Panic("called unwrap() on a None value")
            yield from super().stream(request, placement)

    with InferenceEngine(Panicking(slots=1)) as engine:
        with pytest.raises(BackendError, match="Panic: called"):
            engine.submit(InferenceRequest(prompt="panic")).result(10)
        assert engine.submit(InferenceRequest(prompt="go on")).result(10).text == "go on"
    assert [record.finish_reason for record in sink.records] == ["error", "stop"]


def test_a_stream_that_just_stops_is_an_interruption_and_not_an_answer() -> None:
    with InferenceEngine(BrokenBackend(None)) as engine, pytest.raises(StreamInterruptedError) as caught:
        engine.generate(InferenceRequest(prompt="x"))
    assert caught.value.partial.text == "half"


def test_cancelling_a_waiting_request_leaves_the_queue_and_never_reaches_the_backend(sink) -> None:
    backend = CountingBackend(SLOW, slots=1)
    with InferenceEngine(backend) as engine:
        running = engine.stream(InferenceRequest(prompt="x"))
        next(running)
        waiting = engine.submit(InferenceRequest(prompt="y", request_id="waiting"))
        assert engine.stats().queue_depth == 1
        assert waiting.cancel()
        assert waiting.cancelled()
        assert engine.stats().queue_depth == 0
        running.close()
    assert "waiting" not in backend.order
    ended = {record.opening.request.request_id: record for record in sink.records}
    assert ended["waiting"].dispatched_ns is None
    assert ended["waiting"].finish_reason == "cancelled"


@pytest.mark.parametrize("how", ["future", "stream", "with", "abandoned"])
def test_however_a_running_request_is_given_up_its_slot_is_free_and_its_record_ends_once(
    how: str, sink, eventually
) -> None:
    with InferenceEngine(EchoBackend(SLOW, slots=1)) as engine:
        request = InferenceRequest(prompt="x")
        if how == "future":
            future = engine.submit(request)
            assert eventually(future.running)
            assert future.cancel()
        elif how == "stream":
            stream = engine.stream(request)
            next(stream)
            stream.close()
            with pytest.raises(RequestCancelledError) as caught:
                stream.result(timeout_s=10)
            assert caught.value.partial.text.startswith("tick")
        elif how == "with":
            with engine.stream(request) as stream:
                next(stream)
        else:
            iterator = iter(engine.stream(request))
            next(iterator)
            del iterator
            gc.collect()
        assert eventually(lambda: engine.stats().requests_active == 0)
        assert [record.finish_reason for record in sink.records] == ["cancelled"]


def test_cancelling_a_task_frees_the_slot(sink, eventually) -> None:
    async def main(engine: InferenceEngine) -> None:
        generating = asyncio.create_task(engine.agenerate(InferenceRequest(prompt="x")))

        async def read() -> None:
            async for _ in engine.astream(InferenceRequest(prompt="x")):
                pass

        reading = asyncio.create_task(read())
        await asyncio.sleep(0.1)
        for task in (generating, reading):
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    with InferenceEngine(EchoBackend(SLOW, slots=2)) as engine:
        asyncio.run(main(engine))
        assert eventually(lambda: engine.stats().requests_active == 0)
    assert [record.finish_reason for record in sink.records] == ["cancelled", "cancelled"]


def test_a_request_past_its_deadline_is_not_sent() -> None:
    clock = ManualClock()
    backend = CountingBackend(EchoScript(tokens=["a"]), slots=1)
    gate = threading.Event()

    class Gated(EchoBackend):
        def stream(self, request: InferenceRequest, placement: Placement) -> Iterator[TokenDelta | StreamEnd]:
            gate.wait(10)
            yield from backend.stream(request, placement)

    with InferenceEngine(Gated(slots=1), clock=clock.clock) as engine:
        first = engine.submit(InferenceRequest(prompt="x", request_id="first"))
        late = engine.submit(InferenceRequest(prompt="x", request_id="late", deadline_s=5))
        clock.advance(6)
        gate.set()
        assert first.result().text == "a"
        with pytest.raises(DeadlineExceededError, match=r"waited 6\.000 s"):
            late.result()
    assert backend.order == ["first"]


def test_closing_drains_what_was_submitted() -> None:
    engine = InferenceEngine(EchoBackend(EchoScript(tokens=["a"] * 3, per_token_s=0.005), slots=1))
    futures = [engine.submit(InferenceRequest(prompt="x")) for _ in range(5)]
    engine.close()
    assert [future.result(timeout=0).output_tokens for future in futures] == [3] * 5


def test_closing_without_draining_ends_every_request_with_one_typed_error(sink) -> None:
    engine = InferenceEngine(EchoBackend(SLOW, slots=1))
    stream = engine.stream(InferenceRequest(prompt="x"))
    next(stream)
    waiting = engine.submit(InferenceRequest(prompt="y"))
    engine.close(drain=False)
    engine.close(drain=False)
    with pytest.raises(EngineClosedError, match="while the request ran"):
        stream.result(timeout_s=10)
    with pytest.raises(EngineClosedError, match="before the request could run"):
        waiting.result(timeout=0)
    with pytest.raises(EngineClosedError, match="make a new one"):
        engine.submit(InferenceRequest(prompt="z"))
    assert len(sink.records) == len(sink.openings) == 2


def test_a_drain_that_takes_too_long_cancels_the_rest() -> None:
    engine = InferenceEngine(EchoBackend(SLOW, slots=1))
    future = engine.submit(InferenceRequest(prompt="x"))
    engine.close(drain=True, timeout_s=0.1)
    with pytest.raises(EngineClosedError):
        future.result(timeout=10)


def test_a_backend_that_does_not_start_is_closed_and_its_error_is_kept() -> None:
    class Unstartable(EchoBackend):
        closed = False

        def open(self) -> ModelInfo:
            raise BackendStartError("no such luck", ("line 1",))

        def close(self) -> None:
            self.closed = True

    backend = Unstartable()
    with pytest.raises(BackendStartError, match="line 1"):
        InferenceEngine(backend)
    assert backend.closed


class ClosingBackend(EchoBackend):
    """Tells whether it was closed, and may fail to be."""

    def __init__(self, script: EchoScript | None = None, *, model: str = "echo", fails: bool = False) -> None:
        super().__init__(script, model=model)
        self.closed = False
        self._fails = fails

    def close(self) -> None:
        self.closed = True
        super().close()
        if self._fails:
            raise RuntimeError("it will not go")


def test_backends_that_make_no_engine_together_are_closed() -> None:
    backends = [ClosingBackend(model="a"), ClosingBackend(model="b")]
    with pytest.raises(ConfigurationError, match="one model"):
        InferenceEngine(backends)
    assert [backend.closed for backend in backends] == [True, True]


def test_a_backend_that_fails_to_close_keeps_none_of_the_others_open(monkeypatch) -> None:
    monkeypatch.setattr(live, "_engines", weakref.WeakSet())  # other tests' engines are theirs to close
    backends = [ClosingBackend(fails=True), ClosingBackend()]
    engine, other = InferenceEngine(backends), ClosingBackend()
    InferenceEngine(other)
    with pytest.raises(RuntimeError, match="will not go"):
        live.close_all()
    assert [backend.closed for backend in (*backends, other)] == [True, True, True]
    with pytest.raises(EngineClosedError):
        engine.submit(InferenceRequest(prompt="x"))
    assert not live.stats()


def test_an_answer_may_close_the_engine_that_it_came_from(eventually, caplog) -> None:
    backend = ClosingBackend(EchoScript(tokens=["a"], prefill_s=0.05))
    engine = InferenceEngine(backend)
    engine.submit(InferenceRequest(prompt="x")).add_done_callback(lambda _: engine.close())
    assert eventually(lambda: backend.closed)
    assert not caplog.records


def test_options_that_fit_nothing_are_named() -> None:
    with pytest.raises(ConfigurationError, match="options"):
        InferenceEngine(EchoBackend(), slots=2)
    with pytest.raises(ConfigurationError, match="no_such_option"):
        InferenceEngine("echo", no_such_option=1)


def test_tokens_are_counted_by_the_queue_depth_they_met(sink) -> None:
    with InferenceEngine(EchoBackend(SLOW, slots=1)) as engine:
        stream = engine.stream(InferenceRequest(prompt="x"))
        next(stream)
        futures = [engine.submit(InferenceRequest(prompt="y")) for _ in range(3)]
        for future in futures:
            future.cancel()
        stream.close()
    assert [opening.queue_depth for opening in sink.openings] == [0, 0, 1, 2]
    assert [opening.streaming for opening in sink.openings] == [True, False, False, False]


def run_python(code: str, *, expect: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == expect, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout


def test_an_engine_refuses_to_work_in_a_forked_child_and_goes_on_in_the_parent() -> None:
    out = run_python("""
        import os
        from llamatelemetry import InferenceEngine, InferenceRequest
        from llamatelemetry.errors import EngineClosedError
        request = InferenceRequest(prompt="a b")
        with InferenceEngine("echo") as engine:
            engine.generate(request)
            stream = engine.stream(request)
            pid = os.fork()
            if pid == 0:
                for ask in (lambda: engine.generate(request), lambda: next(stream)):
                    try:
                        ask()
                    except EngineClosedError as error:
                        print("fork" in str(error), flush=True)
                os._exit(0)
            os.waitpid(pid, 0)
            print(engine.generate(request).text)
    """)
    assert out.split("\n") == ["True", "True", "a b", ""]


def test_a_forked_child_waits_for_no_answer_and_cancels_none() -> None:
    out = run_python("""
        import os
        from llamatelemetry import InferenceEngine, InferenceRequest
        from llamatelemetry.backends.echo import EchoBackend, EchoScript
        from llamatelemetry.errors import EngineClosedError
        request = InferenceRequest(prompt="a b")
        with InferenceEngine(EchoBackend(EchoScript(prefill_s=0.2))) as engine:
            done = engine.submit(request)
            print(done.result().text, flush=True)
            future, stream = engine.submit(request), engine.stream(request)
            pid = os.fork()
            if pid == 0:
                print(done.result().text, future.cancel(), flush=True)
                for wait in (future.result, future.exception, stream.result):
                    try:
                        wait()
                    except EngineClosedError as error:
                        print("fork" in str(error), flush=True)
                stream.close()
                os._exit(0)
            os.waitpid(pid, 0)
            print(future.result().text, stream.result().text)
    """)
    assert out.split("\n") == ["a b", "a b False", "True", "True", "True", "a b a b", ""]


def test_interpreter_exit_with_requests_in_flight_is_prompt_and_silent() -> None:
    out = run_python("""
        from llamatelemetry import InferenceEngine, InferenceRequest
        from llamatelemetry.backends.echo import EchoBackend, EchoScript
        engine = InferenceEngine(EchoBackend(EchoScript(tokens=["x"] * 10**6, per_token_s=0.01)))
        for _ in range(20):
            engine.submit(InferenceRequest(prompt="x"))
        print("done")
    """)
    assert out == "done\n"


def test_ctrl_c_ends_a_running_request_and_leaves_no_thread_waiting() -> None:
    code = """
        import threading
        from llamatelemetry import InferenceEngine, InferenceRequest
        from llamatelemetry.backends.echo import EchoBackend, EchoScript
        try:
            with InferenceEngine(EchoBackend(EchoScript(tokens=["x"] * 10**6, per_token_s=0.01))) as engine:
                print("running", flush=True)
                engine.generate(InferenceRequest(prompt="x"))
        except KeyboardInterrupt:
            print("interrupted", threading.active_count(), flush=True)
    """
    with subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "running\n"
        time.sleep(0.3)
        os.kill(process.pid, signal.SIGINT)
        assert process.stdout.read() == "interrupted 1\n"
        assert process.wait(30) == 0


def interrupt_soon() -> None:
    """Ctrl-C for this process, a moment after its main thread has begun to wait."""
    threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()


@pytest.mark.parametrize("wait", [next, InferenceStream.result], ids=["delta", "result"])
def test_ctrl_c_while_a_stream_is_waited_for_frees_its_slot_though_the_stream_is_kept(wait, gated, sink) -> None:
    backend = gated()
    with InferenceEngine(backend) as engine:
        stream = engine.stream(InferenceRequest(prompt="x"))
        interrupt_soon()
        with pytest.raises(KeyboardInterrupt):
            wait(stream)
        backend.gate.set()
        with pytest.raises(RequestCancelledError):
            stream.result(10)
    assert [record.finish_reason for record in sink.records] == ["cancelled"]


def test_ctrl_c_while_the_engine_drains_cancels_the_rest_and_closes_the_backend(sink) -> None:
    backend = ClosingBackend(SLOW)
    engine = InferenceEngine(backend)
    future = engine.submit(InferenceRequest(prompt="x"))
    interrupt_soon()
    with pytest.raises(KeyboardInterrupt):
        engine.close()
    assert backend.closed
    with pytest.raises(EngineClosedError):
        future.result(10)


def test_ctrl_c_while_a_prompt_is_counted_ends_the_record_that_began(sink) -> None:
    class Interrupted(EchoBackend):
        def tokenize(self, text: str) -> list[int]:
            signal.raise_signal(signal.SIGINT)
            return super().tokenize(text)

    with InferenceEngine(Interrupted()) as engine, pytest.raises(KeyboardInterrupt):
        engine.submit(InferenceRequest(prompt="x"))
    assert len(sink.openings) == 1
    assert [record.finish_reason for record in sink.records] == ["cancelled"]


def test_ctrl_c_anywhere_on_the_way_into_the_queue_leaves_no_lock_taken_and_no_slot_lost() -> None:
    out = run_python("""
        import linecache, sys, threading
        from llamatelemetry import InferenceEngine, InferenceRequest
        from llamatelemetry.backends.echo import EchoBackend
        from llamatelemetry.inference import dispatcher

        request = InferenceRequest(prompt="a b")

        def may_be_interrupted(frame):
            # Between the end of a block and its lock's release no signal comes, but a trace does.
            path = frame.f_code.co_filename
            line = linecache.getline(path, frame.f_lineno).lstrip()
            return path in (dispatcher.__file__, threading.__file__) and not line.startswith("with ")

        def interrupt(engine, step):
            seen = 0

            def trace(frame, event, _arg):
                nonlocal seen
                seen += event != "call" and may_be_interrupted(frame)
                if seen == step:
                    sys.settrace(None)
                    raise KeyboardInterrupt
                return trace

            sys.settrace(trace)
            try:
                engine.submit(request)
            except KeyboardInterrupt:
                return True
            finally:
                sys.settrace(None)
            return False

        step = 1
        while True:
            with InferenceEngine(EchoBackend(slots=1)) as engine:
                engine.generate(request)
                interrupted = interrupt(engine, step)
                assert engine.submit(request).result(10).text == "a b"
            assert engine.stats().requests_active == engine.stats().queue_depth == 0
            if not interrupted:
                break
            step += 1
        print(step > 50)
    """)
    assert out == "True\n"


def test_spans_of_requests_cut_off_by_interpreter_exit_are_ended_and_written(tmp_path: Path) -> None:
    run_python(f"""
        import llamatelemetry as lt
        from llamatelemetry.backends.echo import EchoBackend, EchoScript
        lt.init(telemetry_dir={str(tmp_path)!r})
        engine = lt.InferenceEngine(EchoBackend(EchoScript(tokens=["x"] * 10**6, per_token_s=0.01), slots=1))
        stream = engine.stream(lt.InferenceRequest(prompt="x"))
        next(stream)
        waiting = engine.submit(lt.InferenceRequest(prompt="x"))
    """)
    lines = [line for path in tmp_path.iterdir() for line in path.read_text().splitlines()]
    spans = [span for span in spans_from_otlp_json(lines) if span.name == "text_completion echo"]
    assert [span.attributes["gen_ai.response.finish_reasons"] for span in spans] == [("cancelled",)] * 2


def test_several_answers_are_several_requests_with_seeds_of_their_own(sink) -> None:
    backend = EchoBackend(lambda request: EchoScript(tokens=[f"seed {request.seed}"]))
    request = InferenceRequest(prompt="x", n=3, seed=7, request_id="r")
    with InferenceEngine(backend) as engine:
        assert [result.text for result in engine.choices(request)] == ["seed 7", "seed 8", "seed 9"]
        with pytest.raises(NotSupportedError, match=r"engine\.choices"):
            engine.generate(request)
    assert sorted(opening.request.request_id for opening in sink.openings) == ["r-0", "r-1", "r-2"]


def test_when_one_of_several_answers_fails_the_others_are_given_up(sink) -> None:
    def script(request: InferenceRequest) -> EchoScript:
        return EchoScript(tokens=["x"], fail_after=0) if request.seed == 1 else SLOW

    with InferenceEngine(EchoBackend(script, slots=3)) as engine, pytest.raises(BackendResponseError):
        engine.choices(InferenceRequest(prompt="x", n=3, seed=1))
    assert sorted(record.finish_reason for record in sink.records) == ["cancelled", "cancelled", "error"]


def test_embeddings_that_the_backend_does_not_make_are_refused_at_once() -> None:
    with InferenceEngine("echo") as engine, pytest.raises(NotSupportedError, match="without embeddings"):
        engine.embed(["a"])


def test_a_timeout_around_an_await_frees_the_slot(sink, eventually) -> None:
    async def main(engine: InferenceEngine) -> None:
        async def read() -> None:
            async for _ in engine.astream(InferenceRequest(prompt="x")):
                pass

        kept = engine.astream(InferenceRequest(prompt="x"))
        for awaited in (engine.agenerate(InferenceRequest(prompt="x")), read(), kept.result()):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(awaited, 0.1)
        assert await asyncio.to_thread(eventually, lambda: engine.stats().requests_active == 0)
        await kept.aclose()

    with InferenceEngine(EchoBackend(SLOW, slots=1)) as engine:
        asyncio.run(main(engine))
    assert [record.finish_reason for record in sink.records] == ["cancelled"] * 3


def test_the_result_of_a_stream_that_was_left_does_not_hold_up_the_event_loop(gated) -> None:
    backend = gated()

    async def main(engine: InferenceEngine) -> None:
        stream = engine.astream(InferenceRequest(prompt="x"))
        first = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(0.05)
        await stream.aclose()
        # The backend lets go only after this, which the loop has to come to.
        asyncio.get_running_loop().call_later(0.05, backend.gate.set)
        with pytest.raises(RequestCancelledError):
            await stream.result()
        assert backend.gate.is_set()
        with pytest.raises(RequestCancelledError):
            await first

    with InferenceEngine(backend) as engine:
        asyncio.run(main(engine))


class RemoteBackend(EchoBackend):
    """Runs elsewhere as far as the engine knows, and takes its time to tokenize."""

    def __init__(self, slots: int = 1) -> None:
        super().__init__(SLOW, slots=slots)
        self._info = replace(self._info, in_process=False)
        self.tokenized = 0

    def tokenize(self, text: str) -> list[int]:
        time.sleep(0.2)
        self.tokenized += 1
        return super().tokenize(text)


def test_tokenizing_elsewhere_does_not_hold_up_the_event_loop(sink, eventually) -> None:
    async def main(engine: InferenceEngine) -> None:
        stream = engine.astream(InferenceRequest(prompt="x"))
        first = asyncio.ensure_future(anext(stream))
        ticks = 0
        while not first.done():
            await asyncio.sleep(0.01)
            ticks += 1
        assert ticks > 5
        await stream.aclose()
        # Given up before it is even queued: it must not run on its own afterwards.
        task = asyncio.create_task(engine.agenerate(InferenceRequest(prompt="y")))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    backend = RemoteBackend()
    with InferenceEngine(backend) as engine:
        asyncio.run(main(engine))
        assert eventually(lambda: backend.tokenized == 2 and engine.stats().requests_active == 0)
        assert eventually(lambda: len(sink.records) == 2)
    assert [record.finish_reason for record in sink.records] == ["cancelled", "cancelled"]
