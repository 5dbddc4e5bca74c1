"""What llama-server answers to a request, typed: the chunks of a stream, their counts and times, and embeddings.

Built and checked as what the server says of itself is (:mod:`~llamatelemetry.llama.server_replies`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, Self

from llamatelemetry.llama.reply_fields import (
    MOST,
    NUMBER,
    mapping_at,
    may,
    may_count,
    may_number,
    need,
    need_count,
    told_count,
    wrong,
)

_NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class Timings:
    """``timings`` of an answer: what the server measured of itself.

    The server's per-token and per-second forms are left out: they follow from these, and their
    meaning changed between releases.

    Attributes:
        cached_tokens: Prompt tokens found in the slot's cache (``cache_n``).
        prompt_tokens: Prompt tokens computed, cached ones excluded (``prompt_n``).
        prompt_ms: Time spent on them, in milliseconds.
        predicted_tokens: Tokens generated (``predicted_n``).
        predicted_ms: Time spent on them, in milliseconds.
    """

    cached_tokens: int | None
    prompt_tokens: int | None
    prompt_ms: float | None
    predicted_tokens: int | None
    predicted_ms: float | None

    @classmethod
    def from_json(cls, message: Any) -> Self:
        """Checks and types the object."""
        timings = mapping_at(message, "timings")
        return cls(
            cached_tokens=may_count(timings, "timings", "cache_n"),
            prompt_tokens=may_count(timings, "timings", "prompt_n"),
            prompt_ms=may_number(timings, "timings", "prompt_ms"),
            predicted_tokens=may_count(timings, "timings", "predicted_n"),
            predicted_ms=may_number(timings, "timings", "predicted_ms"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenUsage:
    """``usage`` of an answer, in tokens.

    Attributes:
        prompt_tokens: All prompt tokens, cached ones included.
        completion_tokens: Tokens generated.
        cached_tokens: Prompt tokens found in the cache.
        reasoning_tokens: Generated tokens that were reasoning.
    """

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None

    @classmethod
    def from_json(cls, message: Any) -> Self:
        """Checks and types the object."""
        usage = mapping_at(message, "usage")
        prompt = mapping_at(usage.get("prompt_tokens_details") or {}, "usage.prompt_tokens_details")
        completion = mapping_at(usage.get("completion_tokens_details") or {}, "usage.completion_tokens_details")
        return cls(
            prompt_tokens=need_count(usage, "usage", "prompt_tokens"),
            completion_tokens=told_count(usage, "usage", "completion_tokens") or 0,
            cached_tokens=may_count(prompt, "usage.prompt_tokens_details", "cached_tokens"),
            reasoning_tokens=may_count(completion, "usage.completion_tokens_details", "reasoning_tokens"),
        )


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """A piece of one tool call; pieces with the same ``index`` belong together.

    Attributes:
        index: Which of the answer's tool calls it continues.
        id: The call's id, in its first piece.
        name: The function's name, in its first piece.
        arguments: The next characters of its JSON arguments.
    """

    index: int
    id: str | None
    name: str | None
    arguments: str

    @classmethod
    def from_json(cls, message: Any) -> Self:
        """Checks and types the piece."""
        path = "choices[0].delta.tool_calls[]"
        call = mapping_at(message, path)
        function = mapping_at(call.get("function") or {}, f"{path}.function")
        return cls(
            index=may(call, path, "index", int) or 0,
            id=may(call, path, "id", str),
            name=may(function, f"{path}.function", "name", str),
            arguments=may(function, f"{path}.function", "arguments", str) or "",
        )


@dataclass(frozen=True, slots=True)
class ChatChunk:
    """One event of a streamed ``/v1/chat/completions``.

    Attributes:
        content: The next characters of the answer; empty in chunks that carry something else.
        reasoning: The next characters of the reasoning.
        tool_calls: Pieces of tool calls.
        finish_reason: Why it ended, in the last chunk with a choice.
        usage: Token counts, in the last chunk.
        timings: Compute times, in the last chunk.
        raw: The whole message; ``id`` and ``model`` are read from it.
    """

    content: str
    reasoning: str
    tool_calls: tuple[ToolCallDelta, ...]
    finish_reason: str | None
    usage: TokenUsage | None
    timings: Timings | None
    raw: Mapping[str, Any]

    @property
    def id(self) -> str | None:
        """The server's id of the answer, ``chatcmpl-...``."""
        return may(self.raw, "chunk", "id", str)

    @property
    def model(self) -> str | None:
        """The model that answers, as the server names it."""
        return may(self.raw, "chunk", "model", str)

    @property
    def slot_id(self) -> int | None:
        """The slot that ran it: in the chunk with the reason, of a server that logs everything (``-lv 10``)."""
        verbose = self.raw.get("__verbose")
        return may(verbose, "chunk.__verbose", "id_slot", int) if isinstance(verbose, Mapping) else None

    @classmethod
    def from_json(cls, message: Any) -> Self:
        """Checks and types one event; runs once per token."""
        choices = need(message, "chunk", "choices", list)
        if choices:
            choice = mapping_at(choices[0], "choices[0]")
            delta = mapping_at(choice.get("delta"), "choices[0].delta")
            finish_reason = choice.get("finish_reason")
        else:
            delta, finish_reason = _NOTHING, None
        content = delta.get("content") or ""
        reasoning = delta.get("reasoning_content") or ""
        if not (isinstance(content, str) and isinstance(reasoning, str)):
            raise wrong("choices[0].delta", delta, "text")
        if finish_reason is not None and not isinstance(finish_reason, str):
            raise wrong("choices[0].finish_reason", finish_reason, "text or null")
        calls = delta.get("tool_calls")
        usage = message.get("usage")
        timings = message.get("timings")
        return cls(
            content,
            reasoning,
            tuple(map(ToolCallDelta.from_json, need(delta, "choices[0].delta", "tool_calls", list))) if calls else (),
            finish_reason,
            None if usage is None else TokenUsage.from_json(usage),
            None if timings is None else Timings.from_json(timings),
            message,
        )


