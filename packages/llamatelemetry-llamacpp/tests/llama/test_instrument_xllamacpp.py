from __future__ import annotations

import gc
import json
import logging
import threading
import time
import weakref
from collections.abc import Iterator

import pytest
import xllamacpp

from llamatelemetry.llama.embedded import configure
from llamatelemetry.llama.instrument_xllamacpp import XllamacppInstrumentor

MODEL = "smol"
ASKED = {
    "messages": [{"role": "user", "content": "What is the capital of France? Answer in one sentence."}],
    "temperature": 0,
}
GREEDY = {"temperature": 0}
SECRET = "the moon"
PATCHED = ("handle_chat_completions", "handle_completions", "handle_embeddings", "__init__")


def parameters(model_path, *, embeddings=False):
    params = xllamacpp.CommonParams()
    options = {"model": str(model_path), "alias": MODEL, "port": 0, "context_total": 1024, "slots": 2, "threads": 1}
    left_alone = {"gpu_layers": None, "batch": None, "kv_unified": None, "cache_ram_mib": None}
    configure(params, {**options, **left_alone, "embeddings": embeddings, "pooling": "last" if embeddings else None})
    return params


@pytest.fixture(scope="module")
def plain(model_path) -> Iterator[xllamacpp.Server]:
    """A server that was there before anybody watched."""
    yield xllamacpp.Server(parameters(model_path))
    gc.collect()


@pytest.fixture(scope="module")
def embedding(model_path) -> Iterator[xllamacpp.Server]:
    """One for embeddings."""
    yield xllamacpp.Server(parameters(model_path, embeddings=True))
    gc.collect()


@pytest.fixture
def watched(traced):
    """What is told of the calls of this test."""
    traced.instrument(XllamacppInstrumentor())
    return traced


class Collected:
    """A callback that keeps what it gets, and when."""

    def __init__(self, *, stop_after: int | None = None) -> None:
        self.messages = []
        self.moments = []
        self._stop_after = stop_after

    def __call__(self, message):
        # To several prompts the server first says nothing, aloud.
        self.messages.append(json.loads(message) if isinstance(message, str | bytes) else message or {"choices": []})
        self.moments.append(time.perf_counter())
        return self._stop_after is not None and len(self.messages) >= self._stop_after

    @property
    def text(self):
        return "".join(self._contents)

    @property
    def first_token_at(self):
        """When the first chunk came that is more than a role."""
        return next(at for at, content in zip(self.moments, self._contents, strict=True) if content)

    @property
    def decoding(self):
        """Seconds from then to the last chunk."""
        return self.moments[-1] - self.first_token_at

    @property
    def _contents(self):
        return [
            "".join(
                (choice.get("delta") or choice).get("content") or choice.get("text", "") for choice in it["choices"]
            )
            for it in self.messages
        ]


def counts(told):
    """Tokens in, tokens out, and those of the prompt that were cached."""
    names = ("input_tokens", "output_tokens", "cache_read.input_tokens")
    return tuple(told.get(f"gen_ai.usage.{name}", 0) for name in names)


def counted(answer):
    """The same, as the server counted."""
    usage = answer["usage"]
    return usage["prompt_tokens"], usage["completion_tokens"], usage["prompt_tokens_details"]["cached_tokens"]


def test_a_chat_answers_the_same_and_its_span_says_everything(model_path, plain, traced):
    question = {**ASKED, "max_tokens": 12, "seed": 7, "top_k": 3, "stop": ["xyz"]}
    expected = plain.handle_chat_completions(question)
    traced.instrument(XllamacppInstrumentor())
    answer = xllamacpp.Server(parameters(model_path)).handle_chat_completions(question)
    assert answer["choices"] == expected["choices"]
    assert "Paris" in answer["choices"][0]["message"]["content"]
    [span] = traced.spans()
    assert (span.name, span.kind.name) == (f"chat {MODEL}", "INTERNAL")
    told = dict(span.attributes)
    measured = {
        name: told.pop(name)
        for name in tuple(told)
        if name.startswith(("llamatelemetry.time_", "llamatelemetry.tokens_", "llamatelemetry.prefill."))
        or name
        in {
            "llamatelemetry.request.id",
            "llamatelemetry.decode.duration",
            "llm.tokens_per_sec",
            "llm.request.duration_ms",
        }
    }
    read, made, cached = counted(answer)
    assert cached == 0
    assert told == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "llamacpp",
        "gen_ai.system": "llamacpp",
        "gen_ai.request.model": MODEL,
        "gen_ai.request.max_tokens": 12,
        "gen_ai.request.temperature": 0,
        "gen_ai.request.top_k": 3,
        "gen_ai.request.seed": 7,
        "gen_ai.request.stop_sequences": ("xyz",),
        "gen_ai.response.id": answer["id"],
        "gen_ai.response.model": MODEL,
        "gen_ai.response.finish_reasons": ("stop",),
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
        "llm.request.type": "chat",
        "llm.input.tokens": read,
        "llm.output.tokens": made,
        "llm.tokens.total": read + made,
        "llm.finish_reason": "stop",
        "llm.quantization": "Q4_1",
        "llm.stream": False,
    }
    assert measured["llamatelemetry.time_per_output_token"] > 0


