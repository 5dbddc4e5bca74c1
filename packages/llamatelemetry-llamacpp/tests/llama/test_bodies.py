from __future__ import annotations

import json

import pytest

from llamatelemetry.backends.request import InferenceRequest, SamplingParams
from llamatelemetry.errors import InvalidRequestError, NotSupportedError
from llamatelemetry.llama.bodies import chat_body, completion_body

MESSAGES = ({"role": "user", "content": "Hi"},)
EVERYTHING = {
    "model": "smol",
    "max_tokens": 5,
    "sampling": SamplingParams(
        temperature=0.0,
        top_p=0.9,
        top_k=0,
        min_p=0.1,
        frequency_penalty=0.5,
        presence_penalty=-0.5,
        repeat_penalty=1.1,
    ),
    "stop": ("a", "b"),
    "seed": 0,
    "grammar": 'root ::= "x"',
}
COMMON = {
    "model": "smol",
    "stop": ["a", "b"],
    "seed": 0,
    "grammar": 'root ::= "x"',
    "temperature": 0.0,
    "top_p": 0.9,
    "top_k": 0,
    "min_p": 0.1,
    "frequency_penalty": 0.5,
    "presence_penalty": -0.5,
    "repeat_penalty": 1.1,
}


def test_a_chat_says_only_what_was_asked():
    assert chat_body(InferenceRequest(messages=MESSAGES)) == {"messages": [{"role": "user", "content": "Hi"}]}


def test_a_chat_passes_everything_through():
    tools = ({"type": "function", "function": {"name": "f"}},)
    body = chat_body(
        InferenceRequest(messages=MESSAGES, tools=tools, response_format={"type": "json_object"}, **EVERYTHING)
    )
    assert body == {
        "messages": [{"role": "user", "content": "Hi"}],
        "max_tokens": 5,
        "tools": list(tools),
        "response_format": {"type": "json_object"},
        **COMMON,
    }
    assert json.dumps(body)


def test_a_completion_calls_its_limit_by_the_servers_name():
    body = completion_body(InferenceRequest(prompt="Once", **EVERYTHING))
    assert body == {"prompt": "Once", "n_predict": 5, **COMMON}


def test_an_empty_prompt_is_a_prompt():
    assert completion_body(InferenceRequest(prompt="")) == {"prompt": ""}


@pytest.mark.parametrize("field", [{"tools": [{"type": "function"}]}, {"response_format": {"type": "json_object"}}])
def test_a_completion_refuses_what_only_a_chat_can_do(field):
    with pytest.raises(InvalidRequestError) as caught:
        completion_body(InferenceRequest(prompt="Once", **field))
    assert caught.value.field == next(iter(field))


def test_what_is_for_us_alone_is_not_sent():
    request = InferenceRequest(
        messages=MESSAGES, tenant="t", priority=3, deadline_s=1.0, conversation_id="c", metadata={"k": "v"}
    )
    assert set(chat_body(request)) == {"messages"}


@pytest.mark.parametrize(("body", "of"), [(chat_body, {"messages": MESSAGES}), (completion_body, {"prompt": "Once"})])
def test_logprobs_are_refused_and_not_passed_over(body, of):
    with pytest.raises(NotSupportedError, match="logprobs"):
        body(InferenceRequest(**of, logprobs=2))
