from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamatelemetry.backends.protocol import Alternative, Usage
from llamatelemetry.llama.observed_chunks import HeardAnswer

TIMINGS = {"cache_n": 3, "prompt_n": 2, "prompt_ms": 10.0, "predicted_n": 4, "predicted_ms": 40.0}


def chunk(delta, reason=None, **more):
    return {
        "id": "chatcmpl-1",
        "model": "m",
        "choices": [{"index": 0, "delta": delta, "finish_reason": reason}],
        **more,
    }


def text(piece, index=0, reason=None, **more):
    return {"id": "cmpl-1", "model": "m", "choices": [{"index": index, "text": piece, "finish_reason": reason}], **more}


def hear(*messages):
    heard = HeardAnswer(keeps_content=True)
    return heard, [heard.hear(message) for message in messages]


def test_a_chunk_with_a_role_alone_or_with_the_reason_carries_nothing_generated():
    _, generated = hear(chunk({"role": "assistant", "content": None}), chunk({"content": "Hi"}), chunk({}, "stop"))
    assert generated == [False, True, False]


@pytest.mark.parametrize(
    "delta",
    [
        {"content": "a"},
        {"reasoning_content": "a"},
        {"tool_calls": [{"index": 0, "id": "1", "function": {"name": "f", "arguments": ""}}]},
        {"function_call": {"name": "f", "arguments": "{"}},
    ],
    ids=["content", "reasoning", "tool call", "function call"],
)
def test_a_token_on_any_channel_counts(delta):
    assert hear(chunk(delta))[1] == [True]


def test_a_chat_stream_ends_with_what_the_server_counted_and_measured():
    heard, _ = hear(chunk({"role": "assistant"}), chunk({"content": "Hi"}), chunk({}, "length", timings=TIMINGS))
    end = heard.end()
    assert end.usage == Usage(input_tokens=5, output_tokens=4, cached_tokens=3)
    assert (end.finish_reason, end.response_id, end.response_model) == ("length", "chatcmpl-1", "m")
    assert (end.timings.prefill_ms, end.timings.prefill_tokens, end.timings.decode_ms) == (10.0, 2, 40.0)
    assert (heard.text, heard.complete) == ("Hi", True)


def test_counts_that_come_twice_are_counted_once():
    usage = {"prompt_tokens": 5, "completion_tokens": 4}
    heard, _ = hear(chunk({}, "stop", timings=TIMINGS), {"choices": [], "usage": usage, "timings": TIMINGS})
    assert heard.usage() == Usage(input_tokens=5, output_tokens=4, cached_tokens=3)


def test_counts_on_the_way_are_what_is_known_of_an_answer_that_was_cut_off():
    heard, _ = hear(chunk({"content": "Hi"}, timings=TIMINGS))
    assert heard.end().usage == Usage(input_tokens=5, output_tokens=4, cached_tokens=3)
    assert not heard.complete


def test_each_choice_of_a_stream_has_counts_of_its_own():
    usage = {"prompt_tokens": 5, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 2}}
    heard, _ = hear(text("b", 1), text("a"), text("", 1, "stop", usage=usage), text("", 0, "length", usage=usage))
    assert heard.usage() == Usage(input_tokens=5, output_tokens=8, cached_tokens=2)
    assert (heard.text, heard.end().finish_reason) == ("a", "length")
    assert heard.end().alternatives == (Alternative(finish_reason="stop", text="b"),)


@pytest.mark.parametrize("last", [text("c", 2, timings=TIMINGS), text("c", 2)])
def test_what_some_choices_had_is_not_told_as_what_all_had(last):
    heard, _ = hear(text("a"), text("b", 1), text("", 1, "stop", timings=TIMINGS), last)
    assert heard.end().usage == Usage(input_tokens=5, cached_tokens=3)
    assert heard.end().timings.decode_ms is None


def test_of_an_answer_that_is_cut_off_each_choice_is_told_as_far_as_it_came():
    heard, _ = hear(text("a"), text("b", 1, "length", timings=TIMINGS), text("c", 2))
    end = heard.end(cut="cancelled")
    assert (end.finish_reason, end.timings.decode_ms) == ("cancelled", None)
    assert end.alternatives == (
        Alternative(finish_reason="length", text="b"),
        Alternative(finish_reason="cancelled", text="c"),
    )


