"""The request, as the caller writes it and as every backend reads it.

It stands on the backends' floor, below the engine, because a backend is a function of it.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from llamatelemetry.errors import InvalidRequestError

Operation = Literal["chat", "text_completion", "embeddings"]
"""Values of ``gen_ai.operation.name`` that a request can be."""

_NOTHING: Mapping[str, Any] = MappingProxyType({})


def _check_range(name: str, value: float | None, low: float, high: float) -> None:
    if value is None:
        return
    integral = isinstance(low, int)
    if isinstance(value, bool) or not isinstance(value, int if integral else int | float):
        raise InvalidRequestError(name, value, "give a whole number" if integral else "give a number")
    # No JSON has infinity; of a time to wait it is one like any other.
    if not low <= value <= high or (value == math.inf and name != "deadline_s"):
        limit = f"of at least {low:g}, and finite" if high == math.inf else f"between {low:g} and {high:g}"
        raise InvalidRequestError(name, value, f"give a number {limit}")


def _check_messages(messages: Sequence[Mapping[str, Any]]) -> None:
    if isinstance(messages, str | bytes | Mapping) or not isinstance(messages, Sequence) or not messages:
        raise InvalidRequestError("messages", messages, 'give a list such as [{"role": "user", "content": "Hi"}]')
    for index, message in enumerate(messages):
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise InvalidRequestError(
                f"messages[{index}]", message, 'give a mapping with a "role" string and a "content"'
            )


def _texts_of(given: Iterable[str]) -> tuple[str, ...]:
    texts = tuple(given) if isinstance(given, Iterable) and not isinstance(given, str | bytes) else ()
    if not texts or not all(isinstance(text, str) for text in texts):
        raise InvalidRequestError("input", given, 'give a list of texts such as ["a", "b"]')
    return texts


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How the next token is drawn. ``None`` leaves a choice to the backend.

    Attributes:
        temperature: 0 is greedy; at least 0.
        top_p: Nucleus mass, in (0, 1].
        top_k: Candidates kept; 0 keeps all.
        min_p: Smallest probability relative to the best candidate, in [0, 1].
        frequency_penalty: OpenAI's, in [-2, 2].
        presence_penalty: OpenAI's, in [-2, 2].
        repeat_penalty: llama.cpp's; 1 is none.

    Raises:
        InvalidRequestError: A value is outside its range.
    """

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    repeat_penalty: float | None = None

    def __post_init__(self) -> None:
        _check_range("sampling.temperature", self.temperature, 0.0, math.inf)
        _check_range("sampling.top_p", self.top_p, 0.0, 1.0)
        _check_range("sampling.top_k", self.top_k, 0, math.inf)
        _check_range("sampling.min_p", self.min_p, 0.0, 1.0)
        _check_range("sampling.frequency_penalty", self.frequency_penalty, -2.0, 2.0)
        _check_range("sampling.presence_penalty", self.presence_penalty, -2.0, 2.0)
        _check_range("sampling.repeat_penalty", self.repeat_penalty, 0.0, math.inf)


@dataclass(frozen=True, slots=True, kw_only=True)
class InferenceRequest:
    """One question to a model. Give one of ``prompt``, ``messages`` and ``input``.

    Messages, input, tools and stop are copied when it is made: it asks the same, however long it waits,
    whatever becomes of the lists it was made from.

    Attributes:
        prompt: Raw text to continue.
        messages: Chat messages, OpenAI shape: ``{"role": ..., "content": ...}``.
        input: Texts to embed.
        model: Model to ask for; None is the one the engine opened.
        max_tokens: Most tokens to generate; None leaves it to the backend.
        n: Answers wanted; more than one with ``engine.choices()`` only.
        sampling: How tokens are drawn.
        stop: Strings that end the answer.
        seed: Makes sampling repeatable where the backend can.
        response_format: OpenAI's ``response_format``, passed through.
        grammar: A GBNF grammar, passed through.
        tools: OpenAI's tool definitions, passed through.
        logprobs: Likeliest candidates to tell beside each token of the answer, with the log-probability of
            each, in the result's ``raw``; 0 tells the token's own, None nothing. Backends that cannot, refuse.
        priority: Smaller is more urgent; recorded on the span.
        tenant: Who pays for it; recorded on the span.
        deadline_s: Seconds from submission within which it must be dispatched.
        conversation_id: Groups the requests of one conversation.
        request_id: Unique name; made up when empty.
        metadata: The caller's own notes. Never sent, never exported.

    Raises:
        InvalidRequestError: Names the field, the value and what to give instead.
    """

    prompt: str | None = None
    messages: Sequence[Mapping[str, Any]] | None = None
    input: Sequence[str] | None = None
    model: str | None = None
    max_tokens: int | None = None
    n: int = 1
    sampling: SamplingParams = SamplingParams()
    stop: Sequence[str] = ()
    seed: int | None = None
    response_format: Mapping[str, Any] | None = None
    grammar: str | None = None
    tools: Sequence[Mapping[str, Any]] | None = None
    logprobs: int | None = None
    priority: int = 0
    tenant: str | None = None
    deadline_s: float | None = None
    conversation_id: str | None = None
    request_id: str = ""
    metadata: Mapping[str, Any] = field(default_factory=lambda: _NOTHING)

    def __post_init__(self) -> None:
        if (self.prompt is None) + (self.messages is None) + (self.input is None) != 2:
            questions = {"prompt": self.prompt, "messages": self.messages, "input": self.input}
            given = [name for name, value in questions.items() if value is not None]
            raise InvalidRequestError("prompt|messages|input", given, "give exactly one of them")
        if self.prompt is not None and not isinstance(self.prompt, str):
            raise InvalidRequestError("prompt", self.prompt, "give text")
        if self.messages is not None:
            _check_messages(self.messages)
            object.__setattr__(self, "messages", tuple(dict(message) for message in self.messages))
        if self.input is not None:
            object.__setattr__(self, "input", _texts_of(self.input))
        if self.tools is not None:
            object.__setattr__(self, "tools", tuple(self.tools))
        if isinstance(self.stop, str):
            object.__setattr__(self, "stop", (self.stop,))
        elif not all(isinstance(item, str) for item in self.stop):
            raise InvalidRequestError("stop", self.stop, "give a string or a sequence of strings")
        else:
            object.__setattr__(self, "stop", tuple(self.stop))
        _check_range("max_tokens", self.max_tokens, 1, math.inf)
        _check_range("n", self.n, 1, math.inf)
        _check_range("logprobs", self.logprobs, 0, math.inf)
        _check_range("deadline_s", self.deadline_s, 0.0, math.inf)
        if not self.request_id:
            object.__setattr__(self, "request_id", os.urandom(16).hex())

    @property
    def operation(self) -> Operation:
        """``chat`` for messages, ``text_completion`` for a prompt, ``embeddings`` for input."""
        if self.input is not None:
            return "embeddings"
        return "text_completion" if self.messages is None else "chat"