def test_a_whole_answer_has_its_first_token_when_the_server_had_it(plain, watched):
    begun = time.perf_counter()
    answer = plain.handle_chat_completions({**ASKED, "max_tokens": 8})
    took = time.perf_counter() - begun
    told, decoding = watched.told(), answer["timings"]["predicted_ms"] / 1e3
    first, each = (told[f"llamatelemetry.time_{name}"] for name in ("to_first_token", "per_output_token"))
    assert first == pytest.approx(took - decoding, abs=50e-3)
    assert each == pytest.approx(decoding / 7, abs=1e-3)
    assert told["llamatelemetry.prefill.duration"] == pytest.approx(answer["timings"]["prompt_ms"] / 1e3)
    assert told["llamatelemetry.decode.duration"] == pytest.approx(decoding)


def test_a_stream_has_it_when_the_callback_had_it_and_not_with_the_chunk_of_a_role(plain, watched):
    got = Collected()
    begun = time.perf_counter()
    assert plain.handle_chat_completions({**ASKED, "max_tokens": 8, "stream": True}, got) is None
    told = watched.told()
    assert told["llamatelemetry.time_to_first_token"] == pytest.approx(got.first_token_at - begun, abs=20e-3)
    assert told["gen_ai.response.time_to_first_chunk"] == pytest.approx(got.first_token_at - begun, abs=20e-3)
    assert told["llamatelemetry.time_per_output_token"] == pytest.approx(got.decoding / 7, abs=5e-3)
    assert told["gen_ai.request.stream"]
    assert "Paris" in got.text


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("kind", [dict, str, bytes])
def test_questions_in_each_type_are_counted_as_the_server_counts_them(plain, watched, kind, stream):
    body = {**ASKED, "max_tokens": 4, "stream": stream, "stream_options": {"include_usage": True}}
    text = json.dumps(body)
    got = Collected()
    plain.handle_chat_completions({dict: body, str: text, bytes: text.encode()}[kind], got)
    told = watched.told()
    assert counts(told) == counted(got.messages[-1])
    assert told["gen_ai.usage.output_tokens"] == 4
    assert told["gen_ai.response.finish_reasons"] == ("length",)
    assert told["gen_ai.response.id"] == got.messages[0]["id"]


def test_without_usage_a_stream_is_counted_by_its_timings(plain, watched):
    got = Collected()
    plain.handle_completions(callback=got, prompt={"prompt": "One, two,", "max_tokens": 5, "stream": True})
    timings = got.messages[-1]["timings"]
    assert counts(watched.told()) == (
        timings["cache_n"] + timings["prompt_n"],
        timings["predicted_n"],
        timings["cache_n"],
    )


def test_what_the_prompt_cache_had_is_told(plain, watched):
    question = {"prompt": "A prompt that nothing else here begins like: one, two, three,", "max_tokens": 1}
    first, second = (plain.handle_completions(question) for _ in range(2))
    told = [span.attributes for span in watched.spans()]
    assert [counts(attributes) for attributes in told] == [counted(first), counted(second)]
    assert [counted(first)[2], counted(second)[2]] == [0, counted(second)[0] - 1]


def test_the_phases_are_reading_and_writing(plain, watched):
    plain.handle_completions({"prompt": "One, two,", "max_tokens": 3})
    assert watched.phases() == ["prefill", "decode"]


