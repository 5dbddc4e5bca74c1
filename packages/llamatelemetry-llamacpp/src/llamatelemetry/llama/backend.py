"""llama.cpp as a backend: requests in the engine's shape, answers in the server's, over HTTP.

The model runs either in a server started here, which then belongs to this backend, or in one that
already runs and is only used.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
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
    ModelFileError,
    StreamInterruptedError,
)
from llamatelemetry.llama.answers import read_chat, read_completion
from llamatelemetry.llama.bodies import chat_body, completion_body
from llamatelemetry.llama.client import LlamaClient
from llamatelemetry.llama.gguf import GgufFile, read_gguf, sha256_of
from llamatelemetry.llama.model_files import model_name
from llamatelemetry.llama.replies import Props
from llamatelemetry.llama.runtime import Runtime
from llamatelemetry.llama.server import DEFAULT_SLOTS, LlamaServer, StartProgress
from llamatelemetry.llama.transport import is_loopback

PROVIDER: Final = "llamacpp"
"""Value of ``gen_ai.provider.name``."""

_READY_POLL_S: Final = 0.1
_EXIT_WAIT_S: Final = 0.5


class LlamaCppBackend:
    """Implements :class:`~llamatelemetry.backends.protocol.Backend` over a llama.cpp server.

    Args:
        model: A GGUF file to start a server for; with ``server_url``, the name to ask that server for.
        server_url: Base URL of a server that already runs.
        api_key: What that server wants as a bearer token.
        runtime: What to start the server with; found when None.
        slots: Requests run at once: of a server started here 4 when None, else as many as it has.
        context_length: Tokens one slot can hold, of a server started here.
        threads: CPU threads it computes with; chosen from the cores at hand when None.
        gpu_layers: Layers it keeps on the GPU; llama.cpp decides when None.
        extra_args: More command-line arguments, for a ``llama-server`` executable only.
        sha256: Computes the digest of the model file when it is opened; takes seconds per gigabyte.
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
        slots: int | None = None,
        context_length: int | None = None,
        threads: int | None = None,
        gpu_layers: int | None = None,
        extra_args: Sequence[str] = (),
        sha256: bool = False,
        startup_timeout_s: float = 120.0,
        log_file: Path | None = None,
        on_progress: StartProgress = lambda _elapsed_s, _line: None,
    ) -> None:
        self._url = server_url
        self._api_key = api_key
        self._model = None if model is None else str(model)
        self._slots = slots
        self._wants_sha256 = sha256
        self._startup_timeout_s = startup_timeout_s
        self._info: ModelInfo | None = None
        self._client: LlamaClient | None = None
        self.server: LlamaServer | None = None
        """The server started here; None when another one is used."""
        if server_url is not None:
            return
        if model is None:
            raise InvalidValueError("model", model, "give a GGUF file, or server_url of a server that runs")
        self.server = LlamaServer(
            model,
            runtime=runtime,
            slots=DEFAULT_SLOTS if slots is None else slots,
            context_length=context_length,
            threads=threads,
            gpu_layers=gpu_layers,
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
        if self._info is None:
            try:
                self._info = self._open()
            except BaseException:
                self.close()
                raise
        return self._info

    def count_prompt_tokens(self, request: InferenceRequest) -> int:
        """Asks the server: it applies the chat template and counts."""
        client = self._opened()
        if request.messages is None:
            return len(client.tokenize(request.prompt or "", add_special=True))
        options = {} if request.tools is None else {"tools": list(request.tools)}
        return len(client.tokenize(client.apply_template(request.messages, **options), add_special=True))

    def stream(self, request: InferenceRequest, placement: Placement) -> Iterator[TokenDelta | StreamEnd]:
        """Streams one answer; see the protocol.

        Raises:
            BackendError: The typed reason. If a server of ours ended, it says why that was.
        """
        client = self._opened()
        slot, parent = placement.slot_id, placement.traceparent
        answer: Iterator[TokenDelta | StreamEnd]
        if request.operation == "chat":
            chat = client.chat(chat_body(request), id_slot=slot, traceparent=parent)
            close, answer = chat.close, read_chat(chat, slot)
        else:
            completion = client.complete(completion_body(request), id_slot=slot, traceparent=parent)
            close, answer = completion.close, read_completion(completion)
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
        self._info = None
        if self._client is not None:
            self._client.close()
            self._client = None
        if self.server is not None:
            self.server.stop()

    def _open(self) -> ModelInfo:
        url = (self._url or "") if self.server is None else self.server.start().url
        client = self._client = LlamaClient(url, api_key=self._api_key)
        try:
            self._wait_until_ready(client)
            return self._describe(client)
        except BackendConnectionError as error:
            raise BackendStartError(f"{error}; start llama-server, or check server_url") from error

    def _opened(self) -> LlamaClient:
        if self._client is None:
            raise BackendError("the llama.cpp backend is closed: open it, or make a new one")
        return self._client

    def _wait_until_ready(self, client: LlamaClient) -> None:
        deadline = time.monotonic() + self._startup_timeout_s
        while not (health := client.health()).ready:
            if time.monotonic() > deadline:
                raise BackendStartError(
                    f"the server at {client.address} is still not ready after {self._startup_timeout_s:g} s: "
                    f"{health.status}; allow more with startup_timeout_s"
                )
            time.sleep(_READY_POLL_S)

    def _describe(self, client: LlamaClient) -> ModelInfo:
        props = client.props()
        path, gguf = self._model_file(client, props)
        return ModelInfo(
            model=self._name(props),
            provider=PROVIDER,
            slots=min(self._slots or props.total_slots, props.total_slots),
            owned=self.server is not None,
            server_address=client.host,
            server_port=client.port,
            architecture=None if gguf is None else gguf.architecture,
            quantization=props.quantization if gguf is None else gguf.quantization,
            parameters=self._parameters(client) if gguf is None else gguf.parameters,
            context_length=props.context_length,
            kv_bytes_per_token=None if gguf is None else gguf.kv_bytes_per_token,
            sha256=sha256_of(path) if self._wants_sha256 and path is not None else None,
        )

    def _name(self, props: Props) -> str:
        if self.server is not None:
            return self.server.name
        return self._model or model_name(props.model_alias or props.model_path or "unknown")

    def _parameters(self, client: LlamaClient) -> int | None:
        served = client.models().models
        # A router lists many models and does not say which of them is meant.
        return served[0].parameters if len(served) == 1 else None

    def _model_file(self, client: LlamaClient, props: Props) -> tuple[Path | None, GgufFile | None]:
        """The model file and its header, if this machine has it."""
        if self.server is not None:
            return self.server.model, self.server.gguf
        if props.model_path is None or not is_loopback(client.host):
            return None, None
        path = Path(props.model_path)
        try:
            return path, read_gguf(path)
        except ModelFileError:
            # The server may see another file system, a container's for example: its word has to do.
            return None, None

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Adds to a broken connection why our server ended, if that is what broke it."""
        try:
            yield
        except (BackendConnectionError, StreamInterruptedError) as error:
            reason = None if self.server is None else self.server.exit_reason(_EXIT_WAIT_S)
            if reason is None:
                raise
            raise StreamInterruptedError(f"the llama.cpp server ended: {reason}") from error
