"""Calls of transformers of which everything is known: a model that counts, words that are one token each.

It answers each word with the next one, and the last word with the end of the answer: how many tokens a
prompt gets, and why no more, follows from the prompt. The model costs next to nothing, and yet
transformers takes milliseconds to prepare a call around it, and 0.3 ms a token, in whose noise nothing
can be measured that is worth as little as an instrumentation ought to be. So there is a generate(), too,
that is put in the place of transformers' own before anybody instruments it: for a quick counter it makes
the same criteria and asks them after each token whether to stop, and does nothing else.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial, wraps
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.generation.stopping_criteria import StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer
from transformers.generation.utils import GenerationMixin
from transformers.modeling_outputs import CausalLMOutputWithPast

NAME = "counting-model"
WORDS = 1024
END = WORDS - 1
PROMPT = tuple(range(10, 18))
BATCH = (
    tuple(range(10, 13)),
    tuple(range(END - 12, END - 5)),
    tuple(range(200, 212)),
    tuple(range(END - 25, END - 20)),
)
"""Prompts of different lengths. The second and the fourth end after 6 and 21 tokens, if they may."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Truth:
    """What is to be measured of one call.

    Attributes:
        prompt_tokens: Of each prompt, without padding.
        answer_tokens: Of each answer, with the token that ends it.
        finish_reasons: Why each answer ended.
    """

    prompt_tokens: tuple[int, ...]
    answer_tokens: tuple[int, ...]
    finish_reasons: tuple[str, ...]


def truth(prompts: Sequence[Sequence[int]], new_tokens: int) -> Truth:
    """What follows from the prompts, and from how many tokens may be generated."""
    left = [END - prompt[-1] for prompt in prompts]
    return Truth(
        prompt_tokens=tuple(len(prompt) for prompt in prompts),
        answer_tokens=tuple(min(tokens, new_tokens) for tokens in left),
        finish_reasons=tuple("stop" if tokens <= new_tokens else "length" for tokens in left),
    )


class QuickCounter(LlamaForCausalLM):  # type: ignore[misc]  # transformers is not there where types are checked
    """Answers as the counting model does, with a loop that does next to nothing beside."""

    def count(
        self,
        inputs: Any = None,
        *,
        input_ids: Any = None,
        generation_config: Any = None,
        max_new_tokens: int | None = None,
        streamer: Any = None,
        **_: Any,
    ) -> Any:
        """What ``generate`` returns."""
        input_ids = inputs if input_ids is None else input_ids
        config = self.generation_config if generation_config is None else generation_config
        most = config.max_new_tokens if max_new_tokens is None else max_new_tokens
        config = self._prepared(input_ids.shape[1] + most)
        stopping_criteria = self._get_stopping_criteria(
            generation_config=config, stopping_criteria=StoppingCriteriaList()
        )
        unfinished = torch.ones(input_ids.shape[0], dtype=torch.long)
        while unfinished.any():
            # Of what is complete nothing but zeros is left, which fill it up.
            token = (input_ids[:, -1] + 1) * unfinished
            input_ids = torch.cat([input_ids, token[:, None]], dim=-1)
            if streamer is not None:
                streamer.put(token)
            unfinished = unfinished & ~stopping_criteria(input_ids, None)
        if streamer is not None:
            streamer.end()
        return input_ids

    def _prepared(self, length: int) -> Any:
        known = self.__dict__.setdefault("_configs", {})
        if length not in known:
            config = known[length] = copy.deepcopy(self.generation_config)
            config.max_length = length
            config._eos_token_tensor = torch.tensor([END])  # noqa: SLF001 - where generate() itself puts it
        return known[length]


def put_quick_generate() -> None:
    """Gives transformers a ``generate`` that lets a quick counter count; all others generate as ever."""
    generate = GenerationMixin.generate

    @wraps(generate)
    def either(self: Any, *args: Any, **kwargs: Any) -> Any:
        return (self.count if isinstance(self, QuickCounter) else partial(generate, self))(*args, **kwargs)

    GenerationMixin.generate = either


# Pipelines look a model up by the name of its class.
QuickCounter.__name__ = LlamaForCausalLM.__name__


