from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamatelemetry.llama.observed_requests import each_prompt, observed_request

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)
NAMES = (
    *("messages", "prompt", "input", "model", "max_tokens", "max_completion_tokens", "n_predict", "n", "stop", "seed"),
    *("temperature", "top_p", "top_k", "min_p", "frequency_penalty", "presence_penalty", "repeat_penalty"),
    *("response_format", "tools", "functions"),
)


@given(
    operation=st.sampled_from(["chat", "text_completion", "embeddings"]),
    asked=st.dictionaries(st.sampled_from(NAMES), ANYTHING),
)
def test_no_value_is_refused_whatever_it_is(operation, asked):
    request = observed_request(operation, asked, keeps_content=False)
    assert request.operation == operation


def test_what_was_asked_for_is_there():
    asked = {
        "model": "m",
        "max_tokens": 7,
        "temperature": 0.5,
        "top_k": 3,
        "stop": "end",
        "seed": 11,
        "n": 2,
        "response_format": {"type": "json_object"},
    }
    request = observed_request("chat", asked, keeps_content=False)
    assert (request.model, request.max_tokens, request.seed, request.n) == ("m", 7, 11, 2)
    assert (request.sampling.temperature, request.sampling.top_k, request.sampling.top_p) == (0.5, 3, None)
    assert request.stop == ("end",)
    assert request.response_format == {"type": "json_object"}


@pytest.mark.parametrize(
    ("asked", "most"),
    [
        ({"max_tokens": 3, "max_completion_tokens": 2, "n_predict": 5}, 5),
        ({"max_tokens": 3, "max_completion_tokens": 2, "n_predict": None}, 2),
        ({"max_tokens": 3, "n_predict": -1}, None),
    ],
)
def test_of_several_limits_the_one_is_told_that_llama_cpp_goes_by(asked, most):
    assert observed_request("chat", asked, keeps_content=False).max_tokens == most


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens", "n_predict"])
def test_the_most_tokens_go_by_several_names(name):
    assert observed_request("chat", {name: 5}, keeps_content=False).max_tokens == 5


@pytest.mark.parametrize("most", [-1, 0, None])
def test_no_limit_is_no_limit(most):
    assert observed_request("text_completion", {"max_tokens": most}, keeps_content=False).max_tokens is None


@pytest.mark.parametrize("name", ["tools", "functions"])
def test_tools_that_are_none_are_left_out(name):
    assert observed_request("chat", {name: 5}, keeps_content=True).tools is None


def test_an_unusual_number_does_not_hide_the_usual_ones():
    request = observed_request("chat", {"temperature": -1.0, "top_p": 0.5}, keeps_content=False)
    assert (request.sampling.temperature, request.sampling.top_p) == (None, 0.5)


def test_prompts_are_not_looked_at_unless_they_may_be_exported():
    asked = {"messages": [{"role": "user", "content": "secret"}], "prompt": "secret", "input": ["secret"]}
    for operation in ("chat", "text_completion", "embeddings"):
        assert "secret" not in repr(observed_request(operation, asked, keeps_content=False))
        assert "secret" in repr(observed_request(operation, asked, keeps_content=True))


def test_messages_are_those_of_the_moment_of_the_call():
    messages = [{"role": "user", "content": "Hi"}]
    request = observed_request("chat", {"messages": messages}, keeps_content=True)
    messages[0]["content"] = "changed"
    messages.append({"role": "assistant", "content": "later"})
    assert request.messages == ({"role": "user", "content": "Hi"},)


def test_the_older_functions_are_tools():
    request = observed_request("chat", {"functions": [{"name": "weather"}]}, keeps_content=True)
    assert request.tools == ({"type": "function", "function": {"name": "weather"}},)


@pytest.mark.parametrize("prompts", [["a", "b"], [[1, 2], [3]], [[1, 2], "b"]])
def test_a_list_of_texts_or_of_lists_of_tokens_is_several_prompts(prompts):
    assert each_prompt({"prompt": prompts, "n": 2}) == tuple({"prompt": prompt, "n": 2} for prompt in prompts)


@pytest.mark.parametrize("asked", [{"prompt": "a"}, {"prompt": [1, 2, 3]}, {"prompt": ["a", 2]}, {"prompt": []}, {}])
def test_anything_else_is_one_prompt(asked):
    assert each_prompt(asked) == (asked,)


@pytest.mark.parametrize("name", ["n", "n_cmpl"])
def test_how_many_answers_are_wanted_goes_by_two_names(name):
    assert observed_request("chat", {name: 3}, keeps_content=False).n == 3
