from __future__ import annotations

import functools
import json
import warnings

import pytest
import torch
import transformers
from opentelemetry.instrumentation.utils import suppress_instrumentation
from transformers import GenerationConfig, StoppingCriteria, TextStreamer

from llamatelemetry.backends.protocol import ModelInfo
from llamatelemetry.backends.request import InferenceRequest
from llamatelemetry.inference.observation import Observation
from llamatelemetry.otel.instrumentation import InstrumentationSink

END = 5
PROMPT = torch.tensor([[11, 12, 13]])
PADDED = torch.tensor([[0, 0, 11, 12], [13, 14, 15, 16], [0, 17, 18, 19]])


class After(StoppingCriteria):
    """Stops each sequence of a batch after a number of tokens of its own."""

    def __init__(self, *lengths: int) -> None:
        self.lengths = torch.tensor(lengths)

    def __call__(self, input_ids, scores, **kwargs):
        return input_ids.shape[1] >= self.lengths


class BrokenError(RuntimeError):
    pass


def mask_of(ids):
    return (ids != 0).long()


@pytest.mark.timeout(600)  # It is loaded first.
def test_the_real_model_answers_the_same_and_its_span_says_everything(smollm, traced, untraced):
    model, tokenizer = smollm
    messages = [{"role": "user", "content": "What is the capital of France? Answer in one sentence."}]
    inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt")

    def answer():
        return model.generate(**inputs, max_new_tokens=12, do_sample=False)

    assert torch.equal(answer(), untraced(answer))
    assert "Paris" in tokenizer.decode(answer()[0])
    span = traced.inference()
    assert span.name == "text_completion smollm2-135m-instruct"
    assert span.kind.name == "INTERNAL"
    attributes = dict(span.attributes)
    measured = {
        name: attributes.pop(name)
        for name in tuple(attributes)
        if name.startswith(("llamatelemetry.inter_token", "llamatelemetry.time_", "llamatelemetry.tokens_per"))
        or name in {"llamatelemetry.request.id", "llm.tokens_per_sec", "llm.request.duration_ms"}
    }
    assert attributes == {
        "gen_ai.operation.name": "text_completion",
        "gen_ai.provider.name": "transformers",
        "gen_ai.system": "transformers",
        "gen_ai.request.model": "smollm2-135m-instruct",
        "gen_ai.request.max_tokens": 12,
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.usage.input_tokens": inputs["input_ids"].shape[1],
        "gen_ai.usage.output_tokens": 8,
        "llamatelemetry.request.priority": 0,
        "llamatelemetry.request.attempts": 1,
        "llamatelemetry.queue.depth": 0,
        "llamatelemetry.model.architecture": "llama",
        "llamatelemetry.model.quantization": "float32",
        "llamatelemetry.model.parameters": 134_515_008,
        "llm.system": "transformers",
        "llm.model": "smollm2-135m-instruct",
        "llm.request.type": "text_completion",
        "llm.input.tokens": inputs["input_ids"].shape[1],
        "llm.output.tokens": 8,
        "llm.tokens.total": inputs["input_ids"].shape[1] + 8,
        "llm.finish_reason": "stop",
        "llm.quantization": "float32",
        "llm.stream": False,
    }
    assert 0 < measured["llamatelemetry.inter_token_latency.p50"] < measured["llamatelemetry.time_to_first_token"]
    assert [child.name for child in traced.spans() if child.parent] == ["prefill", "decode"]


def test_the_rows_of_a_batch_are_requests_of_their_own_without_what_fills_them_up(make_tiny, traced, untraced):
    model = make_tiny(eos_token_id=END)

    def answer():
        torch.manual_seed(0)
        return model.generate(PADDED, attention_mask=mask_of(PADDED), max_new_tokens=200, do_sample=True)

    answers = answer()
    assert torch.equal(answers, untraced(answer))
    answer()
    ended = [(row == END).nonzero() for row in answers]
    assert any(len(found) for found in ended)
    expected = [
        (prompt, int(found[0]) - 4 + 1, "stop") if len(found) else (prompt, 200, "length")
        for prompt, found in zip([2, 4, 3], ended, strict=True)
    ]
    assert traced.tokens() == expected