def test_embeddings_are_one_inference_with_their_tokens(embedding, watched):
    answer = embedding.handle_embeddings({"input": ["a", "b c"]})
    told = watched.told()
    assert told["gen_ai.operation.name"] == "embeddings"
    assert told["gen_ai.usage.input_tokens"] == answer["usage"]["prompt_tokens"] == 3
    assert "gen_ai.usage.output_tokens" not in told
    assert told["gen_ai.embeddings.dimension.count"] == len(answer["data"][0]["embedding"])
    native = embedding.handle_embeddings({"content": "a"})
    assert watched.told()["gen_ai.embeddings.dimension.count"] == len(native[0]["embedding"][0])


def test_a_callback_that_has_enough_cancels(plain, watched):
    got = Collected(stop_after=4)
    plain.handle_chat_completions({**ASKED, "max_tokens": 200, "stream": True}, got)
    assert len(got.messages) == 4
    told = watched.told()
    assert told["gen_ai.response.finish_reasons"] == ("cancelled",)
    assert "error.type" not in told


def test_a_callback_that_has_enough_when_one_of_two_answers_has_ended_was_given_tokens_of_both(plain, watched):
    def enough(message):
        choices.extend(message["choices"] if message else ())
        return bool(choices) and choices[-1]["finish_reason"] is not None

    choices = []
    plain.handle_completions({"prompt": "One, two,", "max_tokens": 6, "n": 2, "stream": True, **GREEDY}, enough)
    assert {choice["index"] for choice in choices} == {0, 1}
    told = watched.told()
    assert told["gen_ai.usage.output_tokens"] == sum(bool(choice["text"]) for choice in choices) > 6
    second = "length" if choices[-1]["index"] == 1 else "cancelled"
    assert told["gen_ai.response.finish_reasons"] == ("cancelled", second)


def test_a_callback_that_has_enough_of_a_whole_answer_has_had_it_all(plain, watched):
    got = Collected(stop_after=1)
    plain.handle_completions({"prompt": "One, two,", "max_tokens": 2}, got)
    assert watched.told()["gen_ai.response.finish_reasons"] == ("length",)


def test_a_callback_that_raises_is_the_reason_of_the_end(plain, watched):
    def callback(message):
        raise KeyError("lost")

    assert plain.handle_chat_completions({**ASKED, "max_tokens": 200, "stream": True}, callback) is None
    [span] = watched.spans()
    assert span.attributes["error.type"] == "KeyError"
    assert not span.status.is_ok


def test_what_the_server_answers_instead_is_an_error_of_its_type(plain, watched):
    answer = plain.handle_completions({"prompt": "a b " * 800, "max_tokens": 5})
    assert answer["error"]["type"] == "exceed_context_size_error"
    [span] = watched.spans()
    assert span.attributes["error.type"] == "ContextOverflowError"
    assert "512" in span.status.description
    assert "error" in plain.handle_embeddings({"input": "a"})
    assert watched.told()["error.type"] == "NotSupportedError"


@pytest.mark.parametrize(
    ("question", "error"), [({"messages": 5}, ValueError), ("{", ValueError), ({"stream": True}, ValueError)]
)
def test_what_the_call_raises_is_raised_and_told(plain, watched, question, error):
    with pytest.raises(error):
        plain.handle_chat_completions(question)
    assert watched.told()["error.type"] == error.__name__


@pytest.mark.parametrize("arguments", [(), (None,), (5,), ({"prompt": "a"}, None, None)])
def test_what_is_no_call_at_all_fails_as_ever_and_is_not_told(plain, traced, arguments):
    def refusal():
        with pytest.raises(TypeError) as refused:
            plain.handle_completions(*arguments)
        return str(refused.value)

    expected = refusal()
    traced.instrument(XllamacppInstrumentor())
    assert refusal() == expected
    assert [span.attributes["error.type"] for span in traced.spans()] == ["TypeError"] * (len(arguments) == 3)


def test_each_prompt_of_a_list_is_an_inference_of_its_own(plain, watched):
    prompts = ["One, two,", "The sky is"]
    got = Collected()
    plain.handle_completions({"prompt": prompts, "max_tokens": 3, "stream": True, "temperature": 0}, got)
    ends = {it["choices"][0]["index"]: counted(it) for it in got.messages if "usage" in it}
    assert [counts(span.attributes) for span in watched.spans()] == [ends[0], ends[1]]
    answer = plain.handle_completions({"prompt": prompts, "max_tokens": 3, "temperature": 0})
    first, second = (span.attributes for span in watched.spans())
    assert counts(first) == counted(answer)
    # The server tells of the first alone.
    assert "gen_ai.usage.output_tokens" not in second
    assert second["gen_ai.response.finish_reasons"] == ("length",)
    assert {first["gen_ai.response.id"], second["gen_ai.response.id"]} == {answer["id"]}


