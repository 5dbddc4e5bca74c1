"""Client of a llama-server: typed replies, typed errors, streams that can be cancelled.

Generations are always streamed. A server that answers in one piece notices a caller that left only
by a poll once a second; a stream frees its slot within milliseconds.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final, Self, TypeVar

import requests

from llamatelemetry.errors import (
    BackendError,
    BackendProtocolError,
    BackendResponseError,
    ServerLoadingError,
)
from llamatelemetry.llama.answer_replies import ChatChunk, CompletionChunk, EmbeddingsReply
from llamatelemetry.llama.exchange import Exchange
from llamatelemetry.llama.server_replies import Health, ModelsReply, Props, SlotState, parse_metrics
from llamatelemetry.llama.streaming import ReplyStream
from llamatelemetry.llama.transport import Wire

_EMBEDDINGS: Final = "/v1/embeddings"
_REACHABLE_S: Final = 0.5
_Chunk = TypeVar("_Chunk")


class LlamaClient:
    """Speaks to one llama-server. Thread-safe.

    Args:
        server_url: Base URL, such as ``http://127.0.0.1:8080``; a path prefix is kept.
        api_key: Sent as a bearer token; the server's ``--api-key``.
        connect_timeout_s: Longest wait for a connection, in seconds.
        reply_timeout_s: Longest silence in a call that generates nothing, in seconds.
        stream_timeout_s: Longest silence in a generation, in seconds. The server is silent while
            it works on the prompt, and afterwards sends a comment every 30 s at the latest.

    Raises:
        InvalidValueError: ``server_url`` is not an HTTP URL.
    """

    def __init__(
        self,
        server_url: str,
        *,
        api_key: str | None = None,
        connect_timeout_s: float = 5.0,
        reply_timeout_s: float = 30.0,
        stream_timeout_s: float = 600.0,
    ) -> None:
        self._http = Exchange(
            server_url, api_key=api_key, connect_timeout_s=connect_timeout_s, reply_timeout_s=reply_timeout_s
        )
        self.host: Final = self._http.host
        self.port: Final = self._http.port
        self.address: Final = self._http.address
        self._stream_timeout_s = stream_timeout_s
        self._streams: weakref.WeakSet[ReplyStream[Any]] = weakref.WeakSet()
        self._streams_lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends every running stream and closes all connections; idempotent."""
        with self._streams_lock:
            streams = tuple(self._streams)
        for stream in streams:
            stream.close()
        self._http.close()

    def reachable(self, timeout_s: float = _REACHABLE_S) -> bool:
        """True if a server answers, be it that it is still loading its model. Never raises.

        Args:
            timeout_s: Longest wait for a connection, and again for an answer, in seconds.
        """
        try:
            self.health(timeout_s)
        except BackendResponseError:
            return True
        except BackendError:
            return False
        return True

    def health(self, timeout_s: float | None = None) -> Health:
        """Whether the server is ready. One that is loading its model is an answer, not an error.

        Args:
            timeout_s: Longest silence, in seconds; None is the client's own.
        """
        try:
            reply = self._http.json("GET", "/health", timeout_s=timeout_s)
        except ServerLoadingError as error:
            return Health(ready=False, status=str(error))
        status = reply.get("status") if isinstance(reply, Mapping) else None
        return Health(ready=status == "ok", status=str(status))

    def props(self) -> Props:
        """The server's properties."""
        return Props.from_json(self._http.json("GET", "/props"))

    def models(self) -> ModelsReply:
        """The models it can run."""
        return ModelsReply.from_json(self._http.json("GET", "/v1/models"))

    def slots(self, timeout_s: float | None = None) -> tuple[SlotState, ...]:
        """Its slots. Never poll faster than every 2 s: it competes with the generation.

        Args:
            timeout_s: Longest silence, in seconds; None is the client's own.

        Raises:
            NotSupportedError: The server runs without ``--slots``.
        """
        reply = self._http.json("GET", "/slots", timeout_s=timeout_s)
        if not isinstance(reply, list):
            raise BackendProtocolError(f"{self.address} sent slots that are not a list")
        return tuple(map(SlotState.from_json, reply))

    def metrics(self, timeout_s: float | None = None) -> dict[str, float]:
        """Its Prometheus figures by name. Its gauges of speed start anew with every call.

        Args:
            timeout_s: Longest silence, in seconds; None is the client's own.

        Raises:
            NotSupportedError: The server runs without ``--metrics``.
        """
        return parse_metrics(self._http.read("GET", "/metrics", timeout_s=timeout_s).decode(errors="replace"))

    def tokenize(
        self,
        content: str,
        *,
        add_special: bool = False,
        parse_special: bool = True,
        timeout_s: float | None = None,
    ) -> tuple[int, ...]:
        """Tokens of a text.

        Args:
            content: The text.
            add_special: Adds what the model wants at the beginning, as a generation does.
            parse_special: Reads markers such as ``<|im_start|>`` as one token.
            timeout_s: Longest silence, in seconds; None is the client's own.
        """
        body = {"content": content, "add_special": add_special, "parse_special": parse_special}
        tokens = _member(self._http.json("POST", "/tokenize", body, timeout_s=timeout_s), "tokens", list)
        if not all(isinstance(token, int) for token in tokens):
            raise BackendProtocolError(f"{self.address} sent tokens that are not numbers")
        return tuple(tokens)

    def detokenize(self, tokens: Sequence[int]) -> str:
        """Text of tokens."""
        return str(_member(self._http.json("POST", "/detokenize", {"tokens": list(tokens)}), "content", str))

    def apply_template(self, messages: Sequence[Mapping[str, Any]], **options: Any) -> str:
        """The prompt that the model's chat template makes of messages.

        Args:
            messages: OpenAI shape.
            options: What else the template sees, such as ``tools``.
        """
        body = {"messages": list(messages), **options}
        return str(_member(self._http.json("POST", "/apply-template", body), "prompt", str))

    def offers_embeddings(self) -> bool:
        """Whether it makes embeddings. ``/props`` does not say; a request without a text makes it tell."""
        try:
            self._http.json("POST", _EMBEDDINGS, {})
        except BackendResponseError as error:
            # 501 without --embeddings, and 400 in either other case: it misses the "input", or
            # its model pools nothing, for which this route has no form.
            return error.status == HTTPStatus.BAD_REQUEST and "input" in str(error)
        return True

    def embeddings(
        self,
        texts: Sequence[str],
        *,
        model: str | None = None,
        traceparent: str | None = None,
        wire: Wire | None = None,
    ) -> EmbeddingsReply:
        """Embeddings of texts, in order.

        Args:
            texts: What to embed; the server works on as many at once as it has free slots.
            model: Model to ask for, where the server has several.
            traceparent: W3C trace context to send along.
            wire: Ends the call when it is cut.

        Raises:
            NotSupportedError: The server runs without ``--embeddings``.
            BackendConnectionError: It cannot be reached, or the wire was cut.
        """
        body = {"input": list(texts)} if model is None else {"input": list(texts), "model": model}
        reply = EmbeddingsReply.from_json(
            self._http.json(
                "POST",
                _EMBEDDINGS,
                body,
                timeout_s=self._stream_timeout_s,
                headers={} if traceparent is None else {"traceparent": traceparent},
                wire=wire,
            )
        )
        if len(reply.vectors) != len(texts):
            raise BackendProtocolError(f"{self.address} sent {len(reply.vectors)} embeddings of {len(texts)} texts")
        return reply

    def chat(
        self, body: Mapping[str, Any], *, id_slot: int | None = None, traceparent: str | None = None
    ) -> ReplyStream[ChatChunk]:
        """Streams a chat answer. The last chunk carries usage and timings, the first ones progress on the prompt.

        Args:
            body: Of ``/v1/chat/completions``; streaming, usage and progress are switched on here.
            id_slot: Slot to run on; None lets the server choose.
            traceparent: W3C trace context to send along.
        """
        options = {**(body.get("stream_options") or {}), "include_usage": True}
        return self._stream(
            "/v1/chat/completions",
            {**body, "stream_options": options},
            id_slot=id_slot,
            traceparent=traceparent,
            parse=ChatChunk.from_json,
            last=_never_last,
        )

    def complete(
        self, body: Mapping[str, Any], *, id_slot: int | None = None, traceparent: str | None = None
    ) -> ReplyStream[CompletionChunk]:
        """Streams the continuation of a prompt. The last chunk carries usage, timings and slot.

        The first ones carry progress on the prompt, and no content.

        Args:
            body: Of ``/completion``; streaming and progress are switched on here.
            id_slot: Slot to run on; None lets the server choose.
            traceparent: W3C trace context to send along.
        """
        return self._stream(
            "/completion",
            dict(body),
            id_slot=id_slot,
            traceparent=traceparent,
            parse=CompletionChunk.from_json,
            last=_says_stop,
        )

    def _stream(
        self,
        path: str,
        body: dict[str, Any],
        *,
        id_slot: int | None,
        traceparent: str | None,
        parse: Callable[[Any], _Chunk],
        last: Callable[[_Chunk], bool],
    ) -> ReplyStream[_Chunk]:
        body["stream"] = True
        # Between two events the server looks once a second whether anybody still listens. Telling
        # how far it is with the prompt after every batch, it also looks after every batch.
        body.setdefault("return_progress", True)
        if id_slot is not None:
            body["id_slot"] = id_slot
        headers = {
            "Accept": "text/event-stream",
            # A proxy on the way could hold compressed events back until its buffer is full.
            "Accept-Encoding": "identity",
        }
        if traceparent is not None:
            headers["traceparent"] = traceparent

        def send(wire: Wire) -> requests.Response:
            response = self._http.send("POST", path, body, headers=headers, silence_s=self._stream_timeout_s, wire=wire)
            kind = response.headers.get("Content-Type", "")
            if not kind.startswith("text/event-stream"):
                response.close()
                raise BackendProtocolError(f"{self.address}{path} sent {kind or 'no type'}, not an event stream")
            return response

        stream = ReplyStream(send=send, parse=parse, last=last, address=self.address, silence_s=self._stream_timeout_s)
        with self._streams_lock:
            self._streams.add(stream)
        return stream


def _never_last(_: ChatChunk) -> bool:
    # The OpenAI routes say [DONE].
    return False


def _says_stop(chunk: CompletionChunk) -> bool:
    return chunk.stop


def _member(message: Any, key: str, kind: type) -> Any:
    value = message.get(key) if isinstance(message, Mapping) else None
    if not isinstance(value, kind):
        raise BackendProtocolError(f"llama-server sent {key}={value!r:.80}, expected {kind.__name__}")
    return value