def test_a_row_ends_with_its_own_last_token_and_not_with_that_of_its_batch(make_tiny, traced):
    make_tiny(eos_token_id=END).generate(
        PADDED,
        attention_mask=mask_of(PADDED),
        max_new_tokens=30,
        do_sample=False,
        stopping_criteria=[After(6, 20, 100)],
    )
    assert traced.tokens() == [(2, 2, "stop"), (4, 16, "stop"), (3, 30, "length")]
    ends = [span.end_time for span in traced.inferences()]
    assert ends == sorted(ends)
    per_token = [span.attributes["llamatelemetry.time_per_output_token"] for span in traced.inferences()]
    assert max(per_token) < 3 * min(per_token)


def test_padding_on_the_right_is_no_prompt_either(make_tiny, traced):
    ids = torch.tensor([[11, 12, 0, 0], [13, 14, 15, 16]])
    make_tiny().generate(ids, attention_mask=mask_of(ids), max_new_tokens=3)
    assert traced.tokens() == [(2, 3, "length"), (4, 3, "length")]


def test_without_a_mask_the_token_that_fills_up_tells(make_tiny, traced):
    model = make_tiny()
    model.generate(PADDED, max_new_tokens=3)
    assert traced.tokens() == [(2, 3, "length"), (4, 3, "length"), (3, 3, "length")]


def test_where_the_filling_token_is_the_ending_one_without_a_mask_all_is_prompt(make_tiny, traced):
    make_tiny(eos_token_id=0).generate(PADDED, max_new_tokens=1)
    assert [tokens[0] for tokens in traced.tokens()] == [4, 4, 4]


def test_an_answer_that_is_filled_up_with_the_ending_token_ends_with_the_first(make_tiny, traced):
    model = make_tiny(eos_token_id=END, pad_token_id=END)
    model.generate(
        PADDED, attention_mask=mask_of(PADDED), max_new_tokens=8, do_sample=False, stopping_criteria=[After(6, 9, 99)]
    )
    assert [tokens[1] for tokens in traced.tokens()] == [2, 5, 8]


def test_embeddings_are_counted_as_the_tokens_that_they_are(make_tiny, traced):
    model = make_tiny()
    model.generate(inputs_embeds=model.get_input_embeddings()(PADDED), attention_mask=mask_of(PADDED), max_new_tokens=4)
    assert traced.tokens() == [(2, 4, "length"), (4, 4, "length"), (3, 4, "length")]


def test_a_prompt_of_nothing_is_one_request(make_tiny, traced):
    make_tiny(bos_token_id=1).generate(max_new_tokens=2)
    assert traced.tokens() == [(None, 2, "length")]


def test_a_batch_of_no_prompts_is_told_without_a_word_of_complaint(make_tiny, traced, caplog):
    def nothing(model, input_ids, **kwargs):
        return input_ids

    model, none = make_tiny(), PADDED[:0]
    assert model.generate(none, max_new_tokens=2, custom_generate=nothing).shape == (0, 4)
    with pytest.raises(RuntimeError):
        model.generate(none, max_new_tokens=2)
    assert traced.tokens() == [(None, None, "stop"), (None, None, "error")]
    assert [record.getMessage() for record in caplog.records if record.name.startswith("llama")] == []


def test_a_prompt_that_is_no_tensor_fails_as_ever_and_has_its_span(make_tiny, traced, caplog):
    with pytest.raises(AttributeError):
        make_tiny().generate(PROMPT.numpy(), max_new_tokens=2)
    assert traced.attributes()["error.type"] == "AttributeError"
    assert [record.getMessage() for record in caplog.records if record.name.startswith("llama")] == []


def test_beams_are_one_request_whose_tokens_are_those_returned(make_tiny, traced, untraced):
    model = make_tiny()

    def answer(**options):
        return model.generate(
            PADDED, attention_mask=mask_of(PADDED), max_new_tokens=12, num_beams=4, do_sample=False, **options
        )

    end = int(answer()[0, 4 + 6])  # A token that not all of the answers come to.
    ending = functools.partial(answer, eos_token_id=end, length_penalty=-1.0)
    answers = ending()
    assert torch.equal(answers, untraced(ending))
    ending()
    ended = [row.index(end) + 1 if end in row else None for row in answers[:, 4:].tolist()]
    assert None in ended
    assert any(ended)
    assert traced.tokens() == [
        (prompt, length or 12, "stop" if length else "length") for prompt, length in zip([2, 4, 3], ended, strict=True)
    ]


