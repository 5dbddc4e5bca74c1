from __future__ import annotations

import asyncio
import gc
import json
import logging
import threading
import time
import weakref
from collections.abc import Iterator
from itertools import pairwise

import llama_cpp
import pytest
from llama_cpp import Llama, StoppingCriteriaList
from llama_cpp.llama_chat_format import get_chat_completion_handler
from llama_cpp.llama_speculative import LlamaPromptLookupDecoding
from opentelemetry import trace

from llamatelemetry.llama.instrument_llama_cpp import LlamaCppPythonInstrumentor

MODEL = "SmolLM2-135M-Instruct"
MESSAGES = [{"role": "user", "content": "What is the capital of France? Answer in one sentence."}]
COUNTING = "One, two, three,"
SECRET = "the moon"
PATCHED = ("__call__", "create_completion", "create_chat_completion", "create_embedding", "embed", "generate", "eval")
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tells the weather of a town.",
        "parameters": {"type": "object", "properties": {"town": {"type": "string"}}},
    },
}
GREEDY = {"temperature": 0}


def load(model_path, **options) -> Llama:
    return Llama(str(model_path), n_ctx=512, n_threads=1, n_threads_batch=1, verbose=False, **options)


@pytest.fixture(scope="module")
def loaded(model_path) -> Iterator[Llama]:
    """A model that was there before anybody watched."""
    model = load(model_path)
    yield model
    model.close()


@pytest.fixture
def llama(loaded) -> Llama:
    """The same, with nothing in its cache."""
    loaded.reset()
    return loaded


@pytest.fixture(scope="module")
def loaded_again(model_path) -> Iterator[Llama]:
    """Another model of the same file."""
    model = load(model_path)
    yield model
    model.close()


@pytest.fixture
def other(loaded_again) -> Llama:
    """That one, with nothing in its cache."""
    loaded_again.reset()
    return loaded_again


@pytest.fixture(scope="module")
def embedding(model_path) -> Iterator[Llama]:
    """One for embeddings."""
    model = load(model_path, embedding=True, pooling_type=llama_cpp.LLAMA_POOLING_TYPE_MEAN)
    yield model
    model.close()


@pytest.fixture
def watched(traced, caplog):
    """What is told of the calls of this test, which must not make OpenTelemetry complain of contexts."""
    traced.instrument(LlamaCppPythonInstrumentor())
    yield traced
    assert "Context" not in caplog.text
    assert trace.get_current_span() is trace.INVALID_SPAN


def counts(told):
    """Tokens in, tokens out, and those of the prompt that were cached."""
    names = ("input_tokens", "output_tokens", "cache_read.input_tokens")
    return tuple(told.get(f"gen_ai.usage.{name}", 0) for name in names)


def counted(answer):
    """Tokens in and out, as the library counted."""
    return answer["usage"]["prompt_tokens"], answer["usage"]["completion_tokens"]


def length(llama, text):
    """Tokens of a prompt."""
    return len(llama.tokenize(text.encode()))


def text_of(chunks):
    choices = [chunk["choices"][0] for chunk in chunks]
    return "".join((choice.get("delta") or choice).get("content") or choice.get("text", "") for choice in choices)


class Sleeps:
    """Has a model sleep while it samples, and notes when each token is there."""

    def __init__(self, llama, *seconds) -> None:
        self.moments = []
        pauses, sample = iter(seconds), llama.sample

        def slowly(*args, **kwargs):
            token = sample(*args, **kwargs)
            time.sleep(next(pauses, 0))
            self.moments.append(time.perf_counter())
            return token

        llama.sample = slowly


@pytest.fixture
def slow(llama, watched):
    """Makes the model slow, by seconds for each token. It is known already: its file has been looked at."""
    llama.create_completion("a", max_tokens=1)
    watched.spans()
    yield lambda *seconds: Sleeps(llama, *seconds)
    del llama.sample


