"""From a request to what is to be generated: what it asks, what it leaves open, and what cannot be done."""

from __future__ import annotations

from typing import Any, Final

from llamatelemetry.backends.protocol import ModelInfo
from llamatelemetry.backends.request import InferenceRequest
from llamatelemetry.errors import BackendError, ContextOverflowError, InvalidRequestError, NotSupportedError
from llamatelemetry.transformers.logprobs import Logprobs
from llamatelemetry.transformers.prompts import Prompts
from llamatelemetry.transformers.runs import Task
from llamatelemetry.transformers.sampling import sampling_of

_UNBOUNDED_TOKENS: Final = 512
"""Tokens of an answer that neither the request nor the model's length bounds."""


def task_of(request: InferenceRequest, prompts: Prompts, model: Any, info: ModelInfo) -> Task:
    """What a model is to generate for a request.

    Args:
        request: The request.
        prompts: Makes the model's prompts.
        model: A ``PreTrainedModel``.
        info: What the backend says of it.

    Raises:
        NotSupportedError: It asks for what this backend cannot do, or what the chat template does not take.
        InvalidRequestError: The prompt has no tokens.
        ContextOverflowError: It leaves no room for an answer.
        BackendError: The tokenizer is another model's, or its template fails.
    """
    _refuse(request)
    prompt = prompts.encode(request)
    if not prompt:
        raise InvalidRequestError("prompt", request.prompt, "give at least a word: this tokenizer begins with nothing")
    known = model.get_input_embeddings().num_embeddings
    if max(prompt) >= known:
        # In a batch, a token that the model does not have would be everybody's failure.
        raise BackendError(
            f"the tokenizer made token {max(prompt)}, and {info.model} has {known}: "
            "open the backend with the tokenizer that belongs to the model"
        )
    context = info.context_length
    if context is not None and len(prompt) >= context:
        raise ContextOverflowError(len(prompt), context)
    eos = model.generation_config.eos_token_id
    return Task(
        prompt=prompt,
        max_tokens=_room(request, context, 0 if model.config.is_encoder_decoder else len(prompt)),
        sampling=sampling_of(request, model.generation_config),
        eos=frozenset([eos] if isinstance(eos, int) else eos or ()),
        logprobs=None if request.logprobs is None else Logprobs(request.logprobs),
    )


def _room(request: InferenceRequest, context: int | None, taken: int) -> int:
    """Most tokens of the answer; behind an encoder, prompt and answer have a length of their own each."""
    if context is None:
        return request.max_tokens or _UNBOUNDED_TOKENS
    return min(request.max_tokens or context, context - taken)


def _refuse(request: InferenceRequest) -> None:
    """Raises for what this backend cannot do, whatever the model."""
    if request.input is not None:
        raise NotSupportedError(
            "the transformers backend makes no embeddings: ask llama.cpp's, opened with embeddings=True"
        )
    form = request.response_format
    for name, is_asked in (
        ("grammar", request.grammar is not None),
        ("response_format", form is not None and form.get("type") != "text"),
    ):
        if is_asked:
            raise NotSupportedError(
                f"the transformers backend cannot hold an answer to {name}=: ask in words, or ask llama.cpp's"
            )
    if request.tools and request.messages is None:
        raise NotSupportedError("tools= are for messages, whose chat template describes them: a prompt has none")
