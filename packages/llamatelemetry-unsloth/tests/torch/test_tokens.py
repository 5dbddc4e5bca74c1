"""Examples are tokens with one end, and only what is to be learned is."""

from __future__ import annotations

import pytest
import torch
from tokenizers import processors
from transformers import AutoTokenizer

from llamatelemetry.errors import InvalidValueError
from llamatelemetry.unsloth.dataset import Example
from llamatelemetry.unsloth.tokens import IGNORED, TokenizedExamples, collator

END = 2


@pytest.fixture
def tokenizer(base):
    return AutoTokenizer.from_pretrained(base)


def row(example, tokenizer, length=64):
    (found,) = TokenizedExamples([example], tokenizer, sequence_length=length)
    return list(found["input_ids"]), list(found["labels"])


def test_all_of_a_text_is_learned_and_its_end(tokenizer):
    tokens, labels = row(Example(line=1, text="the end"), tokenizer)

    assert tokens == labels == [*tokenizer("the end").input_ids, END]


def test_of_a_prompt_and_a_completion_only_the_completion_is_learned(tokenizer):
    tokens, labels = row(Example(line=1, text="two plus two is", completion=" four"), tokenizer)

    prompt, completion = tokenizer("two plus two is").input_ids, tokenizer(" four").input_ids
    assert tokens == [*prompt, *completion, END]
    assert labels == [IGNORED] * len(prompt) + [*completion, END]


def test_a_conversation_is_what_the_chat_template_makes_of_it(tokenizer):
    messages = ({"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"})

    tokens, labels = row(Example(line=1, messages=messages), tokenizer, 500)

    expected = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello<|im_end|>\n"
    assert tokenizer.decode(tokens) == expected
    assert labels == tokens


def test_without_a_chat_template_a_conversation_is_refused_by_its_line(tokenizer):
    tokenizer.chat_template = None

    with pytest.raises(InvalidValueError, match=r"line 9.*no chat template"):
        row(Example(line=9, messages=({"role": "user", "content": "Hi"},)), tokenizer)


def test_what_a_chat_template_refuses_is_said_with_its_reason(tokenizer):
    tokenizer.chat_template = "{{ raise_exception('only the user may speak') }}"

    with pytest.raises(InvalidValueError, match=r"line 9.*only the user may speak"):
        row(Example(line=9, messages=({"role": "user", "content": "Hi"},)), tokenizer)


def test_a_tokenizer_that_ends_texts_itself_ends_none_twice_and_no_prompt(tokenizer):
    plain = tokenizer("a b").input_ids
    ending = processors.TemplateProcessing(single="$A <|im_end|>", special_tokens=[("<|im_end|>", END)])
    tokenizer.backend_tokenizer.post_processor = ending

    assert row(Example(line=1, text="a b"), tokenizer)[0] == [*plain, END]
    tokens, labels = row(Example(line=1, text="a b", completion="c"), tokenizer)
    assert tokens.count(END) == labels.count(END) == 1


def test_what_is_too_long_is_cut_and_counted_and_a_prompt_alone_teaches_nothing(tokenizer):
    examples = [
        Example(line=1, text="x" * 50),
        Example(line=2, text="y" * 50, completion="z"),
        Example(line=3, text="ab"),
    ]

    found = TokenizedExamples(examples, tokenizer, sequence_length=10)

    assert (len(found), found.cut, found.dropped) == (2, 2, 1)
    assert [len(each["input_ids"]) for each in found] == [10, 3]


def test_a_dataset_that_teaches_nothing_is_refused(tokenizer):
    with pytest.raises(InvalidValueError, match="none to learn from"):
        TokenizedExamples([], tokenizer, sequence_length=10)
    with pytest.raises(InvalidValueError, match="sequence_length"):
        TokenizedExamples([Example(line=1, text="y" * 50, completion="z")], tokenizer, sequence_length=10)


def test_a_batch_is_filled_up_with_what_nobody_learns_or_attends_to():
    rows = [{"input_ids": [5, 6, 7], "labels": [-100, 6, 7]}, {"input_ids": [8], "labels": [8]}]

    batch = collator(torch, padding=1)(rows)

    assert batch["input_ids"].tolist() == [[5, 6, 7], [8, 1, 1]]
    assert batch["labels"].tolist() == [[-100, 6, 7], [8, -100, -100]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
