"""Prompts and answers as OpenTelemetry's GenAI JSON messages, redacted.

Built only when the user asked for content and the span records.
Format: the gen-ai-input-messages and gen-ai-output-messages schemas of the GenAI conventions.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from llamatelemetry.backends.protocol import Alternative
from llamatelemetry.inference.record import FinishedRecord


class TextRedactor(Protocol):
    """Takes secrets out of text, and what denied keys hold out of everything."""

    def text(self, text: str, /) -> str:
        """The text without its secrets."""
        ...

    def value(self, key: str, value: Any) -> Any:
        """The value of a key without its secrets."""
        ...

    def denies(self, key: str) -> bool:
        """Whether the whole value of a key is a secret."""
        ...

    @property
    def denies_any(self) -> bool:
        """Whether there is such a key at all."""
        ...

    def attributes(self, attributes: Mapping[str, Any]) -> Mapping[str, Any]:
        """The attributes, with a stand-in for each value whose key is denied."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """The content of one inference, ready to be exported.

    Attributes:
        input_messages: JSON list of messages given; None of embeddings, as is what follows but for the texts, and
            where nobody could tell the prompt's words.
        output_messages: JSON list of messages answered, one for each answer.
        tool_definitions: JSON list of tools offered.
        input_text: The prompt, the last message given, or the texts to embed as a JSON list; None likewise.
        output_text: The first answer.
    """

    input_messages: str | None = None
    output_messages: str | None = None
    tool_definitions: str | None = None
    input_text: str | None = None
    output_text: str | None = None


def content_of(record: FinishedRecord, redactor: TextRedactor) -> Content:
    """Serializes what was asked and answered, every string of it redacted."""
    request = record.opening.request
    if request.input is not None:
        return Content(input_text=_dump(list(request.input), redactor))
    prompt = ({"role": "user", "content": request.prompt},) if request.prompt else ()
    given = [_message(message) for message in request.messages or prompt]
    answers = [_answer(record), *map(_answer, record.alternatives)]
    texts = [part["content"] for part in given[-1]["parts"] if part["type"] == "text"] if given else []
    return Content(
        input_messages=_dump(given, redactor) if given else None,
        output_messages=_dump(answers, redactor),
        tool_definitions=_dump(list(request.tools), redactor) if request.tools else None,
        input_text=redactor.text("\n".join(texts)) if given else None,
        output_text=redactor.text(record.text),
    )


def _message(message: Mapping[str, Any]) -> dict[str, Any]:
    content = message.get("content")
    parts: list[dict[str, Any]]
    if message["role"] == "tool":
        parts = [{"type": "tool_call_response", "id": message.get("tool_call_id"), "response": content}]
    elif isinstance(content, str):
        parts = [_text("text", content)]
    else:
        parts = [_part(part) for part in content or ()]
    parts.extend(_tool_call(call) for call in message.get("tool_calls") or ())
    return {"role": message["role"], "parts": parts}


def _part(part: Mapping[str, Any] | str) -> dict[str, Any]:
    if isinstance(part, str):
        return _text("text", part)
    if part.get("type") == "text":
        return _text("text", str(part.get("text", "")))
    # Images and sound are named and not carried: a span is no place for megabytes.
    return {"type": str(part.get("type", "unknown"))}


def _answer(answer: FinishedRecord | Alternative) -> dict[str, Any]:
    parts = []
    if answer.reasoning:
        parts.append(_text("reasoning", answer.reasoning))
    if answer.text:
        parts.append(_text("text", answer.text))
    parts.extend(_tool_call(call) for call in answer.tool_calls)
    return {"role": "assistant", "parts": parts, "finish_reason": answer.finish_reason}


def _text(kind: str, content: str) -> dict[str, Any]:
    return {"type": kind, "content": content}


def _tool_call(call: Mapping[str, Any]) -> dict[str, Any]:
    function = call.get("function") or {}
    return {
        "type": "tool_call",
        "id": call.get("id"),
        "name": function.get("name"),
        "arguments": function.get("arguments"),
    }


def _dump(value: object, redactor: TextRedactor) -> str:
    return json.dumps(_redacted(value, redactor), ensure_ascii=False)


def _redacted(value: object, redactor: TextRedactor, key: str = "") -> object:
    if redactor.denies(key):
        return redactor.value(key, value)
    if isinstance(value, Mapping):
        return {redactor.text(str(name)): _redacted(item, redactor, str(name)) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_redacted(item, redactor, key) for item in value]
    if value is None or isinstance(value, bool | float):
        return value
    text = str(value)
    if key == "arguments" and redactor.denies_any:
        return _redacted_json(text, redactor)
    clean = redactor.text(text)
    # A number is text here too: a card's is one.
    return value if isinstance(value, int) and clean == text else clean


def _redacted_json(text: str, redactor: TextRedactor) -> str:
    """A tool's arguments, which are an object in JSON: what denied keys hold is inside the text."""
    try:
        arguments = json.loads(text)
    except ValueError:
        return redactor.text(text)
    return _dump(arguments, redactor)
