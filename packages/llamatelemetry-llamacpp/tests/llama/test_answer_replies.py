from __future__ import annotations

import math

import pytest

from llamatelemetry.llama.answer_replies import EmbeddingsReply, Timings, TokenUsage


@pytest.mark.parametrize("nonsense", [-1, 2**63, 10**400], ids=["negative", "large", "endless"])
def test_what_a_server_cannot_have_counted_or_timed_is_not_known(nonsense):
    told = dict.fromkeys(("cache_n", "prompt_n", "prompt_ms", "predicted_n", "predicted_ms"), nonsense)
    unknown = Timings(cached_tokens=None, prompt_tokens=None, prompt_ms=None, predicted_tokens=None, predicted_ms=None)
    assert Timings.from_json(told) == unknown
    assert Timings.from_json({"prompt_ms": math.nan, "predicted_ms": math.inf}) == unknown


def test_embeddings_come_in_the_order_of_their_inputs():
    entries = [{"index": 1, "embedding": [3, 4]}, {"index": 0, "embedding": [1, 2.5]}]
    reply = EmbeddingsReply.from_json({"data": entries, "usage": {"prompt_tokens": 7}, "model": "m"})
    assert reply == EmbeddingsReply(vectors=((1.0, 2.5), (3.0, 4.0)), input_tokens=7, model="m")


def test_reasoning_tokens_are_read_where_the_server_counts_them():
    usage = {"prompt_tokens": 3, "completion_tokens": 5, "completion_tokens_details": {"reasoning_tokens": 2}}
    assert TokenUsage.from_json(usage).reasoning_tokens == 2