def test_beams_that_generate_the_filling_token_have_generated_it(make_tiny, traced):
    model = make_tiny()
    made = model.generate(PROMPT, max_new_tokens=6, num_beams=2, do_sample=False, sequence_bias={(0,): 100.0})
    assert made[0, 3:].tolist() == [0] * 6
    assert traced.tokens() == [(3, 6, "length")]


def test_beams_that_something_else_has_stopped_end_there_and_not_with_their_batch(make_tiny, traced):
    stopping = [After(*[6] * 8, *[9] * 8, *[99] * 8)]  # Twice the beams are considered, and kept apart by request.
    make_tiny().generate(
        PADDED,
        attention_mask=mask_of(PADDED),
        max_new_tokens=8,
        num_beams=4,
        do_sample=False,
        stopping_criteria=stopping,
    )
    assert traced.tokens() == [(2, 2, "stop"), (4, 5, "stop"), (3, 8, "length")]


@pytest.mark.parametrize("beams", [1, 4])
def test_several_answers_to_a_prompt_are_one_request(make_tiny, traced, beams):
    model = make_tiny()
    model.generate(
        PADDED,
        attention_mask=mask_of(PADDED),
        max_new_tokens=6,
        do_sample=beams == 1,
        num_beams=beams,
        num_return_sequences=2,
    )
    assert traced.tokens() == [(2, 12, "length"), (4, 12, "length"), (3, 12, "length")]
    assert [span.attributes["gen_ai.request.choice.count"] for span in traced.inferences()] == [2, 2, 2]
    assert traced.reasons() == [("length", "length")] * 3


def drawn(model, input_ids, **kwargs):
    """A decoding loop that asks no criteria."""
    return torch.cat([input_ids, torch.randint(2, 100, (input_ids.shape[0], 3))], dim=1)


@pytest.mark.parametrize("options", [{}, {"custom_generate": drawn}], ids=["step by step", "by its result"])
def test_each_of_several_answers_has_a_reason_of_its_own(make_tiny, traced, options):
    model = make_tiny(eos_token_id=list(range(2, 40)), pad_token_id=0)
    torch.manual_seed(0)
    answers = model.generate(PROMPT, max_new_tokens=3, do_sample=True, num_return_sequences=8, **options)
    generated = answers[:, PROMPT.shape[1] :]
    expected = tuple("stop" if any(2 <= token < 40 for token in row) else "length" for row in generated.tolist())
    assert {"stop", "length"} == set(expected)
    assert traced.reasons() == [expected]


def test_the_answers_of_a_batch_too_large_for_a_list_have_their_own_reasons_too(make_tiny, traced):
    model = make_tiny(eos_token_id=list(range(2, 12)), pad_token_id=0)
    torch.manual_seed(0)
    prompts = torch.randint(50, 90, (64, 12))
    answers = model.generate(
        prompts, attention_mask=torch.ones_like(prompts), max_new_tokens=8, do_sample=True, num_return_sequences=2
    )
    assert answers.numel() > 1024
    ends = ["stop" if any(2 <= token < 12 for token in row) else "length" for row in answers[:, 12:].tolist()]
    assert {"stop", "length"} == set(ends)
    assert traced.reasons() == list(zip(ends[::2], ends[1::2], strict=True))


def test_an_assistants_generations_are_not_requests(make_tiny, traced, untraced):
    model, assistant = make_tiny(), make_tiny(num_hidden_layers=1)

    def answer():
        return model.generate(PROMPT, max_new_tokens=20, do_sample=False, assistant_model=assistant)

    assert torch.equal(answer(), untraced(answer))
    answer()
    assert traced.tokens() == [(3, 20, "length")]


def test_a_model_that_assists_itself_from_the_prompt_is_counted_right(make_tiny, traced):
    prompt = torch.tensor([[11, 12, 11, 12, 11, 12, 11]])
    # Versions before 5.2 look the token that ends an answer up in the prompt, and there has to be one.
    model = make_tiny(eos_token_id=END)
    answer = model.generate(prompt, max_new_tokens=20, do_sample=False, prompt_lookup_num_tokens=3)
    ended = int(answer[0, -1]) == END
    assert traced.tokens() == [(7, answer.shape[1] - 7, "stop" if ended else "length")]


