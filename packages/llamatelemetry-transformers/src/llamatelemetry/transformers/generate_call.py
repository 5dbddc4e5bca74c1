"""What a call of ``generate`` asks for: how many prompts, of how many tokens, and with which settings.

The settings are looked up in the order in which ``generate`` lets them override one another. Nothing is
copied, checked or computed on a device before the generation is over: all that could wait.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from types import SimpleNamespace
from typing import Any, Final

from llamatelemetry.backends.request import InferenceRequest, SamplingParams
from llamatelemetry.errors import InvalidRequestError
from llamatelemetry.transformers.batch_rows import token_ids

_DEFAULTS: Final[Mapping[str, Any]] = {"num_return_sequences": 1, "temperature": 1.0, "top_k": 50, "top_p": 1.0}
_DEFAULT_NEW_TOKENS: Final = 20

Question = str | Sequence[Mapping[str, Any]]
"""A prompt as text, or messages."""


class GenerateCall:
    """The arguments of one call.

    Args:
        model: The model it is made on.
        arguments: All of them, by name.
    """

    def __init__(self, model: Any, arguments: Mapping[str, Any]) -> None:
        self._model = model
        self._arguments = arguments
        inputs, ids = self.argument("inputs"), self.argument("input_ids")
        self._embeddings = self.argument("inputs_embeds")
        main = next((one for one in (inputs, ids, self._embeddings, self._other_input()) if one is not None), None)
        given = ids if ids is not None else inputs
        self._ids = given if _has_width(given) and not given.is_floating_point() else None
        self._main = main
        self._is_encoder_decoder = bool(getattr(model.config, "is_encoder_decoder", False))

    def argument(self, name: str) -> Any:
        """What was passed; None if nothing was."""
        return self._arguments.get(name)

    def setting(self, name: str) -> Any:
        """The value of a generation setting that is in force."""
        if name in self._arguments:
            return self._arguments[name]
        for config in (self.argument("generation_config"), getattr(self._model, "generation_config", None)):
            value = getattr(config, name, None)
            if value is not None:
                return value
        return _DEFAULTS.get(name)

    @cached_property
    def prompts(self) -> int:
        """How many prompts there are."""
        shape = getattr(self._main, "shape", None)
        return int(shape[0]) if shape is not None and len(shape) > 1 and shape[0] else 1

    @cached_property
    def width(self) -> int | None:
        """Tokens that each sequence of the answer begins with; None where only the generation will tell."""
        if self._is_encoder_decoder:
            begun = self.argument("decoder_input_ids")
            return int(begun.shape[1]) if _has_width(begun) else 1
        if self._ids is not None:
            return int(self._ids.shape[1])
        return 0 if self._embeddings is not None else None

    @property
    def is_assisted(self) -> bool:
        """Whether somebody else guesses tokens that the model only checks."""
        helpers = ("prompt_lookup_num_tokens", "assistant_early_exit", "use_mtp")
        has_helper = self.argument("assistant_model") is not None or any(self.setting(name) for name in helpers)
        return has_helper and (self.setting("num_beams") or 1) == 1

    @property
    def cached_tokens(self) -> int | None:
        """Tokens of the prompt that a cache holds already; to be asked before the generation adds to it."""
        length = getattr(self.argument("past_key_values"), "get_seq_length", None)
        tokens = length() if callable(length) else None
        # Fixed caches have it in a tensor, which may be on a device and is left there.
        return tokens if isinstance(tokens, int) and tokens > 0 else None

    def prompt_tokens(self) -> list[int] | None:
        """Tokens of each prompt, without what fills it up; None for what is not made of tokens.

        It may wait for the device, so it is to be asked when the generation is over.
        """
        if self._ids is None and self._embeddings is None:
            return None
        mask = self.argument("attention_mask")
        if _has_width(mask) and len(mask.shape) == 2 and mask.shape[0] == self.prompts:
            return _list(mask.count_nonzero(-1))
        if self._ids is None:
            return [int(self._embeddings.shape[1])] * self.prompts
        fill = self.setting("pad_token_id")
        if fill is not None and fill not in token_ids(self.setting("eos_token_id")):
            return _list((self._ids != fill).sum(-1))
        return [int(self._ids.shape[1])] * self.prompts

    def prompt_texts(self, tokenizer: Any) -> list[str]:
        """The prompts, decoded; empty texts for what is not made of tokens."""
        if self._ids is None:
            return [""] * self.prompts
        rows, mask = self._ids.tolist(), self.argument("attention_mask")
        if _has_width(mask) and mask.shape == self._ids.shape:
            rows = [
                [token for token, seen in zip(row, seen_row, strict=True) if seen]
                for row, seen_row in zip(rows, mask.tolist(), strict=True)
            ]
        return [str(tokenizer.decode(row, skip_special_tokens=True)) for row in rows]

    def config(self) -> SimpleNamespace:
        """What is known beforehand of the configuration that it runs under."""
        new_tokens, width = self._most_new_tokens(), self.width
        return SimpleNamespace(
            eos_token_id=self.setting("eos_token_id"),
            pad_token_id=self.setting("pad_token_id"),
            max_length=None if new_tokens is None or width is None else width + new_tokens,
            max_time=self.setting("max_time"),
        )

    def requests(self, questions: Sequence[Question], **known: Any) -> list[InferenceRequest]:
        """One request for each prompt.

        Args:
            questions: The prompts in words, as far as they are known: fewer, or none, will do.
            known: Settings of :class:`InferenceRequest` that need not be looked up.
        """
        settings: dict[str, Any] = {
            "max_tokens": _at_least_one(self._most_new_tokens()),
            "n": _at_least_one(self.setting("num_return_sequences")) or 1,
            "sampling": self._sampling(),
            "stop": _texts(self.setting("stop_strings")),
            **known,
        }
        if len(questions) != self.prompts:
            questions = [""] * self.prompts
        return [_request(question, settings) for question in questions]

    def _other_input(self) -> Any:
        """What stands in for tokens: sound, pixels, or what an encoder made of either."""
        encoded = self.argument("encoder_outputs")
        if encoded is not None:
            return encoded[0]
        name = getattr(self._model, "main_input_name", None)
        return None if name is None else self.argument(name)

    def _most_new_tokens(self) -> Any:
        new_tokens = self.setting("max_new_tokens")
        if new_tokens is not None:
            return new_tokens
        most, width = self.setting("max_length"), self.width
        if most is None:
            room = getattr(self._model.config, "max_position_embeddings", None)
            return _DEFAULT_NEW_TOKENS if room is None else min(_DEFAULT_NEW_TOKENS, room - (width or 0))
        if self._ids is None and self._embeddings is not None and not self._is_encoder_decoder:
            return most - int(self._embeddings.shape[1])
        return None if width is None else most - width

    def _sampling(self) -> SamplingParams:
        penalty = self.setting("repetition_penalty")
        used: dict[str, Any] = {} if penalty is None else {"repeat_penalty": float(penalty)}
        if self.setting("do_sample"):  # Else the rest is not used, whatever it says.
            for name in ("temperature", "top_k", "top_p", "min_p"):
                value = self.setting(name)
                if value is not None:
                    used[name] = value if name == "top_k" else float(value)
        try:
            return SamplingParams(**used)
        except InvalidRequestError:
            return SamplingParams()  # transformers has its own word to say about it.


def _request(question: Question, settings: Mapping[str, Any]) -> InferenceRequest:
    try:
        if isinstance(question, str):
            return InferenceRequest(prompt=question, **settings)
        return InferenceRequest(messages=question, **settings)
    except InvalidRequestError:
        return InferenceRequest(prompt="")


def _list(tensor: Any) -> list[int]:
    values: list[int] = tensor.tolist()
    return values


def _has_width(value: Any) -> bool:
    shape = getattr(value, "shape", None)
    return shape is not None and len(shape) > 1


def _at_least_one(value: Any) -> int | None:
    return value if isinstance(value, int) and value >= 1 else None


def _texts(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    return (value,) if isinstance(value, str) else tuple(str(one) for one in value)