def test_several_prompts_are_exported_with_their_own_answers(monkeypatch, plain, traced):
    monkeypatch.setenv("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", "SPAN_ONLY")
    traced.instrument(XllamacppInstrumentor())
    answer = plain.handle_completions({"prompt": ["One, two,", "The sky is"], "max_tokens": 3, "n": 2})
    spans = traced.spans()
    assert len(answer["choices"]) == 4
    for span, asked, choice in zip(spans, ["One, two,", "The sky is"], (0, 2), strict=True):
        assert asked in span.attributes["gen_ai.input.messages"]
        said = json.loads(span.attributes["gen_ai.output.messages"])
        texts = [each["text"] for each in answer["choices"][choice : choice + 2]]
        assert [message["parts"][0]["content"] for message in said] == texts


@pytest.mark.parametrize("stream", [False, True])
def test_several_answers_to_one_prompt_are_one_inference(plain, watched, stream):
    got = Collected()
    plain.handle_chat_completions({**ASKED, "n": 2, "max_tokens": 3, "stream": stream}, got)
    told = watched.told()
    assert told["gen_ai.usage.input_tokens"] > 30
    assert told["gen_ai.request.choice.count"] == 2
    assert told["gen_ai.response.finish_reasons"] == ("length", "length")
    # Of a whole answer the server counts the first choice alone.
    assert told.get("gen_ai.usage.output_tokens") == (6 if stream else None)


@pytest.mark.parametrize("stream", [False, True])
def test_content_is_exported_if_that_is_asked_for_and_only_then(monkeypatch, plain, traced, stream):
    question = {"messages": [{"role": "user", "content": f"Repeat: {SECRET}"}], "max_tokens": 6, "stream": stream}
    traced.instrument(XllamacppInstrumentor())
    plain.handle_chat_completions(question, Collected())
    assert SECRET not in repr(traced.told())
    XllamacppInstrumentor().uninstrument()
    monkeypatch.setenv("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", "SPAN_ONLY")
    traced.instrument(XllamacppInstrumentor())
    got = Collected()
    plain.handle_chat_completions(json.dumps(question), got)
    told = traced.told()
    assert SECRET in told["gen_ai.input.messages"]
    text = got.text if stream else got.messages[0]["choices"][0]["message"]["content"]
    assert json.loads(told["gen_ai.output.messages"])[0]["parts"][0]["content"] == text


def test_a_server_that_was_there_before_is_known_after_its_first_answer(plain, watched):
    for _ in range(2):
        plain.handle_completions({"prompt": "One", "max_tokens": 1})
    plain.handle_completions({"prompt": "One", "max_tokens": 1, "model": "other"})
    assert [span.name for span in watched.spans()] == [
        "text_completion unknown",
        f"text_completion {MODEL}",
        "text_completion other",
    ]


def test_a_model_without_a_name_is_called_as_its_file_is(model_path, watched):
    params = parameters(model_path)
    params.model_alias = set()
    answer = xllamacpp.Server(common_params=params).handle_completions({"prompt": "One", "max_tokens": 1})
    assert answer["model"] != "SmolLM2-135M-Instruct"
    told = watched.told()
    assert told["gen_ai.request.model"] == told["gen_ai.response.model"] == "SmolLM2-135M-Instruct"


class Named(xllamacpp.Server):
    """Keeps its parameters to itself."""

    def __init__(self, params, name):
        super().__init__()
        self.name = name

    def __new__(cls, params, *_):
        return super().__new__(cls, params)


def test_a_subclass_with_a_constructor_of_its_own_is_made_as_ever(model_path, watched, caplog):
    server = Named(parameters(model_path), "mine")
    server.handle_completions({"prompt": "One", "max_tokens": 1})
    assert server.name == "mine"
    assert watched.told()["gen_ai.usage.output_tokens"] == 1
    assert caplog.records == []


def test_a_server_has_not_the_model_of_one_that_had_its_address_before(model_path, watched):
    params = parameters(model_path)
    params.model_alias = {"first"}
    params.port = int(xllamacpp.Server(params).listening_address.rpartition(":")[2])
    gc.collect()
    params.model_alias = {"second"}
    server = Named(params, "mine")
    for _ in range(2):
        server.handle_completions({"prompt": "One", "max_tokens": 1})
    assert [span.name for span in watched.spans()] == ["text_completion unknown", "text_completion second"]