def test_a_completion_answers_the_same_and_its_span_says_everything(llama, traced):
    asked = {"max_tokens": 6, "top_k": 4, "seed": 7, "stop": ["xyz"], **GREEDY}
    expected = llama.create_completion(COUNTING, **asked)
    llama.reset()
    traced.instrument(LlamaCppPythonInstrumentor())
    answer = llama.create_completion(COUNTING, **asked)
    assert answer["choices"] == expected["choices"]
    [span] = traced.spans()
    assert (span.name, span.kind.name) == (f"text_completion {MODEL}", "INTERNAL")
    told = dict(span.attributes)
    measured = {
        name: told.pop(name)
        for name in tuple(told)
        if name.startswith(("llamatelemetry.time_", "llamatelemetry.tokens_", "llamatelemetry.inter_token"))
        or name in {"llamatelemetry.request.id", "llm.tokens_per_sec", "llm.request.duration_ms"}
    }
    read, made = counted(answer)
    assert (read, made) == (length(llama, COUNTING), 6)
    assert told == {
        "gen_ai.operation.name": "text_completion",
        "gen_ai.provider.name": "llamacpp",
        "gen_ai.system": "llamacpp",
        "gen_ai.request.model": MODEL,
        "gen_ai.request.max_tokens": 6,
        "gen_ai.request.temperature": 0,
        "gen_ai.request.top_k": 4,
        "gen_ai.request.seed": 7,
        "gen_ai.request.stop_sequences": ("xyz",),
        "gen_ai.response.id": answer["id"],
        "gen_ai.response.model": MODEL,
        "gen_ai.response.finish_reasons": ("length",),
        "gen_ai.usage.input_tokens": read,
        "gen_ai.usage.output_tokens": made,
        "gen_ai.usage.cache_read.input_tokens": 0,
        "llamatelemetry.request.priority": 0,
        "llamatelemetry.request.attempts": 1,
        "llamatelemetry.queue.depth": 0,
        "llamatelemetry.model.architecture": "llama",
        "llamatelemetry.model.quantization": "Q4_1",
        "llamatelemetry.model.parameters": 134_515_008,
        "llm.system": "llamacpp",
        "llm.model": MODEL,
        "llm.request.type": "text_completion",
        "llm.input.tokens": read,
        "llm.output.tokens": made,
        "llm.tokens.total": read + made,
        "llm.finish_reason": "length",
        "llm.quantization": "Q4_1",
        "llm.stream": False,
    }
    assert measured["llamatelemetry.inter_token_latency.p50"] > 0


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("ask", "asked", "reason"),
    [
        ("create_completion", {"prompt": COUNTING, "max_tokens": 5}, "length"),
        ("create_completion", {"prompt": COUNTING, "max_tokens": 20, "stop": ["four"]}, "stop"),
        ("create_completion", {"prompt": [1, 100, 200], "max_tokens": 2}, "length"),
        ("__call__", {"prompt": COUNTING, "max_tokens": 3}, "length"),
        ("create_chat_completion", {"messages": MESSAGES}, "stop"),
        ("create_chat_completion", {"messages": MESSAGES, "max_tokens": 3}, "length"),
    ],
    ids=["a completion", "a stop sequence", "tokens", "a call", "a chat", "a chat cut short"],
)
def test_tokens_are_counted_as_the_library_counts_them(llama, traced, ask, asked, reason, *, stream):
    expected = getattr(llama, ask)(**asked, **GREEDY)
    llama.reset()
    traced.instrument(LlamaCppPythonInstrumentor())
    answer = getattr(llama, ask)(**asked, **GREEDY, stream=stream)
    if stream:
        assert isinstance(answer, Iterator)
        answer = list(answer)
        choice = expected["choices"][0]
        assert text_of(answer) == choice.get("text", choice.get("message", {}).get("content"))
    told = traced.told()
    assert counts(told) == (*counted(expected), 0)
    assert told["gen_ai.operation.name"] == ("chat" if "chat" in ask else "text_completion")
    assert told["gen_ai.response.finish_reasons"] == (reason,)
    assert told["llm.stream"] is stream


def test_the_first_token_comes_when_it_is_sampled_and_each_later_one_too(llama, watched, slow):
    sleeps = slow(0.05, 0.03, 0.04)
    for stream in (False, True):
        sleeps.moments.clear()
        begun = time.perf_counter()
        answer = llama.create_completion(COUNTING, max_tokens=3, stream=stream, **GREEDY)
        if stream:
            list(answer)
        told = watched.told()
        first, *_, last = sleeps.moments
        assert told["llamatelemetry.time_to_first_token"] == pytest.approx(first - begun, abs=5e-3)
        assert told["llamatelemetry.time_per_output_token"] == pytest.approx((last - first) / 2, abs=2e-3)


