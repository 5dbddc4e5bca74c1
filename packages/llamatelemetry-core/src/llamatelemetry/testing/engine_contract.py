"""What an engine owes its callers over any backend with a real model, stated as tests.

Subclass :class:`EngineContract` in a test module and say how to make the engine::

    class TestMyEngine(EngineContract):
        def make_engine(self) -> InferenceEngine:
            return InferenceEngine(MyBackend(...))

What the backend itself owes the engine is in :mod:`llamatelemetry.testing.contracts`.
"""

from __future__ import annotations

import asyncio
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path

from opentelemetry import trace

from llamatelemetry.backends.request import InferenceRequest, SamplingParams
from llamatelemetry.errors import ContextOverflowError, DeadlineExceededError, RequestCancelledError
from llamatelemetry.inference.engine import InferenceEngine
from llamatelemetry.inference.result import InferenceResult
from llamatelemetry.sdk import init, shutdown
from llamatelemetry.semconv.spans import PHASES
from llamatelemetry.testing.emitted import EmittedSpan
from llamatelemetry.testing.telling import Telling

_CALLERS = 8
_KINDS = ("stay", "cancel", "stay", "leave", "stay", "deadline")


class EngineContract:
    """The contract. Every test makes an engine of its own, over telemetry that writes to files.

    Override :meth:`make_engine`, and what the model needs otherwise.

    Attributes:
        caches: Whether a prompt that was asked before is found in a cache.
        callers_requests: How many requests of every kind are asked at once.
        timeout_s: Most seconds that anything here may take.
    """

    caches: bool = True
    callers_requests: int = 48
    timeout_s: float = 100.0

    def make_engine(self) -> InferenceEngine:
        """Returns a new engine, whose context is known and at most 2000 tokens."""
        raise NotImplementedError("say how to make the engine under test")

    def ask(self, number: int, max_tokens: int = 12) -> InferenceRequest:
        """A request that is told from others by its number, with an answer that is repeatable."""
        return InferenceRequest(
            messages=[{"role": "user", "content": f"Say the number {number} and one word about it, and be brief."}],
            max_tokens=max_tokens,
            sampling=SamplingParams(temperature=0.0),
            request_id=f"request-{number}",
        )

    def questions(self, engine: InferenceEngine, numbers: Iterable[int]) -> Mapping[int, tuple[InferenceRequest, str]]:
        """By number, a request and the one right answer to it: here the one that it gets by itself."""
        asked = {number: self.ask(number) for number in numbers}
        return {number: (each, engine.generate(replace(each, request_id="")).text) for number, each in asked.items()}

    def endless(self, prompt: str) -> InferenceRequest:
        """A request that goes on for as long as it may, which is long."""
        return InferenceRequest(prompt=prompt, max_tokens=128, sampling=SamplingParams(temperature=0.0))

    @contextmanager
    def running(self) -> Iterator[tuple[InferenceEngine, Telling]]:
        """A new engine, and what it tells."""
        with tempfile.TemporaryDirectory() as folder:
            init(telemetry_dir=folder, gpu=False)
            try:
                with self.make_engine() as engine:
                    yield engine, Telling(Path(folder))
            finally:
                shutdown()

    def test_an_answer_has_every_figure_and_its_times_contain_each_other(self) -> None:
        """Queue, prefill and first token lie within the request, and the span says what the result says."""
        with self.running() as (engine, telling):
            results = [engine.generate(self.ask(number)) for number in range(3)]
            spans = telling.requests()
        for result in results:
            span = spans[result.request_id].attributes
            assert result.text
            assert result.input_tokens == span["gen_ai.usage.input_tokens"]
            assert result.output_tokens == span["gen_ai.usage.output_tokens"]
            assert result.queue_ms is not None
            assert result.ttft_ms is not None
            assert result.duration_ms is not None
            prefill_ms = float(span["llamatelemetry.prefill.duration"]) * 1e3
            assert result.queue_ms + prefill_ms <= result.ttft_ms <= result.duration_ms
            assert len(result.itl_ms) == (result.output_tokens or 0) - 1
            assert span["gen_ai.response.finish_reasons"] == (result.finish_reason,)

    def test_a_repeated_prompt_is_served_from_the_cache_and_said_to_be(self) -> None:
        """Cached tokens are some of the prompt's, or none where nothing is kept."""
        with self.running() as (engine, _):
            first, again = (engine.generate(self.ask(4711)) for _ in range(2))
        assert again.input_tokens == first.input_tokens
        if self.caches:
            assert 0 < (again.cached_tokens or 0) < (again.input_tokens or 0)
        else:
            assert not again.cached_tokens

    def test_streams_of_eight_threads_each_get_their_own_answer_and_trace(self) -> None:
        """Deltas put together are the result's text, which is the right one; the trace is the caller's."""
        tracer = trace.get_tracer("test")
        results: dict[int, InferenceResult] = {}
        parents: dict[int, trace.SpanContext] = {}
        with self.running() as (engine, telling):
            questions = self.questions(engine, range(8))

            def call(number: int) -> None:
                with tracer.start_as_current_span(f"caller {number}") as span:
                    parents[number] = span.get_span_context()
                    stream = engine.stream(questions[number][0])
                    text = "".join(delta.text for delta in stream)
                    results[number] = stream.result()
                    assert text == results[number].text

            self._together([partial(call, number) for number in questions])
            spans = telling.spans()
        _check_own(questions, results, parents, spans)

    def test_streams_of_eight_tasks_each_get_their_own_answer_and_trace(self) -> None:
        """The same from asyncio."""
        tracer = trace.get_tracer("test")
        results: dict[int, InferenceResult] = {}
        parents: dict[int, trace.SpanContext] = {}
        with self.running() as (engine, telling):
            questions = self.questions(engine, range(10, 18))

            async def call(number: int) -> None:
                with tracer.start_as_current_span(f"caller {number}") as span:
                    parents[number] = span.get_span_context()
                    stream = engine.astream(questions[number][0])
                    text = "".join([delta.text async for delta in stream])
                    results[number] = await stream.result()
                    assert text == results[number].text

            async def main() -> None:
                await asyncio.gather(*(call(number) for number in questions))

            asyncio.run(main())
            spans = telling.spans()
        _check_own(questions, results, parents, spans)

    def test_a_prompt_too_long_is_one_typed_error_with_both_numbers(self) -> None:
        """Nothing is cut off in silence, and the span has failed."""
        with self.running() as (engine, telling):
            error: BaseException | None = None
            try:
                engine.generate(InferenceRequest(prompt="word " * 2000, max_tokens=4, request_id="long"))
            except ContextOverflowError as raised:
                error = raised
            assert isinstance(error, ContextOverflowError)
            assert error.context_length == engine.info.context_length
            assert (error.prompt_tokens or 0) > 2000
            span = telling.requests()["long"]
        assert span.failed
        assert span.attributes["error.type"] == "ContextOverflowError"

    def test_a_stop_string_ends_the_answer_before_it(self) -> None:
        """Whatever the model says is stopped at a piece of what it said before."""
        with self.running() as (engine, _):
            whole = engine.generate(self.ask(7)).text
            stop = whole[len(whole) // 2 :][:3]
            stopped = engine.generate(replace(self.ask(7), request_id="", stop=stop))
        assert stopped.text == whole[: whole.index(stop)]
        assert stopped.finish_reason == "stop"

    def test_a_cancelled_request_is_out_of_the_way_in_either_phase(self) -> None:
        """Left before its first token or after it, nothing of it is held any more and the next one is served."""
        with self.running() as (engine, telling):
            prompts = {"prefill": "word " * 60, "decode": "Say it again."}
            for phase, prompt in prompts.items():
                stream = engine.stream(self.endless(f"{phase} {prompt}"))
                if phase == "decode":
                    next(stream)
                else:
                    time.sleep(0.05)
                stream.close()
                self._until(lambda: not engine.stats().requests_active)
            assert engine.generate(self.ask(1, max_tokens=2)).output_tokens == 2
            self._until(lambda: not engine.stats().kv_pages_used)
            reasons = [each.attributes["gen_ai.response.finish_reasons"] for each in telling.requests().values()]
        assert sorted(reasons) == [("cancelled",), ("cancelled",), ("length",)]

    def test_requests_of_every_kind_are_all_accounted_for(self) -> None:
        """Answered, cancelled, left or late: each ends in one way and has one span, and nothing stays behind."""
        outcomes: dict[int, str] = {}
        numbers = iter(range(self.callers_requests))
        lock = threading.Lock()
        with self.running() as (engine, telling):

            def call() -> None:
                while True:
                    with lock:
                        number = next(numbers, None)
                    if number is None:
                        return
                    outcomes[number] = _one_of(engine, self.ask(number, 6), _KINDS[number % len(_KINDS)], number)

            self._together([call] * _CALLERS)
            self._until(lambda: not engine.stats().requests_active)
            self._until(lambda: not engine.stats().kv_pages_used)
            assert engine.stats().queue_depth == 0
            spans = telling.requests()
        assert sorted(outcomes) == list(range(self.callers_requests))
        assert len(spans) == self.callers_requests
        for number, outcome in outcomes.items():
            (reason,) = spans[f"request-{number}"].attributes["gen_ai.response.finish_reasons"]
            allowed = {"answered": {"stop", "length"}, "late": {"error"}}
            assert reason in allowed.get(outcome, {"cancelled", "stop", "length"})

    def _together(self, calls: Iterable[Callable[[], None]]) -> None:
        """Runs each in a thread of its own, all at once; what one raises is raised here."""
        failures: list[BaseException] = []

        def guarded(call: Callable[[], None]) -> None:
            try:
                call()
            except BaseException as error:  # noqa: BLE001 - raised again in the test's own thread
                failures.append(error)

        threads = [threading.Thread(target=guarded, args=(call,)) for call in calls]
        for thread in threads:
            thread.start()
        limit = time.monotonic() + self.timeout_s
        for thread in threads:
            thread.join(max(0.0, limit - time.monotonic()))
        for failure in failures:
            raise failure
        assert not any(thread.is_alive() for thread in threads)

    def _until(self, happened: Callable[[], bool]) -> None:
        limit = time.monotonic() + self.timeout_s
        while not happened():
            assert time.monotonic() < limit
            time.sleep(0.01)


def _one_of(engine: InferenceEngine, request: InferenceRequest, kind: str, number: int) -> str:
    """Asks, in one of several ways, and says what became of it."""
    if kind == "deadline":
        request = replace(request, deadline_s=0.05)
    try:
        if kind == "cancel":
            future = engine.submit(request)
            time.sleep(0.01 * (number % 10))
            return "cancelled" if future.cancel() else "answered"
        with engine.stream(request) as stream:
            for _ in stream:
                if kind == "leave":
                    return "left"
            assert stream.result().output_tokens
    except DeadlineExceededError:
        return "late"
    except RequestCancelledError:
        return "left"
    return "answered"


def _check_own(
    questions: Mapping[int, tuple[InferenceRequest, str]],
    results: Mapping[int, InferenceResult],
    parents: Mapping[int, trace.SpanContext],
    spans: tuple[EmittedSpan, ...],
) -> None:
    """Each has the answer to its own question, and a span under its own caller's with the phases under it."""
    assert {number: result.text for number, result in results.items()} == {
        number: text for number, (_, text) in questions.items()
    }
    assert len({result.trace_id for result in results.values()}) == len(results)
    named = {span.attributes.get("llamatelemetry.request.id"): span for span in spans}
    for number, result in results.items():
        span = named[questions[number][0].request_id]
        assert span.trace_id == result.trace_id == trace.format_trace_id(parents[number].trace_id)
        assert span.parent_id == trace.format_span_id(parents[number].span_id)
        phases = sorted((each for each in spans if each.parent_id == span.span_id), key=lambda each: each.start_ns)
        assert [each.name for each in phases] == list(PHASES)
        assert all(one.end_ns == other.start_ns for one, other in pairwise(phases))