class CountingModel:
    """The model and its tokenizer, with a clock in the model.

    Args:
        first_s: Seconds that the first step sleeps.
        step_s: Seconds that each further step sleeps.
        quick: Answers without the model and without transformers' loop, which cost more than what is measured.

    Attributes:
        model: A Llama whose forward pass looks the answer up.
        tokenizer: One word, one token.
        first_token_at: When the first step of the latest call ended, in seconds of ``perf_counter``.
    """

    def __init__(self, *, first_s: float = 0, step_s: float = 0, quick: bool = False) -> None:
        config = LlamaConfig(
            vocab_size=WORDS,
            hidden_size=8,
            intermediate_size=8,
            num_hidden_layers=1,
            num_attention_heads=1,
            num_key_value_heads=1,
            bos_token_id=None,
            pad_token_id=0,
            eos_token_id=END,
        )
        config.name_or_path = NAME
        self.model: Any = (QuickCounter if quick else LlamaForCausalLM)(config).eval()
        self.model.forward = self._forward
        self._next = torch.eye(WORDS).roll(1, dims=1)
        self._sleeps = (first_s, step_s)
        self._asked = True
        self.first_token_at = 0.0
        self.tokenizer = _tokenizer()

    def asked(self) -> None:
        """Says that a call begins."""
        self._asked = True

    def _forward(
        self, input_ids: Any = None, attention_mask: Any = None, past_key_values: Any = None, **_: Any
    ) -> CausalLMOutputWithPast:
        seconds = self._sleeps[0 if self._asked else 1]
        if seconds:
            time.sleep(seconds)
        if self._asked:
            self._asked = False
            self.first_token_at = time.perf_counter()
        return CausalLMOutputWithPast(logits=self._next[input_ids[:, -1:]], past_key_values=past_key_values)


def _tokenizer() -> PreTrainedTokenizerFast:
    words = {"<pad>": 0, "<unknown>": 1} | {f"word{number}": number for number in range(2, END)} | {"<end>": END}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unknown>"))  # noqa: S106  no password
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",  # noqa: S106  no password
        eos_token="<end>",  # noqa: S106  no password
        unk_token="<unknown>",  # noqa: S106  no password
        padding_side="left",
    )


class Silent(BaseStreamer):  # type: ignore[misc]  # transformers is not there where types are checked
    """Takes the tokens and does nothing with them."""

    def put(self, value: Any) -> None:
        """Takes some."""

    def end(self) -> None:
        """Has them all."""


def padded(prompts: Sequence[Sequence[int]]) -> dict[str, Any]:
    """What ``generate`` takes for prompts of different lengths."""
    longest = max(len(prompt) for prompt in prompts)
    rows = [[0] * (longest - len(prompt)) + list(prompt) for prompt in prompts]
    masks = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return {"input_ids": torch.tensor(rows), "attention_mask": torch.tensor(masks)}


def _by_position(counting: CountingModel, prompts: Sequence[Sequence[int]], **options: Any) -> Callable[[int], Any]:
    asked = padded(prompts)
    ids, mask = asked["input_ids"], asked["attention_mask"]
    return lambda tokens: counting.model.generate(
        ids, attention_mask=mask, max_new_tokens=tokens, do_sample=False, **options
    )


def _by_name(counting: CountingModel, **options: Any) -> Callable[[int], Any]:
    asked = padded([PROMPT])
    return lambda tokens: counting.model.generate(**asked, max_new_tokens=tokens, do_sample=False, **options)


def _pipeline(counting: CountingModel, **options: Any) -> Callable[[int], Any]:
    import transformers

    # Looked up here and now: some measure pipelines by putting their own function in its place.
    pipe = transformers.pipeline("text-generation", model=counting.model, tokenizer=counting.tokenizer)
    text = " ".join(f"word{token}" for token in PROMPT)
    return lambda tokens: pipe(text, max_new_tokens=tokens, do_sample=False, **options)


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One way of asking.

    Attributes:
        name: In words.
        prompts: What is asked, one request each.
        prepare: Makes the function that asks, given how many tokens are wanted at most; takes a model and
            options of ``generate``.
    """

    name: str
    prompts: tuple[tuple[int, ...], ...]
    prepare: Callable[..., Callable[[int], Any]]


CALLS = (
    Call(name="generate(ids)", prompts=(PROMPT,), prepare=partial(_by_position, prompts=[PROMPT])),
    Call(name="generate(**inputs)", prompts=(PROMPT,), prepare=_by_name),
    Call(
        name="generate, streamer",
        prompts=(PROMPT,),
        prepare=partial(_by_position, prompts=[PROMPT], streamer=Silent()),
    ),
    Call(name="generate, batch of 4", prompts=BATCH, prepare=partial(_by_position, prompts=BATCH)),
    Call(name="pipeline", prompts=(PROMPT,), prepare=_pipeline),
)
