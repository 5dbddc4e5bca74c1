"""Wherever an application generates, its span is the parent, and each context is left by whoever entered it."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from opentelemetry import trace
from transformers import StoppingCriteria, TextIteratorStreamer

PROMPT = torch.tensor([[11, 12, 13]])
OPTIONS = {"attention_mask": torch.ones_like(PROMPT), "max_new_tokens": 3, "do_sample": False}


@pytest.fixture(autouse=True)
def _no_context_is_left_by_another(caplog):
    """A context that is left where it was not entered makes OpenTelemetry log; an abandoned one warn."""
    yield
    gc.collect()
    said = [record.getMessage() for record in caplog.records if record.name.startswith(("llama", "opentelemetry"))]
    assert said == []
    assert not trace.get_current_span().get_span_context().is_valid


@pytest.fixture
def ask(make_tiny):
    """Generates, and says which span was the current one within and which one after."""
    model = make_tiny()

    def call(**options):
        within = set()

        class Looking(StoppingCriteria):
            def __call__(self, input_ids, scores, **kwargs):
                within.add(trace.get_current_span().get_span_context().span_id)
                return torch.zeros(input_ids.shape[0], dtype=torch.bool)

        model.generate(PROMPT, stopping_criteria=[Looking()], **{**OPTIONS, **options})
        [span_id] = within
        return span_id, trace.get_current_span().get_span_context().span_id

    return call


def check(traced, asked):
    """Each was under its own caller's span, current while it ran, and left the caller's current."""
    spans = {span.context.span_id: span for span in traced.inferences()}
    assert len(spans) == len(asked)
    for outer, (within, after) in asked:
        assert spans.pop(within).parent.span_id == after == outer.get_span_context().span_id


def test_threads_have_parents_of_their_own(ask, traced):
    asked = []

    def work(number):
        with traced.tracer.start_as_current_span(f"thread {number}") as outer:
            asked.append((outer, ask()))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    check(traced, asked)


def test_a_thread_without_a_context_begins_a_trace(ask, traced):
    with traced.tracer.start_as_current_span("starting"):
        thread = threading.Thread(target=ask)
        thread.start()
        thread.join()
    assert traced.inference().parent is None


def test_an_executor_that_is_given_a_context_works_under_its_span(ask, traced):
    asked = []
    with ThreadPoolExecutor(2) as executor:
        for number in range(4):
            with traced.tracer.start_as_current_span(f"request {number}") as outer:
                asked.append((outer, executor.submit(contextvars.copy_context().run, ask)))
        asked = [(outer, future.result()) for outer, future in asked]
    check(traced, asked)


async def test_tasks_that_generate_in_threads_have_parents_of_their_own(ask, traced):
    async def request(number):
        with traced.tracer.start_as_current_span(f"task {number}") as outer:
            await asyncio.sleep(0)
            return outer, await asyncio.to_thread(ask)

    check(traced, await asyncio.gather(*map(request, range(4))))


async def test_a_task_that_generates_on_the_loop_leaves_others_alone(ask, traced):
    async def request(number):
        with traced.tracer.start_as_current_span(f"task {number}") as outer:
            await asyncio.sleep(0)
            answer = ask()
            await asyncio.sleep(0)
            return outer, answer

    check(traced, await asyncio.gather(*map(request, range(4))))


async def test_a_task_that_is_cancelled_while_its_thread_generates_has_its_span_all_the_same(ask, traced):
    entered, finished, release = asyncio.Event(), threading.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    class Waiting(TextIteratorStreamer):
        def __init__(self):
            pass

        def put(self, value):
            loop.call_soon_threadsafe(entered.set)
            release.wait(20)

        def end(self):
            finished.set()

    task = asyncio.create_task(asyncio.to_thread(ask, streamer=Waiting()))
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    release.set()
    assert await asyncio.to_thread(finished.wait, 20)
    await loop.shutdown_default_executor()  # It is through with it.
    assert traced.tokens() == [(3, 3, "length")]


def streaming(model, tokenizer):
    """What applications do to stream: they generate in a thread, in the context they are in, and read here."""
    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True)
    generate = contextvars.copy_context().run
    thread = threading.Thread(target=generate, args=(lambda: model.generate(PROMPT, streamer=streamer, **OPTIONS),))
    thread.start()
    yield from streamer
    thread.join()


def test_an_iterator_over_what_a_thread_generates_is_one_stream_under_its_readers_span(tiny, traced):
    with traced.tracer.start_as_current_span("reading") as outer:
        text = "".join(streaming(*tiny))
    made = tiny[0].generate(PROMPT, **OPTIONS)
    assert text == tiny[1].decode(made[0, 3:], skip_special_tokens=True)
    stream = traced.inferences()[0]
    assert stream.attributes["gen_ai.request.stream"] is True
    assert stream.parent.span_id == outer.get_span_context().span_id


def test_a_stream_that_is_abandoned_ends_with_its_generation(tiny, traced):
    reading = streaming(*tiny)
    next(reading)
    reading.close()
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join(20)
    assert traced.tokens() == [(3, 3, "length")]


def test_a_generator_that_generates_may_be_read_anywhere(ask, traced):
    def answers():
        for _ in range(3):
            yield ask()

    reading = answers()
    asked = []
    for number in range(2):
        with traced.tracer.start_as_current_span(f"reading {number}") as outer:
            asked.append((outer, next(reading)))
    with traced.tracer.start_as_current_span("elsewhere") as outer, ThreadPoolExecutor(1) as executor:
        asked.append((outer, executor.submit(contextvars.copy_context().run, next, reading).result()))
    reading.close()
    check(traced, asked)


async def test_an_async_generator_that_is_abandoned_leaves_no_context_behind(ask, traced):
    async def answers():
        with traced.tracer.start_as_current_span("answering"):
            while True:
                yield await asyncio.to_thread(ask)

    async for _ in (reading := answers()):
        break
    await reading.aclose()
    [answering] = [span for span in traced.spans() if span.name == "answering"]
    assert traced.inference().parent.span_id == answering.context.span_id
