"""What a call of ``generate`` asks for: how many prompts, and of how many tokens.

Nothing is copied or computed on a device before the generation is over: all that could wait.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from types import SimpleNamespace
from typing import Any, Final

from llamatelemetry.transformers.batch_rows import is_small, token_ids
from llamatelemetry.transformers.generate_settings import GenerateSettings

_DEFAULT_NEW_TOKENS: Final = 20
_HELPERS: Final = ("prompt_lookup_num_tokens", "assistant_early_exit", "use_mtp")

Question = str | Sequence[Mapping[str, Any]]
"""A prompt as text, or messages."""


class GenerateCall:
    """The arguments of one call.

    Args:
        model: The model it is made on.
        arguments: All of them, by name.

    Attributes:
        settings: Those in force.
    """

    def __init__(self, model: Any, arguments: Mapping[str, Any]) -> None:
        self._model = model
        self._arguments = arguments
        self.settings: GenerateSettings = GenerateSettings(model, arguments)
        inputs, ids = arguments.get("inputs"), arguments.get("input_ids")
        self._embeddings: Any = arguments.get("inputs_embeds")
        main = inputs if inputs is not None else ids if ids is not None else self._embeddings
        given: Any = ids if ids is not None else inputs
        self._ids = given if _is_tokens(given) else None
        self._main = self._other_input() if main is None else main

    def argument(self, name: str) -> Any:
        """What was passed; None if nothing was."""
        return self._arguments.get(name)

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

    @cached_property
    def is_assisted(self) -> bool:
        """Whether somebody else guesses tokens that the model only checks."""
        has_helper = self.argument("assistant_model") is not None or any(map(self.settings.__getitem__, _HELPERS))
        return has_helper and (self.settings["num_beams"] or 1) == 1

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
            return _counted(mask)
        if self._ids is None:
            return [int(self._embeddings.shape[1])] * self.prompts
        fill = self.settings["pad_token_id"]
        if fill is not None and fill not in token_ids(self.settings["eos_token_id"]):
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
        new_tokens, width = self.new_tokens(), self.width
        return SimpleNamespace(
            eos_token_id=self.settings["eos_token_id"],
            pad_token_id=self.settings["pad_token_id"],
            max_length=None if new_tokens is None or width is None else width + new_tokens,
            max_time=self.settings["max_time"],
        )

    def new_tokens(self) -> Any:
        """Most tokens that may be generated; None where only the generation will tell."""
        new_tokens = self.settings["max_new_tokens"]
        if new_tokens is not None:
            return new_tokens
        most, width = self.settings["max_length"], self.width
        if most is None:
            room = getattr(self._model.config, "max_position_embeddings", None)
            return _DEFAULT_NEW_TOKENS if room is None else min(_DEFAULT_NEW_TOKENS, room - (width or 0))
        if self._ids is None and self._embeddings is not None and not self._is_encoder_decoder:
            return most - int(self._embeddings.shape[1])
        return None if width is None else most - width

    @cached_property
    def _is_encoder_decoder(self) -> bool:
        return bool(getattr(self._model.config, "is_encoder_decoder", False))

    def _other_input(self) -> Any:
        """What stands in for tokens: sound, pixels, or what an encoder made of either."""
        encoded = self.argument("encoder_outputs")
        if encoded is not None:
            return encoded[0]
        name = getattr(self._model, "main_input_name", None)
        return None if name is None else self.argument(name)


def _counted(mask: Any) -> list[int]:
    """How many of each row are not zero."""
    if is_small(mask):
        return [sum(map(bool, row)) for row in mask.tolist()]
    return _list(mask.count_nonzero(-1))


def _list(tensor: Any) -> list[int]:
    values: list[int] = tensor.tolist()
    return values


def _is_tokens(value: Any) -> bool:
    is_floating_point = getattr(value, "is_floating_point", None)  # Arrays of others have none; no model takes them.
    return _has_width(value) and is_floating_point is not None and not is_floating_point()


def _has_width(value: Any) -> bool:
    shape = getattr(value, "shape", None)
    return shape is not None and len(shape) > 1
