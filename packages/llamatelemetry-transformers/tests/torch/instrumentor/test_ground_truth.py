"""Times against those that the model itself notes, of steps that take as long as they are told to.

A busy machine may stop the process anywhere between the two notes of a step, and adds to errors what is
not ours. Ours would be in every call, so the lower quartile of the errors of several calls has to be small.
"""

from __future__ import annotations

import functools
import itertools
import statistics
import time

import pytest
import torch
from transformers import GenerationConfig, TextStreamer, pipeline
from transformers.generation import configuration_utils

PROMPT = torch.tensor([[11, 12, 13]])
SLEEPS_S = (0.03, 0.005, 0.01, 0.003, 0.02, 0.008, 0.004, 0.012)
"""By step; the first one reads the prompt."""
GREEDY = {"max_new_tokens": len(SLEEPS_S), "do_sample": False}
CALLS = 7
ERROR_S = 0.002


class Timed:
    """A model whose steps take as long as they are told to, and that notes when each was done."""

    def __init__(self, model):
        self.model = model
        self.moments = []
        forward = model.forward

        @functools.wraps(forward)
        def step(*args, **kwargs):
            time.sleep(SLEEPS_S[len(self.moments) % len(SLEEPS_S)])
            made = forward(*args, **kwargs)
            self.moments.append(time.monotonic_ns())
            return made

        model.forward = step


@pytest.fixture
def timed(make_tiny):
    return Timed(make_tiny())


@pytest.fixture
def check(timed, traced):
    """Makes the calls, and compares what their spans say with what the model noted."""

    def call(ask):
        errors = {"first": [], "mean": [], "median": [], "longest": []}
        for _ in range(CALLS):
            timed.moments.clear()
            traced.clear()
            begun = time.monotonic_ns()
            ask()
            first, *_, last = moments = timed.moments[: len(SLEEPS_S)]
            gaps = [after - before for before, after in itertools.pairwise(moments)]
            span = traced.inference()
            told = {name.removeprefix("llamatelemetry."): value for name, value in span.attributes.items()}
            assert span.attributes["gen_ai.usage.output_tokens"] == len(SLEEPS_S)
            pairs = {
                "first": (told["time_to_first_token"], first - begun),
                "mean": (told["time_per_output_token"], (last - first) / len(gaps)),
                "median": (told["inter_token_latency.p50"], statistics.median(gaps)),
                "longest": (told["inter_token_latency.max"], max(gaps)),
            }
            for name, (seconds, nanoseconds) in pairs.items():
                errors[name].append(seconds - nanoseconds * 1e-9)
        found = {name: sorted(values, key=abs)[CALLS // 4] for name, values in errors.items()}
        assert {name: error for name, error in found.items() if abs(error) >= ERROR_S} == {}

    return call


def test_a_generations_times_are_those_of_the_models_steps(timed, check):
    check(lambda: timed.model.generate(PROMPT, **GREEDY))


def test_a_streams_times_are_those_of_the_models_steps(timed, tiny_tokenizer, check):
    check(lambda: timed.model.generate(PROMPT, streamer=TextStreamer(tiny_tokenizer), **GREEDY))


def test_a_pipelines_times_are_those_of_the_models_steps(timed, tiny_tokenizer, check):
    ask = pipeline("text-generation", model=timed.model, tokenizer=tiny_tokenizer)
    check(lambda: ask("Name the seven", **GREEDY))


def test_the_times_of_beams_are_those_of_the_models_steps(timed, check):
    check(lambda: timed.model.generate(PROMPT, num_beams=3, **GREEDY))


if hasattr(configuration_utils, "ContinuousBatchingConfig"):  # Before, continuous batching wanted CUDA.

    def test_a_batched_requests_times_are_those_of_the_models_steps(timed, check):
        config = configuration_utils.ContinuousBatchingConfig(
            num_blocks=16, max_batch_tokens=32, use_cuda_graph=False, use_async_batching=False
        )
        with timed.model.continuous_batching_context_manager(
            generation_config=GenerationConfig(eos_token_id=-1, **GREEDY), continuous_batching_config=config
        ) as manager:

            def ask():
                manager.add_request(PROMPT[0].tolist())
                while (result := manager.get_result(timeout=20)) is None or not result.is_finished():
                    pass

            ask()  # The first one makes what the others find.
            check(ask)
