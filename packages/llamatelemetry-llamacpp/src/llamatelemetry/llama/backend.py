"""llama.cpp as a backend: requests in the engine's shape, answers in the server's, over HTTP.

The model runs either in a server started here, which then belongs to this backend, or in one that
already runs and is only used.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from llamatelemetry.backends.protocol import ModelInfo, Placement, StreamEnd, TokenDelta
from llamatelemetry.backends.request import InferenceRequest
from llamatelemetry.errors import (
    BackendConnectionError,
    BackendError,
    BackendStartError,
    InvalidValueError,
    LlamatelemetryError,
    NotSupportedError,
    StreamInterruptedError,
)
from llamatelemetry.llama.answers import read_chat, read_completion, read_embeddings
from llamatelemetry.llama.bodies import chat_body, completion_body
from llamatelemetry.llama.client import LlamaClient
from llamatelemetry.llama.describe import describe
from llamatelemetry.llama.runtime import Runtime
from llamatelemetry.llama.server import DEFAULT_SLOTS, LlamaServer, StartProgress
from llamatelemetry.llama.transport import Wire

_READY_POLL_S: Final = 0.1
_EXIT_WAIT_S: Final = 0.5
_TOKENIZE_S: Final = 5.0


class LlamaCppBackend:
    """Implements :class:`~llamatelemetry.backends.protocol.Backend` over a llama.cpp server.

    It is :class:`~llamatelemetry.backends.protocol.Restartable` too: a server started here that ended
    is started anew, and one that is only used is found again.

    Args:
        model: A GGUF file to start a server for; with ``server_url``, the name to ask that server for.
        server_url: Base URL of a server that already runs.
        api_key: What that server wants as a bearer token.
        runtime: What to start the server with; found when None.
        port: Port of a server started here; a free one when None.
        slots: Requests run at once: of a server started here 4 when None, else as many as it has.
        context_length: Tokens one slot can hold, of a server started here.
        threads: CPU threads it computes with; chosen from the cores at hand when None.
        gpu_layers: Layers it keeps on the GPU; llama.cpp decides when None.
        gpus: GPUs that a server started here may use, as UUIDs or as ``nvidia-smi`` counts them; with
            ``server_url``, those of this machine that it uses, for their energy. All when None.
        embeddings: Has a server started here offer embeddings beside generation.
        kv_unified: The slots share one KV cache, of ``slots`` times ``context_length`` tokens; with None
            or False each has its own. With ``server_url``, how that server was started: it does not say.
        cache_ram_mib: Memory in MiB in which a server started here keeps prompts that have left their
            slots; llama.cpp decides when None.
        extra_args: More command-line arguments, for a ``llama-server`` executable only.
        sha256: Whether to compute the digest of the model file when it is opened, which takes about a second
            per gigabyte. When None, where a manifest or the file itself says which run made it: then
            inference spans link to that run, and what was tampered with is logged and not linked.
        startup_timeout_s: Seconds a server may take to become ready.
        log_file: Where the whole log of a server started here is appended.
        on_progress: Told now and then how its start is going.

    Raises:
        InvalidValueError: Neither ``model`` nor ``server_url`` is given, or a number is out of range.
    """

    def __init__(
        self,
        model: str | Path | None = None,
        *,
        server_url: str | None = None,
        api_key: str | None = None,
        runtime: Runtime | None = None,
        port: int | None = None,
        slots: int | None = None,
        context_length: int | None = None,
        threads: int | None = None,
        gpu_layers: int | None = None,
        gpus: Sequence[int | str] | None = None,
        embeddings: bool = False,
        kv_unified: bool | None = None,
        cache_ram_mib: int | None = None,
        extra_args: Sequence[str] = (),
        sha256: bool | None = None,
        startup_timeout_s: float = 120.0,
        log_file: Path | None = None,
        on_progress: StartProgress = lambda _elapsed_s, _line: None,
    ) -> None:
        self._url = server_url
        self._api_key = api_key
        self._model = None if model is None else str(model)
        self._slots = slots
        self._gpus = gpus
        self._kv_unified = kv_unified
        self._wants_sha256 = sha256
        self._startup_timeout_s = startup_timeout_s
        self._info: ModelInfo | None = None
        self._client: LlamaClient | None = None
        self._closed = False
        self._lifecycle = threading.Lock()
        self.server: LlamaServer | None = None
        """The server started here; None when another one is used."""
        if server_url is not None:
            return
        if model is None:
            raise InvalidValueError("model", model, "give a GGUF file, or server_url of a server that runs")
        self.server = LlamaServer(
            model,
            runtime=runtime,
            port=port,
            slots=DEFAULT_SLOTS if slots is None else slots,
            context_length=context_length,
            threads=threads,
            gpu_layers=gpu_layers,
            gpus=gpus,
            embeddings=embeddings,
            kv_unified=kv_unified,
            cache_ram_mib=cache_ram_mib,
            extra_args=extra_args,
            startup_timeout_s=startup_timeout_s,
            log_file=log_file,
            on_progress=on_progress,
        )

    def open(self) -> ModelInfo:
        """Starts or finds the server and describes its model.

        Raises:
            ModelFileError: The model file is missing, truncated or not GGUF.
            MissingDependencyError: No runtime is installed; carries the command that installs one.
            BackendStartError: No server became ready.
        """
        with self._lifecycle:
            if self._info is None:
                self._closed = False
                self._client, self._info = self._connect()
            return self._info

    def alive(self) -> bool:
        """False once a server started here has ended, or while another one does not answer at all.

        Asking the latter takes a second at most.
        """
        if self.server is not None:
            return self.server.running
        client = self._client
        return client is not None and client.reachable()

    def unhealthy(self, timeout_s: float) -> str:
        """Why the server takes no requests at this moment; empty where it does. It is asked, also before ``open()``."""
        try:
            url = (self._url or "") if self.server is None else self.server.url
            with LlamaClient(url, api_key=self._api_key) as client:
                health = client.health(timeout_s)
        except LlamatelemetryError as error:
            return str(error)
        return "" if health.ready else f"the server at {url} is not ready: {health.status}"

    def exit_reason(self, wait_s: float = 0.0) -> str | None:
        """Why a server started here ended by itself; None while it runs, and of one that is only used."""
        return None if self.server is None else self.server.exit_reason(wait_s)

    def restart(self) -> ModelInfo:
        """Starts the server anew if it ended, or finds one that is not ours again.

        It has another port then, unless one was given.
        Threads may stream meanwhile: what they have from the old server has failed or fails. Of several
        that call this at once, one starts the server and all get its facts.

        Raises:
            BackendStartError: It did not become ready, or it is not ours and does not answer.
        """
        with self._lifecycle:
            if self._client is None or self._info is None:
                raise BackendStartError("the llama.cpp backend is closed: open it first")
            if self.server is not None and self.server.running:
                return self._info
            try:
                client, info = self._connect()
            except BackendStartError:
                raise
            except LlamatelemetryError as error:
                raise BackendStartError(f"the llama.cpp server was not started again: {error}") from error
            if self._closed:
                # close() came before there was a server it could end.
                self._disconnect(client)
                raise BackendStartError("the llama.cpp backend was closed while its server started")
            # The old client is not closed: its streams fail by themselves, and say why.
            self._client, self._info = client, info
            return info

    def count_prompt_tokens(self, request: InferenceRequest) -> int:
        """Asks the server: it applies the chat template and counts."""
        client = self._opened()
        if request.input is not None:
            return sum(len(client.tokenize(text, add_special=True)) for text in request.input)
        if request.messages is None:
            return len(client.tokenize(request.prompt or "", add_special=True))
        options = {} if request.tools is None else {"tools": list(request.tools)}
        return len(client.tokenize(client.apply_template(request.messages, **options), add_special=True))

    def tokenize(self, text: str) -> Sequence[int]:
        """Asks the server for the ids of plain text: markers in it are text too.

        Raises:
            BackendError: It does not answer within a few seconds: the engine asks while its caller waits to submit.
        """
        return self._opened().tokenize(text, parse_special=False, timeout_s=_TOKENIZE_S)

    def stream(self, request: InferenceRequest, placement: Placement) -> Iterator[TokenDelta | StreamEnd]:
        """Streams one answer; see the protocol.

        Raises:
            NotSupportedError: Embeddings of a server that makes none.
            BackendError: The typed reason. If a server of ours ended, it says why that was.
        """
        close, answer = self._answer(request, placement)
        placement.cancel.on_cancel(close)
        try:
            with self._explained():
                yield from answer
        except LlamatelemetryError:
            # A cancelled answer breaks off wherever it is; nobody waits for the details.
            if not placement.cancel.cancelled:
                raise
        finally:
            close()

    def close(self) -> None:
        """Ends what still streams, and the server if it was started here; idempotent."""
        self._closed = True
        if self.server is not None:
            # Before the lock: it ends a start that still goes on.
            self.server.stop()
        with self._lifecycle:
            self._info = None
            if self._client is not None:
                self._disconnect(self._client)
                self._client = None

    def _connect(self) -> tuple[LlamaClient, ModelInfo]:
        url = (self._url or "") if self.server is None else self.server.start().url
        client = LlamaClient(url, api_key=self._api_key)
        try:
            self._wait_until_ready(client)
            info = describe(
                client,
                server=self.server,
                name=self._model,
                slots=self._slots,
                gpus=self._gpus,
                kv_unified=self._kv_unified,
                sha256=self._wants_sha256,
            )
        except BaseException as error:
            self._disconnect(client)
            if isinstance(error, BackendConnectionError):
                fix = "it is not ours to start: start llama-server, or check server_url"
                raise BackendStartError(f"{error}; {fix}" if self.server is None else str(error)) from error
            raise
        return client, info

    def _disconnect(self, client: LlamaClient) -> None:
        client.close()
        if self.server is not None:
            self.server.stop()

    def _opened(self) -> LlamaClient:
        if self._client is None:
            raise BackendError("the llama.cpp backend is closed: open it, or make a new one")
        return self._client

    def _wait_until_ready(self, client: LlamaClient) -> None:
        deadline = time.monotonic() + self._startup_timeout_s
        while not (health := client.health()).ready:
            if self._closed:
                raise BackendStartError("the llama.cpp backend was closed while it waited for its server")
            if time.monotonic() > deadline:
                raise BackendStartError(
                    f"the server at {client.address} is still not ready after {self._startup_timeout_s:g} s: "
                    f"{health.status}; allow more with startup_timeout_s"
                )
            time.sleep(_READY_POLL_S)

    def _answer(
        self, request: InferenceRequest, placement: Placement
    ) -> tuple[Callable[[], None], Iterator[TokenDelta | StreamEnd]]:
        """What ends the answer from any thread, and the answer."""
        client, info = self._opened(), self._info
        slot, parent = placement.slot_id, placement.traceparent
        if request.input is not None:
            if info is None or not info.embeddings:
                raise NotSupportedError(self._without_embeddings(client))
            wire = Wire()
            return wire.cut, _embed(client, request.input, model=request.model, wire=wire, traceparent=parent)
        if request.messages is not None:
            chat = client.chat(chat_body(request), id_slot=slot, traceparent=parent)
            # Asked for a slot it does not have, a server takes another.
            known = slot if info is not None and slot is not None and slot < info.slots else None
            return chat.close, read_chat(chat, known)
        completion = client.complete(completion_body(request), id_slot=slot, traceparent=parent)
        return completion.close, read_completion(completion)

    def _without_embeddings(self, client: LlamaClient) -> str:
        if self.server is not None:
            return "this llama.cpp server was started without embeddings: open the backend with embeddings=True"
        return (
            f"the server at {client.address} makes no embeddings: start it with --embeddings, "
            "and with --pooling last or mean if its model does not say how to make them"
        )

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Adds to a broken connection why our server ended, if that is what broke it."""
        try:
            yield
        except (BackendConnectionError, StreamInterruptedError) as error:
            reason = self.exit_reason(_EXIT_WAIT_S)
            if reason is None:
                raise
            raise StreamInterruptedError(f"the llama.cpp server ended: {reason}") from error


def _embed(
    client: LlamaClient, texts: Sequence[str], *, model: str | None, wire: Wire, traceparent: str | None
) -> Iterator[StreamEnd]:
    # One text at a time: of a list, the server would put what its free slots cannot take into its own
    # queue, in front of whatever the engine sends next.
    replies = []
    for text in texts:
        if wire.was_cut:
            return
        replies.append(client.embeddings([text], model=model, wire=wire, traceparent=traceparent))
    yield read_embeddings(replies)
