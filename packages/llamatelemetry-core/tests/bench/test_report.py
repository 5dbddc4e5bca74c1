from __future__ import annotations

import json
import threading
from dataclasses import replace

import pytest

from llamatelemetry.backends.echo import EchoBackend, EchoScript
from llamatelemetry.backends.protocol import ModelInfo, StreamEnd
from llamatelemetry.bench.intervals import mean_of, median_of
from llamatelemetry.bench.load import DEFAULT_PROMPTS, Load, Sent, send
from llamatelemetry.bench.report import measure, report_of
from llamatelemetry.clock import ManualClock
from llamatelemetry.errors import BackendResponseError, InvalidValueError
from llamatelemetry.inference.engine import InferenceEngine
from llamatelemetry.inference.result import InferenceResult

INFO = ModelInfo(model="m", provider="echo", quantization="Q4_0")
RESULT = InferenceResult(text="", finish_reason="stop", request_id="r", input_tokens=10, output_tokens=20)
FEW = Load(prompts=["one two", "three four five"], warmup=0)


class Watched(EchoBackend):
    """Notes what it was asked, and how much of it at once."""

    def __init__(self, **options) -> None:
        super().__init__(**options)
        self.asked: list[str] = []
        self.at_once = self.most = 0
        self._counting = threading.Lock()

    def stream(self, request, placement):
        with self._counting:
            self.asked.append(request.prompt or request.messages[0]["content"])
            self.at_once += 1
            self.most = max(self.most, self.at_once)
        for item in super().stream(request, placement):
            if isinstance(item, StreamEnd):
                with self._counting:
                    self.at_once -= 1
            yield item


@pytest.mark.parametrize(("concurrency", "chat"), [(1, True), (3, False)])
def test_no_more_are_in_flight_than_the_load_says_and_each_prompt_is_new(concurrency, chat):
    backend = Watched(script=EchoScript(prefill_s=0.005), slots=8)
    seen = []
    with InferenceEngine(backend) as engine:
        load = Load(rounds=2, concurrency=concurrency, warmup=1, chat=chat)
        sent = send(engine, load, on_progress=lambda *told: seen.append(told))

    assert len(sent.results) == load.requests == 2 * len(DEFAULT_PROMPTS)
    assert backend.most <= concurrency
    assert len(set(backend.asked)) == load.requests + 1
    assert seen == [(number, load.requests) for number in range(1, load.requests + 1)]


def test_figures_are_those_of_the_records_on_the_engines_clock():
    clock = ManualClock()
    script = EchoScript(tokens=["a"] * 11, prefill_s=0.5, per_token_s=0.1)
    with InferenceEngine(EchoBackend(script, slots=1, clock=clock.clock), clock=clock.clock) as engine:
        report = measure(engine, FEW, clock=clock.clock)

    assert report.ttft_ms.value == pytest.approx(500)
    assert report.ttft_p95_ms == pytest.approx(500)
    assert report.tpot_ms.value == pytest.approx(100)
    assert report.decode_tps.value == pytest.approx(10)
    # Three words and four, the number in front counted, in half a second each.
    assert report.prefill_tps.value == pytest.approx((3 + 4) / 2 / 0.5)
    assert report.throughput_tps == pytest.approx(22 / 3.0)
    assert (report.requests, report.input_tokens, report.output_tokens, report.cached_tokens) == (2, 7, 22, 0)
    assert report.energy_j is None
    assert json.loads(json.dumps(report.to_data()))["ttft_ms"] == {
        "value": 500.0,
        "low": None,
        "high": None,
        "count": 2,
    }


def test_what_one_request_does_not_know_the_sum_does_not_know():
    results = (RESULT, replace(RESULT, output_tokens=None))

    report = report_of(Sent(results=results, wall_s=2.0), INFO, FEW)

    assert (report.input_tokens, report.output_tokens, report.throughput_tps) == (20, None, None)
    assert (report.ttft_ms, report.ttft_p95_ms, report.decode_tps) == (None, None, None)
    assert (report.model, report.quantization, report.provider) == ("m", "Q4_0", "echo")


def test_a_request_that_fails_ends_the_load():
    script = EchoScript(fail_after=0)
    with InferenceEngine(EchoBackend(script)) as engine, pytest.raises(BackendResponseError):
        measure(engine, replace(FEW, concurrency=2))


@pytest.mark.parametrize(
    ("field", "value"),
    [("prompts", []), ("prompts", "text"), ("rounds", 0), ("concurrency", 0), ("max_tokens", 1), ("warmup", -1)],
)
def test_a_load_that_is_none_is_refused(field, value):
    with pytest.raises(InvalidValueError, match=field):
        Load(**{field: value})


def test_an_interval_holds_the_mean_of_what_was_drawn_from_about_as_often_as_it_says():
    from random import Random

    draw = Random(5)
    held = 0
    for _ in range(60):
        estimate = mean_of([draw.gauss(10, 2) for _ in range(20)])
        held += estimate.low <= 10 <= estimate.high
    # 95 in a hundred; with twenty measurements the bootstrap is a little too sure of itself.
    assert 48 <= held <= 60


def test_few_measurements_have_no_interval_and_none_have_no_figure():
    assert mean_of([]) is None
    assert median_of([None]) is None
    few = median_of([3.0, None, 1.0, 2.0])
    assert (few.value, few.low, few.high, few.count) == (2.0, None, None, 3)
    enough = [1.0, 2.0, 3.0, 4.0, 5.0]
    assert mean_of(enough) == mean_of(enough)
