"""What llama-server answers, typed.

One frozen type per endpoint and one per streamed chunk, each built by its ``from_json``, which
checks the shape and names the path to the first wrong value. ``raw`` keeps the whole message for
what has no field. The field names follow llama.cpp's ``tools/server/README.md``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, Self, TypeVar

from llamatelemetry.errors import BackendProtocolError

_T = TypeVar("_T")
_NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})
_NUMBER: Final = (int, float)

# What is past these is nonsense, and would not fit the integers of telemetry, or the memory of books kept of it.
_MOST: Final = 2**53
_MOST_SLOTS: Final = 2**16
_MOST_CONTEXT: Final = 2**31


def _wrong(path: str, value: object, wanted: str) -> BackendProtocolError:
    shown = repr(value)
    return BackendProtocolError(f"llama-server sent {path}={shown[:80]}, expected {wanted}")


def _need(message: Any, path: str, key: str, kind: type[_T]) -> _T:
    value = message.get(key) if isinstance(message, Mapping) else None
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise _wrong(f"{path}.{key}", value, kind.__name__)
    return value


def _may(message: Mapping[str, Any], path: str, key: str, kind: type[_T]) -> _T | None:
    return None if message.get(key) is None else _need(message, path, key, kind)


def _may_number(message: Mapping[str, Any], path: str, key: str) -> float | None:
    """A time; None where there is none, or it is no time that anything can take: negative, infinite, not a number."""
    value = message.get(key)
    if value is None:
        return None
    if not isinstance(value, _NUMBER) or isinstance(value, bool):
        raise _wrong(f"{path}.{key}", value, "a number")
    return float(value) if 0 <= value <= _MOST else None


def _may_count(message: Mapping[str, Any], path: str, key: str) -> int | None:
    """A count; None where there is none, or it is not known: llama.cpp's counts begin at -1."""
    value = _may(message, path, key, int)
    return value if value is not None and 0 <= value <= _MOST else None


def _told_count(message: Mapping[str, Any], path: str, key: str, *, most: int = _MOST) -> int | None:
    return None if message.get(key) is None else _need_count(message, path, key, most=most)


def _need_count(message: Any, path: str, key: str, *, least: int = 0, most: int = _MOST) -> int:
    value = _need(message, path, key, int)
    if not least <= value <= most:
        raise _wrong(f"{path}.{key}", value, f"a number from {least} to {most}")
    return value


