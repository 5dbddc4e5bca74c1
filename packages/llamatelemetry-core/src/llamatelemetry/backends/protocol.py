"""The contract between the engine and a model runtime.

A backend runs a model. It does not queue, trace or measure: the engine does, and the tests in
``llamatelemetry.testing.contracts`` say what any backend owes it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

from llamatelemetry.artifacts.lineage import ModelLineage
from llamatelemetry.backends.request import InferenceRequest

FinishReason = Literal["stop", "length", "tool_calls", "content_filter", "cancelled", "error"]
"""Why generation ended. Backends give the first four; the engine adds the last two."""

Channel = Literal["content", "reasoning", "tool_call"]
"""Which part of the answer a delta belongs to."""

_NOTHING: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """What a backend knows of its model once it is open. Unknown figures are None.

    Attributes:
        model: Name of the model, as ``gen_ai.request.model`` spells it.
        provider: Value of ``gen_ai.provider.name``: ``llamacpp``, ``transformers``, ``echo``.
        slots: Requests the backend runs at once; the engine never has more in flight.
        in_process: True when the model runs inside this process: the span's kind is INTERNAL.
        owned: True when this process started the model server: server-side metrics are ours to emit.
        server_address: Host of the model server.
        server_port: Port of the model server.
        architecture: For example ``llama``.
        quantization: For example ``Q4_1``.
        parameters: Number of weights.
        context_length: Tokens one slot can hold.
        kv_tokens: Tokens that the KV cache holds where the slots share it; None where each slot has
            its own ``context_length``.
        kv_page_size: Tokens in a page of the KV cache, of a backend that pages it; else the engine
            chooses one for its books.
        kv_pages_shared: True where requests share the pages of equal prefixes, whatever slot they run on.
        kv_bytes_per_token: Bytes of KV cache one token takes.
        embeddings: True if it answers requests with ``input``.
        sha256: Digest of the model file, if it was computed.
        lineage: The run that made the model file, and how far that can be believed; None where nothing
            speaks of one. Inference spans link to the span that made it.
        pid: Process that computes, where it is one of this machine and known.
        gpus: GPUs that it may use, as UUIDs or as indices in text; empty for none of this machine's, and
            None where that is unknown, which counts as all that this process sees.
    """

    model: str
    provider: str
    slots: int = 1
    in_process: bool = False
    owned: bool = False
    server_address: str | None = None
    server_port: int | None = None
    architecture: str | None = None
    quantization: str | None = None
    parameters: int | None = None
    context_length: int | None = None
    kv_tokens: int | None = None
    kv_page_size: int | None = None
    kv_pages_shared: bool = False
    kv_bytes_per_token: int | None = None
    embeddings: bool = False
    sha256: str | None = None
    lineage: ModelLineage | None = None
    pid: int | None = None
    gpus: tuple[str, ...] | None = None


class TokenDelta(NamedTuple):
    """A piece of the answer as it arrives. A tuple, because one is made per token."""

    text: str
    channel: Channel = "content"


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Token counts as the backend reports them, in tokens.

    Attributes:
        input_tokens: All prompt tokens, cached ones included.
        output_tokens: Generated tokens, reasoning included.
        cached_tokens: Prompt tokens served from the backend's cache.
        reasoning_tokens: Generated tokens that were reasoning.
    """

    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendTimings:
    """Compute times the backend measured itself, in milliseconds; never mixed with ours.

    Attributes:
        prefill_ms: Time spent on the prompt tokens that were not cached.
        prefill_tokens: Prompt tokens that were computed, cached ones excluded.
        decode_ms: Time spent generating.
    """

    prefill_ms: float | None = None
    prefill_tokens: int | None = None
    decode_ms: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class KVReport:
    """What one request held of the KV cache, counted by the backend whose cache it is.

    Attributes:
        pages: Most pages it held at any one time, those shared with others included.
        page_size: Tokens in a page.
    """

    pages: int
    page_size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class KVState:
    """A backend's own KV cache at one moment.

    Attributes:
        used: Pages that running requests hold, each counted once.
        limit: Pages there are.
        shared: Those that two running requests or more hold.
        page_size: Tokens in a page.
    """

    used: int
    limit: int
    shared: int
    page_size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Alternative:
    """Another answer to a request that was given several; the first is the stream's own.

    Attributes:
        finish_reason: Why it ended.
        text: The answer, as far as anybody keeps it.
        reasoning: The reasoning, likewise.
        tool_calls: Whole tool calls, OpenAI shape.
    """

    finish_reason: FinishReason
    text: str = ""
    reasoning: str = ""
    tool_calls: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamEnd:
    """The last item of a stream: everything that is known only when generation is over.

    Attributes:
        finish_reason: Why it ended.
        usage: Token counts, of all answers together.
        timings: Compute times.
        response_id: The backend's id of this answer.
        response_model: The model that answered, as the backend names it.
        slot_id: The backend's slot that ran it.
        kv: Pages of its own KV cache that it counted; None where the engine's books have to do.
        tool_calls: Whole tool calls, OpenAI shape.
        embeddings: One vector per text of the request's ``input``.
        alternatives: The answers after the first, in order, where the request was given several.
        raw: The backend's last message, for what has no field here.
    """

    finish_reason: FinishReason
    usage: Usage = Usage()
    timings: BackendTimings = BackendTimings()
    response_id: str | None = None
    response_model: str | None = None
    slot_id: int | None = None
    kv: KVReport | None = None
    tool_calls: tuple[Mapping[str, Any], ...] = ()
    embeddings: tuple[tuple[float, ...], ...] = ()
    alternatives: tuple[Alternative, ...] = ()
    raw: Mapping[str, Any] = field(default_factory=lambda: _NOTHING)