def test_an_encoder_is_asked_with_its_own_tokens(make_encoder_decoder, traced, untraced):
    model = make_encoder_decoder()

    def answer(**options):
        return model.generate(PADDED, attention_mask=mask_of(PADDED), max_new_tokens=6, **options)

    assert torch.equal(answer(), untraced(answer))
    answer()
    answer(num_beams=2)
    assert traced.tokens() == [(2, 6, "length"), (4, 6, "length"), (3, 6, "length")] * 2


def test_a_decoder_that_is_given_its_beginning_does_not_count_it_as_an_answer(make_encoder_decoder, traced):
    begun = torch.tensor([[0, 21, 22]])
    make_encoder_decoder().generate(PROMPT, decoder_input_ids=begun, max_length=10)
    assert traced.tokens() == [(3, 7, "length")]
    assert traced.attributes()["gen_ai.request.max_tokens"] == 7


def test_a_cache_of_an_earlier_turn_is_told_apart(make_tiny, traced):
    model = make_tiny()
    first = model.generate(PROMPT, max_new_tokens=5, return_dict_in_generate=True)
    prompt = torch.cat([first.sequences, PROMPT], dim=1)
    model.generate(prompt, past_key_values=first.past_key_values, max_new_tokens=5)
    assert traced.tokens() == [(3, 5, "length"), (11, 5, "length")]
    assert traced.inferences()[1].attributes["gen_ai.usage.cache_read.input_tokens"] == 7


@pytest.mark.parametrize(
    ("options", "reason", "tokens"),
    [
        ({"max_length": 9}, "length", 6),
        ({"max_new_tokens": 6, "max_time": 1e-9}, "length", 1),
        ({"max_new_tokens": 6, "stopping_criteria": [After(5)]}, "stop", 2),
    ],
)
def test_why_an_answer_ended(make_tiny, traced, options, reason, tokens):
    make_tiny().generate(PROMPT, do_sample=False, **options)
    assert traced.tokens() == [(3, tokens, reason)]


def test_an_answer_that_ends_itself_with_its_last_token_has_stopped(make_tiny, traced):
    model = make_tiny()
    third = int(model.generate(PROMPT, max_new_tokens=3, do_sample=False)[0, -1])
    traced.clear()
    model.generate(PROMPT, max_new_tokens=3, do_sample=False, eos_token_id=third)
    assert traced.tokens() == [(3, 3, "stop")]


