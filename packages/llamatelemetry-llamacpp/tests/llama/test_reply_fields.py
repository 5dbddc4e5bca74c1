from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamatelemetry.errors import BackendProtocolError
from llamatelemetry.llama.answer_replies import ChatChunk, CompletionChunk, EmbeddingsReply, Timings, TokenUsage
from llamatelemetry.llama.server_replies import ModelsReply, Props, SlotState

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
