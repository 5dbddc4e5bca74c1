from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from transformers import TextStreamer, pipeline
from transformers.pipelines.image_text_to_text import ImageTextToTextPipeline

GREEDY = {"do_sample": False, "max_new_tokens": 5}
CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Name the twelve months."}]
CAPTURE = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"


@pytest.fixture
def ask(tiny):
    model, tokenizer = tiny
    return pipeline("text-generation", model=model, tokenizer=tokenizer)


def prompt_tokens(tokenizer, *prompts):
    return [len(tokenizer(prompt)["input_ids"]) for prompt in prompts]


def parts(text):
    return [(message["role"], message["parts"][0]["content"]) for message in json.loads(text)]


def test_a_pipeline_and_the_generate_that_it_calls_are_one_inference(ask, tiny_tokenizer, traced, untraced):
    def answer():
        return ask("Name the seven", **GREEDY)

    assert answer() == untraced(answer)
    answer()
    assert traced.tokens() == [(*prompt_tokens(tiny_tokenizer, "Name the seven"), 5, "length")]
    assert traced.inference().name == "text_completion LlamaForCausalLM"
    assert sorted(span.name for span in traced.spans()) == ["decode", "prefill", "text_completion LlamaForCausalLM"]


def test_a_chat_is_one(ask, tiny_tokenizer, traced):
    ask(CHAT, **GREEDY)
    text = tiny_tokenizer.apply_chat_template(CHAT, add_generation_prompt=True, tokenize=False)
    assert traced.tokens() == [(*prompt_tokens(tiny_tokenizer, text), 5, "length")]
    assert traced.attributes()["gen_ai.operation.name"] == "chat"
    assert traced.inference().name == "chat LlamaForCausalLM"


@pytest.mark.parametrize("batch_size", [1, 2, 4])
def test_each_of_several_prompts_is_one_whatever_fills_up_its_batch(ask, tiny_tokenizer, traced, batch_size):
    prompts = ["Name the seven days of the week", "The quick brown fox", "dog", "over the lazy"]
    ask.tokenizer.padding_side = "left"
    answers = ask(prompts, batch_size=batch_size, **GREEDY)
    assert len(answers) == 4
    assert [tokens[:2] for tokens in traced.tokens()] == [
        (count, 5) for count in prompt_tokens(tiny_tokenizer, *prompts)
    ]


def test_the_prompts_of_a_generator_are_answered_under_the_span_that_reads_the_answers(ask, traced):
    with traced.tracer.start_as_current_span("reading") as reading:
        assert len(list(ask((prompt for prompt in ("one", "two", "three")), **GREEDY))) == 3
    assert {span.parent.span_id for span in traced.inferences()} == {reading.get_span_context().span_id}
    assert len(traced.inferences()) == 3


def test_several_chats_are_told_apart(ask, traced):
    ask([CHAT, CHAT[1:]], batch_size=2, **GREEDY)
    (first, _, _), (second, _, _) = traced.tokens()
    assert first > second
    assert [span.attributes["gen_ai.operation.name"] for span in traced.inferences()] == ["chat", "chat"]


def test_several_answers_to_a_prompt_are_one(ask, traced):
    ask("dog", max_new_tokens=4, do_sample=True, num_return_sequences=3)
    assert [tokens[1:] for tokens in traced.tokens()] == [(12, "length")]


def test_a_streamer_makes_it_a_stream(ask, traced, capsys):
    ask("Name the seven", streamer=TextStreamer(ask.tokenizer), **GREEDY)
    assert traced.attributes()["gen_ai.request.stream"] is True
    assert traced.attributes()["gen_ai.response.time_to_first_chunk"] > 0


def test_the_pipelines_own_settings_are_in_force(make_tiny, tiny_tokenizer, traced):
    pipeline("text-generation", model=make_tiny(), tokenizer=tiny_tokenizer)("dog")
    attributes = traced.attributes()
    assert attributes["gen_ai.request.max_tokens"] == 256
    assert attributes["gen_ai.request.temperature"] == 0.7
    assert attributes["gen_ai.usage.output_tokens"] == 256


def test_a_prompt_of_nothing_is_one(make_tiny, tiny_tokenizer, traced):
    pipeline("text-generation", model=make_tiny(bos_token_id=1), tokenizer=tiny_tokenizer)("", **GREEDY)
    assert [tokens[1:] for tokens in traced.tokens()] == [(5, "length")]


def test_a_pipeline_that_fails_has_one_span_that_says_so(ask, traced):
    ask.model.forward = lambda *_, **__: 1 / 0
    with pytest.raises(ZeroDivisionError):
        ask("dog", **GREEDY)
    assert traced.attributes()["error.type"] == "ZeroDivisionError"
    with pytest.raises(ValueError, match="bogus"):
        ask("dog", bogus=1, **GREEDY)
    assert [span.attributes["error.type"] for span in traced.inferences()] == ["ZeroDivisionError", "ValueError"]


def test_the_words_are_exported_where_they_are_wanted(ask, traced, monkeypatch):
    ask("Name the seven", **GREEDY)
    assert not [name for name in traced.attributes() if "messages" in name]
    monkeypatch.setenv(CAPTURE, "SPAN_ONLY")
    traced.clear()
    traced.instrument_again()
    (completed,) = ask("Name the seven", return_full_text=False, **GREEDY)
    (chatted,) = ask(CHAT, **GREEDY)
    first, second = traced.inferences()
    assert parts(first.attributes["gen_ai.input.messages"]) == [("user", "Name the seven")]
    assert parts(first.attributes["gen_ai.output.messages"]) == [("assistant", completed["generated_text"])]
    told = parts(second.attributes["gen_ai.input.messages"])
    assert told == [("system", "Be brief."), ("user", "Name the twelve months.")]
    said = chatted["generated_text"][-1]["content"]
    assert parts(second.attributes["gen_ai.output.messages"]) == [("assistant", said)]


def test_each_prompt_of_a_batch_has_its_own_words(ask, traced, monkeypatch):
    monkeypatch.setenv(CAPTURE, "SPAN_ONLY")
    traced.instrument_again()
    ask.tokenizer.padding_side = "left"
    prompts = ["Name the seven days", "dog", "The quick brown fox"]
    answers = ask(prompts, batch_size=3, return_full_text=False, **GREEDY)
    spans = traced.inferences()
    assert [parts(span.attributes["gen_ai.input.messages"])[0][1] for span in spans] == prompts
    assert [parts(span.attributes["gen_ai.output.messages"])[0][1] for span in spans] == [
        answer["generated_text"] for (answer,) in answers
    ]


def test_what_a_pipeline_over_pictures_generates_is_one(make_encoder_decoder, tiny_tokenizer, traced):
    # Its half that asks the model: the other one takes a processor of pictures.
    model = make_encoder_decoder()
    seeing = SimpleNamespace(
        model=model,
        tokenizer=tiny_tokenizer,
        generation_config=model.generation_config,
        assistant_model=None,
        assistant_tokenizer=None,
        _prepare_generate_kwargs=lambda given, **_: given,
    )
    inputs = {"input_ids": torch.tensor([[11, 12, 13]]), "text": ["what is in it"]}
    ImageTextToTextPipeline._forward(seeing, inputs, {"max_new_tokens": 3})
    assert traced.tokens() == [(3, 3, "length")]