def test_a_token_counts_when_it_is_sampled_though_its_character_or_what_may_be_a_stop_is_held_back(
    llama, watched, slow
):
    sleeps = slow(0.02)
    begun = time.perf_counter()
    stream = llama.create_completion(COUNTING, max_tokens=3, stop=[" four, five, six, seven"], stream=True, **GREEDY)
    next(stream)
    seen = time.perf_counter() - begun
    list(stream)
    told = watched.told()
    assert told["llamatelemetry.time_to_first_token"] == pytest.approx(sleeps.moments[0] - begun, abs=5e-3)
    assert told["llamatelemetry.time_to_first_token"] < seen


def test_a_slow_reader_makes_no_slow_model(llama, watched, slow):
    sleeps = slow()
    for _ in llama.create_completion(COUNTING, max_tokens=4, stream=True, **GREEDY):
        time.sleep(0.3)
    longest = max(later - earlier for earlier, later in pairwise(sleeps.moments))
    told = watched.told()
    assert told["llamatelemetry.inter_token_latency.max"] == pytest.approx(longest - 0.3, abs=50e-3)


def test_what_of_the_prompt_was_cached_is_told(llama, watched):
    def cached(prompt, most):
        llama.create_completion(prompt, max_tokens=most, **GREEDY)
        return counts(watched.told())

    whole = length(llama, COUNTING)
    assert cached(COUNTING, 1) == (whole, 1, 0)
    # Nothing came after it, so that all of it is still there.
    assert cached(COUNTING, 3) == (whole, 3, whole)
    # Now something did, and its last token has to be computed again.
    assert cached(COUNTING, 1) == (whole, 1, whole - 1)
    assert cached("One, two, too", 1) == (length(llama, "One, two, too"), 1, length(llama, "One, two,"))
    assert cached("Another", 1)[2] == 0


def test_the_phases_are_reading_and_writing(llama, watched):
    llama.create_completion(COUNTING, max_tokens=3)
    assert watched.phases() == ["prefill", "decode"]


def test_embeddings_are_the_same_and_their_tokens_are_told(embedding, traced):
    texts = ["a", "b c"]
    expected = (embedding.embed(texts), embedding.embed("a", return_count=True), embedding.create_embedding(texts))
    traced.instrument(LlamaCppPythonInstrumentor())
    assert embedding.embed(texts) == expected[0]
    assert embedding.embed("a", return_count=True) == expected[1]
    assert embedding.create_embedding(texts)["data"] == expected[2]["data"]
    several, one, created = (span.attributes for span in traced.spans())
    assert [told["gen_ai.usage.input_tokens"] for told in (several, one, created)] == [3, 1, 3]
    for told in (several, one, created):
        assert told["gen_ai.operation.name"] == "embeddings"
        assert told["gen_ai.embeddings.dimension.count"] == embedding.n_embd()
        assert "gen_ai.usage.output_tokens" not in told


@pytest.mark.parametrize("method", ["embed", "create_embedding"])
def test_a_model_that_makes_no_embeddings_says_so_as_ever(llama, watched, method):
    with pytest.raises(RuntimeError, match="embedding=True"):
        getattr(llama, method)("a")
    assert watched.told()["error.type"] == "RuntimeError"


@pytest.mark.parametrize("arguments", [{}, {"input": "a", "other": 1}])
def test_what_is_no_call_of_embed_at_all_fails_as_ever(embedding, traced, arguments):
    def refusal():
        with pytest.raises(TypeError) as refused:
            embedding.embed(**arguments)
        return str(refused.value)

    expected = refusal()
    traced.instrument(LlamaCppPythonInstrumentor())
    assert refusal() == expected
    assert traced.spans() == []


def read_some(stream, read):
    for number, _ in enumerate(stream, 1):
        if number >= read:
            break


