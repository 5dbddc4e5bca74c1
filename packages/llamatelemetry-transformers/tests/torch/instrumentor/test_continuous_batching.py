from __future__ import annotations

import sys
import threading
from contextlib import contextmanager

import pytest
import torch
from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from transformers import GenerationConfig
from transformers.generation.configuration_utils import ContinuousBatchingConfig
from transformers.generation.continuous_batching import ContinuousBatchingManager

import llamatelemetry
from llamatelemetry import InferenceEngine, InferenceRequest
from llamatelemetry.transformers import TransformersBackend
from llamatelemetry.transformers.instrumentor import TransformersInstrumentor

PROMPTS = [[11, 12, 13], [14, 15, 16, 17, 18], [19]]
SIZES = {"num_blocks": 64, "max_batch_tokens": 64}


def configured(sizes, **generation):
    return {
        "generation_config": GenerationConfig(
            **{"do_sample": False, "eos_token_id": -1, "max_new_tokens": 6, **generation}
        ),
        "continuous_batching_config": ContinuousBatchingConfig(use_cuda_graph=False, **sizes),
    }


@contextmanager
def batching(model, sizes=SIZES, **generation):
    with model.continuous_batching_context_manager(**configured(sizes, **generation), timeout=20) as manager:
        yield manager


def results(manager, count):
    """As many ended requests, by name."""
    ended = {}
    while len(ended) < count:
        result = manager.get_result(timeout=20)
        if result is None:
            assert manager.is_running(), "it died"
        elif result.is_finished() or result.error is not None:
            ended[result.request_id] = result
    return ended


class Gate:
    """Holds a model at the beginning of each of its steps until it is opened."""

    def __init__(self, model):
        self.entered = threading.Event()
        self._opened = threading.Event()
        model.register_forward_pre_hook(self._hold)

    def _hold(self, *args):
        self.entered.set()
        assert self._opened.wait(20)

    def open(self):
        self._opened.set()


def test_each_request_is_an_inference_under_the_span_of_whoever_added_it(make_tiny, traced):
    with batching(make_tiny()) as manager:
        for prompt in PROMPTS:
            with traced.tracer.start_as_current_span(f"asking {len(prompt)}"):
                manager.add_request(prompt, max_new_tokens=4 + len(prompt), streaming=len(prompt) == 1)
        results(manager, 3)
    assert traced.tokens() == [(3, 7, "length"), (5, 9, "length"), (1, 5, "length")]
    spans = {span.context.span_id: span.name for span in traced.spans()}
    for span in traced.inferences():
        attributes = span.attributes
        read, made = attributes["gen_ai.usage.input_tokens"], attributes["gen_ai.usage.output_tokens"]
        assert spans[span.parent.span_id] == f"asking {read}"
        assert span.name == "text_completion LlamaForCausalLM"
        assert attributes["gen_ai.request.max_tokens"] == made
        assert attributes.get("gen_ai.request.stream", False) is (read == 1)
        first_s, each_s = (attributes[f"llamatelemetry.time_{name}"] for name in ("to_first_token", "per_output_token"))
        duration_s = (span.end_time - span.start_time) * 1e-9
        assert 0 < first_s < duration_s
        assert first_s + each_s * (made - 1) <= duration_s + 1e-3
        phases = {
            child.name for child in traced.spans() if child.parent and child.parent.span_id == span.context.span_id
        }
        assert {"prefill", "decode"} <= phases


def test_a_whole_batch_is_as_many_inferences_and_its_answers_are_the_same(make_tiny, traced, untraced):
    model = make_tiny()

    def answer():
        made = model.generate_batch(PROMPTS, **configured(SIZES), progress_bar=False)
        return sorted((tuple(one.prompt_ids), tuple(one.generated_tokens)) for one in made.values())

    assert answer() == untraced(answer)
    assert traced.tokens() == []
    answer()
    assert sorted(traced.tokens()) == [(1, 6, "length"), (3, 6, "length"), (5, 6, "length")]


def test_a_manager_of_ones_own_is_observed_as_well(make_tiny, traced):
    model = make_tiny()
    manager = model.init_continuous_batching(**configured(SIZES))
    assert isinstance(manager, ContinuousBatchingManager)
    manager.add_request(PROMPTS[0])  # Before anything runs.
    manager.start()
    results(manager, 1)
    manager.stop(block=True, timeout=20)
    assert traced.tokens() == [(3, 6, "length")]


