"""From the chunks llama-server streams to the deltas and the one end that the engine takes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from llamatelemetry.backends.protocol import BackendTimings, FinishReason, StreamEnd, TokenDelta, Usage
from llamatelemetry.errors import BackendProtocolError
from llamatelemetry.llama.answer_replies import (
    ChatChunk,
    CompletionChunk,
    EmbeddingsReply,
    Timings,
    TokenUsage,
    ToolCallDelta,
)

FINISH_REASONS: Final[Mapping[str, FinishReason]] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
}
"""Why an answer ended, as OpenAI's format spells it."""


def read_chat(chunks: Iterable[ChatChunk], slot_id: int | None) -> Iterator[TokenDelta | StreamEnd]:
    """Types a chat answer. One chunk is one delta per channel it carries; the role-only chunk is none.

    Args:
        chunks: The streamed answer.
        slot_id: Slot it was sent to, for a server that does not tell which one it was.

    Raises:
        BackendProtocolError: It ended without a reason.
    """
    calls: dict[int, ToolCall] = {}
    first: ChatChunk | None = None
    reason: str | None = None
    usage: TokenUsage | None = None
    timings: Timings | None = None
    last: Mapping[str, Any] = {}
    for chunk in chunks:
        first = first or chunk
        if chunk.reasoning:
            yield TokenDelta(chunk.reasoning, "reasoning")
        if chunk.content:
            yield TokenDelta(chunk.content)
        for piece in chunk.tool_calls:
            calls.setdefault(piece.index, ToolCall()).add(piece)
            yield TokenDelta(piece.arguments, "tool_call")
        if chunk.finish_reason:
            reason = chunk.finish_reason
            slot_id = slot_id if chunk.slot_id is None else chunk.slot_id
        usage = chunk.usage or usage
        timings = chunk.timings or timings
        last = chunk.raw
    if first is None or reason is None:
        raise BackendProtocolError("llama-server ended a chat answer without saying why")
    yield StreamEnd(
        finish_reason=FINISH_REASONS.get(reason, "stop"),
        usage=usage_of(usage, timings),
        timings=timings_of(timings),
        response_id=first.id,
        response_model=first.model,
        slot_id=slot_id,
        tool_calls=tuple(calls[index].whole() for index in sorted(calls)),
        raw=last,
    )


def read_completion(chunks: Iterable[CompletionChunk]) -> Iterator[TokenDelta | StreamEnd]:
    """Types the continuation of a prompt. One chunk with text is one delta.

    Args:
        chunks: The streamed answer; the server gives it no id.

    Raises:
        BackendProtocolError: It ended without a last word.
    """
    for chunk in chunks:
        if chunk.content:
            yield TokenDelta(chunk.content)
        if chunk.stop:
            yield StreamEnd(
                finish_reason=FINISH_REASONS.get(chunk.finish_reason or "", "stop"),
                usage=usage_of(chunk.usage, chunk.timings),
                timings=timings_of(chunk.timings),
                response_model=chunk.model,
                slot_id=chunk.slot_id,
                raw=chunk.raw,
            )
            return
    raise BackendProtocolError("llama-server ended a completion without saying why")


def read_embeddings(replies: Sequence[EmbeddingsReply]) -> StreamEnd:
    """Puts together the embeddings of several texts.

    Args:
        replies: At least one, in the order of the texts.
    """
    return StreamEnd(
        finish_reason="stop",
        usage=Usage(input_tokens=sum(reply.input_tokens for reply in replies)),
        response_model=replies[-1].model,
        embeddings=tuple(vector for reply in replies for vector in reply.vectors),
    )


class ToolCall:
    """One tool call while its pieces arrive."""

    def __init__(self) -> None:
        self._id: str | None = None
        self._name = ""
        self._arguments: list[str] = []

    def add(self, piece: ToolCallDelta) -> None:
        """Takes the next piece."""
        self._id = piece.id or self._id
        self._name = piece.name or self._name
        self._arguments.append(piece.arguments)

    def whole(self) -> Mapping[str, Any]:
        """The call so far, in OpenAI's shape."""
        function = {"name": self._name, "arguments": "".join(self._arguments)}
        return {"id": self._id, "type": "function", "function": function}


def usage_of(usage: TokenUsage | None, timings: Timings | None) -> Usage:
    """Token counts, from either of the two that an answer may carry; the timings' cached tokens go first."""
    cached = timings.cached_tokens if timings is not None else None
    if usage is not None:
        return Usage(
            input_tokens=usage.prompt_tokens,
            output_tokens=usage.completion_tokens,
            cached_tokens=usage.cached_tokens if cached is None else cached,
            reasoning_tokens=usage.reasoning_tokens,
        )
    if timings is None:
        return Usage()
    computed = timings.prompt_tokens
    return Usage(
        # prompt_n counts what was computed, so a cached prompt is the sum of both.
        input_tokens=None if computed is None else computed + (cached or 0),
        output_tokens=timings.predicted_tokens,
        cached_tokens=cached,
    )


def timings_of(timings: Timings | None) -> BackendTimings:
    """Compute times, as far as they are told."""
    if timings is None:
        return BackendTimings()
    return BackendTimings(
        prefill_ms=timings.prompt_ms, prefill_tokens=timings.prompt_tokens, decode_ms=timings.predicted_ms
    )
