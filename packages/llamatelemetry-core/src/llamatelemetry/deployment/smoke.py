"""Whether a server answers, and serves the file that it should."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from llamatelemetry.artifacts.lineage import ModelLineage
from llamatelemetry.backends.protocol import Backend, HealthReporting
from llamatelemetry.backends.request import InferenceRequest, SamplingParams
from llamatelemetry.errors import LlamatelemetryError, SmokeTestError
from llamatelemetry.inference.engine import InferenceEngine
from llamatelemetry.plugins import load_plugins

PROMPT: Final = "Say hello in one word."
MAX_TOKENS: Final = 8
DEADLINE_S: Final = 60.0
_FINISHED: Final = {"stop", "length"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a server answered.

    Attributes:
        text: The answer.
        output_tokens: Its tokens.
        finish_reason: Why it ended.
        ttft_ms: Milliseconds to its first token.
        lineage: The run that made the file it serves, as the backend found it; None where nothing speaks of one.
    """

    text: str
    output_tokens: int
    finish_reason: str
    ttft_ms: float | None
    lineage: ModelLineage | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """How a server is.

    Attributes:
        problem: Why it cannot be used, or could not be asked, in words; empty where it can be used.
        asked: Whether it was asked; not where its backend is missing, disabled or has no way to.
    """

    problem: str
    asked: bool = True


def smoke_test(url: str, *, backend: str, sha256: str) -> Answer:
    """Asks a server something, and holds the file that it says it serves to a digest.

    Args:
        url: The server's base URL.
        backend: Name of the backend that speaks to it.
        sha256: SHA-256 of the model file that it should serve.

    Raises:
        SmokeTestError: No token came, it did not finish, or it serves another file.
        BackendError: It cannot be asked, or fails.
    """
    request = InferenceRequest(
        messages=[{"role": "user", "content": PROMPT}],
        max_tokens=MAX_TOKENS,
        sampling=SamplingParams(temperature=0.0),
        deadline_s=DEADLINE_S,
    )
    with InferenceEngine(backend, server_url=url, sha256=True) as engine:
        if engine.info.sha256 != sha256:
            serves = f"a file of the SHA-256 {engine.info.sha256:.12}..." if engine.info.sha256 else "another file"
            raise SmokeTestError(f"the server at {url} serves {serves} and not {sha256[:12]}...: try again")
        lineage = engine.info.lineage
        result = engine.generate(request)
    if not result.output_tokens:
        raise SmokeTestError(f"the server at {url} answered without a token: look at its log, or try another model")
    if result.finish_reason not in _FINISHED:
        raise SmokeTestError(f"the server at {url} ended its answer with {result.finish_reason!r}: look at its log")
    return Answer(
        text=result.text,
        output_tokens=result.output_tokens,
        finish_reason=result.finish_reason,
        ttft_ms=result.ttft_ms,
        lineage=lineage,
    )


def ask_health(url: str, *, backend: str, timeout_s: float = 2.0) -> Health:
    """How a server is at this moment. Asks it over HTTP.

    Args:
        url: The server's base URL.
        backend: Name of the backend that speaks to it.
        timeout_s: Longest wait for a connection, and again for an answer, in seconds.
    """
    try:
        made: Callable[..., Backend] = load_plugins().resolve_backend(backend)
        speaker = made(server_url=url)
    except LlamatelemetryError as error:
        return Health(problem=str(error), asked=False)
    if not isinstance(speaker, HealthReporting):
        return Health(problem=f"backend {backend!r} cannot tell whether its server serves", asked=False)
    return Health(problem=speaker.unhealthy(timeout_s))