def test_counts_on_the_way_are_one_choices_own():
    heard, _ = hear(text("a", timings=TIMINGS), text("b", 1, timings=TIMINGS))
    assert heard.usage() == Usage(input_tokens=5, cached_tokens=3)


def test_several_choices_are_complete_when_the_last_is():
    heard = HeardAnswer(keeps_content=False, wanted=2)
    heard.hear(text("", 1, "stop"))
    assert not heard.complete
    heard.hear(text("", 0, "stop"))
    assert heard.complete


def test_a_whole_answer_with_several_choices_has_counts_of_the_first_alone_which_are_not_told():
    choices = [{"index": index, "text": "a", "finish_reason": "stop"} for index in (0, 1)]
    answer = {"choices": choices, "usage": {"prompt_tokens": 5, "completion_tokens": 4}, "timings": TIMINGS}
    assert hear(answer)[0].usage() == Usage(input_tokens=5)
    assert hear(answer)[0].end().timings.decode_ms is None


def test_a_whole_chat_answer_is_heard_with_its_tool_calls():
    calls = [{"id": str(number), "function": {"name": "f", "arguments": "{}"}} for number in (1, 2)]
    message = {"role": "assistant", "content": "So", "reasoning_content": "because", "tool_calls": calls}
    heard, _ = hear({"id": "x", "choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}]})
    assert (heard.text, heard.reasoning, heard.end().finish_reason) == ("So", "because", "tool_calls")
    assert [call["id"] for call in heard.end().tool_calls] == ["1", "2"]


def test_a_second_choice_is_heard_with_its_tool_calls_too():
    call = {"index": 0, "id": "1", "function": {"name": "f", "arguments": "{}"}}
    delta = {"reasoning_content": "because", "tool_calls": [call]}
    heard, _ = hear(chunk({"content": "So"}, "stop"), {"choices": [{"index": 1, "delta": delta}]})
    (other,) = heard.end().alternatives
    assert (other.text, other.reasoning, [it["id"] for it in other.tool_calls]) == ("", "because", ["1"])


def test_tool_calls_are_put_together_from_their_pieces():
    pieces = [
        {"index": 0, "id": "1", "function": {"name": "f", "arguments": "{"}},
        {"index": 0, "function": {"arguments": "}"}},
    ]
    heard, _ = hear(*(chunk({"tool_calls": [piece]}) for piece in pieces))
    assert heard.end().tool_calls == ({"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}},)


def test_texts_are_not_kept_unless_they_may_be_exported():
    heard = HeardAnswer(keeps_content=False)
    assert heard.hear(chunk({"content": "secret", "reasoning_content": "secret"}))
    assert (heard.text, heard.reasoning, heard.end().tool_calls) == ("", "", ())


def test_a_model_without_a_name_is_called_as_its_file_is():
    heard, _ = hear({"model": "/models/SmolLM2-135M-Instruct.Q4_1.gguf", "choices": []})
    assert heard.end().response_model == "SmolLM2-135M-Instruct"


@pytest.mark.parametrize(
    "vectors", [[0.5, 1], [[0.5, 1], [0, 0]], [[[0.5, 1], [0, 0]]]], ids=["one", "by token", "both"]
)
def test_the_width_of_embeddings_is_known_however_they_are_nested(vectors):
    heard, _ = hear({"data": [{"embedding": vectors}], "usage": {"prompt_tokens": 3, "total_tokens": 3}})
    assert heard.end().embeddings == ((0.5, 1),)
    assert heard.end().usage == Usage(input_tokens=3)
    assert hear([{"index": 0, "embedding": vectors}])[0].end().embeddings == ((0.5, 1),)


def test_an_error_is_an_error():
    heard, generated = hear(chunk({"content": "a"}), {"error": {"code": 500, "message": "no"}})
    assert heard.failure == {"error": {"code": 500, "message": "no"}}
    assert generated == [True, False]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    *(
                        "choices",
                        "delta",
                        "message",
                        "content",
                        "tool_calls",
                        "function_call",
                        "usage",
                        "timings",
                        "index",
                    ),
                    *(
                        "finish_reason",
                        "data",
                        "embedding",
                        "function",
                        "prompt_tokens",
                        "prompt_n",
                        "id",
                        "model",
                        "text",
                    ),
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)


@given(st.lists(JSON, max_size=4))
def test_nothing_it_hears_makes_it_fail(messages):
    heard, _ = hear(*messages)
    heard.end()