@pytest.mark.parametrize("how", ["closed", "forgotten", "forgotten elsewhere", "in a cycle"])
@pytest.mark.parametrize("read", [0, 1, 3])
@pytest.mark.parametrize("chat", [False, True])
def test_an_abandoned_stream_is_closed_once_with_what_was_received(llama, watched, chat, read, how):
    if chat:
        stream = llama.create_chat_completion(MESSAGES, stream=True)
    else:
        stream = llama.create_completion(COUNTING, max_tokens=50, stream=True)
    if read:
        read_some(stream, read)
    assert watched.spans() == []
    if how == "closed":
        stream.close()
        stream.close()
    elif how == "forgotten elsewhere":
        holder = [stream]
        del stream
        thread = threading.Thread(target=holder.clear)
        thread.start()
        thread.join()
    elif how == "in a cycle":
        holder = [stream]
        holder.append(holder)
        del holder, stream
    else:
        del stream
    gc.collect()
    told = watched.told()
    assert told["gen_ai.response.finish_reasons"] == ("cancelled",)
    assert bool(told.get("gen_ai.usage.output_tokens")) == bool(read)
    assert "error.type" not in told


def test_a_stream_of_which_the_last_chunk_was_read_has_ended_though_nobody_asks_for_more(llama, watched):
    stream = llama.create_completion(COUNTING, max_tokens=2, stream=True)
    while next(stream)["choices"][0]["finish_reason"] is None:
        pass
    assert watched.told()["gen_ai.response.finish_reasons"] == ("length",)
    stream.close()
    assert watched.spans() == []


@pytest.mark.parametrize("stream", [False, True])
def test_an_error_is_the_applications_and_is_told_once(llama, watched, stream):
    def ask():
        answer = llama.create_completion("a b " * 800, stream=stream)
        return list(answer) if stream else answer

    with pytest.raises(ValueError, match="context window"):
        ask()
    [span] = watched.spans()
    assert span.attributes["error.type"] == "ValueError"
    assert not span.status.is_ok


@pytest.mark.parametrize("stream", [False, True])
def test_what_fails_between_two_tokens_is_told_with_what_there_was(llama, watched, stream):
    def fail(tokens, logits):
        if len(tokens) > length(llama, COUNTING) + 1:
            raise KeyError("lost")
        return False

    with pytest.raises(KeyError):
        list(llama(COUNTING, max_tokens=9, stream=stream, stopping_criteria=StoppingCriteriaList([fail])))
    told = watched.told()
    assert told["error.type"] == "KeyError"
    assert told["gen_ai.usage.output_tokens"] > 0


def test_a_criterion_that_stops_is_counted_as_the_library_counts_it(llama, watched):
    enough = length(llama, COUNTING) + 3
    answer = llama(
        COUNTING, max_tokens=9, stopping_criteria=StoppingCriteriaList([lambda tokens, _: len(tokens) >= enough])
    )
    assert counts(watched.told())[:2] == counted(answer)


def test_a_guessing_model_samples_what_the_library_counts(model_path, watched):
    llama = load(model_path, draft_model=LlamaPromptLookupDecoding(num_pred_tokens=3))
    prompt = "One, two, three, one, two, three, one, two,"
    answer = llama.create_completion(prompt, max_tokens=12, **GREEDY)
    assert counts(watched.told()) == (*counted(answer), 0)
    llama.close()


def test_generate_by_itself_is_no_inference_and_yields_the_same(llama, watched):
    tokens = llama.tokenize(COUNTING.encode())
    generated = [token for token, _ in zip(llama.generate(tokens, temp=0), range(3), strict=False)]
    assert llama.detokenize(generated).decode() == llama(COUNTING, max_tokens=3, **GREEDY)["choices"][0]["text"]
    assert len(watched.spans()) == 1


def test_a_chat_handler_that_completes_several_times_is_one_inference(llama, watched):
    def handler(*, llama, messages, stream, **kwargs):
        answers.extend(llama.create_completion(prompt, max_tokens=2, **GREEDY) for prompt in (COUNTING, "The sky is"))
        return {**answers[-1], "choices": [{"index": 0, "message": {"content": "a"}, "finish_reason": "stop"}]}

    answers = []
    llama.chat_handler = handler
    try:
        llama.create_chat_completion(MESSAGES)
    finally:
        llama.chat_handler = None
    told = watched.told()
    first, second = map(counted, answers)
    assert counts(told)[:2] == (first[0] + second[0], first[1] + second[1])
    assert told["gen_ai.operation.name"] == "chat"