def _mapping(message: Any, path: str) -> Mapping[str, Any]:
    if not isinstance(message, Mapping):
        raise _wrong(path, message, "an object")
    return message


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """Reply of ``/health``.

    Attributes:
        ready: True once the model is loaded and requests are served.
        status: The server's own word: ``ok``, or why not.
    """

    ready: bool
    status: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Props:
    """Reply of ``/props``.

    Attributes:
        model_alias: Name the server gives its model.
        model_path: Its file, on the server's machine.
        total_slots: Requests it runs at once.
        context_length: Tokens one slot can hold.
        quantization: File type, such as ``Q4_1``; None where the server does not say.
        chat_template: Jinja template, or None.
        build_info: The server's build, such as ``b6002-1a2b3c4``.
        raw: The whole reply.
    """

    model_alias: str | None
    model_path: str | None
    total_slots: int
    context_length: int | None
    quantization: str | None
    chat_template: str | None
    build_info: str | None
    raw: Mapping[str, Any]

    @classmethod
    def from_json(cls, message: Any) -> Self:
        """Checks and types the reply."""
        reply = _mapping(message, "props")
        settings = _mapping(reply.get("default_generation_settings") or {}, "props.default_generation_settings")
        return cls(
            model_alias=_may(reply, "props", "model_alias", str),
            model_path=_may(reply, "props", "model_path", str),
            total_slots=_need_count(reply, "props", "total_slots", least=1, most=_MOST_SLOTS),
            # A router, which has none of its own, says 0.
            context_length=_told_count(settings, "props.default_generation_settings", "n_ctx", most=_MOST_CONTEXT)
            or None,
            quantization=_may(reply, "props", "model_ftype", str),
            chat_template=_may(reply, "props", "chat_template", str),
            build_info=_may(reply, "props", "build_info", str),
            raw=reply,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    """One entry of ``/v1/models``. What the server does not say is None.

    Attributes:
        id: Name to ask for it by.
        parameters: Number of weights.
        size_bytes: Size of its tensors.
        training_context_length: Tokens it was trained for.
        embedding_length: Width of its embeddings.
        vocabulary_size: Number of tokens it knows.
        quantization: File type, such as ``Q4_1``.
        raw: The whole entry.
    """

    id: str
    parameters: int | None
    size_bytes: int | None
    training_context_length: int | None
    embedding_length: int | None
    vocabulary_size: int | None
    quantization: str | None
    raw: Mapping[str, Any]

    @classmethod
    def from_json(cls, message: Any) -> Self:
        """Checks and types one entry."""
        entry = _mapping(message, "models.data[]")
        meta = _mapping(entry.get("meta") or {}, "models.data[].meta")
        path = "models.data[].meta"
        return cls(
            id=_need(entry, "models.data[]", "id", str),
            parameters=_may(meta, path, "n_params", int),
            size_bytes=_may(meta, path, "size", int),
            training_context_length=_may(meta, path, "n_ctx_train", int),
            embedding_length=_may(meta, path, "n_embd", int),
            vocabulary_size=_may(meta, path, "n_vocab", int),
            quantization=_may(meta, path, "ftype", str),
            raw=entry,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelsReply:
    """Reply of ``/v1/models``.

    Attributes:
        models: What the server can run: one model, or all that a router knows.
    """

    models: tuple[ServedModel, ...]

    @classmethod
    def from_json(cls, message: Any) -> Self:
        """Checks and types the reply."""
        return cls(models=tuple(map(ServedModel.from_json, _need(message, "models", "data", list))))


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotState:
    """One entry of ``/slots``.

    Attributes:
        id: Number of the slot.
        processing: True while it runs a request.
        context_length: Tokens it can hold.
        raw: The whole entry.
    """

    id: int
    processing: bool
    context_length: int | None
    raw: Mapping[str, Any]

    @classmethod
    def from_json(cls, message: Any) -> Self:
        """Checks and types one entry."""
        entry = _mapping(message, "slots[]")
        return cls(
            id=_need(entry, "slots[]", "id", int),
            processing=_need(entry, "slots[]", "is_processing", bool),
            context_length=_may(entry, "slots[]", "n_ctx", int),
            raw=entry,
        )


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
        timings = _mapping(message, "timings")
        return cls(
            cached_tokens=_may_count(timings, "timings", "cache_n"),
            prompt_tokens=_may_count(timings, "timings", "prompt_n"),
            prompt_ms=_may_number(timings, "timings", "prompt_ms"),
            predicted_tokens=_may_count(timings, "timings", "predicted_n"),
            predicted_ms=_may_number(timings, "timings", "predicted_ms"),
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
        usage = _mapping(message, "usage")
        prompt = _mapping(usage.get("prompt_tokens_details") or {}, "usage.prompt_tokens_details")
        completion = _mapping(usage.get("completion_tokens_details") or {}, "usage.completion_tokens_details")
        return cls(
            prompt_tokens=_need_count(usage, "usage", "prompt_tokens"),
            completion_tokens=_told_count(usage, "usage", "completion_tokens") or 0,
            cached_tokens=_may_count(prompt, "usage.prompt_tokens_details", "cached_tokens"),
            reasoning_tokens=_may_count(completion, "usage.completion_tokens_details", "reasoning_tokens"),
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
        call = _mapping(message, path)
        function = _mapping(call.get("function") or {}, f"{path}.function")
        return cls(
            index=_may(call, path, "index", int) or 0,
            id=_may(call, path, "id", str),
            name=_may(function, f"{path}.function", "name", str),
            arguments=_may(function, f"{path}.function", "arguments", str) or "",
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
        return _may(self.raw, "chunk", "id", str)

    @property
    def model(self) -> str | None:
        """The model that answers, as the server names it."""
        return _may(self.raw, "chunk", "model", str)

    @property
    def slot_id(self) -> int | None:
        """The slot that ran it: in the chunk with the reason, of a server that logs everything (``-lv 10``)."""
        verbose = self.raw.get("__verbose")
        return _may(verbose, "chunk.__verbose", "id_slot", int) if isinstance(verbose, Mapping) else None

    @classmethod
    def from_json(cls, message: Any) -> Self:
        """Checks and types one event; runs once per token."""
        choices = _need(message, "chunk", "choices", list)
        if choices:
            choice = _mapping(choices[0], "choices[0]")
            delta = _mapping(choice.get("delta"), "choices[0].delta")
            finish_reason = choice.get("finish_reason")
        else:
            delta, finish_reason = _NOTHING, None
        content = delta.get("content") or ""
        reasoning = delta.get("reasoning_content") or ""
        if not (isinstance(content, str) and isinstance(reasoning, str)):
            raise _wrong("choices[0].delta", delta, "text")
        if finish_reason is not None and not isinstance(finish_reason, str):
            raise _wrong("choices[0].finish_reason", finish_reason, "text or null")
        calls = delta.get("tool_calls")
        usage = message.get("usage")
        timings = message.get("timings")
        return cls(
            content,
            reasoning,
            tuple(map(ToolCallDelta.from_json, _need(delta, "choices[0].delta", "tool_calls", list))) if calls else (),
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
        return _may(self.raw, "chunk", "model", str)

    @classmethod
    def from_json(cls, message: Any) -> Self:
        """Checks and types one event; runs once per token."""
        content = _need(message, "chunk", "content", str)
        if not _need(message, "chunk", "stop", bool):
            return cls(content, False, None, None, None, None, message)
        timings = Timings.from_json(message.get("timings") or _NOTHING)
        # tools/server/README.md: stop_type is eos, limit, word or none.
        limited = message.get("stop_type") == "limit"
        return cls(
            content,
            True,
            "length" if limited else "stop",
            TokenUsage(
                prompt_tokens=_need_count(message, "chunk", "tokens_evaluated"),
                completion_tokens=_need_count(message, "chunk", "tokens_predicted"),
                cached_tokens=timings.cached_tokens,
            ),
            timings,
            _may(message, "chunk", "id_slot", int),
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
        entries = _need(message, "embeddings", "data", list)
        vectors = []
        for entry in sorted(entries, key=lambda entry: _need(entry, path, "index", int)):
            vector = _need(entry, path, "embedding", list)
            if not all(isinstance(number, _NUMBER) and -_MOST <= number <= _MOST for number in vector):
                raise _wrong(f"{path}.embedding", vector, "numbers")
            vectors.append(tuple(map(float, vector)))
        return cls(
            vectors=tuple(vectors),
            input_tokens=TokenUsage.from_json(message.get("usage")).prompt_tokens,
            model=_may(message, "embeddings", "model", str),
        )


def parse_metrics(text: str) -> dict[str, float]:
    """Reads Prometheus text (``/metrics``) into ``{name: value}``; labels stay part of the name.

    Raises:
        BackendProtocolError: A line is neither a comment nor a sample.
    """
    samples = {}
    for line in text.splitlines():
        if not line or line.startswith("#"):
            continue
        # The value is the first word after the name; a time stamp may follow it.
        name_end = line.rfind("}") + 1 or line.find(" ")
        words = line[name_end:].split()
        try:
            samples[line[:name_end]] = float(words[0])
        except (IndexError, ValueError) as error:
            raise BackendProtocolError(f"llama-server sent a metrics line that is no sample: {line[:80]!r}") from error
    return samples