@dataclass(frozen=True, slots=True)
class CompletionChunk:
    """One event of a streamed ``/completion``.

    Attributes:
        content: The next characters.
        stop: True in the last chunk.
        finish_reason: ``stop`` or ``length``, in the last chunk.
        usage: Token counts, in the last chunk.
        timings: Compute times, in the last chunk.
        slot_id: The slot that ran it, in the last chunk.
        raw: The whole message.
    """

    content: str
    stop: bool
    finish_reason: str | None
    usage: TokenUsage | None
    timings: Timings | None
    slot_id: int | None
    raw: Mapping[str, Any]

    @property
    def model(self) -> str | None:
        """The model that answers, as the server names it; in the last chunk."""
        return may(self.raw, "chunk", "model", str)

    @classmethod
    def from_json(cls, message: Any) -> Self:
        """Checks and types one event; runs once per token."""
        content = need(message, "chunk", "content", str)
        if not need(message, "chunk", "stop", bool):
            return cls(content, False, None, None, None, None, message)
        timings = Timings.from_json(message.get("timings") or _NOTHING)
        # tools/server/README.md: stop_type is eos, limit, word or none.
        limited = message.get("stop_type") == "limit"
        return cls(
            content,
            True,
            "length" if limited else "stop",
            TokenUsage(
                prompt_tokens=need_count(message, "chunk", "tokens_evaluated"),
                completion_tokens=need_count(message, "chunk", "tokens_predicted"),
                cached_tokens=timings.cached_tokens,
            ),
            timings,
            may(message, "chunk", "id_slot", int),
            message,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingsReply:
    """Reply of ``/v1/embeddings``.

    Attributes:
        vectors: One per input, in order.
        input_tokens: Tokens in all inputs together.
        model: The model that made them, as the server names it.
    """

    vectors: tuple[tuple[float, ...], ...]
    input_tokens: int
    model: str | None

    @classmethod
    def from_json(cls, message: Any) -> Self:
        """Checks and types the reply."""
        path = "embeddings.data[]"
        entries = need(message, "embeddings", "data", list)
        vectors = []
        for entry in sorted(entries, key=lambda entry: need(entry, path, "index", int)):
            vector = need(entry, path, "embedding", list)
            if not all(isinstance(number, NUMBER) and -MOST <= number <= MOST for number in vector):
                raise wrong(f"{path}.embedding", vector, "numbers")
            vectors.append(tuple(map(float, vector)))
        return cls(
            vectors=tuple(vectors),
            input_tokens=TokenUsage.from_json(message.get("usage")).prompt_tokens,
            model=may(message, "embeddings", "model", str),
        )
