"""A llama.cpp server of our own: started on a free loopback port, watched, stopped with its parent.

Whatever goes wrong on the way to "ready" becomes one :class:`BackendStartError` that carries the
server's last log lines and says what its end means.
"""

from __future__ import annotations

import json
import threading
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Self

from llamatelemetry.clock import SYSTEM_CLOCK, Clock
from llamatelemetry.errors import BackendStartError, InvalidValueError
from llamatelemetry.llama.cpu import inference_threads, missing_features
from llamatelemetry.llama.embedded import READY_PREFIX
from llamatelemetry.llama.gguf import GgufFile, read_gguf
from llamatelemetry.llama.launch import HOST, LaunchOptions, explain_exit, launch_command, launch_environment
from llamatelemetry.llama.model_files import model_name
from llamatelemetry.llama.ports import MAX_PORT, check_port, free_port, is_healthy
from llamatelemetry.llama.process import ChildProcess
from llamatelemetry.llama.runtime import BINARY_VARIABLE, Runtime, resolve_runtime
from llamatelemetry.llama.start_span import start_span

DEFAULT_SLOTS: Final = 4
"""Requests run at once unless told otherwise: ``llama-server``'s own default."""

DEFAULT_CONTEXT: Final = 4096
"""Tokens one slot holds unless told otherwise, or fewer if the model was trained on fewer."""

StartProgress = Callable[[float, str], None]
"""Told, while a server starts, the seconds since it was asked to and its latest log line."""

_PORT_ATTEMPTS: Final = 3
# llama.cpp, tools/server/server-http.cpp: "couldn't bind HTTP server socket, hostname: ..., port: ..."
_PORT_LOST: Final = "couldn't bind HTTP server socket"
_POLL_S: Final = 0.05
_STOP_GRACE_S: Final = 5.0
_TAIL_LINES: Final = 15


