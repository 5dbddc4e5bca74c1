"""The backend's contract, on models that are batched and on one that is not; and what it alone promises."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator

import pytest
import torch

from llamatelemetry.backends.protocol import CacheReporting, CancelToken, Placement, Restartable, StreamEnd, TokenDelta
from llamatelemetry.backends.request import InferenceRequest, SamplingParams
from llamatelemetry.errors import (
    BackendError,
    BackendStartError,
    ContextOverflowError,
    InvalidRequestError,
    NotSupportedError,
    OutOfMemoryError,
    StreamInterruptedError,
)
from llamatelemetry.testing.contracts import BackendContract
from llamatelemetry.transformers import TransformersBackend

QUESTION = ({"role": "user", "content": "What is the capital of France? Answer in one sentence."},)
GREEDY = SamplingParams(temperature=0.0)


class TestBatched(BackendContract):
    @pytest.fixture(autouse=True)
    def _model(self, tiny):
        self.tiny = tiny

    def make_backend(self) -> TransformersBackend:
        return TransformersBackend(*self.tiny, slots=4, page_size=16, batching=True)


class TestOneByOne(BackendContract):
    @pytest.fixture(autouse=True)
    def _model(self, tiny):
        self.tiny = tiny

    def make_backend(self) -> TransformersBackend:
        return TransformersBackend(*self.tiny, batching=False)


class TestSmolLM(BackendContract):
    @pytest.fixture(autouse=True)
    def _model(self, smollm):
        self.smollm = smollm

    def make_backend(self) -> TransformersBackend:
        return TransformersBackend(*self.smollm, slots=2, context_length=256)


@pytest.fixture
def make_backend(tiny) -> Iterator[Callable[..., TransformersBackend]]:
    """Opens backends over the small model, until the test is over; options go to the backend."""
    opened: list[TransformersBackend] = []

    def make(model=None, tokenizer=None, **options) -> TransformersBackend:
        options = {"slots": 4, "page_size": 16, **options}
        backend = TransformersBackend(model or tiny[0], tokenizer or tiny[1], **options)
        opened.append(backend)
        backend.open()
        return backend

    yield make
    for backend in opened:
        backend.close()


@pytest.fixture(params=[True, False], ids=["batched", "one by one"])
def backend(request, make_backend) -> TransformersBackend:
    """The small model, run in either way."""
    return make_backend(batching=request.param)


def chat(**changes) -> InferenceRequest:
    return InferenceRequest(**{"messages": QUESTION, "max_tokens": 16, "sampling": GREEDY, **changes})


def answer(backend, request, placement=None) -> tuple[str, StreamEnd]:
    *deltas, end = backend.stream(request, Placement() if placement is None else placement)
    assert isinstance(end, StreamEnd)
    return "".join(delta.text for delta in deltas), end


def until(happened: Callable[[], bool]) -> None:
    limit = time.monotonic() + 20
    while not happened():
        assert time.monotonic() < limit
        time.sleep(0.01)


def test_it_says_of_itself_what_it_can(make_backend):
    assert isinstance(make_backend(), CacheReporting)
    assert isinstance(make_backend(), Restartable)


def test_a_question_to_smollm_is_answered_with_every_figure(smollm):
    backend = TransformersBackend(*smollm, slots=2, context_length=256, page_size=16)
    info = backend.open()
    try:
        text, end = answer(backend, chat())
    finally:
        backend.close()
    assert "Paris" in text
    assert end.usage.input_tokens == len(
        smollm[1].apply_chat_template(list(QUESTION), add_generation_prompt=True)["input_ids"]
    )
    assert end.usage.cached_tokens + end.timings.prefill_tokens == end.usage.input_tokens
    assert end.timings.prefill_ms > 0
    assert end.timings.decode_ms > 0
    assert end.raw["admission_wait_ms"] >= 0
    assert (info.architecture, info.parameters, info.quantization) == ("llama", 134_515_008, "float32")
    # 30 layers, 3 KV heads, keys and values of 64 numbers of 4 bytes each
    assert info.kv_bytes_per_token == 30 * 3 * (64 + 64) * 4
    assert (info.provider, info.in_process, info.owned, info.slots) == ("transformers", True, True, 2)
    assert (info.context_length, info.kv_tokens, info.kv_page_size, info.kv_pages_shared) == (256, 512, 16, True)


def test_both_ways_give_the_tokens_that_generate_gives(tiny, make_backend):
    model, tokenizer = tiny
    prompt = torch.tensor([tokenizer("Once upon a time")["input_ids"]])
    with torch.no_grad():
        [tokens] = model.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=24, do_sample=False)
    expected = tokenizer.decode(tokens[prompt.shape[1] :], skip_special_tokens=True)
    request = InferenceRequest(prompt="Once upon a time", max_tokens=24, sampling=GREEDY)
    batched, alone = make_backend(batching=True), make_backend(batching=False)
    assert answer(batched, request)[0] == answer(alone, request)[0] == expected


def test_a_seed_draws_the_same_answer_again_in_either_way(make_backend):
    def drawn(backend, seed):
        return answer(backend, chat(seed=seed, sampling=SamplingParams(temperature=1.5)))[0]

    batched, alone = make_backend(batching=True), make_backend(batching=False)
    assert drawn(batched, 1) == drawn(batched, 1) == drawn(alone, 1)
    assert len({drawn(batched, seed) for seed in range(4)}) > 1


def test_why_it_runs_as_it_does_is_told(make_backend, caplog):
    caplog.set_level("INFO", "llamatelemetry")
    assert make_backend().why_not_batched == ""
    assert make_backend(batching=False).why_not_batched == "batching=False was given"
    assert [record.getMessage() for record in caplog.records if "one continuous batch of 4" in record.getMessage()]


def test_a_model_that_cannot_be_batched_runs_alone_and_says_why(tiny, make_tiny, make_backend, caplog):
    model = make_tiny()
    model.generation_config.no_repeat_ngram_size = 3
    backend = make_backend(model)
    assert backend.open().slots == 1
    assert backend.open().kv_page_size is None
    assert backend.kv_state() is None
    assert "no_repeat_ngram_size" in backend.why_not_batched
    assert [record for record in caplog.records if record.levelname == "WARNING" and "no_repeat" in record.getMessage()]
    with pytest.raises(BackendStartError, match="no_repeat_ngram_size"):
        TransformersBackend(model, tiny[1], batching=True).open()


def test_a_model_given_has_its_attention_back_and_no_thread_is_left(tiny):
    model, tokenizer = tiny
    before, threads = model.config._attn_implementation, threading.active_count()
    backend = TransformersBackend(model, tokenizer, slots=2)
    backend.open()
    answer(backend, chat(max_tokens=2))
    backend.close()
    assert model.config._attn_implementation == before
    assert threading.active_count() == threads
    # And the model can be had again.
    backend.open()
    assert answer(backend, chat(max_tokens=2))[1].usage.output_tokens == 2
    backend.close()


def test_cancelling_between_steps_frees_the_pages(make_backend):
    backend = make_backend()
    cancel = CancelToken()
    stream = backend.stream(chat(max_tokens=200), Placement(cancel=cancel))
    assert isinstance(next(stream), TokenDelta)
    assert backend.kv_state().used > 0
    cancel.cancel()
    assert not any(isinstance(item, StreamEnd) for item in stream)
    until(lambda: backend.kv_state().used == 0)
    assert list(backend.stream(chat(), Placement(cancel=cancel))) == []


def test_pages_of_an_equal_beginning_are_shared_and_told(make_backend):
    backend = make_backend()
    first, second = (backend.stream(chat(max_tokens=100), Placement()) for _ in range(2))
    next(first)
    next(second)
    state = backend.kv_state()
    tokens = backend.count_prompt_tokens(chat())
    # All whole pages of the prompt but the one that its last token is in.
    assert state.shared == (tokens - 1) // 16
    first.close()
    second.close()
    until(lambda: backend.kv_state().used == 0)


def test_logprobs_are_told_where_they_are_asked_for(backend, tiny):
    model, tokenizer = tiny
    _, plain = answer(backend, chat(max_tokens=3))
    assert "logprobs" not in plain.raw
    _, end = answer(backend, chat(max_tokens=3, logprobs=2))
    prompt = tokenizer.apply_chat_template(list(QUESTION), add_generation_prompt=True)["input_ids"]
    told = end.raw["logprobs"]
    assert len(told) == 3
    with torch.no_grad():
        known = model(torch.tensor([prompt])).logits[0, -1].log_softmax(-1)
    first = told[0]
    assert first["id"] == int(known.argmax())
    assert first["logprob"] == pytest.approx(float(known.max()), abs=1e-3)
    assert first["token"] == tokenizer.decode([first["id"]], skip_special_tokens=True)
    assert [each["id"] for each in first["top_logprobs"]] == known.topk(2).indices.tolist()
    assert all(each["logprob"] <= 0 for entry in told for each in entry["top_logprobs"])


def test_logprobs_of_a_drawn_token_are_the_models_own(backend):
    request = chat(max_tokens=4, logprobs=0, seed=3, sampling=SamplingParams(temperature=2.0, repeat_penalty=1.5))
    _, end = answer(backend, request)
    assert [entry["top_logprobs"] for entry in end.raw["logprobs"]] == [[]] * 4
    assert all(-math.inf < entry["logprob"] < 0 for entry in end.raw["logprobs"])


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"grammar": 'root ::= "x"'}, "grammar"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"messages": None, "prompt": "x", "tools": [{"type": "function"}]}, "tools"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"messages": None, "input": ["x"]}, "embeddings"),
    ],
)
def test_what_it_cannot_do_is_refused_by_name(make_backend, changes, word):
    with pytest.raises(NotSupportedError, match=word):
        answer(make_backend(), chat(**changes))


def test_a_format_that_asks_for_nothing_is_no_reason_to_refuse(make_backend):
    assert answer(make_backend(), chat(response_format={"type": "text"}, max_tokens=1))[1].usage.output_tokens == 1


def test_a_prompt_that_does_not_fit_is_one_error_with_both_numbers(backend):
    with pytest.raises(ContextOverflowError) as caught:
        answer(backend, InferenceRequest(prompt="word " * 600))
    assert caught.value.context_length == 512
    assert caught.value.prompt_tokens == backend.count_prompt_tokens(InferenceRequest(prompt="word " * 600))


def test_an_answer_without_a_bound_ends_with_the_context(make_backend):
    backend = make_backend(context_length=64)
    request = InferenceRequest(prompt="Once upon a time", sampling=GREEDY)
    _, end = answer(backend, request)
    assert end.finish_reason == "length"
    assert end.usage.input_tokens + end.usage.output_tokens == 64


def test_an_empty_prompt_says_what_to_give(make_backend):
    with pytest.raises(InvalidRequestError, match="prompt"):
        answer(make_backend(), InferenceRequest(prompt=""))


def test_a_tokenizer_of_another_model_is_an_error_and_ends_nobody_elses_answer(make_tiny, make_backend):
    backend = make_backend(make_tiny(vocab_size=300))
    # Merged words are the tokens past the bytes.
    with pytest.raises(BackendError, match="tokenizer that belongs"):
        answer(backend, InferenceRequest(prompt="the the the quick brown fox"))
    assert backend.alive()


def test_a_batch_that_died_is_started_anew(make_backend):
    backend = make_backend()
    info = backend.open()
    stream = backend.stream(chat(max_tokens=200), Placement())
    next(stream)

    def fail(*_args, **_kwargs):
        raise RuntimeError("the device is gone")

    # Stands for a device that fails in the middle of a step.
    backend._opened.model.forward, forward = fail, backend._opened.model.forward
    with pytest.raises(StreamInterruptedError, match="the device is gone"):
        list(stream)
    until(lambda: not backend.alive())
    backend._opened.model.forward = forward
    assert backend.restart() == info
    assert backend.alive()
    assert answer(backend, chat(max_tokens=2))[1].usage.output_tokens == 2


def test_memory_that_runs_out_in_a_step_is_its_own_error(backend):
    stream = backend.stream(chat(max_tokens=200), Placement())
    next(stream)

    def fail(*_args, **_kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    # No GPU is here to fill: torch's own error, raised where a full one would raise it.
    backend._opened.model.forward = fail
    with pytest.raises(OutOfMemoryError, match="while it generated"):
        list(stream)
    del backend._opened.model.forward


def test_a_cache_that_does_not_fit_is_its_own_error_and_the_model_stays_as_it_was(tiny):
    model, tokenizer = tiny
    before = model.config._attn_implementation
    backend = TransformersBackend(model, tokenizer, kv_tokens=2**44)
    with pytest.raises(OutOfMemoryError, match="kv_tokens"):
        backend.open()
    assert model.config._attn_implementation == before
    assert not backend.alive()


def test_closing_ends_what_still_streams(backend):
    stream = backend.stream(chat(max_tokens=400), Placement())
    next(stream)
    backend.close()
    with pytest.raises(BackendError):
        list(stream)
    with pytest.raises(BackendStartError, match="closed"):
        backend.restart()
    assert not backend.alive()
    assert backend.kv_state() is None