@pytest.mark.parametrize("stream", [False, True])
def test_a_chat_with_tools_is_one_inference_however_often_the_format_generates(llama, monkeypatch, traced, stream):
    monkeypatch.setenv("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", "SPAN_ONLY")
    traced.instrument(LlamaCppPythonInstrumentor())
    llama.chat_handler = get_chat_completion_handler("chatml-function-calling")
    forced = {"type": "function", "function": {"name": "weather"}}
    try:
        answer = llama.create_chat_completion(
            MESSAGES, tools=[TOOL], tool_choice=forced, max_tokens=40, stream=stream, **GREEDY
        )
        chunks = list(answer) if stream else [answer]
    finally:
        llama.chat_handler = None
    told = traced.told()
    assert "weather" in repr(chunks)
    assert told["gen_ai.response.finish_reasons"] == ("tool_calls",)
    assert "weather" in told["gen_ai.tool.definitions"]
    [said] = json.loads(told["gen_ai.output.messages"])
    assert [part["name"] for part in said["parts"] if part["type"] == "tool_call"] == ["weather"]


@pytest.mark.parametrize("stream", [False, True])
def test_content_is_exported_if_that_is_asked_for_and_only_then(llama, monkeypatch, traced, stream):
    def ask(prompt):
        answer = llama.create_completion(prompt, max_tokens=4, stream=stream, **GREEDY)
        return text_of(answer if stream else [answer])

    prompt = f"Repeat: {SECRET}."
    traced.instrument(LlamaCppPythonInstrumentor())
    ask(prompt)
    assert SECRET not in repr(traced.told())
    LlamaCppPythonInstrumentor().uninstrument()
    monkeypatch.setenv("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", "SPAN_ONLY")
    traced.instrument(LlamaCppPythonInstrumentor())
    for asked in (prompt, llama.tokenize(prompt.encode())):
        said = ask(asked)
        told = traced.told()
        assert SECRET in told["gen_ai.input.messages"]
        assert json.loads(told["gen_ai.output.messages"])[0]["parts"][0]["content"] == said


@pytest.mark.parametrize("prompt", [["a", "b"], [1, 10**6], [1, -5], [1, 2**40]])
def test_a_prompt_that_is_no_tokens_is_the_librarys_to_refuse_though_content_is_exported(
    llama, monkeypatch, traced, caplog, prompt
):
    monkeypatch.setenv("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", "SPAN_ONLY")

    def refusal():
        with pytest.raises(Exception) as refused:  # noqa: PT011 - which one is the library's to say
            llama.create_completion(prompt, max_tokens=1)
        return repr(refused.value)

    expected = refusal()
    llama.reset()
    traced.instrument(LlamaCppPythonInstrumentor())
    assert refusal() == expected
    assert traced.told()["error.type"] == expected.partition("(")[0]
    assert caplog.records == []