def test_each_thread_has_its_spans_under_its_own(plain, watched):
    tracer = watched.provider.get_tracer("app")
    parents = {}

    def ask(most):
        with tracer.start_as_current_span("outer") as outer:
            parents[most] = outer.get_span_context().span_id
            plain.handle_completions({"prompt": "One, two,", "max_tokens": most, "stream": True}, Collected())

    threads = [threading.Thread(target=ask, args=(most,)) for most in (2, 3, 4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    spans = watched.spans()
    assert {span.attributes["gen_ai.usage.output_tokens"]: span.parent.span_id for span in spans} == parents


def test_what_a_callback_asks_is_an_inference_of_its_own(plain, watched):
    def callback(message):
        if not asked:
            asked.append(message)
            plain.handle_completions({"prompt": "One", "max_tokens": 1})

    asked = []
    plain.handle_completions({"prompt": "One, two,", "max_tokens": 2, "stream": True}, callback)
    assert [span.attributes["gen_ai.usage.output_tokens"] for span in watched.spans()] == [1, 2]


def test_all_is_put_back_exactly(traced):
    before = dict(vars(xllamacpp.Server))
    traced.instrument(XllamacppInstrumentor())
    assert {name for name, value in vars(xllamacpp.Server).items() if value is not before.get(name)} == set(PATCHED)
    XllamacppInstrumentor().uninstrument()
    after = dict(vars(xllamacpp.Server))
    assert after.keys() == before.keys()
    assert all(after[name] is before[name] for name in before)


def test_a_thousand_times_leave_nothing(plain, traced):
    instrumentor = XllamacppInstrumentor()
    before = dict(vars(xllamacpp.Server))
    for _ in range(20):
        traced.instrument(instrumentor)
        instrumentor.uninstrument()
    gc.collect()
    objects, threads = len(gc.get_objects()), threading.active_count()
    for _ in range(1000):
        instrumentor.instrument(tracer_provider=traced.provider, skip_dep_check=True)
        instrumentor.uninstrument()
    gc.collect()
    assert len(gc.get_objects()) - objects < 200
    assert threading.active_count() == threads
    assert all(value is before[name] for name, value in vars(xllamacpp.Server).items())
    plain.handle_completions({"prompt": "One", "max_tokens": 1})
    assert traced.spans() == []


def test_calls_leave_nothing(plain, watched):
    def call():
        callback = Collected()
        plain.handle_completions({"prompt": "One", "max_tokens": 1, "stream": True}, callback)
        return weakref.ref(callback)

    gone = call()
    watched.spans()
    assert gone() is None


def test_a_callback_that_raises_is_not_kept_by_what_it_raised(plain, watched):
    def call():
        def callback(message):
            raise KeyError(message)

        plain.handle_completions({"prompt": "One", "max_tokens": 1, "stream": True}, callback)
        return weakref.ref(callback)

    gc.disable()
    try:
        gone = call()
        watched.spans()
        assert gone() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("first", ["ours", "theirs"])
def test_another_instrumentation_may_come_and_go_around_ours(plain, traced, first):
    before = xllamacpp.Server.handle_completions
    seen = []

    def wrap():
        inner = xllamacpp.Server.handle_completions

        def theirs(server, *args, **kwargs):
            seen.append(args)
            return inner(server, *args, **kwargs)

        xllamacpp.Server.handle_completions = theirs
        return inner

    def ask():
        return plain.handle_completions({"prompt": "One", "max_tokens": 1})["usage"]["completion_tokens"]

    inner = wrap() if first == "theirs" else None
    traced.instrument(XllamacppInstrumentor())
    if inner is None:
        inner = wrap()
    try:
        assert ask() == 1
        assert (len(traced.spans()), len(seen)) == (1, 1)
        XllamacppInstrumentor().uninstrument()
        assert ask() == 1
        assert (len(traced.spans()), len(seen)) == (0, 2)
    finally:
        xllamacpp.Server.handle_completions = inner
    assert ask() == 1
    assert xllamacpp.Server.handle_completions is before


def test_to_instrument_twice_is_to_instrument_once(plain, watched, caplog):
    with caplog.at_level(logging.ERROR):
        XllamacppInstrumentor().instrument(tracer_provider=watched.provider)
    plain.handle_completions({"prompt": "One", "max_tokens": 1})
    assert len(watched.spans()) == 1
