"""From a request to the tokens of its prompt: the chat template in its sandbox, then the tokenizer.

A chat template is a program that came with the weights. transformers runs it in jinja2's sandbox,
where it can reach nothing but the messages. What the sandbox leaves open, how long it runs and how
much it writes, is bounded here.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Mapping, Sequence
from typing import Any, Final

from llamatelemetry.backends.request import InferenceRequest
from llamatelemetry.errors import (
    BackendResponseError,
    InvalidRequestError,
    MissingDependencyError,
    NotSupportedError,
)
from llamatelemetry.transformers.bounded import run_within

TEMPLATE_TIMEOUT_S: Final = 10.0
"""Templates take milliseconds, even on a machine that is busy with a model."""

_MOST_LETTERS: Final = 16 * 2**20
"""More than any context holds."""

_TOOLS: Final = re.compile(r"\btools\b")


class Prompts:
    """Makes prompts for one model. Thread-safe.

    Args:
        tokenizer: Its tokenizer.
        model: Its name, for errors.
        timeout_s: Most seconds that its chat template may take.
    """

    def __init__(self, tokenizer: Any, model: str, *, timeout_s: float = TEMPLATE_TIMEOUT_S) -> None:
        self._tokenizer = tokenizer
        self._model = model
        self._timeout_s = timeout_s
        # Fast tokenizers are shared state while they encode: two threads at once may find it borrowed.
        self._lock = threading.Lock()

    def encode(self, request: InferenceRequest) -> list[int]:
        """The tokens of a request's prompt, special ones included.

        Raises:
            InvalidRequestError: It has half a character in it.
            NotSupportedError: It has messages, and there is no chat template or it does not take them.
            BackendResponseError: The template refuses the messages, fails, or takes too long.
        """
        if request.messages is None:
            return self._encode(request.prompt or "", special=True)
        return self._encode(self.render(request.messages, request.tools), special=False)

    def tokenize(self, text: str) -> list[int]:
        """The tokens of a piece of text, without those that begin or end one."""
        return self._encode(text, special=False)

    def decode(self, tokens: list[int]) -> str:
        """The text of tokens, without special ones."""
        return str(self._tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def render(self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] | None = None) -> str:
        """The prompt that the chat template makes of messages.

        Raises:
            NotSupportedError: There is no chat template, or it has no place for what is given.
            BackendResponseError: The template refuses the messages, fails, or takes too long.
        """
        asked = None if tools is None else [dict(tool) for tool in tools]
        chat = [_plain(message, index) for index, message in enumerate(messages)]
        try:
            template = self._tokenizer.get_chat_template(tools=asked)
        except ValueError as error:
            raise NotSupportedError(
                f"the tokenizer of {self._model} has no chat template for messages=: give prompt= instead, "
                "or open the backend with a tokenizer whose chat_template is set"
            ) from error
        if asked and not _TOOLS.search(template):
            raise NotSupportedError(
                f"the chat template of {self._model} has no place for tools=: describe them in a message"
            )

        def apply() -> str:
            return str(
                self._tokenizer.apply_chat_template(chat, tools=asked, add_generation_prompt=True, tokenize=False)
            )

        try:
            text = run_within(self._timeout_s, apply)
        except TimeoutError as error:
            raise self._failed(f"ran for more than {self._timeout_s:g} s") from error
        except ImportError as error:
            raise MissingDependencyError(
                "a chat template", "jinja2 3.1.6 or newer", "pip install 'jinja2>=3.1.6'"
            ) from error
        except Exception as error:  # the template's own words, or whatever a program fails with
            raise self._failed(f"refuses these messages: {str(error) or type(error).__name__}") from error
        if len(text) > _MOST_LETTERS:
            raise self._failed(f"made a prompt of {len(text)} letters, and {_MOST_LETTERS} is the limit")
        return text

    def _failed(self, how: str) -> BackendResponseError:
        return BackendResponseError(f"the chat template of {self._model} {how}", kind="chat_template")

    def _encode(self, text: str, *, special: bool) -> list[int]:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise InvalidRequestError(
                "prompt|messages", text[error.start], "it is half a character, a surrogate without its other one"
            ) from error
        with self._lock:
            return list(self._tokenizer(text, add_special_tokens=special)["input_ids"])


def _plain(message: Mapping[str, Any], index: int) -> dict[str, Any]:
    """A message as templates expect it: content that is text, and arguments that are objects."""
    plain = dict(message)
    content = message.get("content")
    if isinstance(content, Sequence) and not isinstance(content, str):
        plain["content"] = "\n".join(_text(part, f"messages[{index}].content[{at}]") for at, part in enumerate(content))
    if isinstance(calls := message.get("tool_calls"), Sequence):
        plain["tool_calls"] = [_call(call) for call in calls]
    return plain


def _text(part: Any, where: str) -> str:
    if isinstance(part, Mapping) and part.get("type") == "text":
        return str(part.get("text", ""))
    kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
    raise NotSupportedError(f"{where} is of type {kind!r}: this backend takes text only")


def _call(call: Any) -> Any:
    """OpenAI writes a call's arguments as JSON in a string; templates want to write them their own way."""
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("arguments"), str):
        return call
    try:
        arguments = json.loads(function["arguments"])
    except ValueError:
        return call
    return {**call, "function": {**function, "arguments": arguments}}
