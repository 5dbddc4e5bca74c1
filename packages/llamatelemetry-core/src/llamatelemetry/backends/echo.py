"""A backend that needs no model: it repeats the prompt, on a clock of your choosing.

Docs, tests and overhead benchmarks run on it, because what it yields, when, and how it fails are
all scripted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from llamatelemetry.backends.protocol import (
    BackendTimings,
    CancelToken,
    ModelInfo,
    Placement,
    StreamEnd,
    TokenDelta,
    Usage,
)
from llamatelemetry.backends.request import InferenceRequest
from llamatelemetry.clock import SYSTEM_CLOCK, Clock
from llamatelemetry.errors import BackendError, BackendResponseError, InvalidValueError, NotSupportedError

_SLEEP_SLICE_S = 0.02
"""A cancelled request is noticed within this long."""


def _scripted_failure() -> BackendError:
    return BackendResponseError("scripted failure", status=500)


@dataclass(frozen=True, slots=True, kw_only=True)
class EchoScript:
    """What one request does.

    Attributes:
        tokens: Tokens to yield; None repeats the prompt's words.
        prefill_s: Seconds before the first token.
        per_token_s: Seconds before each later token.
        fail_after: Fail once that many tokens were yielded.
        failure: Makes the error to fail with.
    """

    tokens: Sequence[str] | None = None
    prefill_s: float = 0.0
    per_token_s: float = 0.0
    fail_after: int | None = None
    failure: Callable[[], BackendError] = _scripted_failure


class EchoBackend:
    """Implements :class:`~llamatelemetry.backends.protocol.Backend` without a model.

    Args:
        script: What every request does, or a function from request to script.
        slots: Requests run at once; at least 1.
        model: Name to report.
        clock: Time that delays pass on.

    Raises:
        InvalidValueError: ``slots`` is below 1.
    """

    def __init__(
        self,
        script: EchoScript | Callable[[InferenceRequest], EchoScript] | None = None,
        *,
        slots: int = 4,
        model: str = "echo",
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        if slots < 1:
            raise InvalidValueError("slots", slots, "give at least 1")
        self._script = script if callable(script) else (lambda _request: script or EchoScript())
        self._clock = clock
        self._closed = False
        self._info = ModelInfo(model=model, provider="echo", slots=slots, in_process=True, owned=True, gpus=())

    def open(self) -> ModelInfo:
        """Describes itself; there is nothing to load."""
        return self._info

    def count_prompt_tokens(self, request: InferenceRequest) -> int:
        """Words of the prompt."""
        return len(_words(request))

    def tokenize(self, text: str) -> list[int]:
        """One id per word, the same for the same word within this process."""
        return [hash(word) & 0x7FFFFFFF for word in text.split()]

    def stream(self, request: InferenceRequest, placement: Placement) -> Iterator[TokenDelta | StreamEnd]:
        """Yields the script's tokens, or the prompt's words, up to ``max_tokens``.

        Raises:
            NotSupportedError: The request is for embeddings or logprobs.
            BackendError: The backend is closed, or the script says so.
        """
        if self._closed:
            raise BackendError("the echo backend is closed; make a new one")
        if request.input is not None:
            raise NotSupportedError("the echo backend makes no embeddings; ask another one")
        if request.logprobs is not None:
            raise NotSupportedError("the echo backend has no logprobs; ask another one")
        script = self._script(request)
        prompt = _words(request)
        planned = script.tokens
        if planned is None:
            planned = [word if index == 0 else f" {word}" for index, word in enumerate(prompt)]
        tokens = planned[: request.max_tokens]
        wait, cancel = self._wait, placement.cancel
        for index, token in enumerate(tokens):
            wait(script.prefill_s if index == 0 else script.per_token_s, cancel)
            if index == script.fail_after:
                raise script.failure()
            if cancel.cancelled:
                return
            yield TokenDelta(token)
        if script.fail_after is not None and script.fail_after >= len(tokens):
            raise script.failure()
        yield StreamEnd(
            finish_reason="stop" if len(tokens) == len(planned) else "length",
            usage=Usage(input_tokens=len(prompt), output_tokens=len(tokens), cached_tokens=0),
            timings=BackendTimings(
                prefill_ms=script.prefill_s * 1e3,
                prefill_tokens=len(prompt),
                decode_ms=script.per_token_s * 1e3 * max(0, len(tokens) - 1),
            ),
            response_id=f"echo-{request.request_id}",
            response_model=self._info.model,
        )

    def close(self) -> None:
        """Refuses requests from now on."""
        self._closed = True

    def _wait(self, seconds: float, cancel: CancelToken) -> None:
        while seconds > 0 and not cancel.cancelled:
            step = min(seconds, _SLEEP_SLICE_S)
            self._clock.sleep(step)
            seconds -= step


def _words(request: InferenceRequest) -> list[str]:
    if request.prompt is not None:
        return request.prompt.split()
    return [word for message in request.messages or () for word in str(message.get("content") or "").split()]