class CancelToken:
    """Says once, to whoever listens, that an answer is no longer wanted. Thread-safe."""

    __slots__ = ("_callbacks", "_lock", "_set")

    def __init__(self) -> None:
        self._set = False
        self._callbacks: list[Callable[[], None]] = []
        self._lock = threading.Lock()

    @property
    def cancelled(self) -> bool:
        """True from the first call of :meth:`cancel` on."""
        return self._set

    def cancel(self) -> bool:
        """Cancels and runs the callbacks in this thread; False if it was already cancelled."""
        with self._lock:
            if self._set:
                return False
            self._set = True
            callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback()
        return True

    def disarm(self) -> None:
        """Forgets the callbacks: the request is over and there is nothing left to wake."""
        with self._lock:
            self._callbacks.clear()

    def on_cancel(self, callback: Callable[[], None]) -> None:
        """Runs ``callback`` when cancelled, or at once if it already was.

        A backend registers here what wakes it from a blocking read, such as closing its socket.
        The callback runs in the cancelling thread and must neither block nor raise.
        """
        with self._lock:
            if not self._set:
                self._callbacks.append(callback)
                return
        callback()


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Where and under which conditions one request runs, as the engine decided.

    Attributes:
        slot_id: Slot to run on, or None to let the backend choose.
        cancel: Tells the backend to stop.
        traceparent: W3C trace context of the inference span, to send along; None without a trace.
    """

    slot_id: int | None = None
    cancel: CancelToken = field(default_factory=CancelToken)
    traceparent: str | None = None


@runtime_checkable
class Backend(Protocol):
    """A model runtime, adapted.

    Methods are called from at most ``info.slots`` threads at once, ``open`` and ``close`` from one.
    """

    def open(self) -> ModelInfo:
        """Makes the model ready and describes it; calling it again returns the same facts.

        Raises:
            BackendStartError: It did not become ready; carries the runtime's last log lines.
        """
        ...

    def count_prompt_tokens(self, request: InferenceRequest) -> int | None:
        """Tokens the request's prompt takes once templated, or None where that is not cheap to know."""
        ...

    def tokenize(self, text: str) -> Sequence[int] | None:
        """Token ids of a piece of plain text, without special tokens; None where that is not possible.

        The engine keeps what it was told, so a text is asked for once. Ids compare prompts and size
        reservations; the answer's own count is still the backend's.
        """
        ...

    def stream(self, request: InferenceRequest, placement: Placement) -> Iterator[TokenDelta | StreamEnd]:
        """Yields deltas as they are generated, then exactly one :class:`StreamEnd`.

        One delta is one token wherever the runtime allows it; embeddings have none. The iterator is
        closed by the engine when the request is cancelled; ``placement.cancel`` wakes it from a
        blocking read, after which it may end without a :class:`StreamEnd` or raise.

        Raises:
            BackendError: The typed reason; deltas yielded before it stay valid.
        """
        ...

    def close(self) -> None:
        """Releases the model and everything started for it; idempotent."""
        ...


@runtime_checkable
class Restartable(Protocol):
    """A backend whose runtime can die and be started anew, such as one with a server of its own."""

    def alive(self) -> bool:
        """False once the runtime has ended by itself; cheap, and never raises."""
        ...

    def restart(self) -> ModelInfo:
        """Starts the runtime again and describes it; what streamed from the old one has failed by then.

        Raises:
            BackendStartError: It did not become ready.
        """
        ...


@runtime_checkable
class EndExplaining(Protocol):
    """A backend whose runtime can end by itself and that knows why it did."""

    def exit_reason(self, wait_s: float = 0.0) -> str | None:
        """Why the runtime ended by itself, in words; None while it runs and once it was closed.

        Args:
            wait_s: Seconds to wait for its end.
        """
        ...


@runtime_checkable
class HealthReporting(Protocol):
    """A backend of a server, which can be asked how it is without being opened."""

    def unhealthy(self, timeout_s: float) -> str:
        """Why the server takes no requests at this moment, in words; empty where it does. Never raises.

        Args:
            timeout_s: Longest wait for a connection, and again for an answer, in seconds.
        """
        ...


@runtime_checkable
class CacheReporting(Protocol):
    """A backend that counts the pages of its own KV cache, so that nobody has to estimate them."""

    def kv_state(self) -> KVState | None:
        """The cache at this moment; cheap, callable from any thread, and never raises. None while there is none."""
        ...
