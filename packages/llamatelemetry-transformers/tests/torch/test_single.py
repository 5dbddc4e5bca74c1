"""Plain ``generate`` behind a run, on models with random weights."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from transformers import T5Config, T5ForConditionalGeneration

from llamatelemetry.errors import BackendError, BackendResponseError, OutOfMemoryError
from llamatelemetry.transformers.runs import Task
from llamatelemetry.transformers.sampling import Sampling
from llamatelemetry.transformers.single import SingleGenerator, SingleRun

PROMPT = [5, 9, 17, 200, 31]


def task_of(prompt: list[int] | None = None, *, tokens: int = 8, eos: set[int] = frozenset(), **sampling) -> Task:
    return Task(prompt=prompt or PROMPT, max_tokens=tokens, sampling=Sampling(**sampling), eos=frozenset(eos))


@pytest.fixture
def generators() -> Iterator[Callable[[Any], SingleGenerator]]:
    made: list[SingleGenerator] = []

    def make(model: Any) -> SingleGenerator:
        made.append(SingleGenerator(model))
        return made[-1]

    yield make
    for generator in made:
        generator.close()


@pytest.fixture
def generator(tiny, generators) -> SingleGenerator:
    return generators(tiny[0])


def greedy(model: Any, prompt: list[int], tokens: int) -> list[int]:
    """The likeliest tokens, by whole forward passes."""
    sequence = list(prompt)
    for _ in range(tokens):
        with torch.no_grad():
            sequence.append(int(model(torch.tensor([sequence])).logits[0, -1].argmax()))
    return sequence[len(prompt) :]


class Gate:
    """Holds a model at the beginning of its forward passes."""

    def __init__(self, model: Any) -> None:
        self.entered = threading.Semaphore(0)
        self.open = threading.Event()
        self.passes = 0
        self._handle = model.register_forward_pre_hook(self._hold)

    def _hold(self, *_args: Any) -> None:
        self.passes += 1
        self.entered.release()
        self.open.wait(30)

    def remove(self) -> None:
        self.open.set()
        self._handle.remove()


@pytest.fixture
def gate(tiny) -> Iterator[Gate]:
    gate = Gate(tiny[0])
    yield gate
    gate.remove()


def test_it_makes_the_likeliest_tokens(tiny, generator):
    run = generator.run(task_of())
    assert list(run.feed) == greedy(tiny[0], PROMPT, 8)
    assert run.cached_tokens == 0
    assert run.report() is None
    assert run.admission_wait_ms is not None
    assert run.feed.started_ns <= run.feed.first_ns <= run.feed.last_ns


def test_a_seed_says_all_of_what_is_drawn(generator):
    def drawn(seed: int) -> list[int]:
        torch.rand(seed + 1)  # the generator that all share is somewhere else each time
        return list(generator.run(task_of(temperature=1.0, top_p=0.95, seed=seed)).feed)

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)


def test_penalties_reach_the_model(generator):
    tokens = list(generator.run(task_of(tokens=20, presence_penalty=100.0)).feed)
    assert len(set(tokens)) == 20
    assert not set(PROMPT) & set(generator.run(task_of(tokens=20, repeat_penalty=1e6)).feed)


def test_an_end_token_ends_it_and_is_told(tiny, generator):
    expected = greedy(tiny[0], PROMPT, 8)
    end = expected[3]
    assert list(generator.run(task_of(eos={end})).feed) == expected[: expected.index(end) + 1]


def test_one_token_is_one_token(tiny, generator):
    assert list(generator.run(task_of(tokens=1)).feed) == greedy(tiny[0], PROMPT, 1)


def test_what_the_models_makers_set_up_for_generate_is_not_done_a_second_time(tiny, generators):
    model = tiny[0]
    expected = greedy(model, PROMPT, 8)
    for name, value in {
        "eos_token_id": expected[2],
        "stop_strings": ["x"],
        "max_time": 1e-9,
        "max_length": 6,
        "penalty_alpha": 0.6,
        "top_k": 4,
        "prompt_lookup_num_tokens": 3,
        "repetition_penalty": 1.7,
        "do_sample": True,
        "temperature": 0.3,
        "num_beams": 3,
        "num_return_sequences": 2,
    }.items():
        setattr(model.generation_config, name, value)
    assert list(generators(model).run(task_of()).feed) == expected


def test_what_only_generate_can_do_is_done(tiny, generators):
    model = tiny[0]
    first = greedy(model, PROMPT, 1)
    model.generation_config.suppress_tokens = first
    assert list(generators(model).run(task_of(tokens=1)).feed) != first


def test_the_models_own_configuration_stays_as_it_is(tiny, generator):
    before = tiny[0].generation_config.to_dict()
    list(generator.run(task_of(eos={4}, temperature=1.0)).feed)
    assert tiny[0].generation_config.to_dict() == before


def test_one_request_runs_at_a_time_and_the_next_one_says_how_long_it_waited(generator, gate):
    first = generator.run(task_of(tokens=2))
    gate.entered.acquire()
    second = generator.run(task_of(tokens=2))
    assert second.admission_wait_ms is None
    gate.open.set()
    assert len(list(first.feed)) == 2
    assert len(list(second.feed)) == 2
    assert gate.passes == 4
    assert second.admission_wait_ms > first.admission_wait_ms


def test_a_run_that_is_stopped_ends_after_the_step_that_it_is_in(generator, gate):
    run = generator.run(task_of(tokens=100))
    gate.entered.acquire()
    run.stop()
    run.stop()
    assert list(run.feed) == []
    gate.open.set()
    run.join(10)
    assert gate.passes == 1


def test_a_run_that_is_stopped_before_its_turn_never_begins(generator, gate):
    first = generator.run(task_of(tokens=1))
    gate.entered.acquire()
    second = generator.run(task_of(tokens=1))
    second.close()
    assert list(second.feed) == []
    gate.open.set()
    assert len(list(first.feed)) == 1
    second.join(10)
    assert gate.passes == 1


def test_closing_ends_what_runs_and_what_waits_with_an_error(generator, gate):
    runs = [generator.run(task_of(tokens=100)), generator.run(task_of(tokens=100))]
    gate.entered.acquire()
    gate.open.set()
    generator.close()
    generator.close()
    for run in runs:
        with pytest.raises(BackendError, match="closed while it generated"):
            list(run.feed)
    assert not [thread for thread in threading.enumerate() if thread.name == "llamatelemetry-generate"]


def test_a_failure_is_the_readers_and_the_next_request_has_its_turn(tiny, generator):
    with pytest.raises(BackendResponseError, match="generate failed: IndexError") as caught:
        list(generator.run(task_of([10**6])).feed)
    assert isinstance(caught.value.__cause__, IndexError)
    assert list(generator.run(task_of(tokens=1)).feed) == greedy(tiny[0], PROMPT, 1)


def test_memory_that_runs_out_is_told_as_what_it_is(tiny, generator):
    def run_out(*_args: Any) -> None:
        torch.empty(2**50, dtype=torch.uint8)

    handle = tiny[0].register_forward_pre_hook(run_out)
    with pytest.raises(OutOfMemoryError, match="cpu ran out of memory while it generated: ask with a shorter prompt"):
        list(generator.run(task_of()).feed)
    handle.remove()


def test_it_runs_in_the_context_of_who_asks(tiny, generator):
    name: contextvars.ContextVar[str] = contextvars.ContextVar("name", default="nobody")
    seen: list[str] = []
    handle = tiny[0].register_forward_pre_hook(lambda *_args: seen.append(name.get()))
    token = name.set("asker")
    run: SingleRun = generator.run(task_of(tokens=1))
    name.reset(token)
    list(run.feed)
    handle.remove()
    assert seen == ["asker"]


def test_a_model_with_an_encoder_answers(generators):
    torch.manual_seed(0)
    model = T5ForConditionalGeneration(
        T5Config(
            vocab_size=60,
            d_model=16,
            d_kv=8,
            d_ff=32,
            num_layers=1,
            num_heads=2,
            decoder_start_token_id=0,
            eos_token_id=None,
        )
    ).eval()
    generator = generators(model)
    expected = model.generate(torch.tensor([PROMPT[:3]]), max_new_tokens=6, do_sample=False)[0, 1:].tolist()
    assert list(generator.run(task_of(PROMPT[:3], tokens=6)).feed) == expected
    tokens = list(generator.run(task_of(PROMPT[:3], tokens=6, presence_penalty=100.0)).feed)
    assert len(set(tokens)) == 6