def test_a_request_that_waits_says_for_how_long(make_tiny, traced):
    model = make_tiny()
    gate = Gate(model)
    with batching(model, {**SIZES, "max_batch_tokens": 4}) as manager:
        manager.add_request(PROMPTS[0])
        assert gate.entered.wait(20)
        manager.add_request(PROMPTS[1])
        gate.open()
        results(manager, 2)
    assert traced.tokens() == [(3, 6, "length"), (5, 6, "length")]
    second = traced.inferences()[1]
    [queue] = [
        span for span in traced.spans() if span.name == "queue" and span.parent.span_id == second.context.span_id
    ]
    assert queue.start_time == second.start_time
    assert queue.end_time - queue.start_time > 0


def test_a_request_that_comes_to_the_ending_token_has_stopped(make_tiny, traced):
    model = make_tiny()
    with batching(model) as manager:
        manager.add_request(PROMPTS[0])
        [made] = results(manager, 1).values()
    end = made.generated_tokens[2]
    traced.clear()
    with batching(model, eos_token_id=end) as manager:
        manager.add_request(PROMPTS[0])
        results(manager, 1)
    assert traced.tokens() == [(3, made.generated_tokens.index(end) + 1, "stop")]


def test_requests_that_give_way_to_others_in_a_small_cache_are_counted_whole(make_tiny, traced):
    prompts = [[number + 3] * 20 for number in range(4)]
    with batching(make_tiny(), {"num_blocks": 6, "max_batch_tokens": 64}) as manager:
        for prompt in prompts:
            manager.add_request(prompt, max_new_tokens=60)
        ended = results(manager, 4)
    assert [len(one.generated_tokens) for one in ended.values()] == [60] * 4
    assert traced.tokens() == [(20, 60, "length")] * 4


def test_cancelled_requests_end_as_such_whether_they_run_or_wait(make_tiny, traced):
    model = make_tiny()
    gate = Gate(model)
    with batching(model) as manager:
        running = manager.add_request(PROMPTS[0], max_new_tokens=400)
        assert gate.entered.wait(20)
        waiting = manager.add_request(PROMPTS[1], max_new_tokens=400)
        manager.cancel_request(running)
        manager.cancel_request(waiting)
        gate.open()
        last = manager.add_request(PROMPTS[2])
        assert set(results(manager, 1)) == {last}
    assert [tokens[2] for tokens in traced.tokens()] == ["cancelled", "cancelled", "length"]
    first, second, _ = traced.inferences()
    assert first.attributes["gen_ai.usage.output_tokens"] >= 1
    assert second.attributes.get("gen_ai.usage.output_tokens", 0) == 0
    assert not any("error.type" in span.attributes for span in traced.inferences())


def test_what_breaks_the_batch_ends_every_request_in_it(make_tiny, traced, capsys):
    model, steps = make_tiny(), []

    def breaking(*args):
        steps.append(None)
        if len(steps) == 4:
            raise RuntimeError("no more")

    with batching(model) as manager:
        gate = Gate(model)
        model.register_forward_pre_hook(breaking)
        steps.clear()  # What warmed it up does not count.
        manager.add_request(PROMPTS[0], max_new_tokens=400)
        assert gate.entered.wait(20)
        manager.add_request(PROMPTS[1], max_new_tokens=400)
        gate.open()
        manager._generation_thread.join(20)
    assert [span.attributes.get("error.type") for span in traced.inferences()] == ["RuntimeError"] * 2
    assert [span.status.status_code.name for span in traced.inferences()] == ["ERROR"] * 2


def test_a_request_that_a_stopped_manager_never_came_to_is_ended_with_it(make_tiny, traced):
    manager = make_tiny().init_continuous_batching(**configured(SIZES))
    manager.add_request(PROMPTS[0])
    manager.stop()  # It was not even started.
    assert traced.tokens() == [(3, 0, "cancelled")]


def test_a_manager_may_stop_while_another_is_given_requests(make_tiny, traced, caplog):
    model = make_tiny()
    busy, idle = (model.init_continuous_batching(**configured(SIZES)) for _ in range(2))
    adding = threading.Thread(target=lambda: [busy.add_request(PROMPTS[0]) for _ in range(400)])
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        adding.start()
        while adding.is_alive():
            idle.stop()
    finally:
        sys.setswitchinterval(before)
        adding.join()
    busy.stop()
    assert [record.getMessage() for record in caplog.records if record.name.startswith("llama")] == []
    assert len(traced.inferences()) == 400