class LlamaServer:
    """One llama.cpp server process and the model it runs. Threads may share it.

    Args:
        model: The GGUF file.
        runtime: What to run it with; :func:`resolve_runtime` finds it when None.
        port: Port to bind; a free one when None.
        slots: Requests it runs at once.
        context_length: Tokens one slot can hold; 4096, or what the model was trained on if less, when None.
        threads: CPU threads to compute with; chosen from the cores at hand when None.
        gpu_layers: Layers kept on the GPU; llama.cpp decides when None.
        gpus: GPUs it may use, as UUIDs or as ``nvidia-smi`` counts them, by ``CUDA_VISIBLE_DEVICES``; all
            that this process may use when None, and none when empty.
        embeddings: Offers embeddings beside generation. A model that does not say how it makes them
            gives those of a text's last token, the only one that has seen all others.
        kv_unified: The slots share one KV cache of ``slots`` times ``context_length`` tokens, and one
            of them alone may fill it; with None or False each has its own.
        cache_ram_mib: Memory in MiB in which the server keeps prompts that have left their slots; 0 keeps
            none, and llama.cpp decides when None.
        extra_args: More command-line arguments, for a ``llama-server`` executable only.
        startup_timeout_s: Seconds it may take to become ready.
        log_file: Where its whole log is appended.
        on_progress: Told now and then, in the starting thread, how the start is going.
        clock: Times the start.

    Attributes:
        cold_start_s: Seconds from ``start()`` to ready; None before that.
        gguf: What the model file says of itself; None before ``start()``.
        kv_tokens: Tokens that the slots share; None before ``start()`` and where each has its own.
        port: Port it listens on; None before that is known.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        runtime: Runtime | None = None,
        port: int | None = None,
        slots: int = DEFAULT_SLOTS,
        context_length: int | None = None,
        threads: int | None = None,
        gpu_layers: int | None = None,
        gpus: Sequence[int | str] | None = None,
        embeddings: bool = False,
        kv_unified: bool | None = None,
        cache_ram_mib: int | None = None,
        extra_args: Sequence[str] = (),
        startup_timeout_s: float = 120.0,
        log_file: Path | None = None,
        on_progress: StartProgress = lambda _elapsed_s, _line: None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        for field, value in (("slots", slots), ("context_length", context_length), ("threads", threads)):
            if value is not None and value < 1:
                raise InvalidValueError(field, value, "give a whole number of at least 1")
        if port is not None and not 1 <= port <= MAX_PORT:
            raise InvalidValueError("port", port, f"give a number from 1 to {MAX_PORT}, or none for a free port")
        self.model: Path = Path(model)
        self.name: str = model_name(model)
        self.slots = slots
        self.cold_start_s: float | None = None
        self.gguf: GgufFile | None = None
        self.kv_tokens: int | None = None
        self.port: int | None = None
        self._runtime = runtime
        self._wanted_port = port
        self._wanted_context = context_length
        self._threads = threads
        self._gpu_layers = gpu_layers
        self._gpus: tuple[str, ...] | None = None if gpus is None else tuple(str(gpu) for gpu in gpus)
        self._embeddings = embeddings
        self._kv_unified = kv_unified
        self._cache_ram_mib = cache_ram_mib
        self._extra_args = tuple(extra_args)
        self._startup_timeout_s = startup_timeout_s
        self._log_file = log_file
        self._on_progress = on_progress
        self._clock = clock
        self._child: ChildProcess | None = None
        self._at_exit: weakref.finalize[..., LlamaServer] | None = None
        self._starting = threading.Lock()

    @property
    def url(self) -> str:
        """Base URL of the running server."""
        if self.port is None:
            raise BackendStartError("the server has no address yet: call start() first")
        return f"http://{HOST}:{self.port}"

    @property
    def pid(self) -> int | None:
        """Its process id while it runs."""
        return self._child.pid if self.running and self._child is not None else None

    @property
    def running(self) -> bool:
        """True while the process lives."""
        return self._child is not None and not self._child.ended.is_set()

    @property
    def log_tail(self) -> tuple[str, ...]:
        """Its last log lines, oldest first; kept after it stopped."""
        return () if self._child is None else self._child.log_tail()

    def exit_reason(self, wait_s: float = 0.0) -> str | None:
        """Says why it ended by itself; None while it runs, before it started and once it was stopped.

        Args:
            wait_s: Seconds to wait for its end: a broken connection is noticed before that.
        """
        if self._child is None or self.port is None or not self._child.ended.wait(wait_s):
            return None
        return explain_exit(self._child.returncode, self._child.log_tail(_TAIL_LINES))

    def start(self) -> Self:
        """Starts it and returns when it serves; harmless when it already does.

        Raises:
            ModelFileError: The model file is missing, truncated or not GGUF.
            MissingDependencyError: No runtime is installed; carries the command that installs one.
            InvalidValueError: The runtime cannot honour an option.
            BackendStartError: It ended, or was not ready in time; carries its last log lines.
        """
        with self._starting:
            if self.running:
                return self
            begun_ns = self._clock.monotonic_ns()
            self.gguf = read_gguf(self.model)
            runtime = resolve_runtime() if self._runtime is None else self._runtime
            options = self._launch_options(self.gguf)
            self.kv_tokens = options.context_total if options.kv_unified else None
            _check(runtime, self._wanted_port)
            with start_span(runtime, options) as span:
                try:
                    self._launch(runtime, options, begun_ns)
                except BaseException:
                    self.stop()
                    raise
                self.cold_start_s = self._elapsed_s(begun_ns)
                span.ready(pid=self.pid, port=self.port)
        return self

    def stop(self) -> None:
        """Stops it and returns when the process is gone; idempotent, and ends a start that still goes on."""
        if self._child is not None:
            self._child.stop(_STOP_GRACE_S)
        self.port = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_error: object) -> None:
        self.stop()

    def _launch_options(self, gguf: GgufFile) -> LaunchOptions:
        context = self._wanted_context or min(gguf.context_length or DEFAULT_CONTEXT, DEFAULT_CONTEXT)
        pooling = gguf.pooling or "none"
        # Where the last token alone counts a text can be computed piece by piece; otherwise all of it at once.
        at_once = self._embeddings and pooling not in {"none", "last"}
        return LaunchOptions(
            model=self.model.absolute(),
            alias=self.name,
            slots=self.slots,
            context_length=context,
            threads=inference_threads() if self._threads is None else self._threads,
            gpu_layers=self._gpu_layers,
            embeddings=self._embeddings,
            pooling="last" if self._embeddings and pooling == "none" else None,
            batch=context if at_once else None,
            kv_unified=self._kv_unified,
            cache_ram_mib=self._cache_ram_mib,
            extra_args=self._extra_args,
        )

    def _launch(self, runtime: Runtime, options: LaunchOptions, begun_ns: int) -> None:
        for attempt in range(1, _PORT_ATTEMPTS + 1):
            port = self._wanted_port or (0 if runtime.kind == "embedded" else free_port())
            listening = _Listening(port or None)
            child = ChildProcess(
                launch_command(runtime, options, port),
                environ=launch_environment(runtime, self._gpus),
                log_file=self._log_file,
                on_line=listening.take,
            )
            self._child = child
            # Collected or at exit without stop(): the process goes all the same.
            if self._at_exit is not None:
                self._at_exit.detach()
            self._at_exit = weakref.finalize(self, child.stop, _STOP_GRACE_S)
            try:
                child.start()
            except OSError as error:
                raise BackendStartError(f"{runtime.location} could not be started: {error}") from error
            self._wait_until_ready(child, listening, begun_ns)
            if not child.ended.is_set():
                self.port = listening.port
                return
            tail = child.log_tail(_TAIL_LINES)
            # Between our finding a free port and its binding it, somebody else may take it.
            lost_the_port = self._wanted_port is None and any(_PORT_LOST in line for line in tail)
            if not lost_the_port or attempt == _PORT_ATTEMPTS:
                raise BackendStartError(
                    f"the llama.cpp server for {self.model.name} did not start: {explain_exit(child.returncode, tail)}",
                    tail,
                )

    def _wait_until_ready(self, child: ChildProcess, listening: _Listening, begun_ns: int) -> None:
        """Returns when the server serves, or when its process ended."""
        while not child.ended.wait(_POLL_S):
            if listening.port is not None and is_healthy(listening.port):
                return
            elapsed_s = self._elapsed_s(begun_ns)
            tail = child.log_tail(_TAIL_LINES)
            self._on_progress(elapsed_s, tail[-1] if tail else "")
            if elapsed_s > self._startup_timeout_s:
                raise BackendStartError(
                    f"the llama.cpp server for {self.model.name} was not ready after {elapsed_s:.0f} s: "
                    "allow more with startup_timeout_s, or try a smaller model",
                    tail,
                )

    def _elapsed_s(self, begun_ns: int) -> float:
        return (self._clock.monotonic_ns() - begun_ns) / 1e9


class _Listening:
    """The port a server listens on, once it is known. Apart, so that the log thread keeps no server alive."""

    def __init__(self, port: int | None) -> None:
        self.port = port

    def take(self, line: str) -> bool:
        """Reads the embedded server's one message; True keeps it out of the log."""
        if not line.startswith(READY_PREFIX):
            return False
        self.port = int(json.loads(line.removeprefix(READY_PREFIX))["port"])
        return True


def _check(runtime: Runtime, port: int | None) -> None:
    """Finds out before the start what would only be a riddle after it."""
    if runtime.kind == "url":
        raise InvalidValueError("runtime", runtime.location, "a running server is not ours to start; use its URL")
    missing = missing_features() if runtime.kind == "embedded" else ()
    if missing:
        raise BackendStartError(
            f"this CPU lacks {', '.join(missing)}, which the embedded llama.cpp was compiled for: "
            f"build llama-server on this machine and give its path in {BINARY_VARIABLE}"
        )
    if port is not None:
        check_port(port)
