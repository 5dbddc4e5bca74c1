"""Chat templates as they come with models: rendered, refused, and hostile ones."""

from __future__ import annotations

import copy
import json

import pytest

from llamatelemetry.backends.request import InferenceRequest
from llamatelemetry.errors import BackendResponseError, InvalidRequestError, NotSupportedError
from llamatelemetry.transformers.prompts import Prompts

HI = [{"role": "user", "content": "Hi"}]
TOOL = {"type": "function", "function": {"name": "add", "description": "Adds.", "parameters": {"type": "object"}}}


@pytest.fixture
def prompts_of(tiny_tokenizer):
    """Makes prompts with another template."""

    def make(template: str | None, **options) -> Prompts:
        tokenizer = copy.deepcopy(tiny_tokenizer)
        tokenizer.chat_template = template
        return Prompts(tokenizer, "tiny", **options)

    return make


def test_a_chat_is_what_the_template_makes_of_it(tiny_tokenizer):
    prompts = Prompts(tiny_tokenizer, "tiny")
    text = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert prompts.render(HI) == text
    assert prompts.encode(InferenceRequest(messages=HI)) == tiny_tokenizer.encode(text, add_special_tokens=False)
    assert prompts.encode(InferenceRequest(prompt="The fox")) == tiny_tokenizer.encode("The fox")
    assert prompts.tokenize("The fox") == tiny_tokenizer.encode("The fox", add_special_tokens=False)


def test_the_real_model_has_the_prompt_that_transformers_makes(smollm):
    _, tokenizer = smollm
    expected = tokenizer.apply_chat_template(HI, add_generation_prompt=True, return_dict=False)
    assert Prompts(tokenizer, "SmolLM2").encode(InferenceRequest(messages=HI)) == expected


def test_content_in_parts_is_text_and_anything_else_is_refused_by_its_place(tiny_tokenizer):
    prompts = Prompts(tiny_tokenizer, "tiny")
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    assert "one\ntwo" in prompts.render([{"role": "user", "content": parts}])
    image = {"type": "image_url", "image_url": {"url": "data:,"}}
    with pytest.raises(NotSupportedError, match=r"messages\[1\]\.content\[0\] is of type 'image_url'"):
        prompts.render([*HI, {"role": "user", "content": [image]}])


def test_tools_reach_a_template_that_has_a_place_for_them_and_are_refused_by_others(prompts_of):
    with pytest.raises(NotSupportedError, match="tools="):
        Prompts(prompts_of("{{ messages }}")._tokenizer, "tiny").render(HI, [TOOL])
    text = prompts_of("{{ tools | tojson }}{{ messages[0].content }}").render(HI, [TOOL])
    assert json.loads(text.removesuffix("Hi")) == [TOOL]


def test_arguments_of_a_call_are_an_object_for_the_template(prompts_of):
    call = {"id": "1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
    messages = [{"role": "assistant", "content": None, "tool_calls": [call]}]
    template = "{{ messages[0].tool_calls[0].function.arguments.a + 1 }}"
    assert prompts_of(template).render(messages) == "2"
    call["function"]["arguments"] = "no json"
    assert prompts_of("{{ messages[0].tool_calls[0].function.arguments }}").render(messages) == "no json"


def test_without_a_template_messages_are_refused_and_a_prompt_is_not(prompts_of):
    prompts = prompts_of(None)
    with pytest.raises(NotSupportedError, match="prompt="):
        prompts.encode(InferenceRequest(messages=HI))
    assert prompts.encode(InferenceRequest(prompt="The fox"))


@pytest.mark.parametrize(
    "asked", [{"prompt": "a\ud800b"}, {"messages": [{"role": "user", "content": "a\ud800b"}]}], ids=str
)
def test_half_a_character_is_refused_in_words_that_say_so(tiny_tokenizer, asked):
    with pytest.raises(InvalidRequestError, match=r"'\\ud800' is not valid: .*half a character"):
        Prompts(tiny_tokenizer, "tiny").encode(InferenceRequest(**asked))


def test_what_a_template_has_against_messages_is_told_in_its_words(prompts_of):
    prompts = prompts_of("{{ raise_exception('Roles must alternate') }}")
    with pytest.raises(BackendResponseError, match="tiny refuses these messages: Roles must alternate") as caught:
        prompts.render(HI)
    assert caught.value.kind == "chat_template"


@pytest.mark.parametrize(
    "hostile",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.__init__.__globals__ }}",
        "{{ messages.append(1) }}",
        "{{ cycler.__init__.__globals__.os.system('true') }}",
        "{% set x = messages[0].update({'role': 'system'}) %}",
        "{{ ('{0.__class__}' | format(1)).__class__ }}{{ '{0.__class__.__base__}'.format(1) }}",
    ],
)
def test_a_template_cannot_leave_its_sandbox(prompts_of, hostile):
    messages = copy.deepcopy(HI)
    try:
        text = prompts_of(hostile).render(messages)
    except BackendResponseError:
        text = ""
    assert messages == HI
    assert not any(reached in text for reached in ("class", "function", "module", "0x"))


def test_a_template_that_runs_for_ever_is_ended(prompts_of):
    loops = "".join(f"{{% for {name} in range(99999) %}}" for name in "abc")
    endless = prompts_of(loops + "{% set x = a * b %}" + "{% endfor %}" * 3, timeout_s=0.2)
    with pytest.raises(BackendResponseError, match=r"ran for more than 0\.2 s"):
        endless.render(HI)


def test_a_prompt_that_fits_no_context_is_refused_before_it_is_tokenized(prompts_of):
    with pytest.raises(BackendResponseError, match="letters"):
        prompts_of("{{ 'x' * 17000000 }}").render(HI)
