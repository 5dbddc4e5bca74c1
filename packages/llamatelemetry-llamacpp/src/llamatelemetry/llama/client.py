"""Client of a llama-server: typed replies, typed errors, streams that can be cancelled.

Generations are always streamed. A server that answers in one piece notices a caller that left only
by a poll once a second; a stream frees its slot within milliseconds.
"""

from __future__ import annotations

import json
import threading
import urllib.parse
import weakref
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final, Self, TypeVar

import requests
import urllib3

from llamatelemetry.errors import BackendProtocolError, InvalidValueError, ServerLoadingError
from llamatelemetry.llama.failures import error_from_body, error_from_transport, hung_up
from llamatelemetry.llama.replies import (
    ChatChunk,
    CompletionChunk,
    EmbeddingsReply,
    Health,
    ModelsReply,
    Props,
    SlotState,
    parse_metrics,
)
from llamatelemetry.llama.streaming import ReplyStream
from llamatelemetry.llama.transport import Wire, make_session, using

MAX_REPLY_BYTES: Final = 64 * 2**20
"""Most bytes read of one reply: a thousand embeddings of 4,096 numbers still fit."""

_PIECE_BYTES: Final = 65536
_Chunk = TypeVar("_Chunk")


class LlamaClient:
    """Speaks to one llama-server over pooled connections. Thread-safe.

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
        parts = _split(server_url)
        self.host: Final = parts.hostname or ""
        self.port: Final = parts.port or (443 if parts.scheme == "https" else 80)
        self.address: Final = f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"
        self._base = server_url.rstrip("/")
        self._connect_timeout_s = connect_timeout_s
        self._reply_timeout_s = reply_timeout_s
        self._stream_timeout_s = stream_timeout_s
        self._session = make_session(self.host)
        if api_key is not None:
            self._session.headers["Authorization"] = f"Bearer {api_key}"
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
        self._session.close()

    def health(self, timeout_s: float | None = None) -> Health:
        """Whether the server is ready. One that is loading its model is an answer, not an error.

        Args:
            timeout_s: Longest silence, in seconds; None is the client's own.
        """
        try:
            reply = self._json("GET", "/health", timeout_s=timeout_s)
        except ServerLoadingError as error:
            return Health(ready=False, status=str(error))
        status = reply.get("status") if isinstance(reply, Mapping) else None
        return Health(ready=status == "ok", status=str(status))

    def props(self) -> Props:
        """The server's properties."""
        return Props.from_json(self._json("GET", "/props"))

    def models(self) -> ModelsReply:
        """The models it can run."""
        return ModelsReply.from_json(self._json("GET", "/v1/models"))

    def slots(self, timeout_s: float | None = None) -> tuple[SlotState, ...]:
        """Its slots. Never poll faster than every 2 s: it competes with the generation.

        Args:
            timeout_s: Longest silence, in seconds; None is the client's own.

        Raises:
            NotSupportedError: The server runs without ``--slots``.
        """
        reply = self._json("GET", "/slots", timeout_s=timeout_s)
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
        return parse_metrics(self._request("GET", "/metrics", timeout_s=timeout_s).decode(errors="replace"))

    def tokenize(self, content: str, *, add_special: bool = False, parse_special: bool = True) -> tuple[int, ...]:
        """Tokens of a text.

        Args:
            content: The text.
            add_special: Adds what the model wants at the beginning, as a generation does.
            parse_special: Reads markers such as ``<|im_start|>`` as one token.
        """
        body = {"content": content, "add_special": add_special, "parse_special": parse_special}
        tokens = _member(self._json("POST", "/tokenize", body), "tokens", list)
        if not all(isinstance(token, int) for token in tokens):
            raise BackendProtocolError(f"{self.address} sent tokens that are not numbers")
        return tuple(tokens)

    def detokenize(self, tokens: Sequence[int]) -> str:
        """Text of tokens."""
        return str(_member(self._json("POST", "/detokenize", {"tokens": list(tokens)}), "content", str))

    def apply_template(self, messages: Sequence[Mapping[str, Any]], **options: Any) -> str:
        """The prompt that the model's chat template makes of messages.

        Args:
            messages: OpenAI shape.
            options: What else the template sees, such as ``tools``.
        """
        body = {"messages": list(messages), **options}
        return str(_member(self._json("POST", "/apply-template", body), "prompt", str))

    def embeddings(self, texts: Sequence[str]) -> EmbeddingsReply:
        """Embeddings of texts.

        Raises:
            NotSupportedError: The server runs without ``--embeddings``.
        """
        return EmbeddingsReply.from_json(self._json("POST", "/v1/embeddings", {"input": list(texts)}))

    def chat(
        self, body: Mapping[str, Any], *, id_slot: int | None = None, traceparent: str | None = None
    ) -> ReplyStream[ChatChunk]:
        """Streams a chat answer. The last chunk carries usage and timings.

        Args:
            body: Of ``/v1/chat/completions``; streaming and usage are switched on here.
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

        Args:
            body: Of ``/completion``; streaming is switched on here.
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
        if id_slot is not None:
            body["id_slot"] = id_slot
        headers = {
            "Accept": "text/event-stream",
            # A proxy on the way could hold compressed events back until its buffer is full.
            "Accept-Encoding": "identity",
            # Used again right after a stream, a connection to llama-server is closed without an
            # answer every third time; making a new one costs less than asking twice.
            "Connection": "close",
        }
        if traceparent is not None:
            headers["traceparent"] = traceparent

        def send(wire: Wire) -> requests.Response:
            with using(wire):
                response = self._send("POST", path, body, headers=headers, silence_s=self._stream_timeout_s, wire=wire)
            kind = response.headers.get("Content-Type", "")
            if not kind.startswith("text/event-stream"):
                response.close()
                raise BackendProtocolError(f"{self.address}{path} sent {kind or 'no type'}, not an event stream")
            return response

        stream = ReplyStream(send=send, parse=parse, last=last, address=self.address, silence_s=self._stream_timeout_s)
        with self._streams_lock:
            self._streams.add(stream)
        return stream

    def _json(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, timeout_s: float | None = None
    ) -> Any:
        reply = self._request(method, path, body, timeout_s)
        try:
            return json.loads(reply)
        except (ValueError, RecursionError) as error:
            raise BackendProtocolError(f"{self.address}{path} sent what is not JSON: {reply[:80]!r}") from error

    def _request(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, timeout_s: float | None = None
    ) -> bytes:
        silence_s = self._reply_timeout_s if timeout_s is None else timeout_s
        with (
            using(Wire()) as wire,
            self._send(method, path, body, headers={}, silence_s=silence_s, wire=wire) as response,
        ):
            return self._body(response, silence_s)

    def _send(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None,
        *,
        headers: Mapping[str, str],
        silence_s: float,
        wire: Wire,
    ) -> requests.Response:
        """Sends and returns the response once its headers are there and say that all is well."""
        while True:
            try:
                response = self._session.request(
                    method,
                    self._base + path,
                    json=body,
                    headers=headers,
                    timeout=(self._connect_timeout_s, silence_s),
                    stream=True,
                    allow_redirects=False,
                )
                break
            except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
                # The server closes idle connections, sometimes just as a request is on its way.
                # Nobody has seen that request, so it goes out again, at the latest over a new one.
                if wire.reused and not wire.was_cut and hung_up(error):
                    continue
                raise error_from_transport(error, self.address, silence_s) from error
        if response.status_code == HTTPStatus.OK:
            return response
        with response:
            raise error_from_body(response.status_code, self._body(response, silence_s))

    def _body(self, response: requests.Response, silence_s: float) -> bytes:
        pieces = bytearray()
        try:
            while piece := response.raw.read1(_PIECE_BYTES, decode_content=True):
                pieces += piece
                if len(pieces) > MAX_REPLY_BYTES:
                    raise BackendProtocolError(f"{self.address} sent a reply of more than {MAX_REPLY_BYTES} bytes")
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise error_from_transport(error, self.address, silence_s) from error
        return bytes(pieces)


def _split(server_url: str) -> urllib.parse.SplitResult:
    fix = "give a URL such as http://127.0.0.1:8080"
    try:
        parts = urllib.parse.urlsplit(server_url)
        usable = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0
    except ValueError as error:
        raise InvalidValueError("server_url", server_url, fix) from error
    if not usable:
        raise InvalidValueError("server_url", server_url, fix)
    return parts


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
