"""What llama-server says of itself and of its models, typed.

One frozen type per endpoint, each built by its ``from_json``, which checks the shape and names the path to
the first wrong value. ``raw`` keeps the whole message for what has no field. The field names follow
llama.cpp's ``tools/server/README.md``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

from llamatelemetry.errors import BackendProtocolError
from llamatelemetry.llama.reply_fields import mapping_at, may, need, need_count, told_count

# What is past these would not fit the memory of books kept of it.
_MOST_SLOTS: Final = 2**16
_MOST_CONTEXT: Final = 2**31


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
        reply = mapping_at(message, "props")
        settings = mapping_at(reply.get("default_generation_settings") or {}, "props.default_generation_settings")
        return cls(
            model_alias=may(reply, "props", "model_alias", str),
            model_path=may(reply, "props", "model_path", str),
            total_slots=need_count(reply, "props", "total_slots", least=1, most=_MOST_SLOTS),
            # A router, which has none of its own, says 0.
            context_length=told_count(settings, "props.default_generation_settings", "n_ctx", most=_MOST_CONTEXT)
            or None,
            quantization=may(reply, "props", "model_ftype", str),
            chat_template=may(reply, "props", "chat_template", str),
            build_info=may(reply, "props", "build_info", str),
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
        entry = mapping_at(message, "models.data[]")
        meta = mapping_at(entry.get("meta") or {}, "models.data[].meta")
        path = "models.data[].meta"
        return cls(
            id=need(entry, "models.data[]", "id", str),
            parameters=may(meta, path, "n_params", int),
            size_bytes=may(meta, path, "size", int),
            training_context_length=may(meta, path, "n_ctx_train", int),
            embedding_length=may(meta, path, "n_embd", int),
            vocabulary_size=may(meta, path, "n_vocab", int),
            quantization=may(meta, path, "ftype", str),
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
        return cls(models=tuple(map(ServedModel.from_json, need(message, "models", "data", list))))


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
        entry = mapping_at(message, "slots[]")
        return cls(
            id=need(entry, "slots[]", "id", int),
            processing=need(entry, "slots[]", "is_processing", bool),
            context_length=may(entry, "slots[]", "n_ctx", int),
            raw=entry,
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
