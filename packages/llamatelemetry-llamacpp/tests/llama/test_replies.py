from __future__ import annotations

import math
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest

from llamatelemetry.errors import BackendProtocolError
from llamatelemetry.llama.replies import (
    ChatChunk,
    CompletionChunk,
    EmbeddingsReply,
    ModelsReply,
    Props,
    SlotState,
    Timings,
    TokenUsage,
    parse_metrics,
)

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
TYPES = (ChatChunk, CompletionChunk, EmbeddingsReply, ModelsReply, Props, SlotState, Timings, TokenUsage)
FIELDS = (
    *("choices", "delta", "content", "stop", "usage", "timings", "data", "id", "meta", "index", "embedding"),
    *("total_slots", "is_processing", "cache_n", "prompt_ms", "prompt_tokens", "finish_reason", "tool_calls"),
    *("default_generation_settings", "tokens_evaluated", "tokens_predicted", "function", "arguments"),
)
likely = st.dictionaries(
    st.sampled_from(FIELDS), anything | st.lists(st.dictionaries(st.sampled_from(FIELDS), anything), max_size=2)
)


@given(st.sampled_from(TYPES), anything | likely | st.dictionaries(st.sampled_from(FIELDS), likely))
def test_any_json_is_typed_or_a_breach_of_protocol(kind, message):
    with suppress(BackendProtocolError):
        assert isinstance(kind.from_json(message), kind)


@pytest.mark.parametrize(
    ("kind", "message", "path"),
    [
        (Props, {"total_slots": "4"}, "props.total_slots"),
        (Props, {"total_slots": 4, "default_generation_settings": {"n_ctx": 1.5}}, "default_generation_settings.n_ctx"),
        (ModelsReply, {"data": [{"id": 3}]}, "models.data[].id"),
        (SlotState, {"id": 0, "is_processing": 1}, "slots[].is_processing"),
        (Timings, {"prompt_ms": []}, "timings.prompt_ms"),
        (TokenUsage, {"prompt_tokens": None}, "usage.prompt_tokens"),
        (TokenUsage, {"prompt_tokens": -1}, "usage.prompt_tokens"),
        (TokenUsage, {"prompt_tokens": 1, "completion_tokens": 2**63}, "usage.completion_tokens"),
        (Props, {"total_slots": 0}, "props.total_slots"),
        (Props, {"total_slots": 10**7}, "props.total_slots"),
        (Props, {"total_slots": 1, "default_generation_settings": {"n_ctx": 10**12}}, "n_ctx"),
        (EmbeddingsReply, {"data": [{"index": 0, "embedding": [10**400]}]}, "embeddings.data[].embedding"),
        (EmbeddingsReply, {"data": [{"index": 0, "embedding": ["a"]}]}, "embeddings.data[].embedding"),
        (CompletionChunk, {"content": "a"}, "chunk.stop"),
        (ChatChunk, {"choices": [{"delta": {"tool_calls": [{"index": "0"}]}}]}, "delta.tool_calls[].index"),
    ],
)
def test_an_error_names_the_path_to_the_wrong_value(kind, message, path):
    with pytest.raises(BackendProtocolError) as caught:
        kind.from_json(message)
    assert path in str(caught.value)


@pytest.mark.parametrize("nonsense", [-1, 2**63, 10**400], ids=["negative", "large", "endless"])
def test_what_a_server_cannot_have_counted_or_timed_is_not_known(nonsense):
    told = dict.fromkeys(("cache_n", "prompt_n", "prompt_ms", "predicted_n", "predicted_ms"), nonsense)
    unknown = Timings(cached_tokens=None, prompt_tokens=None, prompt_ms=None, predicted_tokens=None, predicted_ms=None)
    assert Timings.from_json(told) == unknown
    assert Timings.from_json({"prompt_ms": math.nan, "predicted_ms": math.inf}) == unknown


def test_a_router_has_no_context_of_its_own():
    assert Props.from_json({"total_slots": 1, "default_generation_settings": {"n_ctx": 0}}).context_length is None


def test_embeddings_come_in_the_order_of_their_inputs():
    entries = [{"index": 1, "embedding": [3, 4]}, {"index": 0, "embedding": [1, 2.5]}]
    reply = EmbeddingsReply.from_json({"data": entries, "usage": {"prompt_tokens": 7}, "model": "m"})
    assert reply == EmbeddingsReply(vectors=((1.0, 2.5), (3.0, 4.0)), input_tokens=7, model="m")


def test_reasoning_tokens_are_read_where_the_server_counts_them():
    usage = {"prompt_tokens": 3, "completion_tokens": 5, "completion_tokens_details": {"reasoning_tokens": 2}}
    assert TokenUsage.from_json(usage).reasoning_tokens == 2


def test_metrics_text_of_the_reference_writer_is_read_back():
    registry = CollectorRegistry()
    Counter("llamacpp:a", "a", registry=registry).inc(3)
    Gauge("b", 'b with "quotes"', ["model", "other"], registry=registry).labels('x y"}', "z").set(-1.5e-9)
    Gauge("c", "c", registry=registry).set(math.inf)
    samples = parse_metrics(generate_latest(registry).decode())
    assert samples["llamacpp:a_total"] == 3
    assert samples["c"] == math.inf
    assert [value for name, value in samples.items() if name.startswith("b{")] == [-1.5e-9]


def test_a_time_stamp_after_a_sample_is_not_its_value():
    assert parse_metrics('a 1 1700000000000\n\n# HELP b\nb{c="d e"} 2 3\n') == {"a": 1, 'b{c="d e"}': 2}


@pytest.mark.parametrize("line", ["<html>", "a", "a b", "a{b} ", "{"])
def test_a_metrics_line_that_is_no_sample_is_shown(line):
    with pytest.raises(BackendProtocolError) as caught:
        parse_metrics(line)
    assert line in str(caught.value)