def test_threads_have_their_spans_under_their_own(llama, other, watched):
    tracer = watched.provider.get_tracer("app")
    parents = {}

    def ask(model, most, stream):
        with tracer.start_as_current_span("outer") as outer:
            parents[most] = outer.get_span_context().span_id
            answer = model.create_completion(COUNTING, max_tokens=most, stream=stream)
            if stream:
                list(answer)

    threads = [threading.Thread(target=ask, args=args) for args in ((llama, 3, True), (other, 4, False))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    spans = watched.spans()
    assert {span.attributes["gen_ai.usage.output_tokens"]: span.parent.span_id for span in spans} == parents


async def test_a_stream_may_be_read_in_any_thread_and_task(llama, watched):
    with watched.provider.get_tracer("app").start_as_current_span("outer") as outer:
        stream = await asyncio.to_thread(llama.create_completion, COUNTING, max_tokens=4, stream=True)
        while await asyncio.to_thread(next, stream, None):
            assert trace.get_current_span() is outer
        await asyncio.create_task(asyncio.to_thread(llama.create_completion, COUNTING, max_tokens=2))
    spans = watched.spans()
    assert [span.attributes["gen_ai.usage.output_tokens"] for span in spans] == [4, 2]
    assert {span.parent.span_id for span in spans} == {outer.get_span_context().span_id}


def test_between_two_chunks_the_reader_is_not_inside_of_the_inference(llama, other, watched):
    for _ in llama.create_completion(COUNTING, max_tokens=2, stream=True):
        assert trace.get_current_span() is trace.INVALID_SPAN
        other.create_completion(COUNTING, max_tokens=1)
    made = [span.attributes["gen_ai.usage.output_tokens"] for span in watched.spans()]
    assert sorted(made) == [1] * (len(made) - 1) + [2]
    assert len(made) > 2


def test_streams_of_two_models_may_take_turns(llama, other, watched):
    streams = [model.create_completion(COUNTING, max_tokens=3, stream=True, **GREEDY) for model in (llama, other)]
    assert len(list(zip(*streams, strict=True))) == 4
    assert [counts(span.attributes) for span in watched.spans()] == [(length(llama, COUNTING), 3, 0)] * 2


def test_a_stream_goes_on_though_the_instrumentor_goes(llama, traced):
    traced.instrument(LlamaCppPythonInstrumentor())
    stream = llama.create_completion(COUNTING, max_tokens=3, stream=True, **GREEDY)
    first = next(stream)
    LlamaCppPythonInstrumentor().uninstrument()
    text = text_of([first, *stream])
    llama.reset()
    assert text == llama(COUNTING, max_tokens=3, **GREEDY)["choices"][0]["text"]


def test_a_model_is_not_kept_alive(model_path, watched):
    llama = load(model_path)
    list(llama.create_completion(COUNTING, max_tokens=1, stream=True))
    gone = weakref.ref(llama)
    watched.spans()
    del llama
    gc.collect()
    assert gone() is None


def test_all_is_put_back_exactly(traced):
    before = dict(vars(Llama))
    traced.instrument(LlamaCppPythonInstrumentor())
    assert {name for name, value in vars(Llama).items() if value is not before[name]} == set(PATCHED)
    LlamaCppPythonInstrumentor().uninstrument()
    after = dict(vars(Llama))
    assert list(after) == list(before)
    assert all(after[name] is before[name] for name in before)


def test_a_thousand_times_leave_nothing(llama, traced):
    instrumentor = LlamaCppPythonInstrumentor()
    before = dict(vars(Llama))

    def once():
        instrumentor.instrument(tracer_provider=traced.provider, skip_dep_check=True)
        instrumentor.uninstrument()

    for _ in range(20):
        once()
    gc.collect()
    objects, threads = len(gc.get_objects()), threading.active_count()
    for _ in range(1000):
        once()
    gc.collect()
    assert len(gc.get_objects()) - objects < 200
    assert threading.active_count() == threads
    assert all(value is before[name] for name, value in vars(Llama).items())
    llama(COUNTING, max_tokens=1)
    assert traced.spans() == []


def test_another_instrumentation_may_come_and_go_around_ours(llama, traced):
    before = Llama.create_completion
    seen = []

    def theirs(*args, **kwargs):
        seen.append(kwargs)
        return inner(*args, **kwargs)

    traced.instrument(LlamaCppPythonInstrumentor())
    inner, Llama.create_completion = Llama.create_completion, theirs
    try:
        llama.create_completion(COUNTING, max_tokens=1)
        assert (len(traced.spans()), len(seen)) == (1, 1)
        LlamaCppPythonInstrumentor().uninstrument()
        llama.create_completion(COUNTING, max_tokens=1)
        assert (len(traced.spans()), len(seen)) == (0, 2)
    finally:
        Llama.create_completion = inner
    llama.create_completion(COUNTING, max_tokens=1)
    assert Llama.create_completion is before


def test_to_instrument_twice_is_to_instrument_once(llama, watched, caplog):
    with caplog.at_level(logging.ERROR):
        LlamaCppPythonInstrumentor().instrument(tracer_provider=watched.provider, skip_dep_check=True)
    llama.create_completion(COUNTING, max_tokens=1)
    assert len(watched.spans()) == 1
