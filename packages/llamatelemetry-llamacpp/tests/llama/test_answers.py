from __future__ import annotations

import pytest

from llamatelemetry.backends.protocol import BackendTimings, StreamEnd, TokenDelta, Usage
from llamatelemetry.errors import BackendProtocolError
from llamatelemetry.llama.answer_replies import ChatChunk, CompletionChunk
from llamatelemetry.llama.answers import read_chat, read_completion

TIMINGS = {"cache_n": 30, "prompt_n": 7, "prompt_ms": 12.5, "predicted_n": 3, "predicted_ms": 40.0}
USAGE = {"prompt_tokens": 37, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 30}}


def chat(*deltas, finish="stop", **last):
    """Chunks as the server streams them: a role, the deltas, the reason, the figures."""
    base = {"id": "chatcmpl-1", "model": "smol"}
    messages = [{**base, "choices": [{"delta": delta, "finish_reason": None}]} for delta in deltas]
    if finish is not None:
        messages.append({**base, "choices": [{"delta": {}, "finish_reason": finish}]})
    messages.append({**base, "choices": [], **last})
    return [ChatChunk.from_json(message) for message in messages]


def test_a_chat_answer_is_its_deltas_and_one_end():
    chunks = chat(
        {"role": "assistant", "content": None}, {"content": "Pa"}, {"content": "ris"}, usage=USAGE, timings=TIMINGS
    )
    *deltas, end = read_chat(chunks, 1)
    assert deltas == [TokenDelta("Pa"), TokenDelta("ris")]
    assert end == StreamEnd(
        finish_reason="stop",
        usage=Usage(input_tokens=37, output_tokens=3, cached_tokens=30),
        timings=BackendTimings(prefill_ms=12.5, prefill_tokens=7, decode_ms=40.0),
        response_id="chatcmpl-1",
        response_model="smol",
        slot_id=1,
        raw=chunks[-1].raw,
    )


@pytest.mark.parametrize("role", [{"role": "assistant"}, {"role": "assistant", "content": ""}])
def test_the_role_is_not_a_token(role):
    assert [type(item) for item in read_chat(chat(role), None)] == [StreamEnd]


def test_a_chunk_with_several_tokens_stays_one_delta():
    assert next(read_chat(chat({"content": "The capital of"}), None)) == TokenDelta("The capital of")


def test_reasoning_has_its_own_channel():
    first, second, _ = read_chat(chat({"reasoning_content": "Hm."}, {"content": "Paris"}), None)
    assert first == TokenDelta("Hm.", "reasoning")
    assert second == TokenDelta("Paris")


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("stop", "stop"),
        ("length", "length"),
        ("tool_calls", "tool_calls"),
        ("content_filter", "content_filter"),
        ("eos", "stop"),
    ],
)
def test_finish_reasons_are_mapped(theirs, ours):
    *_, end = read_chat(chat({"content": "x"}, finish=theirs), None)
    assert end.finish_reason == ours


def test_tool_calls_are_put_together_from_their_pieces():
    def piece(index, **function):
        return {
            "tool_calls": [
                {"index": index, "function": function, **({"id": f"c{index}"} if "name" in function else {})}
            ]
        }

    chunks = chat(
        piece(0, name="weather", arguments=""),
        piece(0, arguments='{"city":'),
        piece(1, name="time", arguments="{}"),
        piece(0, arguments='"Paris"}'),
        finish="tool_calls",
    )
    *deltas, end = read_chat(chunks, None)
    assert {delta.channel for delta in deltas} == {"tool_call"}
    assert end.tool_calls == (
        {"id": "c0", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Paris"}'}},
        {"id": "c1", "type": "function", "function": {"name": "time", "arguments": "{}"}},
    )


def test_without_usage_the_timings_count_the_tokens():
    *_, end = read_chat(chat({"content": "x"}, timings=TIMINGS), None)
    assert end.usage == Usage(input_tokens=37, output_tokens=3, cached_tokens=30)


def test_without_timings_the_usage_counts_the_cached_tokens():
    *_, end = read_chat(chat({"content": "x"}, usage=USAGE), None)
    assert end.usage.cached_tokens == 30
    assert end.timings == BackendTimings()


def test_what_nobody_counted_is_unknown_and_not_zero():
    *_, end = read_chat(chat({"content": "x"}), None)
    assert end.usage == Usage()


def test_a_chat_answer_without_a_reason_breaks_the_protocol():
    with pytest.raises(BackendProtocolError, match="why"):
        list(read_chat(chat({"content": "x"}, finish=None), None))
    with pytest.raises(BackendProtocolError, match="why"):
        list(read_chat([], None))


LAST = {
    "content": "",
    "stop": True,
    "stop_type": "limit",
    "tokens_evaluated": 37,
    "tokens_predicted": 3,
    "id_slot": 1,
    "model": "smol",
    "timings": TIMINGS,
}


def test_a_continuation_is_its_deltas_and_one_end():
    chunks = [CompletionChunk.from_json(message) for message in ({"content": "once", "stop": False}, LAST)]
    delta, end = read_completion(chunks)
    assert delta == TokenDelta("once")
    assert end == StreamEnd(
        finish_reason="length",
        usage=Usage(input_tokens=37, output_tokens=3, cached_tokens=30),
        timings=BackendTimings(prefill_ms=12.5, prefill_tokens=7, decode_ms=40.0),
        response_model="smol",
        slot_id=1,
        raw=LAST,
    )


def test_text_in_the_last_chunk_is_not_lost():
    delta, end = read_completion([CompletionChunk.from_json({**LAST, "content": "!", "stop_type": "eos"})])
    assert delta == TokenDelta("!")
    assert isinstance(end, StreamEnd)
    assert end.finish_reason == "stop"


def test_a_continuation_without_a_last_word_breaks_the_protocol():
    with pytest.raises(BackendProtocolError, match="why"):
        list(read_completion([CompletionChunk.from_json({"content": "once", "stop": False})]))
