"""One model in a child process of its own, asked over pipes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO, Any, Final

from llamatelemetry.errors import BackendError, BackendStartError, ConfigurationError, ModelFileError
from llamatelemetry.quantization.evaluation.libllama import LIBRARY_VARIABLE, find_library
from llamatelemetry.quantization.gguf_reading import open_gguf

__all__ = ["LlamaProcess"]

BATCH: Final = 64
"""Tokens that are computed at once. Logits are held of as many; on a CPU more are not faster."""

_MODULE: Final = "llamatelemetry.quantization.evaluation.llama_child"
_LOG_BYTES: Final = 1 << 14
_LOG_LINES: Final = 12


class LlamaProcess:
    """llama.cpp with a model, started when it is made.

    Args:
        model: The GGUF file.
        context: Tokens that a text may have.
        threads: CPU threads to compute with.
        library: A libllama, where not the one that is found.
        collect: Whether to add up what goes into each weight.

    Raises:
        ModelFileError: There is no such file, or llama.cpp cannot load it.
        BackendStartError: The child ended before it could say anything.
        ConfigurationError: The library cannot be used.
        MissingDependencyError: No libllama is installed.
    """

    def __init__(
        self,
        model: Path,
        *,
        context: int,
        threads: int,
        library: str | os.PathLike[str] | None = None,
        collect: bool = False,
    ) -> None:
        with open_gguf(model) as file:
            if file.read(4) != b"GGUF":
                raise ModelFileError(model, "is not a GGUF file")
        self._model = model
        self._library = find_library(library)
        options = {
            "library": str(self._library),
            "model": str(model.absolute()),
            "context": context,
            "batch": BATCH,
            "threads": threads,
            "collect": collect,
        }
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  It lives as long as the child.
        self._process = subprocess.Popen(
            [sys.executable, "-m", _MODULE, str(os.getpid()), json.dumps(options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=_environment(),
            # Ctrl-C in the terminal is for the application, which ends the child.
            start_new_session=True,
        )
        try:
            self.facts: dict[str, Any] = self.answer()
        except BaseException:
            self.close()
            raise

    def ask(self, **request: Any) -> None:
        """Sends a request; it is worked on while nobody waits for the answer."""
        assert self._process.stdin is not None  # noqa: S101  As it was started.
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
        except OSError as error:
            raise self._ended() from error

    def answer(self) -> dict[str, Any]:
        """The next answer; its ``bytes`` follow.

        Raises:
            ModelFileError: The model is to blame for there being none.
            BackendError: The child ended.
        """
        assert self._process.stdout is not None  # noqa: S101  As it was started.
        line = self._process.stdout.readline()
        if not line.endswith(b"\n"):
            raise self._ended()
        facts: dict[str, Any] = json.loads(line)
        if problem := facts.get("problem"):
            self._process.wait()
            raise self._problem(facts["about"], problem)
        return facts

    def read_into(self, room: memoryview) -> None:
        """Reads the bytes of an answer.

        Raises:
            BackendError: The child ended.
        """
        assert self._process.stdout is not None  # noqa: S101  As it was started.
        while room:
            count = self._process.stdout.readinto(room)  # type: ignore[attr-defined]  # Of a buffered reader.
            if not count:
                raise self._ended()
            room = room[count:]

    def close(self) -> None:
        """Ends the child; it has nothing to save. Idempotent."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._log):
            if pipe is not None:
                try:
                    pipe.close()
                except BrokenPipeError:
                    continue  # What was not read any more.

    def _problem(self, about: str, problem: str) -> Exception:
        if about == "model":
            said = "; ".join(line for line in self._log_tail() if "error" in line.lower())
            return ModelFileError(self._model, f"is refused: {problem}{said and ' (' + said + ')'}")
        if self.__dict__.get("facts") is None:
            return ConfigurationError(
                LIBRARY_VARIABLE, str(self._library), f"{problem}. Leave it out, or give another release's libllama.so"
            )
        return BackendError(f"{self._model}: {problem}")

    def _ended(self) -> BackendError:
        status = self._process.wait()
        how = signal.Signals(-status).name if status < 0 else f"status {status}"
        started = "facts" in self.__dict__
        doing = "while it computed" if started else "before it was ready"
        message = f"llama.cpp ended with {how} {doing} with {self._model}, loaded from {self._library}"
        return BackendStartError(message, self._log_tail())

    def _log_tail(self) -> tuple[str, ...]:
        size = self._log.seek(0, os.SEEK_END)
        self._log.seek(max(0, size - _LOG_BYTES))
        return tuple(self._log.read().decode(errors="replace").splitlines()[-_LOG_LINES:])


def _environment() -> dict[str, str]:
    return {
        # Threads that wait by spinning slow each other down many times where something else runs too.
        "OMP_WAIT_POLICY": "passive",
        **os.environ,
        # Without it, llama.cpp starts a debugger on itself when it aborts.
        "GGML_NO_BACKTRACE": "1",
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    }
