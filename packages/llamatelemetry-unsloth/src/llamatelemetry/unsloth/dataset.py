"""What a model learns from: a JSONL file, one example a line, in one of three forms.

``{"text": ...}`` is learned as it stands. ``{"messages": [{"role": ..., "content": ...}]}`` is a conversation, made
text by the model's own chat template. ``{"prompt": ..., "completion": ...}`` teaches the completion alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from llamatelemetry.errors import InvalidValueError
from llamatelemetry.untrusted.files import open_regular

__all__ = ["Example", "read_examples"]

_MOST_LINE_BYTES: Final = 2**22
_FORMS: Final = 'give {"text": ...}, {"messages": [...]} or {"prompt": ..., "completion": ...}'


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One example; of the three forms one is there.

    Attributes:
        line: Its line, from 1.
        text: Text to learn.
        messages: A conversation: roles and contents.
        completion: What is to follow ``text``; then that is the prompt.
    """

    line: int
    text: str = ""
    messages: tuple[dict[str, str], ...] = ()
    completion: str | None = None


def read_examples(path: Path) -> Iterator[Example]:
    """The examples of a file, one after another. Empty lines are passed over.

    Raises:
        ModelFileError: It is missing, not a regular file or not readable.
        InvalidValueError: A line is no example; the error names the line.
    """
    with open_regular(path) as raw, open(raw.fileno(), "rb", closefd=False) as file:
        line = 0
        while content := file.readline(_MOST_LINE_BYTES + 1):
            line += 1
            where = f"{path.name}: line {line}"
            if len(content) > _MOST_LINE_BYTES:
                raise InvalidValueError(where, content[:40], f"an example has at most {_MOST_LINE_BYTES} bytes")
            if content.strip():
                yield _example(where, line, content)


def _example(where: str, line: int, content: bytes) -> Example:
    try:
        value = json.loads(content.decode())
    except (ValueError, RecursionError) as error:
        raise InvalidValueError(where, content[:80], f"give one JSON object a line ({error})") from None
    match value:
        case {"text": str() as text} if text:
            return Example(line=line, text=text)
        case {"prompt": str() as prompt, "completion": str() as completion} if completion:
            return Example(line=line, text=prompt, completion=completion)
        case {"messages": [*messages]} if messages:
            checked = (_message(f"{where}: messages[{number}]", each) for number, each in enumerate(messages))
            return Example(line=line, messages=tuple(checked))
        case _:
            raise InvalidValueError(where, value, _FORMS)


def _message(where: str, value: Any) -> dict[str, str]:
    match value:
        case {"role": str() as role, "content": str() as content}:
            return {"role": role, "content": content}
        case _:
            raise InvalidValueError(where, value, 'give {"role": ..., "content": ...}, both text')