def test_what_runs_when_instrumenting_ends_is_ended_too(make_tiny, traced):
    model = make_tiny()
    gate = Gate(model)
    with batching(model) as manager:
        manager.add_request(PROMPTS[0])
        assert gate.entered.wait(20)
        TransformersInstrumentor().uninstrument()
        gate.open()
        [made] = results(manager, 1).values()
    assert len(made.generated_tokens) == 6
    assert [tokens[2] for tokens in traced.tokens()] == ["cancelled"]


def test_instrumentation_that_is_suppressed_sees_nothing(make_tiny, traced):
    with batching(make_tiny()) as manager:
        with suppress_instrumentation():
            manager.add_request(PROMPTS[0])
        results(manager, 1)
    assert traced.spans() == []


def test_generate_that_hands_its_prompts_to_a_batch_makes_no_inference_of_its_own(make_tiny, traced):
    model = make_tiny()
    model.generate(torch.tensor([[11, 12, 13], [14, 15, 16]]), cache_implementation="paged", **configured(SIZES))
    assert sorted(traced.tokens()) == [(3, 6, "length")] * 2


@pytest.mark.parametrize("blocks", [64, 2])
def test_several_answers_to_a_prompt_are_one_request(make_tiny, traced, blocks):
    sizes = {"num_blocks": blocks, "max_batch_tokens": 64}
    with batching(make_tiny(), sizes, num_return_sequences=3, do_sample=True, max_new_tokens=8) as manager:
        manager.add_request(PROMPTS[0])
        results(manager, 3)
    assert traced.tokens() == [(3, 24, "length")]
    assert traced.reasons() == [("length", "length", "length")]
    assert traced.inference().attributes["gen_ai.request.choice.count"] == 3


def test_each_of_several_answers_has_a_reason_of_its_own(make_tiny, traced):
    torch.manual_seed(0)
    asked = {"num_return_sequences": 12, "do_sample": True, "max_new_tokens": 3, "eos_token_id": list(range(2, 40))}
    with batching(make_tiny(), **asked) as manager:
        manager.add_request(PROMPTS[0], request_id="one")
        answers = results(manager, 12)
    names = ["one", *(f"one__child#{number}" for number in range(11))]
    expected = tuple("stop" if 2 <= answers[name].generated_tokens[-1] < 40 else "length" for name in names)
    assert {"stop", "length"} == set(expected)
    assert traced.reasons() == [expected]


@pytest.mark.parametrize("cancelled", [0, 1, 2])
def test_of_several_answers_one_may_be_cancelled_and_the_others_go_on(make_tiny, traced, cancelled):
    model = make_tiny()
    with batching(model, num_return_sequences=3, do_sample=True, max_new_tokens=30) as manager:
        names = ["one", "one__child#0", "one__child#1"]
        three_steps, go_on, steps = threading.Event(), threading.Event(), []

        def wait(*args):
            steps.append(None)
            if len(steps) == 4:
                three_steps.set()
                assert go_on.wait(20)

        model.register_forward_pre_hook(wait)
        manager.add_request(PROMPTS[0], request_id="one")
        assert three_steps.wait(20)
        manager.cancel_request(names[cancelled])
        go_on.set()
        assert set(results(manager, 2)) == {*names} - {names[cancelled]}
    [reasons] = traced.reasons()
    assert reasons == tuple("cancelled" if number == cancelled else "length" for number in range(3))
    assert 60 <= traced.attributes()["gen_ai.usage.output_tokens"] <= 64


@pytest.mark.parametrize("batched", [True, False])
def test_our_engine_over_the_instrumented_library_makes_one_inference(tiny, traced, batched):
    ours = InMemorySpanExporter()
    llamatelemetry.init(exporters="none", gpu=False, span_processors=[SimpleSpanProcessor(ours)])
    try:
        with InferenceEngine(TransformersBackend(*tiny, slots=2, page_size=16, batching=batched)) as engine:
            engine.generate(InferenceRequest(prompt="Name the seven", max_tokens=4))
            assert len(list(engine.stream(InferenceRequest(prompt="dog", max_tokens=3)))) >= 3
        llamatelemetry.flush()
    finally:
        llamatelemetry.shutdown()
    assert traced.spans() == []
    made = [span.attributes.get("gen_ai.usage.output_tokens") for span in ours.get_finished_spans()]
    assert [tokens for tokens in made if tokens is not None] == [4, 3]
