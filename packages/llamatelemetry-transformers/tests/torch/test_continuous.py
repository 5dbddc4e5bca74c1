"""A running batch over transformers' paged cache, on a model with random weights."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import ContinuousBatchingConfig, GenerationConfig

from llamatelemetry.errors import (
    BackendConnectionError,
    BackendError,
    BackendResponseError,
    OutOfMemoryError,
    StreamInterruptedError,
)
from llamatelemetry.transformers import continuous
from llamatelemetry.transformers.continuous import BatchLayout, BatchRun, ContinuousBatch
from llamatelemetry.transformers.logprobs import Logprobs
from llamatelemetry.transformers.runs import Task
from llamatelemetry.transformers.sampling import Sampling, draw, penalise

PROMPT = [5, 9, 17, 200, 31]
LONG = [(7 * n) % 300 + 3 for n in range(100)]

Batches = Callable[..., ContinuousBatch]


def task_of(prompt: list[int] | None = None, *, tokens: int = 8, eos: set[int] = frozenset(), **sampling) -> Task:
    prompt = PROMPT if prompt is None else prompt
    return Task(prompt=prompt, max_tokens=tokens, sampling=Sampling(**sampling), eos=frozenset(eos))


def layout_of(**sizes: int) -> BatchLayout:
    return BatchLayout(**{"slots": 4, "page_size": 4, "num_blocks": 64, "max_batch_tokens": 64, **sizes})


@pytest.fixture
def batches() -> Iterator[Batches]:
    """Starts batches and ends them."""
    started: list[ContinuousBatch] = []

    def start(model: Any, **sizes: int) -> ContinuousBatch:
        started.append(ContinuousBatch(model, layout_of(**sizes)))
        return started[-1]

    yield start
    for batch in started:
        batch.close()


@pytest.fixture
def batch(tiny, batches) -> ContinuousBatch:
    return batches(tiny[0])


def answer(model: Any, task: Task) -> list[int]:
    """The tokens of a request by itself, by whole forward passes."""
    sequence, sampling = list(task.prompt), task.sampling
    for made in range(task.max_tokens):
        with torch.no_grad():
            logits = model(torch.tensor([sequence])).logits[:, -1]
        penalise(logits[0], task.prompt, sequence[len(task.prompt) :], sampling)
        drawn = draw(logits, [sampling], [len(task.prompt) + made]) if sampling.temperature else logits.argmax(-1)
        sequence.append(int(drawn))
    return sequence[len(task.prompt) :]


def greedy(model: Any, prompt: list[int], tokens: int) -> list[int]:
    """The likeliest tokens."""
    return answer(model, task_of(prompt, tokens=tokens))


class Gate:
    """Holds a batch at the beginning of its forward passes, and lets one through at a time."""

    def __init__(self, model: Any) -> None:
        self.entered = threading.Semaphore(0)
        self.passes = threading.Semaphore(0)
        self.is_open = False
        self._handle = model.register_forward_pre_hook(self._hold)

    def _hold(self, *_args: Any) -> None:
        if threading.current_thread() is threading.main_thread():
            return
        self.entered.release()
        while not self.is_open and not self.passes.acquire(timeout=0.01):
            pass

    def remove(self) -> None:
        self.is_open = True
        self._handle.remove()


@pytest.fixture
def gate(tiny) -> Iterator[Gate]:
    gate = Gate(tiny[0])
    yield gate
    gate.remove()


def settle(batch: ContinuousBatch, run: BatchRun) -> None:
    """Waits until the batch has done what was asked of it before: another request is through."""
    run.close()
    after = batch.run(task_of([3], tokens=1))
    list(after.feed)
    after.close()


def test_requests_in_one_batch_get_the_tokens_that_they_would_get_alone(tiny, batch):
    prompts = [PROMPT, LONG[:40], [9], PROMPT[:3]]
    runs = [batch.run(task_of(prompt, tokens=tokens)) for prompt, tokens in zip(prompts, (8, 5, 12, 1), strict=True)]
    for run, prompt, tokens in zip(runs, prompts, (8, 5, 12, 1), strict=True):
        assert list(run.feed) == greedy(tiny[0], prompt, tokens)
        run.close()


@given(
    st.lists(
        st.tuples(st.lists(st.integers(3, 299), min_size=1, max_size=30), st.integers(1, 10), st.integers(0, 12)),
        min_size=1,
        max_size=6,
    )
)
@settings(deadline=None, max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whoever_comes_and_goes_tokens_are_right_and_no_page_stays(tiny, batch, asked):
    runs = [(batch.run(task_of(prompt, tokens=tokens)), prompt, tokens, leave) for prompt, tokens, leave in asked]
    for run, prompt, tokens, leave in runs:
        expected = greedy(tiny[0], prompt, tokens)
        read = []
        for token in run.feed:
            read.append(token)
            if len(read) == leave:
                run.stop()
        assert read == expected[: leave or tokens]
        run.close()
    settle(batch, run)
    assert batch.state().used == 0
    assert batch.state().shared == 0
    assert not batch.watch._holdings


def test_more_requests_than_slots_wait_for_their_turn(tiny, batches):
    batch = batches(tiny[0], slots=2)
    runs = [batch.run(task_of(tokens=6)) for _ in range(5)]
    assert [list(run.feed) for run in runs] == [greedy(tiny[0], PROMPT, 6)] * 5


def test_an_end_token_ends_a_request_even_as_its_first(tiny, batch):
    expected = greedy(tiny[0], PROMPT, 8)
    for end in (expected[0], expected[4]):
        assert list(batch.run(task_of(eos={end, 1})).feed) == expected[: expected.index(end) + 1]


def test_a_prompt_longer_than_a_step_takes_several(tiny, batches):
    batch = batches(tiny[0], max_batch_tokens=16)
    assert list(batch.run(task_of(LONG, tokens=4)).feed) == greedy(tiny[0], LONG, 4)


def test_more_slots_than_tokens_in_a_step_are_as_many_as_it_can_fill(tiny, batches):
    batch = batches(tiny[0], slots=8, max_batch_tokens=3)
    runs = [batch.run(task_of(tokens=4)) for _ in range(6)]
    assert [list(run.feed) for run in runs] == [greedy(tiny[0], PROMPT, 4)] * 6


def test_moments_are_on_the_clock_of_everything_else(batch):
    run = batch.run(task_of())
    list(run.feed)
    assert run.feed.started_ns <= run.feed.first_ns <= run.feed.last_ns
    assert run.admission_wait_ms is not None
    assert 0 <= run.admission_wait_ms < 10_000


def test_each_request_is_drawn_by_its_own_rules_in_any_company(tiny, batch):
    tasks = [
        task_of(tokens=12, temperature=1.0, top_p=0.95, seed=1),
        task_of(tokens=12, presence_penalty=0.2, frequency_penalty=0.1),
        task_of(tokens=12),
        task_of(LONG[:30], tokens=12, temperature=0.7, top_k=9, repeat_penalty=1.4, seed=2),
    ]
    expected = [answer(tiny[0], task) for task in tasks]
    for order in (tasks, tasks[::-1], tasks[1:], tasks[:1]):
        runs = [batch.run(task) for task in order]
        assert [list(run.feed) for run in runs] == [expected[tasks.index(task)] for task in order]


def test_a_request_that_begins_anew_goes_on_with_its_own_rules(tiny, batches):
    batch = batches(tiny[0], num_blocks=8)
    wishes = {"temperature": 1.0, "repeat_penalty": 1.3, "frequency_penalty": 0.2}
    tasks = [task_of([seed + 3], tokens=28, seed=seed, **wishes) for seed in range(2)]
    expected = [answer(tiny[0], task) for task in tasks]
    assert [list(run.feed) for run in [batch.run(task) for task in tasks]] == expected


def test_a_request_that_begins_anew_still_says_how_likely_all_its_tokens_were(tiny, batches):
    batch = batches(tiny[0], num_blocks=8)
    asked = [replace(task_of([seed + 3], tokens=28), logprobs=Logprobs(0)) for seed in range(2)]
    for task, run in [(task, batch.run(task)) for task in asked]:
        tokens = list(run.feed)
        assert [each["id"] for each in task.logprobs.told(28, str)] == tokens


def test_the_pages_of_a_prompt_serve_the_next_one_that_begins_alike(tiny, batch):
    prompt = LONG[:21]
    first = batch.run(task_of(prompt, tokens=2))
    assert list(first.feed) == greedy(tiny[0], prompt, 2)
    assert first.cached_tokens == 0
    again = batch.run(task_of(prompt, tokens=2))
    assert list(again.feed) == greedy(tiny[0], prompt, 2)
    assert again.cached_tokens == 20
    assert again.report() == first.report()


def test_pages_that_two_hold_are_shared_and_counted_once(batch, gate):
    prompt = LONG[:21]
    first, second = batch.run(task_of(prompt, tokens=9)), None
    gate.entered.acquire()
    gate.passes.release()
    gate.entered.acquire()
    # It has had its first token, and its second is under way.
    assert batch.state().used == 6
    assert batch.state().shared == 0
    second = batch.run(task_of(prompt, tokens=9))
    gate.passes.release()
    gate.entered.acquire()
    # 23 tokens and 21, of which 20 are the same.
    assert batch.state().shared == 5
    assert batch.state().used == 7
    gate.is_open = True
    assert len(list(first.feed)) == len(list(second.feed)) == 9
    assert (first.report().pages, second.report().pages) == (8, 8)


def test_a_request_that_leaves_gives_its_pages_back(batch):
    run = batch.run(task_of(tokens=200))
    tokens = iter(run.feed)
    next(tokens)
    assert batch.state().used > 0
    run.stop()
    assert list(tokens) == []
    settle(batch, run)
    assert batch.state().used == 0


def test_a_request_leaves_from_wherever_it_is(batch, gate):
    held = batch.run(task_of(tokens=100))
    gate.entered.acquire()
    waiting = [batch.run(task_of(tokens=100)) for _ in range(6)]
    for run in waiting:
        run.close()
        assert list(run.feed) == []
    gate.is_open = True
    settle(batch, held)
    assert batch.state().used == 0
    assert not batch._outlet.runs


def test_a_wish_to_leave_that_comes_before_the_request_itself_is_not_lost(batch, gate):
    """The batch empties the queue of requests first and that of cancellations then: both may come in between."""
    held = batch.run(task_of(tokens=100))
    gate.entered.acquire()
    processor = batch._manager.batch_processor

    class LastMoment:
        def __init__(self, queue: Any) -> None:
            self.queue = queue
            self.run: BatchRun | None = None

        def empty(self) -> bool:
            if self.run is None and self.queue.empty():
                self.run = batch.run(task_of(LONG[:9], tokens=150))
                self.run.close()
                return True
            return self.queue.empty()

        def get_nowait(self) -> Any:
            return self.queue.get_nowait()

    processor.input_queue = late = LastMoment(processor.input_queue)
    for _ in range(6):
        gate.passes.release()
        gate.entered.acquire()
    assert late.run is not None
    assert late.run.name not in processor.scheduler.active_requests
    held.close()


def test_two_that_outgrow_the_cache_together_are_both_answered(tiny, batches):
    batch = batches(tiny[0], num_blocks=8)
    runs = [batch.run(task_of([seed + 3], tokens=28)) for seed in range(2)]
    for seed, run in enumerate(runs):
        assert list(run.feed) == greedy(tiny[0], [seed + 3], 28)
    assert batch.state().used == 0


def test_one_that_lost_its_place_goes_on_when_the_other_leaves(tiny, batches):
    batch = batches(tiny[0], num_blocks=8)
    scheduler = batch._manager.batch_processor.scheduler
    runs = [batch.run(task_of([seed + 3], tokens=28)) for seed in range(2)]
    feeds = [iter(run.feed) for run in runs]
    read: list[list[int]] = [[], []]
    # Until one has to wait for room.
    while not scheduler.block_new_requests and len(read[0]) < 27:
        for tokens, feed in zip(read, feeds, strict=True):
            if not scheduler.block_new_requests:
                tokens.append(next(feed))
    waiting = next(index for index in (0, 1) if runs[index].name in scheduler.waiting_requests)
    runs[1 - waiting].close()
    read[waiting].extend(feeds[waiting])
    assert read[waiting] == greedy(tiny[0], [waiting + 3], 28)


@pytest.mark.parametrize(
    ("task", "reason"),
    [
        (task_of(LONG), "100 tokens of the prompt and 8 more"),
        (task_of([3], tokens=33), "1 tokens of the prompt and 33 more"),
    ],
)
def test_what_would_end_the_batch_for_everybody_is_refused(tiny, batches, task, reason):
    batch = batches(tiny[0], num_blocks=8)
    running = batch.run(task_of(tokens=20))
    with pytest.raises(BackendResponseError, match=reason):
        batch.run(task)
    assert list(running.feed) == greedy(tiny[0], PROMPT, 20)
    assert batch.is_running
    assert list(batch._outlet.runs) == [running.name]


def test_a_request_may_fill_the_whole_cache(tiny, batches):
    batch = batches(tiny[0], num_blocks=8)
    assert batch.capacity == 32
    # The last token is told and not kept.
    assert list(batch.run(task_of([3], tokens=32)).feed) == greedy(tiny[0], [3], 32)
    assert len(list(batch.run(task_of([4], tokens=32)).feed)) == 32
    assert list(batch.run(task_of(LONG[:32], tokens=1)).feed) == greedy(tiny[0], LONG[:32], 1)


def test_closing_ends_every_request_with_an_error_and_the_thread(tiny, batch, gate):
    runs = [batch.run(task_of(tokens=100)) for _ in range(6)]
    gate.entered.acquire()
    gate.is_open = True
    batch.close()
    batch.close()
    for run in runs:
        with pytest.raises(StreamInterruptedError, match="the batch ended"):
            list(run.feed)
        run.close()
    assert not batch.is_running
    with pytest.raises(BackendConnectionError, match="a new batch has to be started"):
        batch.run(task_of())
    assert not batch._outlet.runs
    gate.remove()
    assert len(greedy(tiny[0], PROMPT, 1)) == 1


def test_closing_waits_for_a_step_and_not_for_ever(batch, gate, monkeypatch):
    monkeypatch.setattr(continuous, "_STOP_S", 0.05)
    run = batch.run(task_of())
    gate.entered.acquire()
    thread = batch._manager._generation_thread
    closing = threading.Thread(target=batch.close)
    closing.start()
    closing.join(10)
    was_closed = not closing.is_alive()
    gate.is_open = True
    thread.join(10)
    closing.join(10)
    assert was_closed
    with pytest.raises(BackendError):
        list(run.feed)


def test_a_batch_that_nobody_has_any_more_leaves_no_thread_and_no_cache(tiny):
    batch = ContinuousBatch(tiny[0], layout_of())
    thread = batch._manager._generation_thread
    cache = weakref.ref(batch._manager.batch_processor.cache)
    list(batch.run(task_of()).feed)
    gc.collect()
    gc.disable()
    try:
        del batch
        thread.join(10)
        assert not thread.is_alive()
        assert cache() is None
    finally:
        gc.enable()


def test_a_step_that_fails_ends_the_batch_and_says_so_to_everybody(tiny, batch, gate):
    runs = [batch.run(task_of()) for _ in range(3)]
    gate.entered.acquire()

    def fail(*_args: Any) -> None:
        raise ValueError("a bad step")

    handle = tiny[0].register_forward_pre_hook(fail)
    gate.is_open = True
    for run in runs:
        with pytest.raises(StreamInterruptedError, match="a bad step"):
            list(run.feed)
        run.close()
    handle.remove()
    assert not batch.is_running
    assert batch.state().used == 0
    with pytest.raises(BackendConnectionError):
        batch.run(task_of())


def test_memory_that_runs_out_in_a_step_is_told_as_what_it_is(tiny, batch):
    handle = tiny[0].register_forward_pre_hook(lambda *_args: torch.empty(2**50, dtype=torch.uint8) and None)
    with pytest.raises(OutOfMemoryError, match="cpu ran out of memory while it generated"):
        list(batch.run(task_of()).feed)
    handle.remove()


@pytest.mark.parametrize(
    ("error", "kind", "told"),
    [
        # Python's own has no words to know it by.
        (MemoryError(), OutOfMemoryError, "cpu ran out of memory while it generated"),
        # A stand-in for whatever a model's code raises without words: only its kind can be told.
        (NotImplementedError(), StreamInterruptedError, "the batch ended: NotImplementedError"),
    ],
    ids=["memory", "any other"],
)
def test_a_step_that_fails_without_a_word_is_told_by_its_kind(tiny, batch, error, kind, told):
    def fail(*_args: Any) -> None:
        raise error

    handle = tiny[0].register_forward_pre_hook(fail)
    with pytest.raises(kind, match=told):
        list(batch.run(task_of()).feed)
    handle.remove()


def test_a_model_is_given_back_with_the_attention_that_it_had(make_tiny, batches):
    model = make_tiny(attn_implementation="eager")
    batch = batches(model)
    assert list(batch.run(task_of()).feed) == greedy(make_tiny(), PROMPT, 8)
    batch.close()
    assert model.config._attn_implementation == "eager"
    assert greedy(model, PROMPT, 8) == greedy(make_tiny(), PROMPT, 8)


def test_a_cache_that_has_no_room_is_told_as_that_and_changes_nothing(make_tiny):
    model = make_tiny(attn_implementation="eager")
    with pytest.raises(OutOfMemoryError, match="while its KV cache was made: give a smaller"):
        ContinuousBatch(model, layout_of(num_blocks=2**40))
    assert model.config._attn_implementation == "eager"


def test_a_batch_that_cannot_be_made_changes_nothing(make_tiny):
    model = make_tiny(attn_implementation="eager")
    with pytest.raises(ValueError, match="page_size"):
        ContinuousBatch(model, layout_of(page_size=1))
    assert model.config._attn_implementation == "eager"


def test_two_batches_of_one_model_do_not_disturb_each_other(make_tiny, batches):
    model = make_tiny(attn_implementation="eager")
    first, second = batches(model), batches(model)
    first.close()
    assert list(second.run(task_of()).feed) == greedy(make_tiny(), PROMPT, 8)
    second.close()
    assert model.config._attn_implementation == "eager"


def test_another_thread_may_use_the_model_meanwhile(tiny, batch):
    question = torch.tensor([LONG])
    with torch.no_grad():
        expected = tiny[0](question).logits
    # There the model has been told all that a step tells it.
    gate = Gate(tiny[0].model.layers[0])
    run = batch.run(task_of())
    gate.entered.acquire()
    with torch.no_grad():
        meanwhile = tiny[0](question).logits
    gate.remove()
    assert torch.equal(meanwhile, expected)
    assert list(run.feed) == greedy(tiny[0], PROMPT, 8)


def test_a_manager_that_the_application_keeps_with_its_model_stays_its_own(tiny, batches, monkeypatch):
    model = tiny[0]
    # Its progress bar has a thread that stays.
    monkeypatch.setattr("tqdm.tqdm.monitor_interval", 0)
    ask = partial(
        model.generate_batch,
        [PROMPT],
        generation_config=GenerationConfig(max_new_tokens=4, eos_token_id=-1),
        continuous_batching_config=ContinuousBatchingConfig(page_size=8, num_blocks=16, max_batch_tokens=32),
        persistent_manager=True,
    )
    [before] = ask().values()
    batch = batches(model)
    assert list(batch.run(task_of()).feed) == greedy(model, PROMPT, 8)
    batch.close()
    [after] = ask().values()
    assert after.generated_tokens == before.generated_tokens == greedy(model, PROMPT, 4)
    model.destroy_cached_continuous_batching_manager()
