from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from llamatelemetry.backends.request import InferenceRequest, SamplingParams
from llamatelemetry.errors import InvalidRequestError


def test_messages_make_a_chat_and_a_prompt_makes_a_completion() -> None:
    assert InferenceRequest(messages=[{"role": "user", "content": "Hi"}]).operation == "chat"
    assert InferenceRequest(prompt="Hi").operation == "text_completion"
    assert InferenceRequest(input=["Hi"]).operation == "embeddings"


def test_each_request_gets_a_name_of_its_own_unless_given_one() -> None:
    first, second = InferenceRequest(prompt="a"), InferenceRequest(prompt="a")
    assert first.request_id != second.request_id
    assert InferenceRequest(prompt="a", request_id="mine").request_id == "mine"


def test_a_request_may_wait_for_ever() -> None:
    assert InferenceRequest(prompt="a", deadline_s=float("inf")).deadline_s == float("inf")


def test_a_single_stop_string_is_one_stop_and_not_its_letters() -> None:
    assert InferenceRequest(prompt="a", stop="END").stop == ("END",)


def test_a_request_asks_the_same_whatever_becomes_of_the_lists_it_was_made_from() -> None:
    messages = [{"role": "user", "content": "Hi"}]
    tools, stop, texts = [{"type": "function"}], ["END"], ["a"]
    chat = InferenceRequest(messages=messages, tools=tools, stop=stop)
    embeddings = InferenceRequest(input=texts)
    messages[0]["content"] = "Bye"
    for given in (messages, tools, stop, texts):
        given.clear()
    assert chat.messages == ({"role": "user", "content": "Hi"},)
    assert (chat.tools, chat.stop, embeddings.input) == (({"type": "function"},), ("END",), ("a",))


def test_texts_that_can_be_read_only_once_are_not_lost() -> None:
    assert InferenceRequest(input=(text for text in ("a", "b"))).input == ("a", "b")  # type: ignore[arg-type]


def test_requests_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        InferenceRequest(prompt="a").prompt = "b"  # type: ignore[misc]  # that is what the test is about


@pytest.mark.parametrize(
    ("field", "arguments"),
    [
        ("prompt|messages|input", {}),
        ("prompt|messages|input", {"prompt": "a", "messages": [{"role": "user", "content": "b"}]}),
        ("prompt", {"prompt": 3}),
        ("input", {"input": "text"}),
        ("input", {"input": []}),
        ("input", {"input": 3}),
        ("input", {"input": [3]}),
        ("messages", {"messages": []}),
        ("messages", {"messages": "Hi"}),
        ("messages[1]", {"messages": [{"role": "user", "content": "a"}, {"content": "b"}]}),
        ("max_tokens", {"prompt": "a", "max_tokens": 0}),
        ("max_tokens", {"prompt": "a", "max_tokens": True}),
        ("max_tokens", {"prompt": "a", "max_tokens": 1.5}),
        ("deadline_s", {"prompt": "a", "deadline_s": -1}),
        ("logprobs", {"prompt": "a", "logprobs": -1}),
        ("logprobs", {"prompt": "a", "logprobs": True}),
        ("deadline_s", {"prompt": "a", "deadline_s": float("nan")}),
        ("stop", {"prompt": "a", "stop": [1]}),
    ],
)
def test_a_bad_field_is_named_with_its_value(field: str, arguments: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        InferenceRequest(**arguments)
    assert caught.value.field == field
    assert caught.value.fix


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -0.1),
        ("top_p", 1.1),
        ("top_k", -1),
        ("top_k", 0.5),
        ("min_p", 2),
        ("frequency_penalty", 3),
        ("presence_penalty", -3),
        ("repeat_penalty", "much"),
        ("temperature", float("nan")),
        ("repeat_penalty", float("inf")),
    ],
)
def test_sampling_out_of_range_is_refused(field: str, value: Any) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        SamplingParams(**{field: value})
    assert caught.value.field == f"sampling.{field}"
