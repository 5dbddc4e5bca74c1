"""From our request to the JSON that llama-server takes. Field names: llama.cpp, tools/server/README.md."""

from __future__ import annotations

from typing import Any

from llamatelemetry.backends.request import InferenceRequest
from llamatelemetry.errors import InvalidRequestError, NotSupportedError


def chat_body(request: InferenceRequest) -> dict[str, Any]:
    """Body for ``/v1/chat/completions``.

    Args:
        request: A request with messages.

    Raises:
        NotSupportedError: It asks for logprobs.
    """
    return _present(
        messages=[dict(message) for message in request.messages or ()],
        max_tokens=request.max_tokens,
        response_format=request.response_format,
        tools=None if request.tools is None else list(request.tools),
        **_common(request),
    )


def completion_body(request: InferenceRequest) -> dict[str, Any]:
    """Body for ``/completion``.

    Args:
        request: A request with a prompt.

    Raises:
        InvalidRequestError: It asks for what only chat can do.
        NotSupportedError: It asks for logprobs.
    """
    for name in ("tools", "response_format"):
        value = getattr(request, name)
        if value is not None:
            raise InvalidRequestError(
                name, value, "llama.cpp takes it with messages only; for a prompt, give a grammar"
            )
    return _present(prompt=request.prompt, n_predict=request.max_tokens, **_common(request))


def _common(request: InferenceRequest) -> dict[str, Any]:
    if request.logprobs is not None:
        raise NotSupportedError("the llama.cpp backend tells no logprobs yet: leave them out, or ask transformers'")
    sampling = request.sampling
    return {
        "model": request.model,
        "stop": list(request.stop) or None,
        "seed": request.seed,
        "grammar": request.grammar,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "min_p": sampling.min_p,
        "frequency_penalty": sampling.frequency_penalty,
        "presence_penalty": sampling.presence_penalty,
        "repeat_penalty": sampling.repeat_penalty,
    }


def _present(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}
