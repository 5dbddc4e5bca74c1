"""The request that a call in OpenAI's words amounts to, as far as it can be told.

Nothing is refused here: what the library will make of a strange value is its business, and what cannot
be told is left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, Final

from llamatelemetry.backends.request import InferenceRequest, Operation, SamplingParams
from llamatelemetry.errors import InvalidRequestError

_SAMPLING: Final = tuple(field.name for field in fields(SamplingParams))
# The first that is there holds, as in llama.cpp.
_MOST_TOKENS: Final = ("n_predict", "max_completion_tokens", "max_tokens")
_CHOICES: Final = ("n_cmpl", "n")
_UNTOLD: Final[Mapping[Operation, Mapping[str, Any]]] = {
    "chat": {"messages": ({"role": "user"},)},
    "text_completion": {"prompt": ""},
    "embeddings": {"input": ("",)},
}


def observed_request(operation: Operation, asked: Mapping[str, Any], *, keeps_content: bool) -> InferenceRequest:
    """Reads a call's arguments, or a body.

    Args:
        operation: What the function that is called does.
        asked: By name, only what was given: a default is the library's and nobody's request.
        keeps_content: Whether prompts may be exported; else they are not looked at.
    """
    return InferenceRequest(
        **(_content(operation, asked) if keeps_content else _UNTOLD[operation]),
        model=_text(asked.get("model")),
        max_tokens=_whole(
            next((most for name in _MOST_TOKENS if (most := asked.get(name)) is not None), None), least=1
        ),
        n=next((n for name in _CHOICES if (n := _whole(asked.get(name), least=1))), 1),
        sampling=_sampling({name: asked[name] for name in _SAMPLING if asked.get(name) is not None}),
        stop=_texts(asked.get("stop")),
        seed=_whole(asked.get("seed")),
        response_format=_mapping(asked.get("response_format")),
    )


def each_prompt(asked: Mapping[str, Any]) -> tuple[Mapping[str, Any], ...]:
    """The completions that one call asks for: a list of texts, or of lists of tokens, is several prompts."""
    prompt = asked.get("prompt")
    if not isinstance(prompt, list) or not prompt or any(isinstance(part, int) for part in prompt):
        return (asked,)
    return tuple({**asked, "prompt": part} for part in prompt)


def _content(operation: Operation, asked: Mapping[str, Any]) -> Mapping[str, Any]:
    """What was asked, copied: its owner may go on writing to it before it is exported."""
    content: dict[str, Any] = dict(_UNTOLD[operation])
    if operation == "chat":
        messages = asked.get("messages")
        if isinstance(messages, Sequence) and messages and all(map(_is_message, messages)):
            content["messages"] = tuple(dict(message) for message in messages)
        tools = _listed(asked.get("tools"))
        if tools is None:
            functions = _listed(asked.get("functions")) or ()
            tools = tuple({"type": "function", "function": function} for function in functions)
        content["tools"] = tools or None
    elif operation == "text_completion":
        content["prompt"] = _text(asked.get("prompt")) or ""
    else:
        texts = asked.get("input", asked.get("content"))
        content["input"] = _texts(texts) or ("",)
    return content


def _is_message(message: object) -> bool:
    return isinstance(message, Mapping) and isinstance(message.get("role"), str)


def _sampling(asked: Mapping[str, Any]) -> SamplingParams:
    try:
        return SamplingParams(**asked)
    except InvalidRequestError:
        # llama.cpp reads meanings into some numbers that others refuse, such as a negative temperature.
        return SamplingParams(**{name: value for name, value in asked.items() if _is_usual(name, value)})


def _is_usual(name: str, value: Any) -> bool:
    try:
        SamplingParams(**{name: value})
    except InvalidRequestError:
        return False
    return True


def _whole(value: object, least: int | None = None) -> int | None:
    if not isinstance(value, int) or isinstance(value, bool) or (least is not None and value < least):
        return None
    return value


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _texts(value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        return (value,)
    if not isinstance(value, list | tuple):
        return ()
    return tuple(text for text in value if isinstance(text, str))


def _listed(value: object) -> tuple[Any, ...] | None:
    return tuple(value) if isinstance(value, list | tuple) else None


def _mapping(value: object) -> Mapping[str, Any] | None:
    return value if isinstance(value, Mapping) else None