def test_a_stop_string_stops(tiny, traced):
    model, tokenizer = tiny
    answer = model.generate(PROMPT, max_new_tokens=9, do_sample=False)[0, 3:]
    traced.clear()
    text = tokenizer.decode(answer[:4])[-1]
    model.generate(PROMPT, max_new_tokens=9, do_sample=False, stop_strings=[text], tokenizer=tokenizer)
    [(_, tokens, reason)] = traced.tokens()
    assert (tokens <= 4, reason) == (True, "stop")
    assert traced.attributes()["gen_ai.request.stop_sequences"] == (text,)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, {"max_tokens": 20}),
        ({"max_length": 40}, {"max_tokens": 37}),
        ({"temperature": 0.3}, {"max_tokens": 20}),  # Not used: nothing is drawn.
        ({"do_sample": True}, {"max_tokens": 20, "temperature": 1.0, "top_k": 50, "top_p": 1.0}),
        (
            {"do_sample": True, "temperature": 0.5, "top_k": 7, "top_p": 0.25, "max_new_tokens": 2},
            {"max_tokens": 2, "temperature": 0.5, "top_k": 7, "top_p": 0.25},
        ),
        (
            {"generation_config": GenerationConfig(do_sample=True, top_k=3, temperature=0.75, max_new_tokens=4)},
            {"max_tokens": 4, "temperature": 0.75, "top_k": 3, "top_p": 1.0},
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:Using the model-agnostic default")
def test_the_settings_in_force_are_those_that_transformers_uses(make_tiny, traced, options, expected):
    make_tiny().generate(PROMPT, **options)
    told = {
        name.removeprefix("gen_ai.request."): value
        for name, value in traced.attributes().items()
        if name.startswith("gen_ai.request.") and name != "gen_ai.request.model"
    }
    assert told == expected
    assert traced.tokens() == [(3, expected["max_tokens"], "length")]


def test_settings_of_the_models_own_are_in_force_where_the_call_has_none(make_tiny, traced):
    model = make_tiny()
    model.generation_config = GenerationConfig(max_new_tokens=3, do_sample=True, top_k=4, pad_token_id=0)
    model.generate(PROMPT, top_p=0.5)
    attributes = traced.attributes()
    assert attributes["gen_ai.request.max_tokens"] == 3
    assert (attributes["gen_ai.request.top_k"], attributes["gen_ai.request.top_p"]) == (4, 0.5)


def test_arguments_may_be_given_by_position(make_tiny, traced):
    config = GenerationConfig(max_new_tokens=2, pad_token_id=0)
    make_tiny().generate(PADDED, config, None, [After(99, 5, 99)], attention_mask=mask_of(PADDED))
    assert [tokens[:2] for tokens in traced.tokens()] == [(2, 2), (4, 1), (3, 2)]


def test_whoever_asks_for_more_than_the_tokens_gets_it(make_tiny, traced, untraced):
    model = make_tiny(eos_token_id=END)

    def answer(**options):
        return model.generate(
            PROMPT, max_new_tokens=4, return_dict_in_generate=True, output_scores=True, output_logits=True, **options
        )

    mine, theirs = answer(), untraced(answer)
    assert type(mine) is type(theirs)
    assert torch.equal(mine.sequences, theirs.sequences)
    assert all(torch.equal(a, b) for a, b in zip(mine.scores, theirs.scores, strict=True))
    assert traced.tokens() == []
    answer(num_beams=2)
    assert traced.tokens() == [(3, 4, "length")]


@pytest.mark.parametrize(
    ("where", "error_type"),
    [("before", "ValueError"), ("within", "BrokenError"), ("beams", "BrokenError"), ("stop", "SystemExit")],
)
def test_what_is_raised_is_passed_on_and_ends_the_request(make_tiny, traced, where, error_type):
    model = make_tiny()
    raised = SystemExit(3) if where == "stop" else BrokenError("no more")
    forward, calls = model.forward, []

    @functools.wraps(forward)
    def failing(*args, **kwargs):
        calls.append(None)
        if len(calls) == 4:
            raise raised
        return forward(*args, **kwargs)

    model.forward = failing
    options = {"bogus": 1} if where == "before" else {"num_beams": 2 if where == "beams" else 1}
    expected = ValueError if where == "before" else type(raised)
    with pytest.raises(expected) as caught:
        model.generate(PROMPT, max_new_tokens=9, attention_mask=mask_of(PROMPT), **options)
    assert where == "before" or caught.value is raised
    attributes = traced.attributes()
    assert attributes["error.type"] == error_type
    assert attributes["gen_ai.response.finish_reasons"] == ("error",)
    assert attributes["gen_ai.usage.input_tokens"] == 3
    assert attributes.get("gen_ai.usage.output_tokens") == (None if where == "before" else 3)
    assert traced.inference().status.status_code.name == "ERROR"
    model.forward = forward
    model.generate(PROMPT, max_new_tokens=1)
    assert len(traced.inferences()) == 2


def test_a_streamer_makes_it_a_stream(tiny, traced, capsys):
    model, tokenizer = tiny
    model.generate(PROMPT, max_new_tokens=4, streamer=TextStreamer(tokenizer))
    attributes = traced.attributes()
    assert attributes["gen_ai.request.stream"] is True
    assert attributes["gen_ai.response.time_to_first_chunk"] == attributes["llamatelemetry.time_to_first_token"]


def test_a_streamer_that_raises_ends_the_request_once(make_tiny, traced):
    class Gone(transformers.generation.streamers.BaseStreamer):
        def put(self, value):
            if value.numel() == 1:
                raise BrokenError("reader is gone")

        def end(self):
            pass

    with pytest.raises(BrokenError):
        make_tiny().generate(PROMPT, max_new_tokens=4, streamer=Gone())
    assert traced.attributes()["error.type"] == "BrokenError"


def test_the_callers_span_is_the_parent_and_what_is_traced_meanwhile_a_child(make_tiny, traced):
    class Tracing(StoppingCriteria):
        def __call__(self, input_ids, scores, **kwargs):
            with traced.tracer.start_as_current_span("looking"):
                return torch.zeros(input_ids.shape[0], dtype=torch.bool)

    with traced.tracer.start_as_current_span("asking") as outer:
        make_tiny().generate(PADDED, attention_mask=mask_of(PADDED), max_new_tokens=1, stopping_criteria=[Tracing()])
    spans = traced.inferences()
    assert {span.parent.span_id for span in spans} == {outer.get_span_context().span_id}
    [looking] = [span for span in traced.spans() if span.name == "looking"]
    assert looking.parent.span_id == spans[0].context.span_id


def test_instrumentation_that_is_suppressed_sees_nothing(make_tiny, traced):
    model = make_tiny()
    with suppress_instrumentation():
        model.generate(PROMPT, max_new_tokens=2)
    assert traced.spans() == []


def test_what_is_part_of_somebody_elses_inference_has_its_span_already(make_tiny, traced):
    sink = InstrumentationSink(traced.tracer_provider, traced.meter_provider)
    outer = Observation(InferenceRequest(prompt=""), ModelInfo(model="m", provider="transformers"), sink)
    with outer.active():
        make_tiny().generate(PROMPT, max_new_tokens=2)
    sink.close()
    assert traced.spans() == []


def test_a_loop_of_the_callers_own_is_watched_as_well(make_tiny, traced):
    def loop(model, input_ids, logits_processor, stopping_criteria, generation_config, **kwargs):
        done = torch.zeros(1, dtype=torch.bool)
        while not done.all():
            logits = model(input_ids).logits[:, -1]
            input_ids = torch.cat([input_ids, logits.argmax(-1, keepdim=True)], dim=1)
            done = stopping_criteria(input_ids, None)
        return input_ids

    answer = make_tiny().generate(PROMPT, max_new_tokens=4, custom_generate=loop)
    assert answer.shape == (1, 7)
    assert traced.tokens() == [(3, 4, "length")]


def test_a_loop_that_asks_no_criteria_is_known_by_its_result(make_tiny, traced):
    def loop(model, input_ids, **kwargs):
        return torch.cat([input_ids, torch.tensor([[21, 22, END]])], dim=1)

    make_tiny(eos_token_id=END).generate(PROMPT, max_new_tokens=4, custom_generate=loop)
    assert traced.tokens() == [(3, 3, "stop")]
    assert "llamatelemetry.time_to_first_token" not in traced.attributes()


def test_a_generate_of_the_models_own_is_one_request_however_often_it_calls_the_common_one(make_tiny, traced):
    class Twice(transformers.LlamaForCausalLM):
        def generate(self, inputs, **kwargs):
            first = super().generate(inputs, **kwargs)
            return super().generate(first, **kwargs)

    model = Twice(make_tiny().config).eval()
    answer = model.generate(PADDED, attention_mask=None, max_new_tokens=3)
    assert answer.shape == (3, 10)
    assert [tokens[1] for tokens in traced.tokens()] == [6, 6, 6]
    with pytest.raises(TypeError):
        model.generate(bogus=3)
    assert traced.inferences()[-1].attributes["error.type"] == "TypeError"


@pytest.mark.parametrize("beams", [1, 2])
def test_a_generate_that_returns_less_than_was_generated_is_counted_by_what_was(make_tiny, traced, beams):
    class WithoutItsPrompt(transformers.LlamaForCausalLM):
        def generate(self, inputs, **kwargs):
            return super().generate(inputs, **kwargs)[:, inputs.shape[1] :]

    model = WithoutItsPrompt(make_tiny().config).eval()
    answer = model.generate(PADDED, attention_mask=mask_of(PADDED), max_new_tokens=6, do_sample=False, num_beams=beams)
    assert answer.shape == (3, 6)
    assert traced.tokens() == [(2, 6, "length"), (4, 6, "length"), (3, 6, "length")]


def test_speech_is_written_in_as_many_tokens_as_it_was(traced):
    sizes = {"d_model": 32, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "num_mel_bins": 8, "vocab_size": 100}
    layers = {"encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 3}
    torch.manual_seed(0)
    model = transformers.WhisperForConditionalGeneration(
        transformers.WhisperConfig(max_target_positions=64, begin_suppress_tokens=None, **sizes, **layers, **ids)
    ).eval()
    model.generation_config = GenerationConfig(**ids, no_timestamps_token_id=50, is_multilingual=False)
    steps = []
    model.proj_out.register_forward_hook(lambda *_: steps.append(None))
    model.generate(torch.randn(2, 8, 3000), max_new_tokens=6)
    assert traced.tokens() == [(None, len(steps), "length")] * 2
    assert len(steps) == 6


@pytest.mark.parametrize("answers", [1, 2])
def test_sound_of_several_codebooks_is_as_many_answers_as_were_asked_for(traced, answers):
    layers = {"num_layers": 1, "num_decoder_layers": 1, "num_heads": 4}
    text = transformers.T5Config(vocab_size=99, d_model=32, d_kv=8, d_ff=64, **layers)
    codes = {"codebook_size": 32, "codebook_dim": 32, "hidden_size": 32, "num_filters": 4, "num_lstm_layers": 1}
    sound = transformers.EncodecConfig(upsampling_ratios=[4, 2], target_bandwidths=[150.0], **codes)
    sizes = {"hidden_size": 32, "ffn_dim": 64, "num_hidden_layers": 1, "num_attention_heads": 4, "num_codebooks": 4}
    decoder = transformers.MusicgenDecoderConfig(vocab_size=32, pad_token_id=32, bos_token_id=32, **sizes)
    torch.manual_seed(0)
    model = transformers.MusicgenForConditionalGeneration(
        transformers.MusicgenConfig(
            text_encoder=text.to_dict(), audio_encoder=sound.to_dict(), decoder=decoder.to_dict()
        )
    ).eval()
    model.generation_config = GenerationConfig(decoder_start_token_id=32, pad_token_id=32)
    asked = {"do_sample": True, "num_return_sequences": answers, "guidance_scale": 1.0}
    model.generate(input_ids=PADDED, attention_mask=mask_of(PADDED), max_new_tokens=8, **asked)
    assert [tokens[:2] for tokens in traced.tokens()] == [(prompt, answers * 4 * 8) for prompt in (2, 4, 3)]
    assert traced.reasons() == [("length",) * answers] * 3


def test_prompts_and_answers_are_decoded_only_for_who_wants_them(tiny, traced, monkeypatch):
    model, tokenizer = tiny
    prompt = tokenizer(
        ["Name the seven", "The quick brown fox"], return_tensors="pt", padding=True, padding_side="left"
    )

    def answer(**options):
        return model.generate(**prompt, max_new_tokens=4, do_sample=False, **options)

    texts = tokenizer.batch_decode(answer(tokenizer=tokenizer)[:, prompt["input_ids"].shape[1] :])
    assert all("gen_ai.input.messages" not in span.attributes for span in traced.inferences())
    monkeypatch.setenv("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", "SPAN_ONLY")
    traced.clear()
    traced.instrument_again()
    answer(tokenizer=tokenizer)
    spans = traced.inferences()
    asked = [json.loads(span.attributes["gen_ai.input.messages"])[0]["parts"][0]["content"] for span in spans]
    told = [json.loads(span.attributes["gen_ai.output.messages"])[0]["parts"][0]["content"] for span in spans]
    assert asked == ["Name the seven", "The quick brown fox"]
    assert told == texts


def test_each_of_several_answers_is_exported(tiny, traced, monkeypatch):
    monkeypatch.setenv("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", "SPAN_ONLY")
    traced.instrument_again()
    model, tokenizer = tiny
    prompt = tokenizer("Name the seven", return_tensors="pt")
    answers = model.generate(**prompt, max_new_tokens=4, do_sample=True, num_return_sequences=3, tokenizer=tokenizer)
    told = json.loads(traced.attributes()["gen_ai.output.messages"])
    texts = tokenizer.batch_decode(answers[:, prompt["input_ids"].shape[1] :], skip_special_tokens=True)
    assert [message["parts"][0]["content"] for message in told] == texts
    assert [message["finish_reason"] for message in told] == ["length"] * 3


def test_words_that_cannot_be_decoded_are_left_out_and_the_rest_is_told(make_tiny, traced, monkeypatch):
    class Undecodable:
        def decode(self, ids, **kwargs):
            raise OverflowError("out of range integral type conversion attempted")

    monkeypatch.setenv("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", "SPAN_ONLY")
    traced.instrument_again()
    make_tiny().generate(PADDED, attention_mask=mask_of(PADDED), max_new_tokens=3, tokenizer=Undecodable())
    assert traced.tokens() == [(2, 3, "length"), (4, 3, "length"), (3, 3, "length")]


def test_no_warning_comes_of_it(make_tiny, traced, caplog):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make_tiny().generate(PADDED, attention_mask=mask_of(PADDED), max_new_tokens=2)
    assert [record.getMessage() for record in caplog.records if record.name.startswith(("llama", "open"))] == []
